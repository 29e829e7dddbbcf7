"""genrep-generate: from options to a data set on disk."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from genrep.shards.cli import LOCATION, Command, key_values, subsampling_option
from genrep.shards.errors import DataError
from genrep.shards.location import Location

if TYPE_CHECKING:
    from genrep.generate.generation import Rank
    from genrep.generate.generators import LoadedGenerator
    from genrep.generate.recipe import Recipe

# what --from-recipe fixes; the other options say where and how fast
RECIPE_OPTIONS = (
    "num_samples",
    "views",
    "num_views",
    "std",
    "walks_path",
    "truncation",
    "latent_space",
    "fresh_noise",
    "seed",
    "classes",
    "shard_size",
    "image_format",
    "quality",
    "subsampling",
    "resize",
    "dtype",
    "folding",
    "compile",
    "backend",
    "micro_batch",
)


@click.command(cls=Command)
@click.option(
    "--n", "num_samples", default=1000, show_default=True, type=click.IntRange(1, 10**9), help="Anchors to draw."
)
@click.option(
    "--views",
    default="gauss",
    show_default=True,
    help="none, gauss, steer, independent, angular, uniform; joined by , (several views) or + (several moves). "
    "gauss@0-1/4 moves blocks (of w+: layers) 0, 1 and 4 only, gauss@c0-39 coordinates 0 to 39.",
)
@click.option(
    "--num-views", type=click.IntRange(min=1), help="Views an anchor, if --views names a single kind.  [default: 1]"
)
@click.option(
    "--std",
    type=click.FloatRange(min=0),
    help="Strength of gauss, angular and uniform views.  [default: the generator's]",
)
@click.option(
    "--walks",
    "walks_path",
    type=click.Path(path_type=Path),
    help="Directions of steer views.  [default: those shipped with the generator]",
)
@click.option(
    "--generator",
    "generator_name",
    default="fashion",
    show_default=True,
    help="Registered name (genrep-generators list) or package.module:factory.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="File or folder handed to the generator.")
@click.option(
    "--generator-arg",
    "arguments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Further argument of the generator; may be repeated.",
)
@click.option(
    "--truncation",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Spread of the latents.",
)
@click.option(
    "--latent-space",
    default="z",
    show_default=True,
    type=click.Choice(["z", "w", "w+"]),
    help="Where views move and latents are stored.",
)
@click.option("--fresh-noise", is_flag=True, help="Noise of its own for every view, for generators that add noise.")
@click.option("--classes", help="Classes by number, range or name, joined by commas: 0-99,bag.  [default: all]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1), help="Seed of the data set.")
@click.option(
    "--out",
    metavar="DIR",
    type=LOCATION,
    help="Folder or URL (s3://bucket/set) of the data set.  [default: named after the recipe]",
)
@click.option("--shard-size", type=click.IntRange(min=1), help="Samples a shard.  [default: 256-4096 by image size]")
@click.option(
    "--format", "image_format", type=click.Choice(["png", "jpg", "webp"]), help="[default: png up to 64 px, jpg above]"
)
@click.option("--quality", type=click.IntRange(1, 100), help="Of jpg and webp.  [default: 95 for jpg, lossless webp]")
@subsampling_option
@click.option("--resize", type=click.IntRange(min=1), help="Shrink to this short side in pixels, by area average.")
@click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU where there is one."
)
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Arithmetic of the network.",
)
@click.option("--fold", "folding", is_flag=True, help="Compute once what is constant at inference: faster.")
@click.option("--compile", is_flag=True, help="Run the network through torch.compile; needs a C++ compiler on a CPU.")
@click.option(
    "--backend",
    default="torch",
    show_default=True,
    type=click.Choice(["torch", "onnxruntime"]),
    help="What runs the network; onnxruntime on a CPU only (pip install 'genrep[onnx]').",
)
@click.option(
    "--micro-batch", type=click.IntRange(min=1), help="Images in a pass of the network.  [default: 8-64 by image size]"
)
@click.option(
    "--encode-workers", default=1, show_default=True, type=click.IntRange(min=1), help="Threads that encode images."
)
@click.option(
    "--from-recipe", "recipe_path", type=click.Path(path_type=Path), help="Make the data set of this recipe.json again."
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="local|ray[:ADDRESS]",
    help="ray: on a Ray cluster, which may lose and win machines; all must see DIR.",
)
@click.option("--dry-run", is_flag=True, help="Measure a little, print time and size, write nothing.")
@click.option("--quiet", is_flag=True, help="No progress bar and no summary.")
@click.pass_context
def main(
    ctx: click.Context,
    *,
    generator_name: str,
    weights: Path | None,
    arguments: tuple[str, ...],
    out: Location | None,
    device: str,
    encode_workers: int,
    recipe_path: Path | None,
    engine: str,
    dry_run: bool,
    quiet: bool,
    **recipe_options: Any,
) -> None:
    """Draw anchors and their views from a generator and write them as shards.

    The same command continues what was interrupted. Under torchrun or srun every rank writes its own shards. On a
    CPU the embedded generators use every core, or OMP_NUM_THREADS of them.

    \b
    Examples: a thousand pairs; a full-size data set; its cost first; two processes; a Ray cluster
      genrep-generate --out data
      genrep-generate --n 1300000 --views steer
      genrep-generate --n 1300000 --views steer --dry-run
      torchrun --nproc-per-node 2 --no-python -- genrep-generate --n 1300000
      genrep-generate --n 1300000 --engine ray:auto --out /shared/data
    """
    on_ray, _, address = engine.partition(":")
    if engine != "local" and (on_ray != "ray" or engine == "ray:"):
        raise click.BadParameter(f"{engine!r} is neither local nor ray nor ray:ADDRESS", param_hint="--engine")
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        from genrep.generate.generation import rank_from_environment, resolve_device
        from genrep.generate.generators import load_generator

        rank = rank_from_environment()
        pairs = key_values(arguments)
        if recipe_path is None:
            generator = load_generator(generator_name, weights=weights, arguments=pairs)
            recipe = _recipe_from_options(generator, **recipe_options)
        else:
            recipe, generator = _recipe_from_file(ctx, recipe_path, generator_name, weights, pairs)
        out = out or Path(recipe.folder_name())
        if engine != "local" and not dry_run:
            if rank.world > 1:
                raise DataError("--engine ray shares the work by itself: start one process, not torchrun or srun")
            _generate_on_ray(
                recipe,
                generator,
                out,
                address=address or None,
                device=device,
                encode_workers=encode_workers,
                quiet=quiet,
            )
            return
        device = resolve_device(device, rank)
        if dry_run:
            _show_plan(recipe, generator, out, device=device, encode_workers=encode_workers, rank=rank)
        else:
            _generate(recipe, generator, out, device=device, encode_workers=encode_workers, rank=rank, quiet=quiet)
    except DataError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        where = f" (finished shards are in {out})" if out and out.exists() and not dry_run else ""
        raise click.ClickException(f"interrupted{where}; run the same command to continue") from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _recipe_from_options(
    generator: "LoadedGenerator",
    *,
    views: str,
    num_views: int | None,
    walks_path: Path | None,
    classes: str | None,
    **options: Any,
) -> "Recipe":
    from genrep.generate.defaults import make_recipe
    from genrep.generate.generators import parse_classes
    from genrep.generate.views import parse_views
    from genrep.generate.walks import load_walks

    if classes is not None and not generator.num_classes:
        raise DataError(f"--classes: generator {generator.spec} is unconditional; leave --classes out")
    return make_recipe(
        generator,
        views=parse_views(views, num_views),
        walks=None if walks_path is None else load_walks(walks_path),
        classes=None if classes is None else parse_classes(classes, generator.class_names, generator.class_groups),
        **options,
    )


def _recipe_from_file(
    ctx: click.Context, path: Path, generator_name: str, weights: Path | None, arguments: dict[str, str]
) -> "tuple[Recipe, LoadedGenerator]":
    """The recipe, and the generator it was made with."""
    from genrep.generate.generators import load_recorded
    from genrep.generate.recipe import read_recipe

    given = [name for name in ctx.params if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    clash = [option for option in ctx.command.params if option.name in given and option.name in RECIPE_OPTIONS]
    if clash:
        raise click.UsageError(f"{clash[0].opts[0]} is part of the recipe that --from-recipe gives; leave one out")
    recipe = read_recipe(path)
    chosen = generator_name if "generator_name" in given else None
    name = recipe.generator.name
    return recipe, load_recorded(name, where=str(path), chosen=chosen, weights=weights, arguments=arguments)


def _show_plan(
    recipe: "Recipe", generator: "LoadedGenerator", out: Location, *, device: str, encode_workers: int, rank: "Rank"
) -> None:
    from genrep.generate.defaults import check_fit
    from genrep.generate.plan import make_plan, show_plan
    from genrep.generate.render import Renderer, render_workers

    check_fit(recipe, generator)
    if rank.rank > 0:  # one of them tells it for all
        return
    renderer = Renderer(generator, recipe, device=device, workers=render_workers(recipe))
    plan = make_plan(recipe, renderer, out, encode_workers=encode_workers, rank=rank)
    click.echo(show_plan(plan, recipe, out, rank=rank, device=device))


def _generate(
    recipe: "Recipe",
    generator: "LoadedGenerator",
    out: Location,
    *,
    device: str,
    encode_workers: int,
    rank: "Rank",
    quiet: bool,
) -> None:
    from genrep.generate.generation import generate

    with _progress(recipe, quiet=quiet or rank.rank > 0) as show:
        manifest = generate(
            recipe,
            out,
            generator=generator,
            device=device,
            encode_workers=encode_workers,
            rank=rank,
            progress=show,
        )
    if quiet:
        return
    if manifest is None:
        click.echo(f"rank {rank.rank} of {rank.world} has written its shards in {out}; others are still at work")
    else:
        click.echo(f"{manifest.num_samples} samples in {len(manifest.shards)} shards in {out}")


def _generate_on_ray(
    recipe: "Recipe",
    generator: "LoadedGenerator",
    out: Location,
    *,
    address: str | None,
    device: str,
    encode_workers: int,
    quiet: bool,
) -> None:
    from genrep.generate.defaults import check_fit
    from genrep.generate.ray_engine import generate_on_ray

    check_fit(recipe, generator)
    with _progress(recipe, quiet=quiet) as show:
        manifest = generate_on_ray(
            recipe,
            out,
            load=generator.loaded_by,
            licence=generator.licence,
            address=address,
            device=device,
            encode_workers=encode_workers,
            progress=show,
        )
    if not quiet:
        click.echo(f"{manifest.num_samples} samples in {len(manifest.shards)} shards in {out}")


@contextmanager
def _progress(recipe: "Recipe", *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar of images on a terminal, moved by samples (done, total)."""
    from tqdm import tqdm

    images_per_sample = len(recipe.image_numbers)
    with tqdm(unit=" images", smoothing=0.05, disable=quiet or not sys.stderr.isatty(), dynamic_ncols=True) as bar:

        def show(done: int, total: int) -> None:
            if bar.total is None:  # what an earlier run did counts as done, not as fast
                bar.total, bar.initial = total * images_per_sample, done * images_per_sample
                bar.n = bar.initial
            bar.update(done * images_per_sample - bar.n)

        yield show


if __name__ == "__main__":
    main()
