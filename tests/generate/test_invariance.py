"""The same bytes however a set is made: workers, ranks, kills. Real processes, on the embedded generator."""

import os
import random
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
OPTIONS = ["--n", "600", "--shard-size", "40", "--micro-batch", "20", "--views", "gauss,steer", "--device", "cpu"]
OUTSIDE = ("RANK", "WORLD_SIZE", "SLURM_")


def start(folder, *words, before=(), **environment):
    """A program in a process group of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OUTSIDE)}
    return subprocess.Popen(
        [*map(str, before), str(BIN / "genrep-generate"), *OPTIONS, "--out", str(folder), "--quiet", *words],
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output


def hashes(folder):
    """Of all tars and tables."""
    files = [*sorted(folder.glob("*.tar")), *sorted(folder.glob(".tables/*.parquet"))]
    return {str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest() for file in files}


def finished_shards(folder):
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.glob("shard-*.tar")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Made by one worker."""
    folder = tmp_path_factory.mktemp("sets") / "one"
    finish(start(folder))
    assert len(hashes(folder)) == 30
    return folder


def test_two_workers(expected, tmp_path):
    finish(start(tmp_path / "set", "--encode-workers", "2"))
    assert hashes(tmp_path / "set") == hashes(expected)


def test_two_ranks_of_torchrun(expected, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", "--"]
    finish(start(tmp_path / "set", before=torchrun))
    assert hashes(tmp_path / "set") == hashes(expected)
    assert (tmp_path / "set/manifest.json").read_bytes() == (expected / "manifest.json").read_bytes()


def test_two_tasks_of_srun_and_a_stranger_on_one_folder(expected, tmp_path):
    tasks = [
        {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": "2"}
        | {"SLURM_NTASKS": "2", "SLURM_LOCALID": str(rank)}
        for rank in range(2)
    ]
    finish(*(start(tmp_path / "set", **environment) for environment in [*tasks, {}]))
    assert hashes(tmp_path / "set") == hashes(expected)


def test_five_kills_of_the_process_group_each_after_new_progress(expected, tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"moments of the kills drawn from seed {seed}")
    moments = random.Random(seed)
    folder, before = tmp_path / "set", {}
    for _ in range(5):
        process = start(folder, "--encode-workers", "2")
        deadline = time.monotonic() + 300
        while len(finished_shards(folder)) <= len(before):  # new progress
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (folder / "manifest.json").exists()
        after = finished_shards(folder)
        assert after.items() > before.items()  # no finished shard was written again
        before = after
    finish(start(folder))
    assert finished_shards(folder).items() >= before.items()
    assert hashes(folder) == hashes(expected)
    assert not [file for file in folder.rglob("*") if ".tmp-" in file.name]
