"""Train walks to imitate pixel edits: the paper's objective, one linear direction an edit, all of them together.

    minimise over w   E  sum( M * (G(z + sum_e c_e w_e) - edit(G(z), c))^2 ) / nnz(M)

with the generator frozen, c_e uniform in [-1, 1] and the edit at strength c_e times its full strength.
Source: Jahanian et al. 2022 (arXiv:2106.05258) and their released code; edits and masks as in :mod:`edits`.
"""

import io
import json
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrep.generate.edits import EDITS, apply_edits
from genrep.generate.generators import LoadedGenerator
from genrep.generate.latents import anchor_latents, class_labels, noise_seeds
from genrep.generate.views import strengths
from genrep.generate.walks import LATENT_SPACES, Walks, save_walks
from genrep.shards import atomic
from genrep.shards.errors import DataError

CONFIG, METRICS, CHECKPOINT, WALKS = "config.json", "metrics.jsonl", "checkpoint.pt", "walks.safetensors"


@dataclass(frozen=True)
class WalkSettings:
    """What decides the walks beside the generator.

    Attributes:
        full: Edit -> its strength at coefficient 1, in the edit's unit; the directions in this order.
        latent_space: ``"z"`` or ``"w"``.
        learning_rate: Of Adam, in units of the latent space.
        truncation: Spread of the latents, in (0, 1].
    """

    full: dict[str, float]
    latent_space: str = "z"
    steps: int = 1000
    batch_size: int = 48
    learning_rate: float = 2e-2
    truncation: float = 1.0
    seed: int = 0


class SteeredImages:
    """Anchors and what a move in latent space makes of them: a generator, a latent space and a truncation."""

    def __init__(self, generator: LoadedGenerator, *, latent_space: str, truncation: float, device: str) -> None:
        steerable = [space for space in generator.latent_spaces if space in LATENT_SPACES]
        if latent_space not in steerable:
            raise DataError(
                f"generator {generator.spec} can be steered in {' and '.join(steerable)}, not in {latent_space!r}"
            )
        self.generator = generator.to(device)
        self.device = torch.device(device)
        self._mapped = latent_space == "w"
        self._scale = generator.prior_scale(truncation)
        generator.set_truncation(truncation)

    @torch.no_grad()
    def draw(self, seed: int, sample_indices: range) -> "Anchors":
        """The anchors of a data set of this seed."""
        generator = self.generator
        numbers = anchor_latents(
            seed, sample_indices, dim=generator.latent_dim, prior=generator.prior, scale=self._scale
        )
        latents = torch.from_numpy(numbers).to(self.device)
        labels = None
        if generator.num_classes:
            classes = class_labels(seed, sample_indices, range(generator.num_classes))
            labels = torch.from_numpy(classes).to(self.device)
        if self._mapped:
            latents = generator.map(latents, labels)
        return Anchors(latents, labels, torch.from_numpy(noise_seeds(seed, sample_indices)).to(self.device))

    def render(self, anchors: "Anchors", moves: Tensor | float = 0.0) -> Tensor:
        """Float (B, C, H, W) of the anchors moved by ``moves`` (B, D) or (D,)."""
        render = self.generator.render_mapped if self._mapped else self.generator.render
        return render(anchors.latents + moves, anchors.labels, anchors.noise_seeds).float()


@dataclass(frozen=True)
class Anchors:
    """Latents (B, D) in the space that is steered, labels int64 (B,) or None, noise seeds int64 (B,)."""

    latents: Tensor
    labels: Tensor | None
    noise_seeds: Tensor


