"""What a run's result depends on, as one frozen value, and the defaults for small and for large images."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from genrep.shards.errors import DataError

if TYPE_CHECKING:
    from genrep.shards.reader import ShardDataset

Triple = tuple[float, float, float]
METHODS = ("simclr", "supcon", "multipos", "byol", "vicreg", "inverter", "classifier")
NEED_LABELS = ("supcon", "classifier")
MANY_POSITIVES = ("supcon", "multipos")
ONE_IMAGE = ("inverter", "classifier")  # methods that take one image of a sample, where the others compare several
VIEWS = ("both", "latent", "pixel")  # T_z + T_x, T_z only, T_x only
DTYPES = ("float32", "bfloat16", "float16")
OPTIMISERS = ("adamw", "sgd", "lars")
SCALED_BATCH = 256  # the batch that a learning rate under linear scaling is for

SMALL = 64  # px: up to this long side images are used at their own size
CROP = 112
RESIZE_OVER_CROP = 1 / 0.875


@dataclass(frozen=True)
class PixelTransform:
    """T_x. Strengths are those of torchvision's ColorJitter, ``*_p`` are probabilities."""

    scale: tuple[float, float]  # the crop's share of the image's area
    flip_p: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    colour_p: float
    grey_p: float
    erase_p: float
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # the crop's width over height
    erase_scale: tuple[float, float] = (0.02, 0.33)
    erase_ratio: tuple[float, float] = (0.3, 3.3)


