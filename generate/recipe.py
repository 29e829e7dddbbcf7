"""The recipe: everything that decides what a data set holds, as one frozen value and as JSON."""

import hashlib
import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from genrep.generate import views as view_kinds
from genrep.generate.latents import PRIORS
from genrep.generate.philox import MAX_SEED
from genrep.generate.walks import Walks
from genrep.shards.errors import DataError
from genrep.shards.layout import (
    FORMAT,
    FULL_COLOUR,
    IMAGE_FORMATS,
    MAX_PIXELS,
    MAX_SAMPLES,
    MAX_SHARD_SIZE,
    MAX_VIEWS,
    ShardSpec,
    layout_of,
    subsampling_complaint,
)

DTYPES = ("float32", "bfloat16", "float16")
BACKENDS = ("torch", "onnxruntime")
LATENT_SPACES = ("z", "w", "w+")
_MAX_RECIPE_BYTES = 16 << 20
_OPTIONAL = {"optional": True}
_WHERE_IT_GREW = ("segments", "parent")  # fields that are written only where they say something


@dataclass(frozen=True)
class GeneratorRecipe:
    """Which generator renders, and from which latents; ``bytes`` are those of its tensors.

    ``prior_scale`` is the factor on the prior: the truncation, or 1 where the generator truncates by itself.
    The last two fields are left out of the JSON where they say nothing: ``blocks`` are the sizes of the blocks of a
    latent, recorded where a view moves a part of it; ``keeps_variance`` makes Gaussian and uniform views
    ``sqrt(1 - std^2) z + std * noise``.
    """

    name: str
    fingerprint: str
    bytes: int
    latent_dim: int
    latent_space: str
    num_classes: int
    class_names: tuple[str, ...]
    prior: str
    truncation: float
    prior_scale: float
    arguments: dict[str, str]
    blocks: tuple[int, ...] = field(default=(), metadata=_OPTIONAL)
    keeps_variance: bool = field(default=False, metadata=_OPTIONAL)


@dataclass(frozen=True)
class RenderRecipe:
    """How the network runs; a change may change pixels by rounding, so it is part of the identity.

    ``folding``: what is constant at inference is computed once, see :mod:`genrep.generate.folding`.
    """

    dtype: str
    micro_batch: int
    threads: int = 1
    backend: str = "torch"
    folding: bool = False
    compile: bool = False
    fresh_noise: bool = False


@dataclass(frozen=True)
class ImageRecipe:
    """What is stored; ``resize`` is the length of the short side, None for the generator's own size.

    ``subsampling`` of the colours of a jpg is left out of the JSON where it is 4:4:4.
    """

    format: str
    quality: int | None
    resize: int | None
    height: int
    width: int
    channels: int
    subsampling: str = field(default=FULL_COLOUR, metadata=_OPTIONAL)


