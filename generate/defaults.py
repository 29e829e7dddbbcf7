"""A recipe for a generator, with a default for whatever is left out, and the check that the two belong together."""

from collections.abc import Sequence
from dataclasses import fields, replace

from genrep.generate import views as view_kinds
from genrep.generate.generators import LoadedGenerator
from genrep.generate.recipe import GeneratorRecipe, ImageRecipe, ParentRecipe, Recipe, RenderRecipe
from genrep.generate.walks import Walks, load_walks
from genrep.shards.codec import default_format
from genrep.shards.errors import DataError
from genrep.shards.layout import FULL_COLOUR, default_shard_size

DEFAULT_JPEG_QUALITY = 95


def make_recipe(
    generator: LoadedGenerator,
    *,
    num_samples: int = 1000,
    views: Sequence[str] = ("gauss",),
    std: float | None = None,
    walks: Walks | None = None,
    truncation: float = 1.0,
    latent_space: str = "z",
    seed: int = 0,
    classes: Sequence[int] | None = None,
    shard_size: int | None = None,
    image_format: str | None = None,
    quality: int | None = None,
    subsampling: str = FULL_COLOUR,
    resize: int | None = None,
    dtype: str = "float32",
    folding: bool = False,
    compile: bool = False,
    backend: str = "torch",
    micro_batch: int | None = None,
    fresh_noise: bool = False,
) -> Recipe:
    """A recipe for a generator, with a default for whatever is left out.

    Args:
        generator: As loaded; its fingerprint goes into the recipe.
        num_samples: Anchors N.
        views: One entry a view, as :func:`genrep.generate.views.parse_views` gives them.
        std: By default the generator's own.
        walks: By default those shipped with the generator.
        classes: Numbers of the chosen classes; None for all.
        shard_size: Samples a shard, a multiple of the micro-batch; by default after the image size.
        image_format: ``"png"``, ``"jpg"`` or ``"webp"``; by default after the image size.
        quality: 1-100; by default 95 for jpg, lossless for webp.
        subsampling: Of the colours of a jpg, ``"4:4:4"`` or ``"4:2:0"``.
        resize: Short side in pixels, at most the generator's.
        folding: Compute once what is constant at inference.
        compile: Run the network through ``torch.compile``.
        backend: ``"torch"`` or ``"onnxruntime"``.
        micro_batch: Images rendered at once; by default after the image size.

    Raises:
        DataError: If the parts contradict each other or do not fit the generator.
    """
    views = tuple(views)
    channels, full_height, full_width = generator.image_shape
    height, width = _resized(full_height, full_width, resize)
    image_format = image_format or default_format(height, width)
    if shard_size is None:
        shard_size = default_shard_size(height, width)
    if micro_batch is None:
        micro_batch = _default_micro_batch(full_height, full_width, shard_size)
    if latent_space not in generator.latent_spaces:
        raise DataError(
            f"generator {generator.spec} renders from {' or '.join(generator.latent_spaces)}, not from {latent_space!r}"
        )
    if classes is not None and not generator.num_classes:
        raise DataError(f"generator {generator.spec} is unconditional: it has no classes to choose; leave classes out")
    held = any(move.where for view in views for move in view_kinds.moves_of(view))
    return Recipe(
        num_samples=num_samples,
        shard_size=shard_size,
        seed=seed,
        generator=_generator_recipe(
            generator, latent_space=latent_space, truncation=float(truncation), with_blocks=held
        ),
        views=views,
        std=_std_for(views, std, default=generator.default_std),
        walks=_walks_for(generator, views, latent_space, walks),
        classes=None if classes is None else tuple(classes),
        render=RenderRecipe(
            dtype=dtype,
            micro_batch=micro_batch,
            backend=backend,
            folding=folding,
            compile=compile,
            fresh_noise=fresh_noise,
        ),
        image=ImageRecipe(
            format=image_format,
            quality=DEFAULT_JPEG_QUALITY if image_format == "jpg" and quality is None else quality,
            resize=resize,
            height=height,
            width=width,
            channels=channels,
            subsampling=subsampling,
        ),
    )


def recipe_of_views(
    parent: Recipe,
    generator: LoadedGenerator,
    views: Sequence[str],
    *,
    manifest_sha256: str,
    std: float | None = None,
    walks: Walks | None = None,
) -> Recipe:
    """A recipe for further views of the samples of a set.

    Args:
        parent: Recipe of the set.
        views: The further views, one entry each.
        manifest_sha256: Of the set's manifest.
        std, walks: By default the parent's where it has any, else the generator's own.

    Raises:
        DataError: If the parts contradict each other or do not fit the generator.
    """
    views = tuple(views)
    if walks is None and view_kinds.uses(views, "steer"):
        walks = parent.walks
    return replace(
        parent,
        views=views,
        std=_std_for(views, std, default=generator.default_std if parent.std is None else parent.std),
        walks=_walks_for(generator, views, parent.generator.latent_space, walks),
        parent=ParentRecipe(manifest_sha256, parent.views),
    )


