"""Generation on a real Ray cluster of two nodes on this machine, one of which is killed half-way."""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from click.testing import CliRunner
from ray.cluster_utils import Cluster

from genrep.generate import ray_engine
from genrep.generate.command import main
from genrep.generate.defaults import make_recipe
from genrep.generate.generation import generate
from genrep.generate.generators import load_generator
from genrep.generate.ray_engine import generate_on_ray
from genrep.shards.errors import DataError
from genrep.shards.layout import plan_shards

SPEC = "stub_generators:held"
NUM_SHARDS, SHARD_SIZE = 12, 8
OBJECT_BYTES = 80 * 2**20


def load(**arguments):
    return {"spec": SPEC, "weights": None, "arguments": arguments}


def small_recipe(**arguments):
    generator = load_generator(SPEC, arguments=arguments)
    recipe = make_recipe(generator, num_samples=NUM_SHARDS * SHARD_SIZE - 3, shard_size=SHARD_SIZE, micro_batch=4)
    return recipe, generator


def tars(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def started(attempts=4):
    """The head of a cluster: Ray gives up after 30 seconds, which a busy machine may need, so it is asked again."""
    config = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 8}
    head = {"num_cpus": 1, "object_store_memory": OBJECT_BYTES, "include_dashboard": False, "_system_config": config}
    for left in reversed(range(attempts)):
        try:
            return Cluster(initialize_head=True, head_node_args=head)
        except Exception:
            if not left:
                raise


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each; the first, with the head, cannot be lost."""
    before = dict(os.environ)
    os.environ |= {
        "PYTHONPATH": str(Path(__file__).parent),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # 15 by default: on a busy machine its workers would starve
        "OMP_NUM_THREADS": "1",
    }
    nodes = started()
    nodes.second = nodes.add_node(num_cpus=1, object_store_memory=OBJECT_BYTES)
    nodes.wait_for_nodes()
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    os.environ.clear()
    os.environ |= before


def test_a_shard_of_a_killed_node_is_written_elsewhere_and_the_set_equals_a_local_one(cluster, tmp_path, caplog):
    recipe, generator = small_recipe(hold=str(tmp_path / "hold"))
    out = tmp_path / "set"
    hold, killed = tmp_path / "hold", threading.Event()

    def kill_half_way():
        while len(tars(out)) < NUM_SHARDS // 3:
            time.sleep(0.01)
        hold.touch()  # now the worker of either node stops in the middle of a shard
        while len(list(tmp_path.glob("hold.*"))) < 2:
            time.sleep(0.01)
        workers = [int(path.suffix[1:]) for path in tmp_path.glob("hold.*")]
        (raylet,) = cluster.second.all_processes["raylet"]
        (worker,) = [pid for pid in workers if parent(pid) == raylet.process.pid]
        cluster.remove_node(cluster.second, allow_graceful=False)
        with suppress(ProcessLookupError):  # it ends with its node, but may write a few shards before it notices
            os.kill(worker, signal.SIGKILL)
        hold.unlink()
        killed.set()

    killer = threading.Thread(target=kill_half_way, daemon=True)
    killer.start()
    shown = []
    manifest = generate_on_ray(
        recipe,
        out,
        load=load(hold=str(hold)),
        licence=None,
        address=cluster.address,
        device="cpu",
        progress=lambda done, total: shown.append((done, total)),
    )
    killer.join()
    assert killed.is_set()
    assert "lost its worker" in caplog.text
    assert manifest == generate(recipe, tmp_path / "local", generator=generator, device="cpu")
    assert tars(out) == tars(tmp_path / "local")
    assert shown == sorted(shown)
    assert shown[-1] == (recipe.num_samples, recipe.num_samples)

    # the same command on the node that is left has nothing to do; without a shard, that one alone
    victim = out / "shard-000005.tar"
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.tar") if path != victim}
    victim.unlink()
    words = ["--from-recipe", str(out / "recipe.json"), "--generator", SPEC, "--generator-arg", f"hold={hold}"]
    words += ["--out", str(out), "--device", "cpu"]
    again = CliRunner().invoke(main, [*words, "--engine", f"ray:{cluster.address}"], catch_exceptions=False)
    said = again.stdout.splitlines()[-1]  # Ray may tell of the dead node before
    assert said == f"{recipe.num_samples} samples in {NUM_SHARDS} shards in {out}"
    assert tars(out) == tars(tmp_path / "local")
    assert {path: path.stat().st_mtime_ns for path in times} == times

    # what a worker finds wrong reaches the user as it is
    recipe, _ = small_recipe(salt="1")
    with pytest.raises(DataError, match="fingerprint"):
        generate_on_ray(recipe, tmp_path / "other", load=load(), licence=None, address=cluster.address, device="cpu")
    assert tars(tmp_path / "other") == {}


class DiedError(Exception):
    """Stands for Ray's report of a lost worker."""


