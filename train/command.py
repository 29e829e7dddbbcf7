"""genrep-train: from shards to an encoder."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from genrep.shards.cli import LOCATION, Command
from genrep.shards.errors import DataError
from genrep.shards.location import Location, location
from genrep.train.config import DTYPES, METHODS, OPTIMISERS, PRESETS, VIEWS, TrainConfig, resolve

if TYPE_CHECKING:
    from genrep.train.loop import Metrics

POSITIVE = click.IntRange(min=1)
POSITIVE_FLOAT = click.FloatRange(min=0, min_open=True)
MOST_WORKERS = 8  # unless asked for; each holds one batch ready

# what the weights do not depend on
EXECUTION = (
    "loader", "beton", "workers", "skip_bad", "checkpoint_every", "keep", "device", "threads", "watch_every",
    "tensorboard", "show_pairs",
)  # fmt: skip

HELP = {
    "preset": "Defaults of the paper's settings, or of those for small images; --show-config prints them.  "
    "[default: fashion up to 64 px, else the paper's without its --loss-scale]",
    "method": "[default: supcon where all samples have a label, else simclr]",
    "views": "Latent views with augmentation (T_z + T_x), latent views alone, or augmentation of the anchors alone.  "
    "[default: both where the set has latent views, else pixel]",
    "num_views": "Images of a sample beside its anchor in each batch: so many of its views, drawn anew every epoch, or "
    "all.  [default: 1; with multipos all]",
    "positives": "latent:TAU: positives (of supcon, multipos) weigh exp(-d^2 / (2 TAU^2)), d the root mean square "
    "difference of two latents' coordinates.  [default: uniform]",
    "mix": "Another set, such as real images as shards, and the share of every batch that comes from it, such as "
    "data/real:0.5. Labels count where both sets have equally many classes; supcon and classifier need that.",
    "loader": "Where the images are read: the tars, or one file made by genrep-shards export ffcv. Same batches.",
    "beton": "The file of --loader ffcv.  [default: DIR.beton beside the set]",
    "workers": "Threads that prepare batches ahead; 0: none.  [default: --threads, at most 8]",
    "skip_bad": "Pass over damaged samples: the one in the same place of the next batch stands in, all are counted.",
    "show_pairs": "Draw the first batch's images beside their stored anchors as a PNG file, and end.",
    "watch_every": "Updates between collapse signals in metrics.jsonl: effective rank, alignment, uniformity.",
    "tensorboard": "Also write for TensorBoard, with pictures of augmented images, into tensorboard/ of the run.",
    "steps": "Updates.  [default: 1000 for images up to 64 px, else 20 epochs]",
    "backbone": "resnet-tiny or a ResNet of torchvision.  [default: resnet-tiny up to 64 px, else resnet50]",
    "batch_size": "Samples an update, over all ranks.  [default: 256]",
    "optimiser": "[default: adamw up to 64 px, else sgd]",
    "lr": "Highest learning rate.  [default: 0.002 with adamw, 0.03 with sgd, 0.3 with lars]",
    "lr_scaling": "linear multiplies the learning rate, given or default, by batch size / 256 (Goyal et al. 2017).  "
    "[default: none]",
    "warm_up": "Share of the steps in which the rate rises.",
    "loss_scale": "Factor on the loss; that of the paper's code is 1.4286.  [default: 1; with paper-* presets 1.4286]",
    "projection_dim": "Width of what the loss compares.  [default: of the preset and method]",
    "target_momentum": "Of byol's target network at the start; 1 at the end.",
    "chunk": "Samples of a rank that go through the networks at once, to save memory. The loss is still that of the "
    "whole batch (its gradient is cached where samples must meet), but batch norm sees N samples.",
    "sync_bn": "Batch norm over the samples of all ranks (GPUs only). Without it each rank normalises its own share: "
    "faster, and with few samples a rank its statistics can tell which samples share one, a shortcut past the loss.",
    "compile": "Compile the networks with torch.compile.",
    "dtype": "Of convolutions and matrix products; float16 scales the loss.  [default: bfloat16 on cuda, else float32]",
    "keep": "Checkpoints that stay, the last ones.",
    "resume": "Say so if there is nothing to resume; a run is continued either way.",
}


class _Count(click.ParamType):
    """A positive number, or ``all``."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "all" else POSITIVE.convert(value, param, ctx)


