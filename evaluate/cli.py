"""What the commands of the evaluator share: options, the device, a bar, a look at where the result will lie."""

import math
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genrep.shards.errors import DataError

if TYPE_CHECKING:
    from genrep.evaluate.features import Progress


class Numbers(click.ParamType):
    """Numbers joined by commas, each above 0, in growing order."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(sorted({self._kind(word) for word in value.split(",")}))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 < number < math.inf for number in numbers):
            self.fail(f"{value!r} is not a list of numbers above 0 joined by commas", param, ctx)
        return numbers


DATA = click.option(
    "--data",
    "data_name",
    default="fashion-mnist",
    show_default=True,
    help="fashion-mnist, imagefolder:PATH, torchvision:NAME:ROOT, wds:TRAIN,TEST or hf:ID.",
)
CHECKPOINT: dict[str, Any] = {
    "type": click.Path(path_type=Path),
    "help": "Folder of a run, a checkpoint in it, or torchscript:FILE, torchvision:NAME:FILE, timm:NAME:FILE.",
}
ENCODER = click.option("--checkpoint", required=True, **CHECKPOINT)
RESULT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the result.json goes.  [default: in evaluation/ of the run, named after the measurement]",
)
FEATURES_OF = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Run or checkpoint whose features are used.  [default: an untrained convolution, and it says so]",
)
SEED = click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all draws.")
DEVICE = click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda if there is one, else cpu]")
THREADS = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.  [default: the cores it may use]"
)
QUIET = click.option("--quiet", is_flag=True, help="Only errors.")


def use_threads(threads: int | None) -> None:
    """Have torch use so many; left out: as many as the cores this process may use."""
    import torch

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def present_device(name: str | None) -> str:
    """The device to use, seen to be there; left out: a GPU if there is one.

    Raises:
        DataError: If torch cannot use it.
    """
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"device {name!r} cannot be used ({reason}): use --device cpu, or one of this machine"
        ) from error
    return name


def result_place(measure: str, checkpoint: Path, data_name: str, how: Sequence[str]) -> Path:
    """Where a result goes unless the user says, in the folder of the run: named after what is measured, and how.

    Args:
        how: Words for what is not as usual.
    """
    from genrep.evaluate.encoders import file_of, run_folder

    words = [measure, *(Path(word).name for word in data_name.split(":")), *how]
    words = [re.sub(r"[^\w.]+", "-", word) for word in words]
    words += [file_of(checkpoint).stem] if file_of(checkpoint).is_file() else []
    return run_folder(checkpoint) / "evaluation" / f"{'-'.join(words)}.json"


def unusual(options: Mapping[str, tuple[object, object]]) -> list[str]:
    """A word for each option, name -> value and default, that is not at its default."""
    return [f"{name}{value}" for name, (value, default) in options.items() if value != default]


def check_writable(path: Path) -> None:
    """See, before the work, that a file can be made there.

    Raises:
        DataError: If not.
    """
    if path.is_dir():
        raise DataError(f"--out {path} is a folder: name a file in it, such as {path / 'result.json'}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    effective = os.access in os.supports_effective_ids
    if not (folder.is_dir() and os.access(folder, os.W_OK, effective_ids=effective)):
        raise DataError(f"nothing can be written into {folder}: choose another --out")


@contextmanager
def computing(device: str | None, *, threads: int | None, quiet: bool) -> Iterator[dict[str, Any]]:
    """What every measurement is given: ``device``, ``progress``, shown as a bar, and the ``command`` typed.

    Raises:
        DataError: If torch cannot use the device.
    """
    use_threads(threads)
    command = shlex.join(["genrep-evaluate", *sys.argv[1:]])
    with stages_bar(quiet=quiet) as progress:
        yield {"device": present_device(device), "progress": progress, "command": command}


def dtype_on(device: str, dtype: str | None) -> str:
    """What networks compute in unless the user says: float16 on a GPU, else float32."""
    return dtype or ("float32" if device == "cpu" else "float16")


@contextmanager
def stages_bar(*, quiet: bool) -> Iterator["Progress"]:
    """A bar on a terminal, which begins anew with every stage of the work."""
    from tqdm import tqdm

    with tqdm(disable=quiet or not sys.stderr.isatty(), leave=False) as bar:
        current = ""

        def show(what: str, done: int, total: int) -> None:
            nonlocal current
            if what != current:
                current = what
                bar.reset(total)
                bar.set_description(what)
            bar.update(done - bar.n)

        yield show
