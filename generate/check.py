"""Does a generator keep the protocol? One finding a claim, each with the figures that decided it."""

import copy
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genrep.generate.folding import folded
from genrep.generate.generators import LoadedGenerator
from genrep.generate.latents import anchor_latents, class_labels, noise_seeds
from genrep.shards.errors import DataError

MICRO_BATCH = 4
GREY_LEVEL = 1 / 127.5  # of images in [-1, 1]
EQUAL = 0.01 * GREY_LEVEL  # floating-point sums may depend on a row's place in the batch, pixels may not

# BigGAN keeps statistics for multiples of 0.02; the package's rounding errors and swapped weights show at these
KNOTS = (0.14, 0.5, 0.94)
KNOT_SPACING = 0.02
KNOT_WIDTH = KNOT_SPACING / 100


@dataclass(frozen=True)
class Finding:
    """``passed`` is None where the claim does not apply or is a measurement only."""

    claim: str
    passed: bool | None
    detail: str


class _BrokenError(Exception):
    """The claim does not hold."""


class _NotApplicableError(Exception):
    pass


def check(generator: LoadedGenerator, *, device: str | torch.device = "cpu") -> Iterator[Finding]:
    """Try every claim of the protocol on a micro-batch of four anchors; about 30 renderings of it."""
    subject = _Subject(generator, torch.device(device))
    ready = _finding("device and truncation", _is_set_up, subject)
    yield ready
    if not ready.passed:
        return  # whatever came next would say the same
    for claim, test in _CLAIMS.items():
        yield _finding(claim, test, subject)
        generator.set_truncation(1.0)
    yield _images_per_second(subject)


def _finding(claim: str, test: "Callable[[_Subject], str]", subject: "_Subject") -> Finding:
    try:
        return Finding(claim, True, test(subject))
    except _NotApplicableError as reason:
        return Finding(claim, None, str(reason))
    except _BrokenError as fault:
        return Finding(claim, False, str(fault))
    except Exception as error:  # the plug-in's own code runs in every test
        return Finding(claim, False, " ".join(f"{type(error).__name__}: {error}".split())[:300])