def check_fit(recipe: Recipe, generator: LoadedGenerator) -> None:
    """Raises DataError unless the recipe was made for this very generator, whatever name it goes by here."""
    asked, offered = (
        recipe.generator,
        _generator_recipe(
            generator,
            latent_space=recipe.generator.latent_space,
            truncation=recipe.generator.truncation,
            with_blocks=bool(recipe.generator.blocks),
        ),
    )
    for part in fields(GeneratorRecipe):
        if part.name != "name" and getattr(asked, part.name) != getattr(offered, part.name):
            raise DataError(
                f"generator {generator.spec} does not fit the recipe: its {part.name} is "
                f"{_short(getattr(offered, part.name))}, the recipe's {_short(getattr(asked, part.name))}; "
                "give the weights and --generator-arg it was made with"
            )
    if asked.latent_space not in generator.latent_spaces:
        raise DataError(f"generator {generator.spec} cannot render from {asked.latent_space!r}, as the recipe asks")
    channels, height, width = generator.image_shape
    image = recipe.image
    if (image.channels, image.height, image.width) != (channels, *_resized(height, width, image.resize)):
        raise DataError(
            f"generator {generator.spec} renders {height} x {width} px with {channels} channels; the recipe's "
            f"{image.height} x {image.width} px with {image.channels} do not follow from it"
        )
    _walks_for(generator, recipe.views, asked.latent_space, recipe.walks)


def _generator_recipe(
    generator: LoadedGenerator, *, latent_space: str, truncation: float, with_blocks: bool
) -> GeneratorRecipe:
    return GeneratorRecipe(
        name=generator.spec,
        fingerprint=generator.fingerprint(),
        bytes=generator.num_bytes,
        latent_dim=generator.latent_dim,
        latent_space=latent_space,
        num_classes=generator.num_classes,
        class_names=generator.class_names,
        prior=generator.prior,
        truncation=truncation,
        prior_scale=generator.prior_scale(truncation),
        arguments=generator.arguments,
        blocks=generator.blocks(latent_space) if with_blocks else (),
        keeps_variance=generator.keeps_variance and latent_space == "z",
    )


def _short(value: object) -> str:
    return repr(value) if len(repr(value)) <= 40 else f"{value!r:.36}..."


def _std_for(views: tuple[str, ...], std: float | None, *, default: float) -> float | None:
    """The strength to use: None where no view has one."""
    if view_kinds.uses(views, *view_kinds.KINDS_WITH_STD):
        return default if std is None else std
    if std is not None:
        raise DataError(f"std is for {', '.join(view_kinds.KINDS_WITH_STD)} views; {_shown(views)} would not use it")
    return None


def _walks_for(
    generator: LoadedGenerator, views: tuple[str, ...], latent_space: str, walks: Walks | None
) -> Walks | None:
    """The walks to use, checked against the generator: None where no view is steered."""
    if not view_kinds.uses(views, "steer"):
        if walks is not None:
            raise DataError(f"walks are for steer views; {_shown(views)} would not use them")
        return None
    if walks is None:
        if generator.default_walks is None:
            raise DataError(
                f"generator {generator.spec} ships no walks: name a file with --walks (genrep-walks train makes one)"
            )
        walks = load_walks(generator.default_walks)
    space = latent_space.removesuffix("+")  # walks of w move every layer of w+
    if walks.latent_space != space:
        raise DataError(f"the walks move in {walks.latent_space}, the recipe renders in {latent_space}; take one space")
    if walks.latent_dim != generator.dim(space):
        raise DataError(
            f"the walks have {walks.latent_dim} coordinates, a latent of {generator.spec} in {space} has "
            f"{generator.dim(space)}; name walks of this generator (genrep-walks train makes some)"
        )
    if walks.generator and walks.generator != generator.fingerprint():
        raise DataError(
            f"the walks are of another generator (fingerprint {walks.generator[:12]}) than {generator.spec} "
            f"({generator.fingerprint()[:12]}); train walks for this one (genrep-walks train)"
        )
    return walks


def _shown(views: tuple[str, ...]) -> str:
    return ",".join(views) or "none"


def _resized(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """The stored size: the short side as asked for, the other in proportion (rounded half up)."""
    if short_side is None:
        return height, width
    short = min(height, width)
    if not 1 <= short_side <= short:
        raise DataError(f"resize to {short_side} px: the generator's short side is {short} px, and it can only shrink")
    return (2 * height * short_side + short) // (2 * short), (2 * width * short_side + short) // (2 * short)


def _default_micro_batch(height: int, width: int, shard_size: int) -> int:
    """64 images up to 64 px, fewer above, and a divisor of the shard size."""
    side = max(height, width)
    most = 64 if side <= 64 else 32 if side <= 128 else 16 if side <= 256 else 8
    return next(size for size in range(max(1, min(most, shard_size)), 0, -1) if shard_size % size == 0)