@dataclass(frozen=True)
class ParentRecipe:
    """The set whose anchors the views of this one belong to: the sha256 of its manifest, and the views it holds."""

    manifest_sha256: str
    views: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """A data set, up to the environment that renders it.

    Attributes:
        views: One entry a view, kinds joined by ``+``; empty for anchors alone.
        std: Strength of Gaussian, angular and uniform views; None if there are none.
        walks: Directions of steered views, in full; None if there are none.
        classes: Numbers of the chosen classes in ascending order; None for all.
        segments: Samples of each run that made the set grow, together all; empty for a set that never grew.
        parent: Of views that were added to another set; None for a set with anchors of its own.
    """

    num_samples: int
    shard_size: int
    seed: int
    generator: GeneratorRecipe
    views: tuple[str, ...]
    std: float | None
    walks: Walks | None
    classes: tuple[int, ...] | None
    render: RenderRecipe
    image: ImageRecipe
    segments: tuple[int, ...] = ()
    parent: ParentRecipe | None = None

    def __post_init__(self) -> None:
        complaints = _complaints(self)
        if complaints:
            raise DataError(f"recipe: {complaints[0]}")

    @property
    def num_views(self) -> int:
        """Views beside the anchor, K."""
        return len(self.views)

    @property
    def image_numbers(self) -> range:
        """Of the images of a sample: 0 is the anchor, k the k-th view; added views count on after their parent's."""
        first = 0 if self.parent is None else 1 + len(self.parent.views)
        return range(first, first + self.num_views + (self.parent is None))

    @property
    def view_numbers(self) -> range:
        """Of the views alone."""
        return range(max(self.image_numbers.start, 1), self.image_numbers.stop)

    @property
    def shards(self) -> list[ShardSpec]:
        return layout_of(self.to_json()).shards

    @property
    def chosen_classes(self) -> Sequence[int]:
        """The classes in use, empty for an unconditional generator."""
        return range(self.generator.num_classes) if self.classes is None else self.classes

    def folder_name(self) -> str:
        """A readable name with a short hash of the whole recipe."""
        kinds = list(dict.fromkeys(self.views)) or ["none"]
        shown = "-".join(kinds) if len(kinds) <= 3 else f"{len(kinds)}-kinds"
        repeated = f"x{self.num_views}" if self.num_views > 1 else ""
        name = f"{self.generator.name[:80]}-{shown}{repeated}-n{self.num_samples}-seed{self.seed}"
        digest = hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', name)}-{digest[:8]}"

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``recipe.json``."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        plain |= {name: asdict(plain[name]) for name in ("generator", "render", "image")}
        for name, kind in (("generator", GeneratorRecipe), ("image", ImageRecipe)):
            for part in fields(kind):
                if part.metadata == _OPTIONAL and plain[name][part.name] == part.default:
                    del plain[name][part.name]
        plain["walks"] = None if self.walks is None else self.walks.to_json()
        plain["parent"] = None if self.parent is None else asdict(self.parent)
        plain = {name: value for name, value in plain.items() if value or name not in _WHERE_IT_GREW}
        lists_for_tuples: dict[str, Any] = json.loads(json.dumps(plain))
        return {"format": FORMAT, "kind": "generated", **lists_for_tuples}

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> "Recipe":
        """Raises DataError, naming the field, for whatever is not a recipe of this version."""
        if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
            raise DataError(f"recipe: not of format {FORMAT!r}; it was not written by genrep, or by a later version")
        if plain.get("kind") != "generated":
            raise DataError(f"recipe: kind is {plain.get('kind')!r:.40}; only a generated set can be generated again")
        values: dict[str, Any] = {"segments": [], "parent": None}
        values |= {name: value for name, value in plain.items() if name not in ("format", "kind")}
        return _typed(Recipe, values, "recipe")