class _Subject:
    """A generator and the inputs it is tried with."""

    def __init__(self, generator: LoadedGenerator, device: torch.device) -> None:
        self.generator = generator
        self.device = device
        samples = range(MICRO_BATCH)
        latents = anchor_latents(0, samples, dim=generator.latent_dim, prior=generator.prior)
        self.latents = torch.from_numpy(latents).to(device)
        self.noise = torch.from_numpy(noise_seeds(0, samples)).to(device)
        classes = range(generator.num_classes)
        self.labels = torch.from_numpy(class_labels(0, samples, classes)).to(device) if classes else None

    @torch.inference_mode()
    def render(
        self, latents: Tensor | None = None, labels: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """float32 images on the CPU, of the standard inputs where none are given."""
        return (
            self.generator.render(
                self.latents if latents is None else latents,
                self.labels if labels is None else labels,
                self.noise if noise is None else noise,
            )
            .float()
            .cpu()
        )

    def render_truncated(self, truncation: float, *, one_label: bool = False) -> Tensor:
        self.generator.set_truncation(truncation)
        labels = self.labels[:1].expand(MICRO_BATCH) if one_label and self.labels is not None else None
        return self.render(self.generator.prior_scale(truncation) * self.latents, labels)

    def modules(self) -> list[nn.Module]:
        return list(self.generator.modules().values())

    def folded(self) -> "_Subject":
        """The same inputs, rendered by the generator as it is folded at its present truncation."""
        result = copy.copy(self)
        result.generator = folded(self.generator)
        return result


def _greatest(difference: Tensor) -> float:
    return difference.abs().max().item()


def _levels(difference: float) -> str:
    return f"{difference / GREY_LEVEL:.3g} grey levels"


# ------------------------------------------------------------------------------------------------------- claims


def _is_set_up(subject: _Subject) -> str:
    subject.generator.to(subject.device)
    for truncation in (0.5, 1.0):
        subject.generator.set_truncation(truncation)
    return f"on {subject.device}, truncation 1"


def _shape_and_type(subject: _Subject) -> str:
    generator = subject.generator
    with torch.inference_mode():
        images = generator.render(subject.latents, subject.labels, subject.noise)
    expected = (MICRO_BATCH, *generator.image_shape)
    if tuple(images.shape) != expected or not images.is_floating_point():
        raise _BrokenError(f"render returns {images.dtype} of shape {tuple(images.shape)}, {expected} is announced")
    return f"{images.dtype} of shape {tuple(images.shape)}"


def _range(subject: _Subject) -> str:
    images = subject.render()
    if not images.isfinite().all():
        raise _BrokenError(f"{(~images.isfinite()).sum().item()} values are not finite")
    low, high = images.min().item(), images.max().item()
    if low < -1 or high > 1:
        raise _BrokenError(f"values from {low:.4g} to {high:.4g}; clip them in render")
    return f"values from {low:.3g} to {high:.3g}"


def _eval_mode(subject: _Subject) -> str:
    """Fails only where the mode changes the images. Loading sets eval mode; who else calls the factory may not."""
    modules = subject.modules()
    left = {name or "the generator" for name in getattr(subject.generator, "left_in_training", ())}
    left |= {type(module).__name__ for module in modules if any(part.training for part in module.modules())}
    if not left:
        return "every module is in eval mode"
    names = ", ".join(sorted(left))
    with _restored_state(modules):
        images = []
        for mode in (False, True, True):
            for module in modules:
                module.train(mode)
            images.append(subject.render())
    moved = max(_greatest(images[0] - images[1]), _greatest(images[1] - images[2]))
    if moved > 0:
        raise _BrokenError(
            f"the factory leaves {names} in training mode, which moves images by {_levels(moved)}: call eval() in it"
        )
    return f"the factory leaves {names} in training mode, which changes nothing"


def _repeat(subject: _Subject) -> str:
    moved = _greatest(subject.render() - subject.render())
    if moved > 0:
        raise _BrokenError(f"the same call again differs by {_levels(moved)}; is the network in eval mode?")
    return "the same call again gives the same bits"


def _grouping(subject: _Subject) -> str:
    """The same rows in another order, and beside other neighbours."""
    images = subject.render()
    order = torch.arange(MICRO_BATCH).roll(1)
    labels = None if subject.labels is None else subject.labels[order]
    moved = _greatest(subject.render(subject.latents[order], labels, subject.noise[order]) - images[order])
    neighbours = subject.latents.clone()
    neighbours[1:] = -neighbours[1:] / 2
    moved = max(moved, _greatest(subject.render(neighbours)[0] - images[0]))
    if moved > EQUAL:
        raise _BrokenError(f"an image moves by {_levels(moved)} with its place in the batch or its neighbours")
    return f"an image moves by {_levels(moved)} with its place in the batch and its neighbours"


def _state(subject: _Subject) -> str:
    def tensors() -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in subject.generator.tensors().items()}

    def random_numbers() -> list[Any]:
        numpy_state: Any = np.random.get_state()
        states = [torch.get_rng_state().tolist(), numpy_state[1].tolist(), random.getstate()]
        if subject.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(subject.device).tolist())
        return states

    tensors_before, random_before = tensors(), random_numbers()
    subject.render()
    after = tensors()
    changed = [name for name in after if not torch.equal(after[name], tensors_before.get(name, torch.empty(0)))]
    if changed:
        raise _BrokenError(
            f"rendering changes the generator's {changed[0]}; images then depend on what was rendered before"
        )
    if random_numbers() != random_before:
        raise _BrokenError("rendering draws from global random numbers; take noise_seeds instead")
    return f"{len(after)} tensors and the global random numbers are as before"


def _latent_matters(subject: _Subject) -> str:
    moved = (subject.render() - subject.render(subject.latents.roll(1, 0))).abs().flatten(1).amax(1).min().item()
    if moved < 2 * GREY_LEVEL:
        raise _BrokenError(f"another latent moves no pixel by more than {_levels(moved)}")
    return f"another latent moves pixels by up to {_levels(moved)}"


def _label_matters(subject: _Subject) -> str:
    if subject.labels is None:
        raise _NotApplicableError("unconditional")
    if subject.generator.num_classes < 2:
        raise _NotApplicableError("one class")
    others = (subject.labels + 1) % subject.generator.num_classes
    moved = (subject.render() - subject.render(labels=others)).abs().flatten(1).amax(1).max().item()
    if moved < 2 * GREY_LEVEL:
        raise _BrokenError(f"another label moves no pixel by more than {_levels(moved)}")
    return f"another label moves pixels by up to {_levels(moved)}"