class WalkTraining:
    """Directions, optimiser and step count. Step s depends on the seed and s alone, so a stopped run continues."""

    def __init__(self, generator: LoadedGenerator, settings: WalkSettings, *, device: str = "cpu") -> None:
        unknown = [name for name in settings.full if name not in EDITS]
        if unknown or not settings.full:
            raise DataError(f"{unknown[0] if unknown else 'nothing'} is no edit; known: {', '.join(EDITS)}")
        self.settings = settings
        self.step = 0
        self._images = SteeredImages(
            generator, latent_space=settings.latent_space, truncation=settings.truncation, device=device
        )
        dim = self._images.draw(settings.seed, range(1)).latents.shape[1]
        # from zero: there the objective has a gradient, and what no edit asks for stays zero
        self.directions = torch.zeros(len(settings.full), dim, device=device, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.directions], lr=settings.learning_rate)

    def train_step(self) -> float:
        """One update; returns the loss before it, in squared image units (range 2)."""
        settings, size = self.settings, self.settings.batch_size
        rate = min(1.0, 2 * (1 - self.step / settings.steps))  # constant for half the run, then linear to zero
        self.optimiser.param_groups[0]["lr"] = settings.learning_rate * rate
        samples = range(self.step * size, (self.step + 1) * size)
        anchors = self._images.draw(settings.seed, samples)
        drawn = strengths(settings.seed, samples, view=1, names=tuple(settings.full))
        coefficients = torch.from_numpy(np.stack(list(drawn.values()), axis=1)).to(self.directions)
        with torch.no_grad():
            asked = {name: coefficients[:, e] * full for e, (name, full) in enumerate(settings.full.items())}
            target, mask = apply_edits(self._images.render(anchors), asked)
        moved = self._images.render(anchors, coefficients @ self.directions)
        if not moved.requires_grad:
            raise DataError(
                f"generator {self._images.generator.spec} gives no gradient to its latents, so no walk can be trained; "
                "its render must not run under no_grad or inference_mode (genrep-walks random needs no gradient)"
            )
        loss = masked_error(moved, target, mask)
        if not torch.isfinite(loss):
            raise DataError(f"the loss is no number at step {self.step + 1}; train with a smaller --lr")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return loss.item()

    def walks(self) -> Walks:
        full = self.settings.full
        return Walks(
            names=tuple(full),
            directions=self.directions.detach().cpu().numpy(),
            latent_space=self.settings.latent_space,
            generator=self._images.generator.fingerprint(),
            full=dict(full),
            units={name: EDITS[name].unit for name in full},
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "directions": self.directions.detach(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.directions.copy_(state["directions"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]


def masked_error(images: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Squared difference of (B, C, H, W) images, averaged over the values that the mask (B, 1, H, W) keeps."""
    kept = mask.expand_as(images)
    return (kept * (images - target).square()).sum() / kept.count_nonzero()


def train_walks(
    generator: LoadedGenerator,
    settings: WalkSettings,
    run: Path,
    *,
    device: str = "cpu",
    checkpoint_every: int = 100,
    progress: Callable[[int, float], None] | None = None,
) -> Walks:
    """Train in a run folder, going on where an earlier call stopped.

    The folder gets ``config.json``, ``metrics.jsonl`` (the loss curve, one object a step), ``checkpoint.pt`` and, at
    the end, ``walks.safetensors``. A run that was stopped ends with the walks of one that was not.

    Args:
        progress: Called after each step with the steps done and the loss.

    Raises:
        DataError: If the folder holds a run with another configuration, or the generator gives no gradient.
    """
    config = {
        "generator": generator.spec,
        "arguments": generator.arguments,
        "fingerprint": generator.fingerprint(),
        **asdict(settings),
    }
    _claim(run, json.loads(json.dumps(config)))
    training = WalkTraining(generator, settings, device=device)
    if (run / CHECKPOINT).exists():
        _restore(training, run / CHECKPOINT, device)
    curve = _curve(run / METRICS)[: training.step]  # what was logged after the checkpoint is done again
    while training.step < settings.steps:
        started = time.perf_counter()
        loss = training.train_step()
        rate = settings.batch_size / (time.perf_counter() - started)
        curve.append(json.dumps({"step": training.step, "loss": loss, "images_per_s": round(rate, 1)}) + "\n")
        if training.step % checkpoint_every == 0 or training.step == settings.steps:
            atomic.write(run / METRICS, "".join(curve).encode())
            atomic.write(run / CHECKPOINT, _serialised(training.state_dict()))
        if progress:
            progress(training.step, loss)
    walks = training.walks()
    save_walks(walks, run / WALKS)
    return walks


def _claim(run: Path, config: dict[str, Any]) -> None:
    """Write the configuration, or compare it with the one that is there."""
    path = run / CONFIG
    with atomic.reported(run):
        run.mkdir(parents=True, exist_ok=True)
    atomic.create(path, (json.dumps(config, indent=1) + "\n").encode())
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); name another --out") from error
    if not isinstance(known, dict):
        raise DataError(f"{path} is no configuration of a run; name another --out")
    for field, value in config.items():
        if known.get(field) != value:
            raise DataError(
                f"{run} holds walks trained with {field} {known.get(field)!r}, not {value!r}; name another --out"
            )


def _restore(training: WalkTraining, path: Path, device: str) -> None:
    try:
        training.load_state_dict(torch.load(path, map_location=device, weights_only=True))
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}); remove it to train from the start") from error


def _curve(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def _serialised(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
