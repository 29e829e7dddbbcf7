"""What walks really do: pixel effects measured against their strength, survival of the class, a filmstrip.

The effect of a direction e at strength c on one sample is the strength of that pixel edit of G(z) which comes closest
to G(z + c w_e): the least masked squared error over a grid of strengths, refined by a parabola.
"""

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrep.generate.edits import EDITS, default_edits
from genrep.generate.generators import LoadedGenerator
from genrep.generate.views import strengths
from genrep.generate.walk_training import Anchors, SteeredImages
from genrep.generate.walks import Walks
from genrep.shards.errors import DataError

Classifier = Callable[[Tensor], Tensor]  # images (B, C, H, W) in [-1, 1] -> logits (B, classes)

STRENGTHS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
NUM_TRIED = 61  # strengths of each edit, from -1.5 to 1.5 times its full one
LEAST_REACHED = 0.5  # of the full strength, in the median: below, a direction does not deserve its name
LEAST_SURVIVING = 0.8  # share of samples that keep their class at full strength
_CHUNK_VALUES = 1 << 26  # of one sample's images held at once, moved and edited


@dataclass(frozen=True)
class DirectionCard:
    """One direction, measured. Shares are fractions, effects in the unit of their edit.

    Attributes:
        edit: The edit it was made for, or None.
        full: That edit's strength at coefficient 1; without one, the length of the direction.
        relative_length: Norm of the direction over the mean norm of a latent.
        change: Mean absolute change of a pixel at coefficients -1 and 1, in grey levels of 255.
        effects: Edit -> median effect at each of :data:`STRENGTHS`.
        quartiles: Lower and upper quartile of the effect of its own edit, likewise; None without one.
        reached: Median over samples, at coefficients -1 and 1 together, of effect / asked; None without an edit.
        reached_each: The same at -1 and at 1 alone.
        explained: Share of the squared pixel change at -1 and 1 that its own edit accounts for, the median.
        monotone: The range of coefficients around 0 in which the median effect grows.
        class_survives: Share of samples whose predicted class is the anchor's, at -1 and 1; None without a classifier.
        class_survives_edit: The same under the pixel edit itself at full strength: what one can hope for.
        deserves_name: Whether it reaches and survives enough; None without an edit or a classifier.
    """

    name: str
    edit: str | None
    full: float
    unit: str
    relative_length: float
    change: float
    effects: dict[str, list[float]]
    quartiles: list[list[float]] | None
    reached: float | None
    reached_each: list[float] | None
    explained: float | None
    monotone: list[float] | None
    class_survives: float | None
    class_survives_edit: float | None
    deserves_name: bool | None


@dataclass(frozen=True)
class WalkCard:
    """A measured set of walks; ``class_survives_together``: all directions at once, as in a steered view."""

    generator: str
    fingerprint: str
    walks_sha256: str
    latent_space: str
    truncation: float
    num_samples: int
    seed: int
    strengths: tuple[float, ...]
    class_survives_together: float | None
    directions: list[DirectionCard]

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "strengths": list(self.strengths),
            "units": {name: edit.unit for name, edit in EDITS.items()},
        }

    def to_markdown(self) -> str:
        return _markdown(self)


