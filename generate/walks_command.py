"""genrep-walks: steering directions, trained or cheap or imported, and a measured card of what they do."""

import io
import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genrep.shards.cli import Group
from genrep.shards.errors import DataError

if TYPE_CHECKING:
    from genrep.generate.generators import LoadedGenerator
    from genrep.generate.walk_card import Classifier
    from genrep.generate.walks import Walks


class _Group(Group):
    """What holds for every command: one line for what a user can mend, and SIGTERM is as good as Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            return super().invoke(ctx)
        except DataError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; run the same command to continue") from None
        finally:
            signal.signal(signal.SIGTERM, previous)


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


@click.group(cls=_Group)
def main() -> None:
    """Walks: directions of a generator's latent space that zoom, shift, turn or brighten its images.

    \b
    Examples: train the paper's walks, then measure them
      genrep-walks train --generator fashion --out runs/walks
      genrep-walks card --generator fashion --walks runs/walks/walks.safetensors --out runs/walks/card
    """


def _options(*options: Callable) -> Callable:
    """Several click options as one decorator, shown in the order given."""

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_generator_options = _options(
    click.option(
        "--generator",
        "generator_name",
        default="fashion",
        show_default=True,
        help="Registered name (genrep-generators list) or package.module:factory.",
    ),
    click.option("--weights", type=click.Path(path_type=Path), help="File or folder handed to the generator."),
    click.option(
        "--generator-arg",
        "arguments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Further argument of the generator; may be repeated.",
    ),
)
_device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
_quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
_space_option = click.option(
    "--latent-space", default="z", show_default=True, type=click.Choice(["z", "w"]), help="Where the directions lie."
)
_truncation_option = click.option(
    "--truncation",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Spread of the latents.",
)
_file_option = click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write, .safetensors."
)
_cheap_options = _options(
    _generator_options,
    click.option("--count", default=10, show_default=True, type=click.IntRange(min=1), help="Directions to make."),
    _space_option,
    click.option(
        "--length",
        default=1.0,
        show_default=True,
        type=click.FloatRange(0, min_open=True),
        help="Norm of each: how far coefficient 1 moves.",
    ),
    _file_option,
    _quiet_option,
)


@main.command("train")
@_generator_options
@click.option("--edits", help="Edits and groups of edits, joined by commas.  [default: the paper's, by image channels]")
@click.option(
    "--full",
    multiple=True,
    metavar="EDIT=STRENGTH",
    help="Strength of an edit at coefficient 1, in its unit; may be repeated.  [default: by image size]",
)
@_space_option
@click.option("--steps", default=1000, show_default=True, type=click.IntRange(min=1), help="Updates.")
@click.option("--batch-size", default=48, show_default=True, type=click.IntRange(min=1), help="Anchors a step.")
@click.option(
    "--lr", default=2e-2, show_default=True, type=click.FloatRange(0, min_open=True), help="Learning rate of Adam."
)
@_truncation_option
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1), help="Of latents and strengths."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run.  [default: named after the set-up]",
)
@click.option("--checkpoint-every", default=100, show_default=True, type=click.IntRange(min=1), help="Steps.")
@_device_option
@_quiet_option
def train_command(
    generator_name: str,
    weights: Path | None,
    arguments: tuple[str, ...],
    edits: str | None,
    full: tuple[str, ...],
    latent_space: str,
    steps: int,
    batch_size: int,
    lr: float,
    truncation: float,
    seed: int,
    out: Path | None,
    checkpoint_every: int,
    device: str,
    quiet: bool,
) -> None:
    """Train one direction an edit, all together, to imitate the edits of the generator's own images.

    The folder gets walks.safetensors, metrics.jsonl (the loss curve) and config.json; the same command continues a
    stopped run.

    \b
    Edits: brightness, contrast, saturation, hue, red, green, blue, rotation_3d, rotation, zoom, shift_x, shift_y
    Groups: shift, colour, jitter, crop
    Examples: the embedded generator; BigGAN as in the paper
      genrep-walks train --generator fashion --full shift_x=3 --full shift_y=3 --out runs/walks
      genrep-walks train --generator biggan-deep-256 --weights DIR --lr 1e-3 --steps 5000 --batch-size 32
    """
    from tqdm import tqdm

    from genrep.generate.edits import EDITS, default_edits, parse_edits
    from genrep.generate.walk_training import WalkSettings, train_walks

    strengths = _strengths(full)
    generator = _load(generator_name, weights, arguments)
    channels, height, width = generator.image_shape
    names = default_edits(channels) if edits is None else parse_edits(edits)
    unused = [name for name in strengths if name not in names]
    if unused:
        raise click.BadParameter(f"{unused[0]!r} is not among the edits {', '.join(names)}", param_hint="--full")
    settings = WalkSettings(
        full={name: strengths.get(name, EDITS[name].full_strength(height, width)) for name in names},
        latent_space=latent_space,
        steps=steps,
        batch_size=batch_size,
        learning_rate=lr,
        truncation=truncation,
        seed=seed,
    )
    out = out or Path(f"walks-{generator.name}-{latent_space}-seed{seed}")
    with tqdm(total=steps, unit=" steps", disable=quiet or not sys.stderr.isatty(), dynamic_ncols=True) as bar:

        def show(step: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}")

        walks = train_walks(
            generator, settings, out, device=_device(device), checkpoint_every=checkpoint_every, progress=show
        )
    if not quiet:
        click.echo(f"{len(walks.names)} walks in {out / 'walks.safetensors'}: {', '.join(walks.names)}")


@main.command("card")
@_generator_options
@click.option(
    "--walks",
    "walks_path",
    type=click.Path(path_type=Path),
    help="File of walks.  [default: those shipped with the generator]",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the card.")
@click.option(
    "--n", "num_samples", default=256, show_default=True, type=click.IntRange(min=2), help="Anchors to measure on."
)
@click.option(
    "--classifier",
    "classifier_name",
    metavar="FILE|MODULE:FACTORY",
    help="Tells whether the class survives: a file kept by genrep.generate.fashion.quality --classifier, or a "
    "factory() -> function from images in [-1, 1] to logits.",
)
@click.option("--rows", default=3, show_default=True, type=click.IntRange(min=1), help="Samples in the filmstrip.")
@_truncation_option
@click.option(
    "--seed",
    default=1,
    show_default=True,
    type=click.IntRange(0, 2**64 - 1),
    help="Of the anchors; not that of the training.",
)
@_device_option
@_quiet_option
def card_command(
    generator_name: str,
    weights: Path | None,
    arguments: tuple[str, ...],
    walks_path: Path | None,
    out: Path,
    num_samples: int,
    classifier_name: str | None,
    rows: int,
    truncation: float,
    seed: int,
    device: str,
    quiet: bool,
) -> None:
    """Measure what each direction does to the images: card.json, card.md and filmstrip.png.

    \b
    Example:
      genrep-walks card --generator fashion --out walk-card
    """
    from tqdm import tqdm

    from genrep.generate.walk_card import check_walks, filmstrip, load_classifier, measure_walks
    from genrep.generate.walks import load_walks

    generator = _load(generator_name, weights, arguments)
    path = walks_path or generator.default_walks
    if path is None:
        raise DataError(f"generator {generator.spec} ships no walks: name a file with --walks")
    walks = load_walks(path)
    check_walks(generator, walks)
    classifier: Classifier | None = None if classifier_name is None else load_classifier(classifier_name)
    where = _device(device)
    with tqdm(total=num_samples, unit=" anchors", disable=quiet or not sys.stderr.isatty(), dynamic_ncols=True) as bar:
        card = measure_walks(
            generator,
            walks,
            num_samples=num_samples,
            seed=seed,
            truncation=truncation,
            classifier=classifier,
            device=where,
            progress=lambda done: bar.update(done - bar.n) and None,
        )
    picture = filmstrip(generator, walks, num_rows=rows, seed=seed, truncation=truncation, device=where)
    _write_card(out, card.to_json(), card.to_markdown(), picture)
    if not quiet:
        click.echo(card.to_markdown())


@main.command("sefa")
@_cheap_options
@click.option(
    "--layer",
    "layers",
    multiple=True,
    help="Layer to take weights from; may be repeated.  [default: all that see the latent]",
)
@_device_option
def sefa_command(
    generator_name: str,
    weights: Path | None,
    arguments: tuple[str, ...],
    count: int,
    latent_space: str,
    length: float,
    out: Path,
    quiet: bool,
    layers: tuple[str, ...],
    device: str,
) -> None:
    """Directions in closed form: those that the weights acting on the latent stretch most.

    Orthogonal, ordered by what they change in the images.

    \b
    Example:
      genrep-walks sefa --generator fashion --length 3 --out sefa.safetensors
    """
    from genrep.generate.directions import sefa_walks

    generator = _load(generator_name, weights, arguments)
    walks = sefa_walks(
        generator, count=count, latent_space=latent_space, length=length, layers=layers, device=_device(device)
    )
    _save(walks, out, quiet=quiet)


@main.command("pca")
@_cheap_options
@click.option(
    "--layer", help="Layer whose output is analysed.  [default: w itself; in z the first layer that sees the latent]"
)
@click.option(
    "--n", "num_samples", default=2048, show_default=True, type=click.IntRange(min=2), help="Latents to analyse."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1), help="Of the latents.")
@_device_option
def pca_command(
    generator_name: str,
    weights: Path | None,
    arguments: tuple[str, ...],
    count: int,
    latent_space: str,
    length: float,
    out: Path,
    quiet: bool,
    layer: str | None,
    num_samples: int,
    seed: int,
    device: str,
) -> None:
    """Principal components (GANSpace), orthogonal, in descending order of variance.

    \b
    Example:
      genrep-walks pca --generator fashion --layer network.convs.0 --length 3 --out pca.safetensors
    """
    from genrep.generate.directions import pca_walks

    generator = _load(generator_name, weights, arguments)
    walks = pca_walks(
        generator,
        count=count,
        latent_space=latent_space,
        length=length,
        layer=layer,
        num_samples=num_samples,
        seed=seed,
        device=_device(device),
    )
    _save(walks, out, quiet=quiet)


@main.command("random")
@_cheap_options
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1), help="Of the directions.")
def random_command(
    generator_name: str,
    weights: Path | None,
    arguments: tuple[str, ...],
    count: int,
    latent_space: str,
    length: float,
    out: Path,
    quiet: bool,
    seed: int,
) -> None:
    """Random orthogonal directions: the baseline of the others.

    \b
    Example:
      genrep-walks random --generator fashion --count 5 --length 3 --out random.safetensors
    """
    from genrep.generate.directions import random_walks

    generator = _load(generator_name, weights, arguments)
    _save(random_walks(generator, count=count, latent_space=latent_space, length=length, seed=seed), out, quiet=quiet)


@main.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--generator", "generator_name", help="Generator they are for; checked and recorded.  [default: unknown]")
@click.option("--weights", type=click.Path(path_type=Path), help="File or folder handed to the generator.")
@click.option(
    "--generator-arg", "arguments", multiple=True, metavar="KEY=VALUE", help="Further argument of the generator."
)
@_file_option
@_quiet_option
def import_command(
    checkpoint: Path,
    generator_name: str | None,
    weights: Path | None,
    arguments: tuple[str, ...],
    out: Path,
    quiet: bool,
) -> None:
    """Convert a walk CHECKPOINT of the paper's authors: composed, colour or SimCLR-augmentation walks.

    Nothing in the file is executed. Parts that are no linear direction are named and left out.

    \b
    Example:
      genrep-walks import w_composed_160k_lr0.001_final.pth --out composed.safetensors
    """
    from genrep.generate.walk_card import check_walks
    from genrep.generate.walk_import import import_walks

    if generator_name is None and (weights or arguments):
        raise click.UsageError("--weights and --generator-arg belong to a --generator; name one")
    generator = None if generator_name is None else _load(generator_name, weights, arguments)
    walks, passed_over = import_walks(checkpoint, generator="" if generator is None else generator.fingerprint())
    if generator is not None:
        check_walks(generator, walks)
    for line in passed_over:
        click.echo(f"left out {line}", err=True)
    _save(walks, out, quiet=quiet)


def _load(name: str, weights: Path | None, arguments: tuple[str, ...]) -> "LoadedGenerator":
    from genrep.generate.generators import load_generator

    return load_generator(name, weights=weights, arguments=_pairs(arguments, "--generator-arg", "KEY=VALUE"))


def _pairs(texts: tuple[str, ...], option: str, form: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (key, equals, _) in zip(texts, pairs, strict=True):
        if not (key and equals):
            raise click.BadParameter(f"{text!r} is not of the form {form}", param_hint=option)
    return {key: value for key, _, value in pairs}


def _strengths(texts: tuple[str, ...]) -> dict[str, float]:
    strengths = {}
    for name, text in _pairs(texts, "--full", "EDIT=STRENGTH").items():
        try:
            strengths[name] = float(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is no number", param_hint="--full") from None
        if not 0 < strengths[name] < float("inf"):
            raise click.BadParameter(f"the strength of {name} must be positive", param_hint="--full")
    return strengths


def _device(device: str) -> str:
    from genrep.generate.generation import Rank, resolve_device

    return resolve_device(device, Rank())


def _save(walks: "Walks", out: Path, *, quiet: bool) -> None:
    from genrep.generate.walks import save_walks

    save_walks(walks, out)
    if not quiet:
        click.echo(f"{len(walks.names)} walks in {out}: {', '.join(walks.names)}")


def _write_card(out: Path, plain: dict[str, Any], markdown: str, picture: Any) -> None:
    from PIL import Image

    from genrep.shards import atomic

    command = shlex.join(["genrep-walks", *sys.argv[1:]])
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "png")
    with atomic.reported(out):
        out.mkdir(parents=True, exist_ok=True)
    atomic.write(out / "card.json", (json.dumps({"command": command, **plain}, indent=1) + "\n").encode())
    atomic.write(out / "card.md", markdown.encode())
    atomic.write(out / "filmstrip.png", png.getvalue())


if __name__ == "__main__":
    main()