class _Mix(click.ParamType):
    """A folder and a share between 0 and 1."""

    name = "mix"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Location, float]:
        folder, _, ratio = value.rpartition(":")
        if not folder:
            self.fail(f"{value!r} is not SHARDS:RATIO, such as data/real:0.5", param, ctx)
        share = click.FloatRange(0, 1, min_open=True, max_open=True).convert(ratio, param, ctx)
        return location(folder), share


class _Positives(click.ParamType):
    """``uniform`` is None, ``latent:TAU`` is TAU."""

    name = "positives"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        kind, _, tau = value.partition(":")
        if value == "uniform":
            return None
        if kind != "latent":
            self.fail(f"{value!r} is neither uniform nor latent:TAU, such as latent:0.5", param, ctx)
        return POSITIVE_FLOAT.convert(tau, param, ctx)


@click.command(cls=Command)
@click.option(
    "--shards",
    "folder",
    metavar="DIR",
    type=LOCATION,
    required=True,
    help="Folder or URL of the data set, or the file of a subset.",
)
@click.option("--join", metavar="DIR", type=LOCATION, help="Views added to that data set (genrep-shards add-views).")
@click.option("--mix", type=_Mix(), metavar="SHARDS:RATIO", help=HELP["mix"])
@click.option("--loader", type=click.Choice(["webdataset", "ffcv"]), default="webdataset", help=HELP["loader"])
@click.option("--beton", type=click.Path(path_type=Path), metavar="FILE", help=HELP["beton"])
@click.option("--workers", type=click.IntRange(min=0), metavar="N", help=HELP["workers"])
@click.option("--skip-bad", is_flag=True, help=HELP["skip_bad"])
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/SET-METHOD-seedN]")
@click.option("--preset", type=click.Choice([name for name in PRESETS if name != "paper"]), help=HELP["preset"])
@click.option("--method", type=click.Choice(METHODS), help=HELP["method"])
@click.option("--views", type=click.Choice(VIEWS), help=HELP["views"])
@click.option("--num-views", type=_Count(), metavar="N|all", help=HELP["num_views"])
@click.option(
    "--positives",
    "latent_tau",
    type=_Positives(),
    metavar="uniform|latent:TAU",
    default="uniform",
    help=HELP["positives"],
)
@click.option("--limit", type=POSITIVE, metavar="N", help="Use the first N samples.")
@click.option("--steps", type=POSITIVE, metavar="N", help=HELP["steps"])
@click.option("--epochs", type=POSITIVE, metavar="N", help="Passes over the samples, in place of --steps.")
@click.option("--backbone", metavar="NAME", help=HELP["backbone"])
@click.option("--batch-size", type=POSITIVE, metavar="N", help=HELP["batch_size"])
@click.option("--optimiser", type=click.Choice(OPTIMISERS), help=HELP["optimiser"])
@click.option("--lr", type=POSITIVE_FLOAT, help=HELP["lr"])
@click.option("--lr-scaling", type=click.Choice(["none", "linear"]), default="none", help=HELP["lr_scaling"])
@click.option("--weight-decay", type=click.FloatRange(min=0), help="[default: of the optimiser]")
@click.option("--warm-up", type=click.FloatRange(0, 1, max_open=True), metavar="SHARE", help=HELP["warm_up"])
@click.option("--temperature", type=POSITIVE_FLOAT, help="Of the contrastive losses.  [default: 0.1]")
@click.option("--loss-scale", type=POSITIVE_FLOAT, help=HELP["loss_scale"])
@click.option("--projection-dim", type=POSITIVE, metavar="P", help=HELP["projection_dim"])
@click.option("--target-momentum", type=click.FloatRange(0, 1), help=HELP["target_momentum"])
@click.option("--chunk", type=POSITIVE, metavar="N", help=HELP["chunk"])
@click.option("--sync-bn", is_flag=True, help=HELP["sync_bn"])
@click.option("--compile", is_flag=True, help=HELP["compile"])
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all that is random.")
@click.option("--checkpoint-every", type=POSITIVE, metavar="N", default=200, show_default=True, help="In updates.")
@click.option("--keep", type=POSITIVE, metavar="N", default=3, show_default=True, help=HELP["keep"])
@click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda if there is one, else cpu]")
@click.option("--dtype", type=click.Choice(DTYPES), help=HELP["dtype"])
@click.option("--threads", type=POSITIVE, metavar="N", help="CPU threads.  [default: OMP_NUM_THREADS, else the cores]")
@click.option("--watch-every", type=POSITIVE, metavar="N", default=100, show_default=True, help=HELP["watch_every"])
@click.option("--tensorboard", is_flag=True, help=HELP["tensorboard"])
@click.option("--show-pairs", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=HELP["show_pairs"])
@click.option("--show-config", is_flag=True, help="Print the settings as JSON and end.")
@click.option("--resume", is_flag=True, help=HELP["resume"])
@click.option("--quiet", is_flag=True, help="Only errors.")
def main(
    folder: Location,
    join: Location | None,
    out: Path | None,
    show_config: bool,
    resume: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train an encoder on shards.

    The same command continues a run that was stopped, from its last checkpoint. The run's folder receives
    config.json, metrics.jsonl and checkpoints/. Under torchrun the ranks share every batch and see the same global
    batches as one process would; the loss is that of the global batch.

    \b
    Examples:
      genrep-train --shards data
      genrep-train --shards data --views pixel --steps 400 --seed 1 --out runs/only-T_x
      torchrun --nproc-per-node 8 --no-python genrep-train --shards data --batch-size 2048 --lr-scaling linear
    """
    if settings["steps"] and settings["epochs"]:
        raise click.UsageError("--steps and --epochs were both given: one of them follows from the other")
    if settings["beton"] and settings["loader"] != "ffcv":
        raise click.UsageError("--beton names the file of --loader ffcv, which was not asked for")
    execution = {name: settings.pop(name) for name in EXECUTION}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        _main(folder, join, out, settings, show_config=show_config, resume=resume, quiet=quiet, **execution)
    except DataError as error:
        from genrep.train.ranks import SaidElsewhereError

        if isinstance(error, SaidElsewhereError):
            sys.exit(1)
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; run the same command to continue") from None


def _main(
    folder: Location,
    join: Location | None,
    out: Path | None,
    settings: dict[str, Any],
    *,
    show_config: bool,
    resume: bool,
    quiet: bool,
    loader: str,
    beton: Path | None,
    workers: int | None,
    skip_bad: bool,
    checkpoint_every: int,
    keep: int,
    device: str | None,
    threads: int | None,
    watch_every: int,
    tensorboard: bool,
    show_pairs: Path | None,
) -> None:
    import torch

    import genrep.shards
    from genrep.shards import atomic
    from genrep.shards.ffcv import FfcvSet, beside
    from genrep.train.checkpoint import checkpoints
    from genrep.train.data import Loader
    from genrep.train.loop import train
    from genrep.train.ranks import joined
    from genrep.train.sheet import batch_sheet

    device, mix = _device(device), settings.pop("mix")
    settings["dtype"] = settings["dtype"] or ("bfloat16" if device.startswith("cuda") else "float32")
    with joined(device) as ranks:
        shards = ranks.agreed(lambda: genrep.shards.open(folder, join=join))
        mixed, mix_ratio = None, 0.0
        if mix:
            mixed, mix_ratio = ranks.agreed(lambda: genrep.shards.open(mix[0])), mix[1]
        config = ranks.agreed(lambda: resolve(shards, mixed=mixed, mix_ratio=mix_ratio, **settings))
        images = ranks.agreed(lambda: FfcvSet(beton or beside(folder), shards)) if loader == "ffcv" else None
        only_errors, quiet = quiet, quiet or ranks.rank > 0
        if show_config:
            if not ranks.rank:
                click.echo(json.dumps(config.to_json(), indent=1))
            return
        if show_pairs:
            if not ranks.rank:
                (batch,) = islice(Loader(shards, config, images=images, mixed=mixed, skip_bad=skip_bad).batches(0), 1)
                atomic.write(show_pairs, batch_sheet(batch, shards, config))
            return
        run = out or Path("runs") / f"{folder.resolve().name.removesuffix('.json')}-{config.method}-seed{config.seed}"
        torch.set_num_threads(threads or torch.get_num_threads())
        threads = torch.get_num_threads()
        if resume and not ranks.rank and not checkpoints(run):
            click.echo(f"nothing to resume in {run}: starting at step 0", err=True)
        if not quiet:
            click.echo(_summary(config, shards.channels, run), err=True)
        record = {
            "shards": str(folder),
            **({} if join is None else {"join": str(join)}),
            "command": shlex.join(["genrep-train", *sys.argv[1:]]),
            "environment": {
                "torch": torch.__version__,
                "device": _device_name(device),
                "ranks": ranks.world,
                "threads": threads,
            },
        }
        passed_over: dict[str, None] = {}

        def on_passed_over(fault: str) -> None:
            if fault not in passed_over and not only_errors:
                click.echo(f"passed over: {fault}", err=True)
            passed_over[fault] = None

        with _stop_between_steps() as should_stop, _progress(config.steps, checkpoint_every, quiet=quiet) as on_step:
            done = train(
                shards,
                config,
                run,
                device=device,
                ranks=ranks,
                images=images,
                mixed=mixed,
                workers=min(threads, MOST_WORKERS) if workers is None else workers,
                skip_bad=skip_bad,
                checkpoint_every=checkpoint_every,
                keep=keep,
                record=record,
                watch_every=watch_every,
                tensorboard=tensorboard,
                on_step=on_step,
                on_passed_over=on_passed_over,
                should_stop=should_stop,
            )
        if done < config.steps:
            raise ranks.fault(f"interrupted after step {done} of {config.steps}; run the same command to continue")
    if not quiet:
        damaged = f", {len(passed_over)} damaged samples passed over" if passed_over else ""
        click.echo(f"{run}: trained for {done} steps{damaged}")


def _device(name: str | None) -> str:
    """The device to use, seen to be there; of several ranks on a machine each takes a GPU of its own."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(1, device=name)
        if name.startswith("cuda:"):
            torch.cuda.set_device(name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"device {name!r} cannot be used ({reason}): use --device cpu, or one of this machine"
        ) from error
    return name


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def _summary(config: TrainConfig, channels: int, run: Path) -> str:
    text = (
        f"{config.method} on {config.num_samples} samples, views {config.views}: {config.steps} steps of "
        f"{config.batch_size}, {config.backbone} at {config.crop} px, into {run}"
    )
    pixels = config.pixels
    if channels == 1 and config.views != "latent" and (pixels.saturation or pixels.hue or pixels.grey_p):
        text += "\none-channel images: saturation, hue and grey are skipped"
    return text


@contextmanager
def _stop_between_steps() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C or SIGTERM waits until the step is saved; a second one ends at once."""
    asked = []

    def remember(number: int, frame: object) -> None:
        asked.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, remember)
    try:
        yield lambda: bool(asked)
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler)


@contextmanager
def _progress(steps: int, every: int, *, quiet: bool) -> Iterator[Callable[["Metrics"], None]]:
    """A bar on a terminal; elsewhere a line at every checkpoint, with the time left too."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    first: tuple[int, float] | None = None  # step of this process, and when it was done
    with tqdm(total=steps, unit="step", disable=quiet or not terminal) as bar:

        def on_step(metrics: "Metrics") -> None:
            nonlocal first
            facts = f"loss {metrics.loss:.3f}, {metrics.images_per_s:,.0f} images/s, waiting {metrics.data_wait:.0%}"
            if terminal:
                if not bar.n:
                    bar.initial = bar.n = metrics.step - 1  # a continued run
                bar.set_postfix_str(facts, refresh=False)
                bar.update()
                return
            now = perf_counter()
            first = first or (metrics.step, now)
            if not quiet and metrics.step % every == 0:
                done = metrics.step - first[0]
                left = (
                    f", {tqdm.format_interval((now - first[1]) / done * (steps - metrics.step))} left" if done else ""
                )
                click.echo(f"step {metrics.step} of {steps}: {facts}{left}", err=True)

        yield on_step