def measure_walks(
    generator: LoadedGenerator,
    walks: Walks,
    *,
    num_samples: int = 256,
    seed: int = 1,
    truncation: float = 1.0,
    classifier: Classifier | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> WalkCard:
    """Measure each direction alone on ``num_samples`` anchors of a seed that is not the training's.

    Args:
        classifier: Float images (B, C, H, W) in [-1, 1] -> logits.
        progress: Called with the number of samples done.

    Raises:
        DataError: If the walks are not of this generator.
    """
    check_walks(generator, walks)
    images = SteeredImages(generator, latent_space=walks.latent_space, truncation=truncation, device=device)
    full = _full_strengths(generator, walks)
    tried = torch.linspace(-1.5, 1.5, NUM_TRIED, dtype=torch.float64)
    measured: dict[str, list[Tensor]] = {}
    for samples in _chunks(num_samples, generator, len(walks.names)):
        anchors = images.draw(seed, samples)
        for key, values in _measure(images, anchors, walks, full, tried, seed, samples, classifier).items():
            measured.setdefault(key, []).append(values.cpu())
        if progress:
            progress(samples.stop)
    joined = {key: torch.cat(parts) for key, parts in measured.items()}
    survives = joined.get("together")
    return WalkCard(
        generator=generator.spec,
        fingerprint=generator.fingerprint(),
        walks_sha256=walks.sha256,
        latent_space=walks.latent_space,
        truncation=truncation,
        num_samples=num_samples,
        seed=seed,
        strengths=STRENGTHS,
        class_survives_together=None if survives is None else _rounded(survives.double().mean()),
        directions=[_direction_card(walks, number, full, joined) for number in range(len(walks.names))],
    )


def load_classifier(spec: str) -> Classifier:
    """A classifier by ``module:factory``, called without arguments, or the file that the quality script keeps.

    Raises:
        DataError: If there is none, or the file holds other weights.
    """
    from genrep.generate.fashion.classifier import Classifier as FashionClassifier
    from genrep.generate.unpickling import load_tensors

    path = Path(spec)
    module, colon, factory = spec.partition(":")
    if colon and not path.exists():
        try:
            return getattr(importlib.import_module(module), factory)()
        except (ImportError, AttributeError, TypeError) as error:
            raise DataError(f"classifier {spec} could not be built: {type(error).__name__}: {error}") from error
    network = FashionClassifier()
    try:
        network.load_state_dict(load_tensors(path))
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"{path} holds no classifier of genrep.generate.fashion.quality; name a factory as module:factory"
        ) from error
    return network.eval()


def check_walks(generator: LoadedGenerator, walks: Walks) -> None:
    """Raises DataError unless the walks fit the generator."""
    if walks.latent_space not in generator.latent_spaces:
        raise DataError(f"the walks move in {walks.latent_space}, where {generator.spec} cannot be steered")
    if walks.latent_dim != generator.dim(walks.latent_space):
        raise DataError(
            f"the walks have {walks.latent_dim} coordinates, a latent of {generator.spec} has "
            f"{generator.dim(walks.latent_space)}; name the generator and weights they were made for"
        )
    if walks.generator and walks.generator != generator.fingerprint():
        raise DataError(
            f"the walks are of another generator (fingerprint {walks.generator[:12]}) than {generator.spec} "
            f"({generator.fingerprint()[:12]}); name the generator and weights they were made for"
        )


def edit_of(walks: Walks, name: str) -> str | None:
    """The edit a direction was made for: its name is an edit's and its unit too."""
    return name if name in EDITS and walks.units[name] == EDITS[name].unit else None


def _full_strengths(generator: LoadedGenerator, walks: Walks) -> dict[str, float]:
    """The edits to look for, and the strength that counts as full."""
    channels, height, width = generator.image_shape
    full = {name: EDITS[name].full_strength(height, width) for name in default_edits(channels)}
    own = {name: walks.full[name] for name in walks.names if edit_of(walks, name)}
    return {name: {**full, **own}[name] for name in EDITS if name in full or name in own}


