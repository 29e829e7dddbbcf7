import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from wave_sets import command, metrics_of

import genrep.shards
from genrep.train.checkpoint import checkpoints, load_checkpoint
from genrep.train.config import resolve
from genrep.train.data import Loader
from genrep.train.loop import train

RANKED = Path(__file__).parent / "ranked.py"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ranks_of(world, started):
    """The processes of ``started`` (arguments of Popen), one for each rank, as torchrun would start them."""
    port = str(free_port())
    env = started["env"] | {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    first = subprocess.Popen(**started | {"env": env | {"RANK": "0"}}, preexec_fn=os.setpgrp)
    join = partial(os.setpgid, 0, first.pid)
    others = [
        subprocess.Popen(**started | {"env": env | {"RANK": str(rank)}}, preexec_fn=join) for rank in range(1, world)
    ]
    return [first, *others]


def outputs_of(processes):
    return [(process.communicate(), process.returncode) for process in processes]


@pytest.fixture(scope="module")
def found(labelled_set, tmp_path_factory):
    """Loss and gradients of one batch by every method, from one process and from two."""
    out = tmp_path_factory.mktemp("found")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def started(file):
        return {
            "args": [sys.executable, str(RANKED), str(labelled_set), str(out / file)],
            "env": environment,
            "stderr": subprocess.PIPE,
            "text": True,
        }

    processes = ranks_of(2, started("two.pt"))
    processes.append(subprocess.Popen(**started("one.pt")))
    outputs = outputs_of(processes)
    assert [code for _, code in outputs] == [0, 0, 0], outputs
    return torch.load(out / "one.pt"), torch.load(out / "two.pt")


def test_loss_and_gradients_of_two_ranks_are_those_of_one_with_the_whole_batch(found):
    one, two = found
    assert len(one) == 10
    for name in one:
        assert one[name].keys() == two[name].keys()
        for part in one[name]:
            torch.testing.assert_close(two[name][part], one[name][part], rtol=0, atol=1e-6, msg=f"{name}: {part}")
        assert max(value.abs().max() for part, value in two[name].items() if part != "loss") > 1e-3


def test_a_batch_in_parts_has_the_loss_and_gradients_of_the_whole(found):
    one, _ = found
    for name in ("simclr", "byol"):
        whole, parts = one[name], one[f"{name} in parts"]
        for part in whole:
            torch.testing.assert_close(parts[part], whole[part], rtol=0, atol=1e-6, msg=f"{name}: {part}")


@pytest.mark.parametrize("world", [2, 4])
def test_the_shares_of_the_ranks_make_up_the_global_batch(labelled_set, world):
    shards = genrep.shards.open(labelled_set)
    config = resolve(shards, batch_size=8, steps=6)
    whole = list(Loader(shards, config).batches(0))
    shares = [list(Loader(shards, config, rank=rank, world=world).batches(0)) for rank in range(world)]
    for batch, *parts in zip(whole, *shares, strict=True):
        together = torch.stack([torch.from_numpy(part.samples) for part in parts], 1).flatten()
        assert together.tolist() == batch.samples.tolist()
        assert all(part.global_samples.tolist() == batch.samples.tolist() for part in parts)
        images = torch.stack([part.images.unflatten(0, (2, -1)) for part in parts], 2).flatten(1, 2)
        assert torch.equal(images, batch.images.unflatten(0, (2, -1)))


def test_two_ranks_killed_and_run_again_equal_two_never_killed_and_see_the_batches_of_one(labelled_set, tmp_path):
    settings = {"batch_size": 8, "steps": 60}
    sizes = ("--batch-size", 8, "--steps", 60, "--checkpoint-every", 10, "--device", "cpu", "--threads", 1, "--quiet")

    def start(run):
        return ranks_of(2, command("command", "--shards", labelled_set, "--out", run, *sizes))

    whole, killed, alone = (tmp_path / name for name in ("whole", "killed", "alone"))
    processes = start(killed)
    while len(metrics_of(killed)) < 25:
        assert processes[0].poll() is None, outputs_of(processes)
        time.sleep(0.005)
    os.killpg(processes[0].pid, signal.SIGKILL)
    assert [code for _, code in outputs_of(processes)] == [-signal.SIGKILL] * 2
    assert 20 <= load_checkpoint(checkpoints(killed)[-1])["step"] < 60
    on_one_rank = shutil.copytree(killed, tmp_path / "on one rank")

    assert outputs_of(start(killed)) == [(("", ""), 0)] * 2
    assert outputs_of(start(whole)) == [(("", ""), 0)] * 2
    shards = genrep.shards.open(labelled_set)
    train(shards, resolve(shards, **settings), on_one_rank)
    train(shards, resolve(shards, **settings), alone)

    ours, theirs = (load_checkpoint(checkpoints(run)[-1])["backbone"] for run in (killed, whole))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    orders = [[(line["step"], line["batch_crc32"]) for line in metrics_of(run)] for run in (killed, on_one_rank, alone)]
    assert [step for step, _ in orders[0]] == list(range(1, 61))
    assert orders[0] == orders[1] == orders[2]
    assert len({crc for _, crc in orders[0]}) == 60


def test_a_fault_that_all_ranks_meet_is_said_once_and_ends_them_all(labelled_set, tmp_path):
    arguments = ("--shards", labelled_set, "--out", tmp_path / "run", "--steps", 1, "--device", "cpu", "--quiet")
    first, second = outputs_of(ranks_of(2, command("command", *arguments, "--batch-size", 7)))
    message = "Error: a batch of 7 cannot be shared equally by 2 ranks: use a --batch-size of 6\n"
    assert first == (("", message), 1)
    assert second == (("", ""), 1)
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_another_rank_is_one_line(labelled_set, tmp_path):
    run = tmp_path / "run"
    sizes = ("--batch-size", 8, "--steps", 100_000, "--device", "cpu", "--threads", 1, "--quiet")
    first, second = ranks_of(2, command("command", "--shards", labelled_set, "--out", run, *sizes))
    while len(metrics_of(run)) < 2:
        assert first.poll() is None, outputs_of([first])
        time.sleep(0.01)
    second.kill()
    _, error = first.communicate()
    assert first.returncode == 1
    assert error.splitlines()[-1] == (
        "Error: another rank has ended: mend what it says, then the same command continues"
    )
    assert "Traceback" not in error
    second.communicate()