@dataclass(frozen=True)
class Optimiser:
    """One of ``OPTIMISERS``; linear warm-up, then a cosine from ``lr`` to ``lr * final``."""

    name: Literal["adamw", "sgd", "lars"]
    lr: float
    weight_decay: float
    momentum: float  # of sgd and lars
    warm_up: float  # share of the steps
    final: float

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of update ``step``, counted from 0, out of ``steps``."""
        warm_up = round(self.warm_up * steps)
        if step < warm_up:
            return self.lr * (step + 1) / warm_up
        done = (step + 1 - warm_up) / (steps - warm_up)
        lowest = self.lr * self.final
        return lowest + (self.lr - lowest) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class TrainConfig:
    """Everything the weights depend on, the machine apart: equal configs are the same run.

    Attributes:
        recipe_sha256: Of the data set's recipe.
        num_samples: How many of its first samples are used.
        batch_size: Samples in a global batch.
        crop: Side of the square images the backbone sees.
        resize: What the short side is resized to before the centre is cropped, where T_x does not crop.
        loss_scale: Factor on the loss; the authors' code has temperature / 0.07.
        dtype: What convolutions and matrix products compute in, of ``DTYPES``; the weights and the loss are float32.
        lanes, shuffle_buffer: See :func:`genrep.train.order.epoch_order`.
        num_views: Images of a sample in a batch beside the first one; see :func:`genrep.train.choice.shown_images`.
        latent_tau: Positives are weighted by their latents' distance on this scale; None weights them equally.
        num_classes, latent_dim: Of the set, where the method needs them, else 0.
        target_momentum: Of byol's target network at the start.
        chunk: Samples of a rank's share that go through the networks at once; None: all.
        sync_bn: Batch norm over all ranks, else over each rank's share.
        compile: Whether the networks are compiled, which may change sums in their last bits.
        num_mixed: Samples of a batch that are of another set.
        mixed_recipe_sha256: Of that set's recipe.
    """

    recipe_sha256: str
    num_samples: int
    method: str
    views: str
    backbone: str
    projection_dim: int
    batch_size: int
    steps: int
    temperature: float
    loss_scale: float
    optimiser: Optimiser
    pixels: PixelTransform
    crop: int
    resize: int
    mean: Triple
    std: Triple
    seed: int
    dtype: str
    lanes: int = 8
    shuffle_buffer: int = 2048
    num_views: int = 1
    latent_tau: float | None = None
    num_classes: int = 0
    latent_dim: int = 0
    target_momentum: float | None = None
    chunk: int | None = None
    sync_bn: bool = False
    compile: bool = False
    num_mixed: int = 0
    mixed_recipe_sha256: str | None = None

    @property
    def num_own(self) -> int:
        """Samples of a batch that are of the set itself."""
        return self.batch_size - self.num_mixed

    @property
    def images_per_sample(self) -> int:
        """V, the images of a sample in a batch."""
        return 1 if self.method in ONE_IMAGE else 1 + self.num_views

    @property
    def needs_latents(self) -> bool:
        return self.method == "inverter" or self.latent_tau is not None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "TrainConfig":
        """The config of :meth:`to_json`, also after a round through JSON text, which turns tuples into lists."""

        def values(of: dict[str, Any]) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in of.items()}

        parts = {
            "pixels": PixelTransform(**values(fields["pixels"])),
            "optimiser": Optimiser(**values(fields["optimiser"])),
        }
        return cls(**values(fields) | parts)


@dataclass(frozen=True)
class Preset:
    """Defaults that belong together.

    Attributes:
        projection_dim: P, the width of projections; ``projection_dims`` holds that of methods which differ.
        steps: Updates; None where ``epochs`` says it, and for methods which differ ``epochs_of``.
        lrs: Method -> learning rate where it is not the optimiser's.
    """

    backbone: str
    projection_dim: int
    optimiser: Optimiser
    pixels: PixelTransform
    mean: Triple
    std: Triple
    steps: int | None
    epochs: int | None
    projection_dims: Mapping[str, int] = field(default_factory=dict)
    epochs_of: Mapping[str, int] = field(default_factory=dict)
    lrs: Mapping[str, float] = field(default_factory=dict)
    target_momentum: float = 0.996
    batch_size: int = 256
    temperature: float = 0.1
    loss_scale: float = 1.0


# where a preset's own is not asked for; sgd of the paper, lars of SimCLR's
_USUAL = {
    "adamw": Optimiser(name="adamw", lr=2e-3, weight_decay=0.01, momentum=0, warm_up=0.1, final=0.001),
    "sgd": Optimiser(name="sgd", lr=0.03, weight_decay=1e-4, momentum=0.9, warm_up=0, final=0.001),
    "lars": Optimiser(name="lars", lr=0.3, weight_decay=1e-6, momentum=0.9, warm_up=0, final=0.001),
}
# of the paper's trainer
_PAPER = Preset(
    backbone="resnet50",
    projection_dim=128,
    projection_dims={"byol": 256, "vicreg": 8192},  # of their own papers
    optimiser=_USUAL["sgd"],
    pixels=PixelTransform(
        scale=(0.2, 1),
        flip_p=0.5,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        colour_p=0.8,
        grey_p=0.2,
        erase_p=0,
    ),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    steps=None,
    epochs=20,
)
# to the letter: the temperature over its base temperature, epochs and rates that differ between methods
_PAPER_IMAGENET = replace(
    _PAPER,
    loss_scale=round(0.1 / 0.07, 4),
    epochs_of={"classifier": 60, "inverter": 200},
    lrs={"supcon": 0.01},  # on BigGAN's Gaussian views
)

PRESETS = {
    # small images; tried on 28 px
    "fashion": Preset(
        backbone="resnet-tiny",
        projection_dim=64,
        projection_dims={"vicreg": 512},
        optimiser=_USUAL["adamw"],
        pixels=PixelTransform(
            scale=(0.3, 1),
            flip_p=0.5,
            brightness=0.4,
            contrast=0.4,
            saturation=0,
            hue=0,
            colour_p=1,
            grey_p=0,
            erase_p=0.5,
        ),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        steps=1000,
        epochs=None,
        target_momentum=0.99,
    ),
    # Jahanian et al. 2022 (arXiv:2106.05258), as their code has it; mean and std of ImageNet
    "paper": _PAPER,
    "paper-imagenet": _PAPER_IMAGENET,
    "paper-imagenet100": replace(_PAPER_IMAGENET, epochs=200, epochs_of={}),
    "paper-cars": replace(_PAPER_IMAGENET, epochs_of={}, lrs={}),  # their number of epochs is not known
}


def resolve(
    shards: "ShardDataset",
    *,
    preset: str | None = None,
    method: str | None = None,
    views: str | None = None,
    num_views: int | Literal["all"] | None = None,
    latent_tau: float | None = None,
    limit: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    backbone: str | None = None,
    batch_size: int | None = None,
    optimiser: str | None = None,
    lr: float | None = None,
    lr_scaling: str = "none",
    weight_decay: float | None = None,
    warm_up: float | None = None,
    temperature: float | None = None,
    loss_scale: float | None = None,
    projection_dim: int | None = None,
    target_momentum: float | None = None,
    chunk: int | None = None,
    sync_bn: bool = False,
    compile: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    mixed: "ShardDataset | None" = None,
    mix_ratio: float = 0,
) -> TrainConfig:
    """The config of a run on ``shards``: what is left out follows from the data set.

    Args:
        preset: A key of ``PRESETS``; by default what fits the size of the images.
        method: ``supcon`` where every sample has a label, else ``simclr``.
        views: ``both`` where the set has latent views, else ``pixel``.
        num_views: ``all`` with multipos on latent views, else 1.
        limit: Use the first so many samples.
        steps, epochs: At most one of them; an epoch is floor(samples / batch size) steps.
        lr_scaling: ``linear`` multiplies the learning rate by batch size / 256.
        mixed: Another set, of which each batch holds round(``mix_ratio`` * batch size) samples; an epoch is one of the
            set itself.

    Raises:
        DataError: If the set has no labels, latents, views or samples enough for what is asked.
    """
    if not shards.has_anchors:
        raise DataError(f"{shards.folder} holds added views alone: give it as --join, and as --shards its parent")
    chosen = PRESETS[preset] if preset else preset_for(shards.image_shape)
    num_samples = len(shards) if limit is None else limit
    batch_size = batch_size or chosen.batch_size
    if num_samples > len(shards):
        raise DataError(f"the set has {len(shards)} samples, not {num_samples}: use --limit {len(shards)} or less")
    if batch_size > num_samples:
        raise DataError(
            f"a batch of {batch_size} is larger than the {num_samples} samples: use --batch-size {num_samples} or less"
        )
    labels = shards.labels[:num_samples]
    labelled = bool((labels >= 0).all())
    method = method or ("supcon" if labelled else "simclr")
    if method in NEED_LABELS and not labelled:
        raise DataError(f"the set has samples without a label, which {method} needs: use --method simclr")
    views = views or ("both" if shards.num_views else "pixel")
    if views != "pixel" and not shards.num_views:
        raise DataError(f"the set has no latent views, which --views {views} needs: use --views pixel")
    if latent_tau is not None and method not in MANY_POSITIVES:
        raise DataError(f"{method} has one positive at most: use --positives with {' or '.join(MANY_POSITIVES)}")
    needs_latents = method == "inverter" or latent_tau is not None
    latent_dim = shards.latents(0).shape[1] if needs_latents else 0
    if needs_latents and not latent_dim:
        wants = "the inverter" if method == "inverter" else "--positives latent"
        raise DataError(f"the set has no latents, which {wants} needs: use one that genrep-generate made")
    num_views_shown = _num_views(num_views, method, views, of=shards.num_views)
    num_mixed = 0 if mixed is None else round(mix_ratio * batch_size)
    if mixed is not None:
        _check_mix(shards, mixed, num_mixed, of=batch_size, method=method, views=views, num_views=num_views_shown)
        if needs_latents:
            raise DataError(f"the set mixed in shares no latents with the other, which {method} needs: leave out --mix")
    if steps is None:
        epochs = epochs or chosen.epochs_of.get(method, chosen.epochs)
        steps = epochs * (num_samples // (batch_size - num_mixed)) if epochs else chosen.steps
    assert steps is not None
    crop, resize = sizes_for(shards.image_shape)
    return TrainConfig(
        recipe_sha256=_recipe_sha256(shards),
        num_samples=num_samples,
        method=method,
        views=views,
        backbone=backbone or chosen.backbone,
        projection_dim=projection_dim or chosen.projection_dims.get(method, chosen.projection_dim),
        batch_size=batch_size,
        steps=steps,
        temperature=temperature or chosen.temperature,
        loss_scale=chosen.loss_scale if loss_scale is None else loss_scale,
        optimiser=_optimiser(
            chosen,
            method,
            name=optimiser,
            lr=lr,
            lr_factor=batch_size / SCALED_BATCH if lr_scaling == "linear" else 1,
            weight_decay=weight_decay,
            warm_up=warm_up,
        ),
        pixels=chosen.pixels,
        crop=crop,
        resize=resize,
        mean=chosen.mean,
        std=chosen.std,
        seed=seed,
        dtype=dtype,
        num_views=num_views_shown,
        latent_tau=latent_tau,
        num_classes=int(labels.max()) + 1 if method in ONE_IMAGE and labelled else 0,
        latent_dim=latent_dim,
        target_momentum=_target_momentum(chosen, target_momentum) if method == "byol" else None,
        chunk=chunk,
        sync_bn=sync_bn,
        compile=compile,
        num_mixed=num_mixed,
        mixed_recipe_sha256=None if mixed is None else _recipe_sha256(mixed),
    )


def _recipe_sha256(shards: "ShardDataset") -> str:
    return hashlib.sha256(json.dumps(shards.recipe, sort_keys=True).encode()).hexdigest()


def _check_mix(
    shards: "ShardDataset",
    mixed: "ShardDataset",
    num_mixed: int,
    *,
    of: int,
    method: str,
    views: str,
    num_views: int,
) -> None:
    from genrep.shards.info import class_names

    shapes = [(*each.image_shape, each.channels) for each in (shards, mixed)]
    if shapes[0] != shapes[1]:
        told = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise DataError(f"{shards.folder} and {mixed.folder} hold images of {told}: make both sets of one size")
    if not 0 < num_mixed < of:
        raise DataError(f"{num_mixed} of {of} samples of a batch would be mixed in: choose a ratio between")
    if num_mixed > len(mixed):
        raise DataError(f"{mixed.folder} has {len(mixed)} samples, fewer than the {num_mixed} of a batch: mix in less")
    if views == "latent" and not mixed.num_views:
        raise DataError(f"{mixed.folder} has no latent views, which --views latent needs: use --views both or pixel")
    if views == "both" and 0 < mixed.num_views < num_views:
        raise DataError(f"{mixed.folder} has {mixed.num_views} views of a sample, not {num_views}: use --num-views")
    if method in NEED_LABELS:
        counts = [len(class_names(each.recipe)) for each in (shards, mixed)]
        if counts[0] != counts[1] or (mixed.labels < 0).any():
            raise DataError(
                f"{method} needs labels that mean the same in both sets, and {shards.folder} has {counts[0]} classes, "
                f"{mixed.folder} {counts[1]}{' and samples without' if (mixed.labels < 0).any() else ''}: use simclr"
            )


def _num_views(asked: int | Literal["all"] | None, method: str, views: str, *, of: int) -> int:
    """Images beside the first one."""
    if views == "pixel" and asked == "all":
        raise DataError("--num-views all means latent views, and --views pixel has none: name a number")
    if asked is None:
        asked = "all" if method == "multipos" and views != "pixel" else 1
    number = of if asked == "all" else asked
    if views != "pixel" and number > of:
        raise DataError(f"the set has {of} views of a sample, not {number}: use --num-views {of} or less")
    if number > 1 and method in ("simclr", *ONE_IMAGE):
        images = "two images" if method == "simclr" else "one image"
        raise DataError(f"{method} takes {images} of a sample: use --num-views 1, or --method multipos")
    return number


def _target_momentum(preset: Preset, asked: float | None) -> float:
    return preset.target_momentum if asked is None else asked


def _optimiser(
    preset: Preset,
    method: str,
    *,
    name: str | None,
    lr: float | None,
    lr_factor: float,
    weight_decay: float | None,
    warm_up: float | None,
) -> Optimiser:
    settings = preset.optimiser
    if name in (None, settings.name):
        settings = replace(settings, lr=preset.lrs.get(method, settings.lr))
    else:
        settings = replace(_USUAL[name], warm_up=settings.warm_up, final=settings.final)
    return replace(
        settings,
        lr=(settings.lr if lr is None else lr) * lr_factor,
        weight_decay=settings.weight_decay if weight_decay is None else weight_decay,
        warm_up=settings.warm_up if warm_up is None else warm_up,
    )


def preset_for(image_shape: tuple[int, int]) -> Preset:
    """The defaults for images of (height, width)."""
    return PRESETS["fashion" if max(image_shape) <= SMALL else "paper"]


def sizes_for(image_shape: tuple[int, int]) -> tuple[int, int]:
    """Crop and resize size of images (height, width).

    Up to 64 px both are the short side: no zoom. Above, the paper's 112 px of 128 px, or as much of a shorter side.
    """
    short = min(image_shape)
    if max(image_shape) <= SMALL:
        return short, short
    crop = min(CROP, int(short / RESIZE_OVER_CROP))
    return crop, round(crop * RESIZE_OVER_CROP)
