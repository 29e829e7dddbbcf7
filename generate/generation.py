"""Generate a data set: the shards that are missing, rendered and written; then, once all are there, the manifest."""

import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genrep.generate.defaults import check_fit
from genrep.generate.generators import LoadedGenerator, load_recorded
from genrep.generate.recipe import Recipe
from genrep.shards import atomic
from genrep.shards.batch import Batch
from genrep.shards.errors import DataError
from genrep.shards.layout import MANIFEST, RECIPE, ShardSpec
from genrep.shards.location import Location, RemotePath, location
from genrep.shards.manifest import Manifest
from genrep.shards.table import read_facts
from genrep.shards.writer import DatasetWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rank:
    """This process among those that write one data set; ``local`` counts within the machine."""

    rank: int = 0
    world: int = 1
    local: int = 0


def rank_from_environment(environment: Mapping[str, str] = os.environ) -> Rank:
    """As torchrun or srun state it; rank 0 of 1 otherwise.

    A Slurm batch script has the variables of srun without being one of its tasks: what tells it is that
    it belongs to a job but to no step.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_PROCID" in environment and ("SLURM_STEP_ID" in environment or "SLURM_JOB_ID" not in environment):
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        if "SLURM_STEP_NUM_TASKS" in environment:
            names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    else:
        return Rank()
    try:
        rank, world, local = (int(environment.get(name, default)) for name, default in zip(names, "010", strict=True))
    except ValueError as error:
        raise DataError(f"{', '.join(names)} must be numbers ({error}); start through torchrun or srun") from error
    if not 0 <= rank < world:
        raise DataError(f"{names[0]} is {rank}, {names[1]} {world}: a rank lies below the number of ranks")
    return Rank(rank, world, local)


def generate(
    recipe: Recipe | Mapping[str, Any],
    out: str | os.PathLike[str] | RemotePath,
    *,
    generator: LoadedGenerator | None = None,
    device: str = "auto",
    encode_workers: int = 1,
    rank: Rank | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest | None:
    """Write the data set of a recipe into a folder, going on where an earlier run stopped.

    Args:
        recipe: A :class:`Recipe` or its JSON object.
        out: Folder or URL of the data set; created, or refused if it holds another recipe.
        generator: As loaded for the recipe. Left out, the registered generator that the recipe names.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; ``"auto"`` is a GPU where there is one.
        encode_workers: Threads that encode images while the next ones are rendered.
        rank: This process among several that share the work; by default as torchrun or srun say.
        progress: Called with the number of this rank's samples that are done, and of all that it has to do.

    Returns:
        The manifest; None if other ranks still have shards to write.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.from_json(recipe)
    rank = rank or rank_from_environment()
    generator = generator or load_recorded(recipe.generator.name, where="the recipe")
    check_fit(recipe, generator)
    device = resolve_device(device, rank)

    from genrep.generate.render import Renderer, render_environment, render_settings, render_workers

    folder, workers = location(out), render_workers(recipe)

    @functools.cache
    def renderer() -> Renderer:
        return Renderer(generator, recipe, device=device, workers=workers)

    with render_settings(recipe):
        with atomic.reported(folder):
            is_claimed = (folder / RECIPE).exists()
        if not is_claimed:
            renderer()  # what cannot be rendered claims no folder
        writer = DatasetWriter(folder, recipe.to_json(), licence=generator.licence, encode_workers=encode_workers)
        specs = recipe.shards
        own = specs[rank.rank :: rank.world]
        missing = {spec.name for spec in writer.missing_shards()}
        finished = [spec for spec in specs if spec.name not in missing]
        total = sum(spec.count for spec in own)
        done = sum(spec.count for spec in own if spec.name not in missing)

        def reported(batches: Iterator[Batch]) -> Iterator[Batch]:
            nonlocal done
            for batch in batches:
                yield batch
                done += len(batch.labels)
                if progress:
                    progress(done, total)

        if progress:
            progress(done, total)
        environment = render_environment(device, recipe)
        _warn_of_another_environment(folder, finished, environment)
        for spec in own:
            if spec.name in missing:
                writer.write_shard(spec, reported(renderer().batches(spec.first, spec.count)), environment)
    return None if writer.missing_shards() else writer.finish()


def resolve_device(device: str, rank: Rank) -> str:
    """``"auto"`` and ``"cuda"`` become one definite device, a GPU a local rank; refuses what torch lacks."""
    import torch

    available = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if available else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise DataError(f"device {device!r} is not known; take auto, cpu, cuda or cuda:1") from error
    if kind not in ("cpu", "cuda"):
        raise DataError(f"device {device!r} is not supported; take auto, cpu, cuda or cuda:1")
    if kind == "cuda" and not available:
        raise DataError(f"device {device!r}: torch {torch.__version__} sees no GPU; take --device cpu")
    if device == "cuda":
        return f"cuda:{rank.local % torch.cuda.device_count()}"
    if kind == "cuda" and torch.device(device).index >= torch.cuda.device_count():
        raise DataError(f"device {device!r}: torch sees {torch.cuda.device_count()} GPUs, counted from cuda:0")
    return device


def _warn_of_another_environment(out: Location, finished: list[ShardSpec], environment: dict[str, Any]) -> None:
    """Pixels may differ by rounding between environments; latents and labels do not."""
    if not (out / MANIFEST).exists() and finished:
        before = read_facts(out / finished[0].table).environment
        names = [name for name in environment if before.get(name) != environment[name]]
        if names:
            changes = "; ".join(f"{name} was {before.get(name)}, is {environment[name]}" for name in names)
            log.warning("%s: going on in another environment (%s); pixels may differ by a grey level", out, changes)
