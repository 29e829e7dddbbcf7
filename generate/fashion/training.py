"""Train the embedded generators: `python -m genrep.generate.fashion.training --mode class --out RUN`.

Stopped and started again, a run continues at its last checkpoint with the batches it would have had.
"""

import json
import os
import time
from pathlib import Path
from typing import Literal

import click
import torch
from safetensors.torch import save_file

from genrep.generate.fashion.class_run import ClassRun, trained_teacher
from genrep.generate.fashion.jitter import Jitter
from genrep.generate.fashion.null_run import NullRun
from genrep.generate.fashion.run import Run

STEPS = {"class": 14_500, "null": 24_000}


@click.command()
@click.option("--mode", required=True, type=click.Choice(["class", "null"]))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.")
@click.option(
    "--steps", type=click.IntRange(min=2), help=f"Generator updates; left out: {STEPS['class']} or {STEPS['null']}."
)
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=4), help="Images a step.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Processor threads.")
@click.option("--checkpoint-every", default=500, show_default=True, type=click.IntRange(min=1))
def main(
    mode: Literal["class", "null"],
    out: Path,
    steps: int | None,
    batch_size: int,
    seed: int,
    threads: int,
    checkpoint_every: int,
) -> None:
    """Train one mode on the 54,000 jittered training images.

    \b
    Example: about 75 minutes on one core that computes in bfloat16
      python -m genrep.generate.fashion.training --mode class --out runs/fashion
    """
    torch.set_num_threads(threads)
    steps = steps or STEPS[mode]
    out.mkdir(parents=True, exist_ok=True)
    config = {"mode": mode, "steps": steps, "batch_size": batch_size, "seed": seed, "jitter": Jitter().to_json()}
    known = out / "config.json"
    if known.exists() and json.loads(known.read_text()) != json.loads(json.dumps(config)):
        raise click.ClickException(f"{out} holds a run with another configuration: name another folder")
    known.write_text(json.dumps(config, indent=1))
    settings = {"steps": steps, "batch_size": batch_size, "seed": seed}
    run: Run = NullRun(**settings) if mode == "null" else ClassRun(trained_teacher(file=out / "teacher.pt"), **settings)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        run.load_state_dict(torch.load(checkpoint, weights_only=True))
    log_file = out / "log.jsonl"
    logged = log_file.read_text().splitlines() if log_file.exists() else []
    log_file.write_text("".join(f"{line}\n" for line in logged if json.loads(line)["step"] <= run.step))
    started, first = time.process_time(), run.step
    with open(log_file, "a") as log:
        while run.step < steps:
            losses = run.train_step()
            if run.step % 50 == 0:
                seconds = (time.process_time() - started) / (run.step - first)
                print(
                    json.dumps({"step": run.step, **losses, "cpu_s_per_step": round(seconds, 4)}), file=log, flush=True
                )
            if run.step % checkpoint_every == 0 or run.step == steps:
                temporary = checkpoint.with_suffix(".tmp")
                torch.save(run.state_dict(), temporary)
                os.replace(temporary, checkpoint)
    weights = out / ("fashion.safetensors" if mode == "class" else "fashion-null.safetensors")
    save_file(run.deployed(), weights)
    click.echo(f"{steps} steps done: {out / 'fashion.safetensors'}")


if __name__ == "__main__":
    main()
