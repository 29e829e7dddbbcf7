"""Generation on a Ray cluster, whose machines may come and go: each shard a task, one resident generator a device."""

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genrep.generate.generation import Rank, resolve_device
from genrep.generate.recipe import Recipe
from genrep.shards.errors import DataError
from genrep.shards.layout import ShardSpec
from genrep.shards.location import Location
from genrep.shards.manifest import Manifest
from genrep.shards.writer import DatasetWriter

log = logging.getLogger(__name__)

MOST_LOSSES = 3  # of one shard: what ends its worker every time will end the next one too
_CONNECT_S = 5.0
_TURN_S = 1.0  # between looks at what the cluster has to offer


class Worker:
    """Renders and writes shards with one generator on one device, once it is ready.

    Args:
        recipe: As JSON.
        load: Keyword arguments of :func:`genrep.generate.generators.load_generator` on the worker's machine.
        out: Folder or URL that all machines see.
        device: As :func:`resolve_device` takes it.
    """

    def __init__(
        self, recipe: Mapping[str, Any], load: Mapping[str, Any], out: Location, *, device: str, encode_workers: int
    ) -> None:
        self._recipe = Recipe.from_json(recipe)
        self._load = load
        self._out = out
        self._device = device
        self._encode_workers = encode_workers

    def ready(self) -> None:
        """Load the generator."""
        from genrep.generate.defaults import check_fit
        from genrep.generate.generators import load_generator
        from genrep.generate.render import Renderer, render_environment

        generator = load_generator(**self._load)
        check_fit(self._recipe, generator)
        device = resolve_device(self._device, Rank())
        recipe = self._recipe.to_json()
        self._writer = DatasetWriter(self._out, recipe, licence=generator.licence, encode_workers=self._encode_workers)
        self._renderer = Renderer(generator, self._recipe, device=device)
        self._environment = render_environment(device, self._recipe)

    def write(self, spec: ShardSpec) -> int:
        """Write a shard unless it is there; returns its number of samples."""
        from genrep.generate.render import render_settings

        with render_settings(self._recipe):
            self._writer.write_shard(spec, self._renderer.batches(spec.first, spec.count), self._environment)
        return spec.count


def generate_on_ray(
    recipe: Recipe,
    out: Location,
    *,
    load: Mapping[str, Any],
    licence: str | None,
    address: str | None = None,
    device: str = "auto",
    encode_workers: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> Manifest:
    """Write the data set of a recipe with the machines of a cluster, going on where an earlier run stopped.

    A shard whose worker is lost is given to another one; machines that join are used. On GPUs a worker has one of
    them, on CPUs as many cores as the recipe has render threads.

    Args:
        out: Folder that every machine sees under this path, or a URL.
        load: How a worker loads the generator: ``spec``, ``weights``, ``arguments``.
        address: Of the cluster; None is the one that Ray finds by itself (``RAY_ADDRESS``), or else a new one here.
        progress: Called with the number of samples that are done, and of all.

    Raises:
        DataError: If Ray is missing or unreachable, a worker meets a fault that the user can mend, or a shard loses
            its worker ``MOST_LOSSES`` times.
    """
    out = out if not isinstance(out, Path) else out.resolve()  # workers have another working folder
    writer = DatasetWriter(out, recipe.to_json(), licence=licence)
    missing = writer.missing_shards()
    total = recipe.num_samples
    done = total - sum(spec.count for spec in missing)
    if progress:
        progress(done, total)
    if missing:
        weights = load.get("weights")
        settled = {**load, "weights": None if weights is None else Path(weights).resolve()}
        with _cluster(address) as ray:
            make = _worker_maker(ray, recipe, settled, out, device=device, encode_workers=encode_workers)
            for count in _run(ray, make, missing):
                done += count
                if progress:
                    progress(done, total)
    return writer.finish()


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise DataError("--engine ray needs the package ray: pip install 'genrep[ray]', on every machine") from error
    where = address or os.environ.get("RAY_ADDRESS")
    if where:
        _check_listening(where)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            include_dashboard=None if where else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises what its parts raise: ConnectionError, ValueError, RuntimeError
        raise _no_cluster(where or "this machine", error) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray took it, and would end the process without a word
        yield ray
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """See that somebody listens at ``HOST:PORT`` or ``ray://HOST:PORT``: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # such as auto
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200]
    return DataError(f"no Ray cluster at {address} ({reason}): start one with ray start, or name another address")


def _worker_maker(
    ray: Any, recipe: Recipe, load: Mapping[str, Any], out: Location, *, device: str, encode_workers: int
) -> Callable[[int], Any | None]:
    """A function from the number of workers to a further one, or None if the cluster has no place for it now."""
    on_gpu = device.startswith("cuda") or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1)
    cores = max(1, recipe.render.threads)
    needs = {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": cores}
    # a worker that is lost is made anew, where there is a place, not by Ray on the same machine
    actor = ray.remote(**needs, max_restarts=0)(Worker)

    def make(num_workers: int) -> Any | None:
        resources = ray.cluster_resources()
        places = resources.get("GPU", 0) if on_gpu else resources.get("CPU", 0) // cores
        if num_workers >= places:
            return None
        device_there = "cuda" if on_gpu else "cpu"  # Ray shows a worker its own GPU alone
        return actor.remote(recipe.to_json(), load, out, device=device_there, encode_workers=encode_workers)

    return make


def _run(ray: Any, make: Callable[[int], Any | None], missing: list[ShardSpec]) -> Iterator[int]:
    """Have all shards written; yields the number of samples of each that is done.

    A shard goes to a worker that is ready: one that waits for a place, on a machine that was lost perhaps, holds none.
    """
    waiting, losses = deque(missing), Counter[str]()
    starting: dict[Any, Any] = {}  # what a worker promised -> the worker
    running: dict[Any, tuple[Any, ShardSpec]] = {}  # likewise, and its shard
    idle: list[Any] = []

    def lost(name: str, error: Exception) -> None:
        losses[name] += 1
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if losses[name] >= MOST_LOSSES:
            raise DataError(
                f"{name} lost its worker {MOST_LOSSES} times ({reason}): see whether it runs out of memory, and "
                "whether all machines have the same installation; then run the same command to continue"
            ) from error
        log.warning("%s lost its worker (%s); another one takes it", name, type(error).__name__)

    try:
        while waiting or running:
            while waiting and idle:
                worker, spec = idle.pop(), waiting.popleft()
                running[worker.write.remote(spec)] = worker, spec
            while len(starting) < len(waiting) and (made := make(len(starting) + len(running))) is not None:
                starting[made.ready.remote()] = made
            promises = [*running, *starting]
            if not promises:
                time.sleep(_TURN_S)  # no machine has a place now; one may join
                continue
            for promise in ray.wait(promises, timeout=_TURN_S)[0]:
                worker, shard = running.pop(promise) if promise in running else (starting.pop(promise), None)
                try:
                    count = ray.get(promise)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, DataError) else error from None
                except ray.exceptions.RayError as error:
                    lost(shard.name if shard else "the beginning", error)
                    if shard:
                        waiting.appendleft(shard)
                    continue
                idle.append(worker)
                if shard:
                    yield count
    finally:
        for worker in (*starting.values(), *(worker for worker, _ in running.values()), *idle):
            ray.kill(worker)