@dataclass(frozen=True)
class Promise:
    worker: int
    spec: object = None  # None: to be ready


class FlakyRay:
    """As much of ray as the engine uses, in one process, for two workers; what is to fail or to hang is told it."""

    def __init__(self, *, dies=lambda promise, calls: False, hangs=lambda promise: False):
        self.dies, self.hangs = dies, hangs
        self.calls = []
        self.exceptions = SimpleNamespace(RayTaskError=type("TaskError", (Exception,), {}), RayError=DiedError)
        self.num_made, self.killed = 0, []

    def make(self, num_workers):
        if num_workers >= 2:
            return None
        number = self.num_made = self.num_made + 1
        return SimpleNamespace(
            number=number,
            ready=SimpleNamespace(remote=lambda: Promise(number)),
            write=SimpleNamespace(remote=lambda spec: Promise(number, spec)),
        )

    def wait(self, promises, timeout):
        return [promise for promise in promises if not self.hangs(promise)][:1], []

    def get(self, promise):
        self.calls.append(promise)
        if self.dies(promise, sum(call.spec == promise.spec for call in self.calls)):
            raise DiedError("gone")
        return promise.spec.count if promise.spec else None

    def kill(self, worker):
        self.killed.append(worker.number)


def specs():
    return plan_shards(100, 8)


def test_every_shard_is_written_once_if_workers_die_now_and_then():
    flaky = FlakyRay(
        dies=lambda promise, calls: promise.spec is not None and calls == 1 and promise.spec.first % 16 == 0
    )
    assert sum(ray_engine._run(flaky, flaky.make, specs())) == 100


def test_a_shard_that_ends_every_worker_ends_the_run_with_its_name():
    bad = specs()[2]
    flaky = FlakyRay(dies=lambda promise, calls: promise.spec == bad)
    with pytest.raises(DataError, match=r"shard-000002\.tar lost its worker 3 times \(gone\)"):
        list(ray_engine._run(flaky, flaky.make, specs()))
    assert [call.spec for call in flaky.calls].count(bad) == 3


def test_workers_that_never_become_ready_end_the_run():
    flaky = FlakyRay(dies=lambda promise, calls: promise.spec is None)
    with pytest.raises(DataError, match=r"lost its worker 3 times .* the same installation"):
        list(ray_engine._run(flaky, flaky.make, specs()))


def test_a_worker_that_finds_no_place_keeps_no_shard_from_the_others():
    flaky = FlakyRay(hangs=lambda promise: promise.worker == 2)
    assert sum(ray_engine._run(flaky, flaky.make, specs())) == 100
    assert sorted(flaky.killed) == [1, 2]


@pytest.mark.parametrize("engine", ["rays", "ray:", "local:1", "spark"])
def test_an_engine_that_there_is_not_is_a_usage_fault(engine):
    result = CliRunner().invoke(main, ["--engine", engine])
    assert result.exit_code == 2
    assert "is neither local nor ray nor ray:ADDRESS" in result.output


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    words = ["--n", "8", "--shard-size", "8", "--micro-batch", "8", "--out", str(tmp_path / "set")]
    result = CliRunner().invoke(main, [*words, "--engine", "ray:127.0.0.1:1"], catch_exceptions=False)
    assert result.exit_code == 1
    assert result.output.startswith("Error: no Ray cluster at 127.0.0.1:1")
    assert result.output.count("\n") == 1