def read_recipe(path: Path) -> Recipe:
    """The recipe in a JSON file; one of another origin cannot make this raise anything but DataError."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_RECIPE_BYTES + 1)
        if len(text) > _MAX_RECIPE_BYTES:
            raise DataError(f"{path}: larger than {_MAX_RECIPE_BYTES} bytes; that is no recipe")
        plain = json.loads(text)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name a recipe.json") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); name a recipe.json") from error
    try:
        return Recipe.from_json(plain)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _complaints(recipe: Recipe) -> list[str]:
    """What is wrong with the values; the first is reported."""
    generator, render, image = recipe.generator, recipe.render, recipe.image
    found = []

    def require(holds: bool, complaint: str) -> None:
        if not holds:
            found.append(complaint)

    def within(name: str, value: float, low: float, high: float) -> None:
        require(low <= value <= high, f"{name} must lie in {low}..{high}, got {value!s:.40}")

    def among(name: str, value: str, known: Sequence[str]) -> None:
        require(value in known, f"{name} {value!r:.40} is not known; known: {', '.join(known)}")

    within("num_samples", recipe.num_samples, 1, MAX_SAMPLES)
    within("shard_size", recipe.shard_size, 1, MAX_SHARD_SIZE)
    require(
        not recipe.segments or (min(recipe.segments) > 0 and sum(recipe.segments) == recipe.num_samples),
        f"segments must be the {recipe.num_samples} samples together, got {recipe.segments!s:.40}",
    )
    within("seed", recipe.seed, 0, MAX_SEED)
    within("latent_dim", generator.latent_dim, 1, 1 << 20)
    within("num_classes", generator.num_classes, 0, 1 << 20)
    for name, value in (("truncation", generator.truncation), ("prior_scale", generator.prior_scale)):
        require(0 < value <= 1, f"{name} must lie in (0, 1], got {value}; 1.0 keeps the full spread")
    require(
        not generator.keeps_variance or generator.truncation == 1,
        f"truncation is {generator.truncation}, but latents of {generator.name:.60} keep their variance; leave it 1",
    )
    among("prior", generator.prior, tuple(PRIORS))
    among("latent_space", generator.latent_space, LATENT_SPACES)
    require(len(generator.class_names) == generator.num_classes, "class_names must name every class")
    within("number of views", len(recipe.view_numbers) and recipe.view_numbers[-1], 0, MAX_VIEWS)
    if recipe.parent is not None:
        require(bool(recipe.views), "views are what is added to the parent; there are none")
        require(
            bool(re.fullmatch("[0-9a-f]{64}", recipe.parent.manifest_sha256)), "parent: manifest_sha256 is no sha256"
        )
    for view in recipe.views:
        for move in view_kinds.moves_of(view):
            if move.where:
                view_kinds.ranges_of(move.where, generator.blocks)
    require(all(size > 0 for size in generator.blocks), "blocks must have a size")
    if view_kinds.uses(recipe.views, *view_kinds.KINDS_WITH_STD):
        require(recipe.std is not None, f"views {','.join(recipe.views)} need a std")
    if recipe.std is not None:
        within("std", recipe.std, 0, 1 if generator.keeps_variance else 100)
    require(
        view_kinds.uses(recipe.views, "steer") == (recipe.walks is not None), "steer views need walks, others have none"
    )
    classes = list(recipe.classes or ())
    require(recipe.classes is None or bool(classes), "classes is empty; null stands for all")
    require(
        classes == sorted(set(classes)) and all(0 <= number < generator.num_classes for number in classes),
        f"classes must be ascending numbers below {generator.num_classes}, got {classes!s:.40}",
    )
    within("micro_batch", render.micro_batch, 1, 4096)
    within("threads", render.threads, 1, 1024)
    among("dtype", render.dtype, DTYPES)
    among("backend", render.backend, BACKENDS)
    require(
        render.backend == "torch" or (render.dtype, render.compile) == ("float32", False),
        f"backend {render.backend} renders in float32 and compiles by itself: leave dtype and compile out",
    )
    if render.micro_batch > 0 and recipe.shard_size % render.micro_batch:
        found.append(
            f"shard size {recipe.shard_size} is no multiple of the micro-batch {render.micro_batch}; "
            f"take {-(-recipe.shard_size // render.micro_batch) * render.micro_batch} or another micro-batch"
        )
    among("image format", image.format, IMAGE_FORMATS)
    require(image.channels in (1, 3), f"channels must be 1 or 3, got {image.channels}")
    within("height", image.height, 1, 1 << 14)
    within("width", image.width, 1, 1 << 14)
    within("pixels of an image", image.height * image.width, 1, MAX_PIXELS)
    if image.quality is not None:
        within("quality", image.quality, 1, 100)
        require(image.format != "png", "png is lossless and takes no quality; leave it out or take jpg or webp")
    complaint = subsampling_complaint(image.subsampling, image_format=image.format, channels=image.channels)
    require(not complaint, complaint)
    return found


def _typed(wanted: Any, value: Any, where: str) -> Any:
    """A JSON value as the annotated type, or a DataError that names the place."""
    origin, parts = get_origin(wanted), get_args(wanted)
    if wanted is Walks:
        return Walks.from_json(value)
    if is_dataclass(wanted):
        return _typed_dataclass(wanted, value, where)
    if origin in (Union, types.UnionType):
        return None if value is None else _typed(parts[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(parts[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _typed(parts[1], item, f"{where}.{key}") for key, item in value.items()}
    if wanted is float and isinstance(value, int) and abs(value) < 2**53 and not isinstance(value, bool):
        value = float(value)
    if origin is None and isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return value
    raise DataError(f"{where}: {value!r:.60} is not of the type {getattr(wanted, '__name__', wanted)}")


def _typed_dataclass(wanted: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: must be an object with named fields")
    hints = get_type_hints(wanted)
    names = [part.name for part in fields(wanted) if part.init]
    optional = {part.name for part in fields(wanted) if part.metadata == _OPTIONAL}
    unknown, missing = sorted(set(value) - set(names)), [name for name in names if name not in {*value, *optional}]
    if unknown or missing:
        raise DataError(
            f"{where}: " + (f"unknown field {unknown[0]!r:.80}" if unknown else f"field {missing[0]!r} is missing")
        )
    return wanted(**{name: _typed(hints[name], value[name], f"{where}.{name}") for name in names if name in value})
