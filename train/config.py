"""What a run's result depends on, as one frozen value, and the defaults for small and for large images."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from genrep.shards.errors import DataError

if TYPE_CHECKING:
    from genrep.shards.reader import ShardDataset

Triple = tuple[float, float, float]
METHODS = ("simclr", "supcon", "multipos", "byol", "vicreg", "inverter", "classifier")
ONE_IMAGE = ("inverter", "classifier")  # methods that take one image of a sample, where the others compare several
VIEWS = ("both", "latent", "pixel")  # T_z + T_x, T_z only, T_x only
DTYPES = ("float32", "bfloat16")

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
    """``adamw`` or ``sgd``; linear warm-up, then a cosine from ``lr`` to ``lr * final``."""

    name: Literal["adamw", "sgd"]
    lr: float
    weight_decay: float
    momentum: float  # of sgd
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
        dtype: What convolutions and matrix products compute in, ``float32`` or ``bfloat16``; the weights
            and the loss are float32.
        lanes, shuffle_buffer: See :func:`genrep.train.order.epoch_order`.
        num_views: Images of a sample in a batch beside the first one; see :func:`genrep.train.choice.shown_images`.
        latent_tau: Positives are weighted by their latents' distance on this scale; None weights them equally.
        num_classes, latent_dim: Of the set, where the method has heads for them, else 0.
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
    """Defaults that belong together."""

    backbone: str
    projection_dim: int
    optimiser: Optimiser
    pixels: PixelTransform
    mean: Triple
    std: Triple
    steps: int | None  # else epochs
    epochs: int | None
    batch_size: int = 256
    temperature: float = 0.1


PRESETS = {
    # small images; tried on 28 px
    "fashion": Preset(
        backbone="resnet-tiny",
        projection_dim=64,
        optimiser=Optimiser(name="adamw", lr=2e-3, weight_decay=0.01, momentum=0, warm_up=0.1, final=0.001),
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
    ),
    # Jahanian et al. 2022 (arXiv:2106.05258), as their code has it; mean and std of ImageNet
    "paper": Preset(
        backbone="resnet50",
        projection_dim=128,
        optimiser=Optimiser(name="sgd", lr=0.03, weight_decay=1e-4, momentum=0.9, warm_up=0, final=0.001),
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
    ),
}


def resolve(
    shards: "ShardDataset",
    *,
    method: str | None = None,
    views: str | None = None,
    limit: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    backbone: str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    temperature: float | None = None,
    loss_scale: float = 1,
    seed: int = 0,
    dtype: str = "float32",
) -> TrainConfig:
    """The config of a run on ``shards``: what is left out follows from the data set.

    Args:
        method: ``supcon`` where every sample has a label, else ``simclr``.
        views: ``both`` where the set has latent views, else ``pixel``.
        limit: Use the first so many samples.
        steps, epochs: At most one of them; an epoch is floor(samples / batch size) steps.

    Raises:
        DataError: If the set has no labels, views or samples enough for what is asked.
    """
    preset = preset_for(shards.image_shape)
    num_samples = len(shards) if limit is None else limit
    batch_size = batch_size or preset.batch_size
    if num_samples > len(shards):
        raise DataError(f"the set has {len(shards)} samples, not {num_samples}: use --limit {len(shards)} or less")
    if batch_size > num_samples:
        raise DataError(
            f"a batch of {batch_size} is larger than the {num_samples} samples: use --batch-size {num_samples} or less"
        )
    labelled = bool((shards.labels[:num_samples] >= 0).all())
    method = method or ("supcon" if labelled else "simclr")
    if method == "supcon" and not labelled:
        raise DataError("the set has samples without a label, which supcon needs: use --method simclr")
    views = views or ("both" if shards.num_views else "pixel")
    if views != "pixel" and not shards.num_views:
        raise DataError(f"the set has no latent views, which --views {views} needs: use --views pixel")
    if steps is None:
        epochs = epochs or preset.epochs
        steps = epochs * (num_samples // batch_size) if epochs else preset.steps
    assert steps is not None
    crop, resize = sizes_for(shards.image_shape)
    return TrainConfig(
        recipe_sha256=hashlib.sha256(json.dumps(shards.recipe, sort_keys=True).encode()).hexdigest(),
        num_samples=num_samples,
        method=method,
        views=views,
        backbone=backbone or preset.backbone,
        projection_dim=preset.projection_dim,
        batch_size=batch_size,
        steps=steps,
        temperature=temperature or preset.temperature,
        loss_scale=loss_scale,
        optimiser=preset.optimiser if lr is None else dataclasses.replace(preset.optimiser, lr=lr),
        pixels=preset.pixels,
        crop=crop,
        resize=resize,
        mean=preset.mean,
        std=preset.std,
        seed=seed,
        dtype=dtype,
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
