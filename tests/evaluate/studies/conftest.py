"""Shared by the tests of studies: a small study, records made without any training, a worker that pretends."""

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from genrep.evaluate.studies.cell import Setting, Source
from genrep.evaluate.studies.record import MEASURES, Records, pack, write
from genrep.evaluate.studies.study import Contrast, Row, Study


def setting(std=0.2, views="both", samples=64):
    return Setting(Source("fashion-null", "gauss", std, samples), "simclr", views, samples, steps=4, images=16)


def content(cell, *, right=None, held_out=0.5, data="bars"):
    """A record; ``right`` are the test images (N,) that are right, for every measure."""
    right = np.array([1, 1, 0, 0]) if right is None else np.asarray(right)
    encoder = {"top1": float(right.mean()), "interval": [0.2, 0.8], "features": 128}
    floor = {"top1": 0.25, "interval": [0.1, 0.4], "features": 784}
    return {
        "cell": cell.name,
        "seed": cell.seed,
        "data": data,
        "unit": f"top1: fraction of {len(right)} test images of {data}",
        "scores": {measure: {"encoder": encoder, "floor: raw pixels": floor} for measure in MEASURES},
        "held_out": dict.fromkeys(MEASURES, held_out),
        "right": {measure: pack(right, draws=1) for measure in MEASURES},
        "command": cell.command(Path()),
        "set_command": cell.setting.source.command(Path()),
        "set": {"recipe_sha256": "r" * 64, "samples": cell.setting.source.samples},
        "checkpoint": "c" * 64,
        "seconds": {"training": 20.0, "probes": 5.0},
    }


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path, data="bars")


@pytest.fixture
def finish(records):
    """Write the record of a cell."""

    def do(cell, **facts):
        write(records.path(cell), content(cell, **facts))

    return do


def small_study():
    """T_x, and T_z + T_x at the better of two strengths."""
    rows = (
        Row("T_x", (setting(views="pixel"),), 3, primary=True),
        Row("both", (setting(0.1), setting(0.5)), 3, primary=True),
        Row("T_z", (setting(views="latent"),), 2),
    )
    return Study("small", "Small", "Does it help?", rows, (Contrast("both", "T_x", primary=True),))


@pytest.fixture
def study():
    return small_study()


@pytest.fixture
def make_setting():
    return setting


PRETENDER = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from genrep.evaluate.studies import work
from genrep.evaluate.studies.record import MEASURES, pack
from genrep.shards import atomic

def run(command, *, held):
    words = command.split()
    folder = Path(words[words.index("--out") + 1])
    folder.mkdir(parents=True, exist_ok=True)
    if words[0] == "genrep-generate":
        atomic.write(folder / "manifest.json", b"{}")
        return
    state = folder / "state.json"
    log = folder / "starts.txt"
    with log.open("a") as file:
        file.write("start\\n")
    done = json.loads(state.read_text()) if state.exists() else 0
    while done < 4:
        time.sleep(0.02)
        done += 1
        atomic.write(state, json.dumps(done).encode())

def measured(order, *, cache):
    cell = order.cell
    assert json.loads((order.out / "runs" / cell.name / "state.json").read_text()) == 4
    if "FAIL" in os.environ and os.environ["FAIL"] in cell.name:
        raise work.DataError("its features are not finite")
    rng = np.random.default_rng([cell.seed, round(100 * cell.setting.source.std), len(cell.setting.views)])
    right = rng.integers(0, 2, 40)
    score = {"encoder": {"top1": float(right.mean()), "features": 1}, "floor: raw pixels": {"top1": 0.25}}
    return {
        "data": order.data,
        "scores": {measure: score for measure in MEASURES},
        "held_out": {measure: cell.setting.source.std for measure in MEASURES},
        "right": {measure: pack(right, draws=1) for measure in MEASURES},
    }

work.run, work.measured = run, measured
work.main()
"""


@pytest.fixture
def pretender(tmp_path_factory):
    """A program that does a cell in a tenth of a second: four steps with a checkpoint each, then a record."""
    path = tmp_path_factory.mktemp("program") / "pretender.py"
    path.write_text(textwrap.dedent(PRETENDER))
    return (sys.executable, str(path))


@pytest.fixture
def numbers():
    """What the records in a folder say, without the time they took."""

    def read(folder):
        cells = {path.name: json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))}
        return {name: {key: value for key, value in each.items() if key != "seconds"} for name, each in cells.items()}

    return read