def _truncation_narrows(subject: _Subject) -> str:
    if subject.generator.keeps_variance:
        raise _NotApplicableError("its latents keep their variance")

    def spread(truncation: float) -> float:
        images = subject.render_truncated(truncation, one_label=True)
        return (images - images.mean(dim=0)).abs().mean().item()

    narrow, full = spread(0.25), spread(1.0)
    if not narrow < full:
        raise _BrokenError(f"images spread by {_levels(narrow)} at truncation 0.25, by {_levels(full)} at 1")
    return f"images spread by {_levels(narrow)} at truncation 0.25, by {_levels(full)} at 1"


def _truncation_is_continuous(subject: _Subject) -> str:
    if not hasattr(subject.generator.plug_in, "set_truncation"):
        raise _NotApplicableError("truncation only scales the prior")
    ratios = {}
    for knot in KNOTS:

        def moved(width: float, knot: float = knot) -> float:
            below, above = subject.render_truncated(knot - width), subject.render_truncated(knot + width)
            return (below - above).abs().mean().item()

        jump, step = moved(KNOT_WIDTH), moved(KNOT_SPACING)
        ratios[knot] = jump / step if jump > EQUAL else 0.0
    worst = max(ratios, key=ratios.__getitem__)
    if ratios[worst] > 0.1:
        raise _BrokenError(
            f"near truncation {worst} the image jumps: a change of {2 * KNOT_WIDTH:.4f} moves it by "
            f"{ratios[worst]:.0%} of what a change of {2 * KNOT_SPACING:.2f} does; are statistics interpolated "
            "with swapped weights?"
        )
    return f"near {', '.join(map(str, KNOTS))} the image follows the truncation without a jump"


def _truncation_returns(subject: _Subject) -> str:
    before = subject.render()
    subject.render_truncated(0.5)
    subject.generator.set_truncation(1.0)
    moved = _greatest(subject.render() - before)
    if moved > 0:
        raise _BrokenError(f"after truncation 0.5 and 1 again, images differ by {_levels(moved)}")
    return "1, 0.5 and 1 again gives the same bits"


def _noise(subject: _Subject) -> str:
    if not subject.generator.takes_noise:
        raise _NotApplicableError("adds no noise of its own")
    moved = _greatest(subject.render() - subject.render(noise=subject.noise + 1))
    return f"another noise seed moves pixels by up to {_levels(moved)}"


def _mapped(subject: _Subject) -> str:
    generator = subject.generator
    if "w" not in generator.latent_spaces:
        raise _NotApplicableError("no intermediate latent space")
    images = subject.render()
    with torch.inference_mode():
        mapped = generator.map(subject.latents, subject.labels)
        moved = _greatest(generator.render_mapped(mapped, subject.labels, subject.noise).float().cpu() - images)
        if moved > EQUAL:
            raise _BrokenError(f"render_mapped(map(z)) differs from render(z) by {_levels(moved)}")
        if "w+" not in generator.latent_spaces:
            return f"render_mapped(map(z)) is render(z); w has {mapped.shape[1]} coordinates"
        layered = generator.map(subject.latents, subject.labels, latent_space="w+")
        moved = _greatest(generator.render_mapped(layered, subject.labels, subject.noise).float().cpu() - images)
    if moved > EQUAL:
        raise _BrokenError(f"the same w for every layer differs from w by {_levels(moved)}")
    return (
        f"render_mapped(map(z)) is render(z); w has {mapped.shape[1]} coordinates, "
        f"w+ {layered.shape[1] // mapped.shape[1]} layers of it"
    )


def _folding(subject: _Subject) -> str:
    """As ``--fold`` renders, at both ends of the truncation."""
    generator = subject.generator
    worst = 0.0
    for truncation in (1.0, 0.5):
        plain = subject.render_truncated(truncation)
        latents = generator.prior_scale(truncation) * subject.latents
        try:
            by_folded = subject.folded().render(latents)
        except DataError as error:
            if hasattr(generator.plug_in, "folded"):
                raise _BrokenError(str(error)) from error
            raise _NotApplicableError(str(error)) from error
        moved = _greatest(subject.render(latents) - plain)
        if moved > 0:
            raise _BrokenError(f"folding changes the generator itself: its images move by {_levels(moved)}")
        worst = max(worst, _greatest(by_folded - plain))
    if not worst <= GREY_LEVEL:
        raise _BrokenError(f"folded images differ from the plain ones by {_levels(worst)}; at most 1 is allowed")
    return f"folded images differ from the plain ones by {_levels(worst)}"


