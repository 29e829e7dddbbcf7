"""genrep-train: from shards to an encoder."""

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genrep.shards.cli import Command
from genrep.shards.errors import DataError
from genrep.train.config import DTYPES, METHODS, VIEWS, TrainConfig, resolve

if TYPE_CHECKING:
    from genrep.train.loop import Metrics

POSITIVE = click.IntRange(min=1)
POSITIVE_FLOAT = click.FloatRange(min=0, min_open=True)
LOADER_THREADS = 8  # at most; each holds one batch ready

HELP = {
    "method": "[default: supcon where all samples have a label, else simclr]",
    "views": "Latent views with augmentation (T_z + T_x), latent views alone, or augmentation of the anchors alone.  "
    "[default: both where the set has latent views, else pixel]",
    "steps": "Updates.  [default: 1000 for images up to 64 px, else 20 epochs]",
    "backbone": "resnet-tiny or a ResNet of torchvision.  [default: resnet-tiny up to 64 px, else resnet50]",
    "batch_size": "Samples an update, with two views each.  [default: 256]",
    "lr": "Learning rate.  [default: 0.002 (AdamW) up to 64 px, else 0.03 (SGD)]",
    "loss_scale": "Factor on the loss; that of the paper's code is 1.4286.",
    "dtype": "Of convolutions and matrix products.  [default: bfloat16 on cuda, else float32]",
    "resume": "Say so if there is nothing to resume; a run is continued either way.",
}


@click.command(cls=Command)
@click.option("--shards", "folder", type=click.Path(path_type=Path), required=True, help="Folder of the data set.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/SET-METHOD-seedN]")
@click.option("--method", type=click.Choice(METHODS), help=HELP["method"])
@click.option("--views", type=click.Choice(VIEWS), help=HELP["views"])
@click.option("--limit", type=POSITIVE, metavar="N", help="Use the first N samples.")
@click.option("--steps", type=POSITIVE, metavar="N", help=HELP["steps"])
@click.option("--epochs", type=POSITIVE, metavar="N", help="Passes over the samples, in place of --steps.")
@click.option("--backbone", metavar="NAME", help=HELP["backbone"])
@click.option("--batch-size", type=POSITIVE, metavar="N", help=HELP["batch_size"])
@click.option("--lr", type=POSITIVE_FLOAT, help=HELP["lr"])
@click.option("--temperature", type=POSITIVE_FLOAT, help="Of the loss.  [default: 0.1]")
@click.option("--loss-scale", type=POSITIVE_FLOAT, default=1.0, show_default=True, help=HELP["loss_scale"])
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all that is random.")
@click.option("--checkpoint-every", type=POSITIVE, metavar="N", default=200, show_default=True, help="In updates.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda if there is one, else cpu]")
@click.option("--dtype", type=click.Choice(DTYPES), help=HELP["dtype"])
@click.option("--threads", type=POSITIVE, metavar="N", help="CPU threads.  [default: OMP_NUM_THREADS, else the cores]")
@click.option("--show-config", is_flag=True, help="Print the settings as JSON and end.")
@click.option("--resume", is_flag=True, help=HELP["resume"])
@click.option("--quiet", is_flag=True, help="Only errors.")
def main(folder: Path, out: Path | None, show_config: bool, resume: bool, quiet: bool, **settings: Any) -> None:
    """Train an encoder on shards by SimCLR or SupCon.

    The same command continues a run that was stopped, from its last checkpoint. The run's folder receives
    config.json, metrics.jsonl and checkpoints/.

    \b
    Examples:
      genrep-train --shards data
      genrep-train --shards data --views pixel --steps 400 --seed 1 --out runs/only-T_x
    """
    if settings["steps"] and settings["epochs"]:
        raise click.UsageError("--steps and --epochs were both given: one of them follows from the other")
    execution = {name: settings.pop(name) for name in ("checkpoint_every", "device", "threads")}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        _main(folder, out, settings, show_config=show_config, resume=resume, quiet=quiet, **execution)
    except DataError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; run the same command to continue") from None


def _main(
    folder: Path,
    out: Path | None,
    settings: dict[str, Any],
    *,
    show_config: bool,
    resume: bool,
    quiet: bool,
    checkpoint_every: int,
    device: str | None,
    threads: int | None,
) -> None:
    import genrep.shards

    shards = genrep.shards.open(folder)
    import torch

    device = _device(device)
    dtype = settings.pop("dtype") or ("bfloat16" if device.startswith("cuda") else "float32")
    config = resolve(shards, dtype=dtype, **settings)
    if show_config:
        click.echo(json.dumps(config.to_json(), indent=1))
        return
    from genrep.train.checkpoint import checkpoints
    from genrep.train.loop import train

    run = out or Path("runs") / f"{folder.resolve().name}-{config.method}-seed{config.seed}"
    torch.set_num_threads(threads or torch.get_num_threads())
    threads = torch.get_num_threads()
    if resume and not checkpoints(run):
        click.echo(f"nothing to resume in {run}: starting at step 0", err=True)
    if not quiet:
        click.echo(_summary(config, shards.channels, run), err=True)
    record = {
        "shards": str(folder),
        "command": shlex.join(["genrep-train", *sys.argv[1:]]),
        "environment": {"torch": torch.__version__, "device": _device_name(device), "threads": threads},
    }
    with _stop_between_steps() as should_stop, _progress(config.steps, checkpoint_every, quiet=quiet) as on_step:
        done = train(
            shards,
            config,
            run,
            device=device,
            loader_threads=min(threads, LOADER_THREADS),
            checkpoint_every=checkpoint_every,
            record=record,
            on_step=on_step,
            should_stop=should_stop,
        )
    if done < config.steps:
        raise DataError(f"interrupted after step {done} of {config.steps}; run the same command to continue")
    if not quiet:
        click.echo(f"{run}: trained for {done} steps")


def _device(name: str | None) -> str:
    """The device to use, seen to be there."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"device {name!r} cannot be used ({reason}): use --device cpu, or one of this machine"
        ) from error
    return name


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def _summary(config: TrainConfig, channels: int, run: Path) -> str:
    text = (
        f"{config.method} on {config.num_samples} samples, views {config.views}: {config.steps} steps of "
        f"{config.batch_size}, {config.backbone} at {config.crop} px, into {run}"
    )
    pixels = config.pixels
    if channels == 1 and config.views != "latent" and (pixels.saturation or pixels.hue or pixels.grey_p):
        text += "\none-channel images: saturation, hue and grey are skipped"
    return text


@contextmanager
def _stop_between_steps() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM waits until the step is saved; a second one ends at once."""
    asked = []

    def remember(number: int, frame: object) -> None:
        asked.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, remember)
    try:
        yield lambda: bool(asked)
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler)


@contextmanager
def _progress(steps: int, every: int, *, quiet: bool) -> Iterator[Callable[["Metrics"], None]]:
    """A bar on a terminal; elsewhere a line at every checkpoint."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    with tqdm(total=steps, unit="step", disable=quiet or not terminal) as bar:

        def on_step(metrics: "Metrics") -> None:
            facts = f"loss {metrics.loss:.3f}, {metrics.images_per_s:,.0f} images/s, waiting {metrics.data_wait:.0%}"
            if terminal:
                if not bar.n:
                    bar.initial = bar.n = metrics.step - 1  # a continued run
                bar.set_postfix_str(facts, refresh=False)
                bar.update()
            elif not quiet and metrics.step % every == 0:
                click.echo(f"step {metrics.step} of {steps}: {facts}", err=True)

        yield on_step
