"""Train the embedded generator: `python -m genrep.generate.fashion.training --out RUN`.

Hinge loss, one discriminator step a generator step, projection discriminator with spectral norm,
both modes in every batch: half of it carries its classes, half the null label. Stopped and started
again, it continues at its last checkpoint with the batches it would have had.
"""

import json
import os
import time
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from genrep.generate.fashion.jitter import Jitter, jitter_images
from genrep.generate.fashion.network import LATENT_DIM, NULL, NUM_CLASSES, Discriminator, Generator
from genrep.shards import fashion_mnist

EMA_DECAY = 0.999
STATISTICS_BATCHES = 50  # batches of 256 for the batch-norm statistics of the averaged weights


@click.command()
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.")
@click.option("--steps", default=24_000, show_default=True, type=click.IntRange(min=2), help="Generator updates.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=4), help="Images a step.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Processor threads.")
@click.option("--checkpoint-every", default=500, show_default=True, type=click.IntRange(min=1))
def main(out: Path, steps: int, batch_size: int, seed: int, threads: int, checkpoint_every: int) -> None:
    """Train the generator with both modes on the 54,000 jittered training images.

    \b
    Example: about 65 minutes on one core
      python -m genrep.generate.fashion.training --out runs/fashion
    """
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    config = {"steps": steps, "batch_size": batch_size, "seed": seed, "jitter": Jitter().to_json()}
    known = out / "config.json"
    if known.exists() and json.loads(known.read_text()) != json.loads(json.dumps(config)):
        raise click.ClickException(f"{out} holds a run with another configuration: name another folder")
    known.write_text(json.dumps(config, indent=1))
    run = Run(steps=steps, batch_size=batch_size, seed=seed)
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
    save_file(run.deployed(), out / "fashion.safetensors")
    click.echo(f"{steps} steps done: {out / 'fashion.safetensors'}")


class Run:
    """The networks, their optimisers and the step count: all that a checkpoint holds."""

    def __init__(self, *, steps: int, batch_size: int, seed: int) -> None:
        torch.manual_seed(_seed(seed, 0, 0))  # initial weights
        self.steps, self.batch_size, self.seed, self.step = steps, batch_size, seed, 0
        self.generator = Generator().to(memory_format=torch.channels_last)
        self.discriminator = Discriminator().to(memory_format=torch.channels_last)
        self.average = Generator()
        self.average.load_state_dict(self.generator.state_dict())
        self.optimiser_g = torch.optim.Adam(self.generator.parameters(), lr=3e-4, betas=(0.0, 0.99))
        self.optimiser_d = torch.optim.Adam(self.discriminator.parameters(), lr=4e-4, betas=(0.0, 0.99))
        data = fashion_mnist.load("learn")
        self.images, self.labels = torch.from_numpy(data.images.copy()), torch.from_numpy(data.labels.copy())

    def train_step(self) -> dict[str, float]:
        """One discriminator and one generator update; returns both losses."""
        draws = torch.Generator().manual_seed(_seed(self.seed, 1, self.step))
        rate = min(1.0, 2 * (1 - self.step / self.steps))  # constant for half the run, then linear to zero
        for optimiser, base in ((self.optimiser_g, 3e-4), (self.optimiser_d, 4e-4)):
            optimiser.param_groups[0]["lr"] = base * rate
        chosen = torch.randint(len(self.images), (self.batch_size,), generator=draws)
        real = jitter_images(self.images[chosen], draws).contiguous(memory_format=torch.channels_last)
        real_labels = self._with_null(self.labels[chosen])
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                fake, fake_labels = self._fake(self.batch_size, draws)
            logits = self.discriminator(torch.cat([real, fake]), torch.cat([real_labels, fake_labels])).float()
            real_logits, fake_logits = logits.chunk(2)
            loss_d = F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
        _update(self.optimiser_d, loss_d)
        self.discriminator.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16):
            fake, fake_labels = self._fake(self.batch_size, draws)
            loss_g = -self.discriminator(fake, fake_labels).float().mean()
        _update(self.optimiser_g, loss_g)
        self.discriminator.requires_grad_(True)
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)
        return {"loss_d": round(loss_d.item(), 4), "loss_g": round(loss_g.item(), 4)}

    def deployed(self) -> dict[str, Tensor]:
        """Averaged weights with batch-norm statistics estimated anew, as float16 for the package."""
        norms = [module for module in self.average.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative mean over the batches below
        draws = torch.Generator().manual_seed(_seed(self.seed, 2, 0))
        self.average.train()
        with torch.no_grad():
            for _ in range(STATISTICS_BATCHES):
                labels = self._with_null(torch.randint(NUM_CLASSES, (256,), generator=draws))
                self.average(torch.randn(256, LATENT_DIM, generator=draws), labels)
        self.average.eval()
        state = self.average.state_dict()
        return {name: value.half().contiguous() for name, value in state.items() if value.is_floating_point()}

    def state_dict(self) -> dict:
        parts = ("generator", "discriminator", "average", "optimiser_g", "optimiser_d")
        return {"step": self.step, **{part: getattr(self, part).state_dict() for part in parts}}

    def load_state_dict(self, state: dict) -> None:
        for part in ("generator", "discriminator", "average", "optimiser_g", "optimiser_d"):
            getattr(self, part).load_state_dict(state[part])
        self.step = state["step"]

    def _fake(self, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = self._with_null(torch.randint(NUM_CLASSES, (count,), generator=draws))
        return self.generator(torch.randn(count, LATENT_DIM, generator=draws), labels), labels

    def _with_null(self, labels: Tensor) -> Tensor:
        """The second half of a batch forgets its classes."""
        return torch.where(torch.arange(len(labels)) < len(labels) // 2, labels, NULL)


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


if __name__ == "__main__":
    main()