def _gradient(subject: _Subject) -> str:
    latents = subject.latents.clone().requires_grad_()
    subject.generator.render(latents, subject.labels, subject.noise).float().square().sum().backward()
    gradient = latents.grad
    if gradient is None or not gradient.isfinite().all() or (gradient == 0).all(dim=1).any():
        raise _BrokenError("no usable gradient reaches the latents: walks cannot be trained")
    return f"a gradient of norm {gradient.norm(dim=1).mean().item():.3g} reaches the latents"


def _thread_safety(subject: _Subject) -> str:
    """The same rows, each micro-batch in another order, by several threads at once."""
    if not subject.generator.thread_safe:
        raise _NotApplicableError("it does not say that it is: one thread renders")
    if subject.device.type != "cpu":
        raise _NotApplicableError("one thread feeds a GPU")

    def rolled(places: int) -> Tensor:
        labels = None if subject.labels is None else subject.labels.roll(places)
        return subject.render(subject.latents.roll(places, 0), labels, subject.noise.roll(places, 0))

    places = list(range(MICRO_BATCH))
    alone = [rolled(number) for number in places]
    with ThreadPoolExecutor(MICRO_BATCH) as threads:
        rounds = [list(threads.map(rolled, places)) for _ in range(4)]
    moved = max(_greatest(one - other) for images in rounds for one, other in zip(images, alone, strict=True))
    if moved > EQUAL:
        raise _BrokenError(f"threads that render at once move images by {_levels(moved)}; leave thread_safe out")
    return f"{MICRO_BATCH} threads at once render what one does"


def _fingerprint(subject: _Subject) -> str:
    fingerprint = subject.generator.fingerprint()
    if not (isinstance(fingerprint, str) and len(fingerprint) >= 16 and fingerprint.isprintable()):
        raise _BrokenError(f"the fingerprint is {fingerprint!r}; a text of at least 16 characters is expected")
    return fingerprint[:16]


_CLAIMS: dict[str, Callable[[_Subject], str]] = {
    "shape and type": _shape_and_type,
    "finite, within [-1, 1]": _range,
    "eval mode": _eval_mode,
    "deterministic": _repeat,
    "independent of the batch": _grouping,
    "rendering moves no state": _state,
    "latents matter": _latent_matters,
    "labels matter": _label_matters,
    "truncation narrows": _truncation_narrows,
    "truncation is continuous": _truncation_is_continuous,
    "truncation can be set back": _truncation_returns,
    "noise by seed": _noise,
    "intermediate latents": _mapped,
    "folded": _folding,
    "gradient to the latents": _gradient,
    "thread-safe": _thread_safety,
    "fingerprint": _fingerprint,
}


def _images_per_second(subject: _Subject) -> Finding:
    try:
        plain = _rate(subject)
    except Exception as error:  # already reported by the first claim
        return Finding("speed", None, f"not measured: {type(error).__name__}")
    try:
        when_folded = f"{_rate(subject.folded()):.3g}"
    except Exception:
        when_folded = "not possible"
    threads = torch.get_num_threads()
    return Finding(
        "speed", None, f"{plain:.3g} images/s on {subject.device}, {threads} threads; with --fold {when_folded}"
    )


def _rate(subject: _Subject) -> float:
    """Images a second."""
    subject.render()  # a first call may have to prepare
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < 0.5:
        subject.render()
        count += MICRO_BATCH
    return count / (time.perf_counter() - start)


@contextmanager
def _restored_state(modules: list[nn.Module]) -> Iterator[None]:
    """Modules get their tensors and their mode back."""
    saved = [
        ({name: tensor.clone() for name, tensor in module.state_dict().items()}, module.training) for module in modules
    ]
    try:
        yield
    finally:
        for module, (state, training) in zip(modules, saved, strict=True):
            module.load_state_dict(state)
            module.train(training)
