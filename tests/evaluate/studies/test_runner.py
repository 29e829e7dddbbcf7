import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from genrep.evaluate.studies import runner
from genrep.evaluate.studies.analysis import analyse
from genrep.evaluate.studies.record import Records
from genrep.evaluate.studies.table import markdown
from genrep.evaluate.studies.work import Order
from genrep.shards.errors import DataError


def do(study, folder, program, *, jobs=2, **options):
    records = Records(folder, data="bars")
    start = functools.partial(runner.start, program=program)
    runner.run(study, records, out=folder, results=folder, data="bars", jobs=jobs, start=start, **options)
    return records


def starts(folder, name):
    return len((folder / "runs" / name / "starts.txt").read_text().splitlines())


def test_a_study_ends_with_every_cell_and_with_those_of_the_setting_it_chose(study, tmp_path, pretender, numbers):
    told = []
    records = do(study, tmp_path, pretender, on_done=lambda cell, left: told.append((cell, left)))
    assert {cell.seed for cell, _ in told[:2]} == {0}  # the choice comes first
    assert (len(told), told[-1][1]) == (10, 0)
    done = numbers(tmp_path)
    both = [name for name in done if name.startswith("simclr-both")]
    assert sorted(both) == [
        "simclr-both-fashion-null-gauss-0.1-64-4x8-seed0.json",
        "simclr-both-fashion-null-gauss-0.1-64-4x8-seed1.json",
        "simclr-both-fashion-null-gauss-0.5-64-4x8-seed0.json",
        "simclr-both-fashion-null-gauss-0.5-64-4x8-seed1.json",
        "simclr-both-fashion-null-gauss-0.5-64-4x8-seed2.json",  # 0.5 was better on what was held out
    ]
    assert len(done) == 5 + 3 + 2
    assert all(cell in records for cell in study.cells(records))


def test_a_finished_cell_is_never_done_again(study, tmp_path, pretender, numbers):
    do(study, tmp_path, pretender)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    do(study, tmp_path, pretender)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before


KILLED = """
import functools, json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest
from genrep.evaluate.studies import runner
from genrep.evaluate.studies.analysis import analyse
from genrep.evaluate.studies.record import Records
study = conftest.small_study()
folder = Path({folder!r})
start = functools.partial(runner.start, program={program!r})
runner.run(study, Records(folder, data="bars"), out=folder, results=folder, data="bars", jobs=2, start=start)
"""


def test_a_study_killed_at_random_moments_ends_with_the_same_table(study, tmp_path, pretender, numbers):
    whole = tmp_path / "whole"
    undisturbed = do(study, whole, pretender)
    folder = tmp_path / "killed"
    script = KILLED.format(tests=os.path.dirname(__file__), folder=str(folder), program=pretender)
    rng = np.random.default_rng()
    killed = 0
    while killed < 3:
        process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
        time.sleep(rng.uniform(0.3, 1.0))
        # the study with or without the processes that it started, which then go on alone for a while
        (os.killpg if rng.integers(2) else os.kill)(process.pid, signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL)
        killed += 1
    records = do(study, folder, pretender)
    assert numbers(folder) == numbers(whole)
    assert markdown(analyse(study, records), scale="") == markdown(analyse(study, undisturbed), scale="")
    assert not [path for path in (folder / "cells").iterdir() if path.suffix != ".json"]


def test_two_studies_in_one_folder_share_their_cells(study, tmp_path, pretender):
    script = KILLED.format(tests=os.path.dirname(__file__), folder=str(tmp_path), program=pretender)
    others = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [other.wait() for other in others] == [0, 0]
    assert {starts(tmp_path, run.name) for run in (tmp_path / "runs").iterdir()} == {1}


def test_a_cell_is_ordered_with_all_that_was_asked(study, tmp_path):
    orders = []

    def refuse(order):
        orders.append(order)
        raise KeyboardInterrupt

    records = Records(tmp_path, data="bars")
    with pytest.raises(KeyboardInterrupt):
        runner.run(
            study, records, out=tmp_path, results=tmp_path / "r", data="bars", jobs=1, device="cuda:1", start=refuse
        )
    (order,) = orders
    assert order == Order(study.cells(records)[0], tmp_path, tmp_path / "r", "bars", "cuda:1")


def test_a_cell_that_fails_is_named_at_the_end_and_stops_no_other(study, tmp_path, pretender, monkeypatch, numbers):
    monkeypatch.setenv("FAIL", "latent-fashion-null-gauss-0.2-64-4x8-seed0")
    told = r"simclr-latent-fashion-null-gauss-0.2-64-4x8-seed0 failed: its features are not finite; the same command"
    with pytest.raises(DataError, match=told):
        do(study, tmp_path, pretender)
    assert len(numbers(tmp_path)) == 9
    monkeypatch.delenv("FAIL")
    do(study, tmp_path, pretender)
    assert len(numbers(tmp_path)) == 10


def test_a_cell_that_is_ended_ends_what_it_runs(tmp_path):
    program, pid = tmp_path / "program", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 1000\n")
    program.chmod(0o755)
    code = (
        "import os; from genrep.evaluate.studies import work; work.Order.from_json = lambda text: None; "
        f"work.do = lambda order: work.run('{program}', held=os.open(os.devnull, os.O_RDONLY)); work.main()"
    )
    cell = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
    while not pid.exists():
        time.sleep(0.01)
    cell.terminate()
    assert cell.wait(timeout=60) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