def _chunks(num_samples: int, generator: LoadedGenerator, num_walks: int) -> Iterator[range]:
    values = math.prod(generator.image_shape) * (num_walks * len(STRENGTHS) + 3 * NUM_TRIED)
    size = max(1, min(64, _CHUNK_VALUES // values))
    for first in range(0, num_samples, size):
        yield range(first, min(first + size, num_samples))


@torch.no_grad()
def _measure(
    images: SteeredImages,
    anchors: Anchors,
    walks: Walks,
    full: dict[str, float],
    tried: Tensor,
    seed: int,
    samples: range,
    classifier: Classifier | None,
) -> dict[str, Tensor]:
    """For B samples, W directions, S strengths: what is known of each sample, by key.

    ``effect.<edit>`` (B, W, S) in the edit's unit; ``left.<edit>`` (B, W, S), share of the change that is left;
    ``change`` (B, W) in [-1, 1] units; ``norm`` (B,) of the latents; ``survives`` (B, W, 2),
    ``survives.<edit>`` (B, 2) and ``together`` (B,), true or false.
    """
    still = images.render(anchors)
    directions = torch.tensor(walks.directions, device=images.device)
    # one direction and strength at a time: the batch keeps the size it has in training
    moved = torch.stack(
        [torch.stack([images.render(anchors, c * w) for c in STRENGTHS], dim=1) for w in directions], dim=1
    )
    ends = moved[:, :, [0, -1]]
    result = {
        "norm": anchors.latents.norm(dim=1),
        "change": (ends - still[:, None, None]).abs().mean(dim=(2, 3, 4, 5)),
    }
    for name, strength in full.items():
        offset, left = _fitted(still, moved, name, tried * strength)
        result[f"effect.{name}"], result[f"left.{name}"] = offset, left
    if classifier is not None:
        before = _predicted(classifier, still)
        result["survives"] = (
            torch.stack([_predicted(classifier, end) for end in ends.flatten(1, 2).unbind(dim=1)], dim=1)
            == before[:, None]
        ).unflatten(1, ends.shape[1:3])
        for name, strength in full.items():
            edited = [EDITS[name].apply(still, c * strength).images for c in (-1, 1)]
            result[f"survives.{name}"] = torch.stack([_predicted(classifier, e) == before for e in edited], dim=1)
        drawn = np.stack(list(strengths(seed, samples, view=1, names=walks.names).values()), axis=1)
        all_at_once = images.render(anchors, torch.from_numpy(drawn).to(directions) @ directions)
        result["together"] = _predicted(classifier, all_at_once) == before
    return result


def _fitted(still: Tensor, moved: Tensor, edit: str, tried: Tensor) -> tuple[Tensor, Tensor]:
    """The edit's strength that comes closest to each of (B, W, S) moved images, and the share of the change it leaves.

    ``sum M (m - e)^2 = sum M m^2 - 2 sum m M e + sum M e^2`` in float64, for all pairs by matrix products.
    """
    flat = moved.flatten(1, 2).flatten(2).double()  # (B, W * S, P)
    edited, masks = [], []
    for strength in tried.tolist():
        images, mask = EDITS[edit].apply(still, strength)
        edited.append(images.flatten(1))
        masks.append(mask.expand_as(images).flatten(1))
    targets, kept = torch.stack(edited, dim=1).double(), torch.stack(masks, dim=1).double()  # (B, T, P)
    masked = targets * kept
    cross = flat @ masked.transpose(1, 2)
    own = flat.square() @ kept.transpose(1, 2)
    error = (own - 2 * cross + (targets * masked).sum(dim=2)[:, None]) / kept.sum(dim=2)[:, None]
    best = error.argmin(dim=2)
    inner = best.clamp(1, len(tried) - 2)[..., None]
    low, middle, high = (error.gather(2, inner + step)[..., 0] for step in (-1, 0, 1))
    curvature = (low - 2 * middle + high).clamp_min(1e-12)
    refined = ((low - high) / (2 * curvature)).clamp(-0.5, 0.5)
    at_edge = best != inner[..., 0]
    spacing = (tried[1] - tried[0]).to(error)
    offset = tried.to(error)[best] + torch.where(at_edge, torch.zeros_like(refined), refined * spacing)
    unmoved = error[..., len(tried) // 2].clamp_min(1e-12)  # the middle one is strength 0
    left = error.gather(2, best[..., None])[..., 0] / unmoved
    shape = moved.shape[1:3]
    return offset.unflatten(1, shape), left.unflatten(1, shape)


def _predicted(classifier: Classifier, images: Tensor) -> Tensor:
    return classifier(images).argmax(dim=1)


def _direction_card(walks: Walks, number: int, full: dict[str, float], measured: dict[str, Tensor]) -> DirectionCard:
    name = walks.names[number]
    edit = edit_of(walks, name)
    effects = {other: measured[f"effect.{other}"][:, number].median(dim=0).values for other in full}
    survives = measured["survives"][:, number].double().mean() if "survives" in measured else None
    survives_edit = measured[f"survives.{edit}"].double().mean() if edit and survives is not None else None
    quartiles = reached = reached_each = explained = monotone = None
    if edit:
        own = measured[f"effect.{edit}"][:, number]
        share = own[:, [0, -1]] / (walks.full[name] * torch.tensor([-1.0, 1.0]))
        quartiles = [_rounded_list(own.quantile(q, dim=0)) for q in (0.25, 0.75)]
        reached = _rounded(share.flatten().quantile(0.5))
        reached_each = _rounded_list(share.quantile(0.5, dim=0))
        explained = _rounded(1 - measured[f"left.{edit}"][:, number, [0, -1]].flatten().quantile(0.5))
        monotone = _monotone_range(effects[edit].tolist())
    deserves = None
    if reached is not None and survives is not None:
        deserves = reached >= LEAST_REACHED and bool(survives >= LEAST_SURVIVING)
    return DirectionCard(
        name=name,
        edit=edit,
        full=walks.full[name],
        unit=walks.units[name],
        relative_length=_rounded(float(np.linalg.norm(walks.directions[number])) / measured["norm"].mean()),
        change=_rounded(measured["change"][:, number].mean() * 127.5),
        effects={other: _rounded_list(values) for other, values in effects.items()},
        quartiles=quartiles,
        reached=reached,
        reached_each=reached_each,
        explained=explained,
        monotone=monotone,
        class_survives=None if survives is None else _rounded(survives),
        class_survives_edit=None if survives_edit is None else _rounded(survives_edit),
        deserves_name=deserves,
    )


def _monotone_range(effects: Sequence[float]) -> list[float]:
    """The coefficients around 0 between which the effect grows from each to the next."""
    low = high = STRENGTHS.index(0.0)
    while low > 0 and effects[low - 1] < effects[low]:
        low -= 1
    while high < len(effects) - 1 and effects[high + 1] > effects[high]:
        high += 1
    return [STRENGTHS[low], STRENGTHS[high]]


def _rounded(value: Tensor | float) -> float:
    return round(float(value), 4) + 0.0  # no -0.0


def _rounded_list(values: Tensor) -> list[float]:
    return [_rounded(value) for value in values.tolist()]


def _markdown(card: WalkCard) -> str:
    named = [direction for direction in card.directions if direction.edit]
    lines = [
        f"# Walks of {card.generator}",
        "",
        f"{len(card.directions)} directions of {card.latent_space}, sha256 `{card.walks_sha256[:12]}`, generator of "
        f"fingerprint `{card.fingerprint[:12]}`. Measured on {card.num_samples} anchors of seed {card.seed}, "
        f"truncation {card.truncation:g}, each direction alone.",
        "",
        "The effect on an image is the strength of the pixel edit of the anchor that comes closest to it (least masked "
        "squared error).",
        "",
    ]
    if named:
        lines += [
            *_summary(named),
            "",
            "Median effect against the coefficient:",
            "",
            *_curves(card.strengths, named),
            "",
        ]
    if card.class_survives_together is not None:
        lines += [
            "All directions at once, coefficients uniform in [-1, 1] as in a steered view: the class survives in "
            f"{card.class_survives_together:.0%} of the samples.",
            "",
        ]
    lines += [
        "Every effect of every direction (the median at coefficient 1 less that at -1, halved), and the mean change of "
        "a pixel in grey levels of 255:",
        "",
        *_every_effect(card.directions),
    ]
    return "\n".join(lines) + "\n"


def _summary(named: list[DirectionCard]) -> list[str]:
    columns: dict[str, list[str]] = {
        "direction": [d.name + (" *" if d.deserves_name is False else "") for d in named],
        "asked at 1": [f"{d.full:.4g} {d.unit}" for d in named],
        "median effect at -1 / 1": [" / ".join(f"{d.effects[d.name][end]:.3g}" for end in (0, -1)) for d in named],
        "reached": [f"{d.reached:.0%}" for d in named],
        "grows over": ["{:g} to {:g}".format(*d.monotone or ()) for d in named],
        "change explained": [f"{d.explained:.0%}" for d in named],
    }
    if named[0].class_survives is not None:
        columns["class survives"] = [f"{d.class_survives:.0%}" for d in named]
        columns["under the edit itself"] = [f"{d.class_survives_edit:.0%}" for d in named]
    columns["length / latent's"] = [f"{d.relative_length:.2f}" for d in named]
    lines = _table(columns)
    if any(direction.deserves_name is False for direction in named):
        lines += [
            "",
            f"\\* reaches less than {LEAST_REACHED:.0%} of what its name promises, or keeps the class in less than "
            f"{LEAST_SURVIVING:.0%} of the samples: do not trust the name.",
        ]
    return lines


def _curves(coefficients: Sequence[float], named: list[DirectionCard]) -> list[str]:
    columns = {"direction": [f"{d.name} ({d.unit})" for d in named]}
    for place, coefficient in enumerate(coefficients):
        columns[f"{coefficient:g}"] = [f"{d.effects[d.name][place]:.3g}" for d in named]
    return _table(columns)


def _every_effect(directions: list[DirectionCard]) -> list[str]:
    columns = {"direction": [d.name for d in directions], "change": [f"{d.change:.1f}" for d in directions]}
    for edit in directions[0].effects:
        halves = [(d.effects[edit][-1] - d.effects[edit][0]) / 2 for d in directions]
        columns[f"{edit} ({EDITS[edit].unit})"] = [f"{half:.2g}" for half in halves]
    return _table(columns)


def _table(columns: dict[str, list[str]]) -> list[str]:
    rows = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return [f"| {' | '.join(row)} |" for row in rows]


@torch.no_grad()
def filmstrip(
    generator: LoadedGenerator,
    walks: Walks,
    *,
    num_rows: int = 3,
    seed: int = 1,
    truncation: float = 1.0,
    device: str = "cpu",
) -> NDArray[np.uint8]:
    """A picture (H, W, 3) of the walks: a block a direction, a row a sample, a column a coefficient from -1 to 1."""
    from PIL import Image, ImageDraw

    from genrep.generate.pixels import to_pixels

    check_walks(generator, walks)
    images = SteeredImages(generator, latent_space=walks.latent_space, truncation=truncation, device=device)
    anchors = images.draw(seed, range(num_rows))
    directions = torch.tensor(walks.directions, device=images.device)
    channels, height, width = generator.image_shape
    scale = max(1, round(56 / max(height, width)))
    height, width = scale * height, scale * width
    margin, header, gap = 8 * max(len(name) for name in walks.names) + 8, 20, 2
    block = num_rows * (height + gap) + 10
    picture = Image.new("RGB", (margin + len(STRENGTHS) * (width + gap), header + len(walks.names) * block), "white")
    draw = ImageDraw.Draw(picture)
    for column, strength in enumerate(STRENGTHS):
        left = margin + column * (width + gap)
        draw.text((left + width // 2 - 10, 4), f"{strength:g}", fill="black")
        for number, direction in enumerate(directions):
            pixels = to_pixels(images.render(anchors, strength * direction)).cpu().numpy()
            if channels == 1:
                pixels = pixels.repeat(3, axis=3)
            for row, image in enumerate(pixels):
                tile = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
                picture.paste(tile, (left, header + number * block + row * (height + gap)))
    for number, name in enumerate(walks.names):
        draw.text((4, header + number * block + block // 2 - 10), name, fill="black")
    return np.asarray(picture)
