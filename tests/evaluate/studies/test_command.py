import json

import pytest
from click.testing import CliRunner

from genrep.evaluate.studies.cell import Cell, Setting, Source
from genrep.evaluate.studies.command import main
from genrep.evaluate.studies.record import MEASURES, Records
from genrep.evaluate.studies.runner import run
from genrep.evaluate.studies.study import Row, Study


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_real_cell_is_made_trained_probed_and_recorded(tmp_path, photographs):
    data = f"imagefolder:{photographs}"
    setting = Setting(Source("fashion-null", "gauss", 0.2, 32), "simclr", "both", 16, steps=2, images=16)
    out, results = tmp_path / "o u t", tmp_path / "results"
    study = Study("one", "One", "", (Row("both", (setting,), 1),))
    records = Records(results, data=data)
    run(study, records, out=out, results=results, data=data, jobs=1)
    cell = Cell(setting, 0)
    content = records[cell].content
    assert content["command"].startswith(
        "genrep-train --shards sets/fashion-null-gauss-0.2-32 --method simclr --views "
    )
    assert "--limit 16 " in content["command"]
    assert content["set"]["recipe_sha256"] == content["config"]["recipe_sha256"]
    assert (content["config"]["num_samples"], content["config"]["seed"]) == (16, 0)
    assert set(content["scores"]) == set(content["held_out"]) == set(MEASURES)
    for measure in MEASURES:
        assert set(content["scores"][measure]) == {
            "encoder",
            "floor: raw pixels",
            "floor: untrained backbone",
            "floor: untrained convolution",
        }
        assert records[cell].right(measure).mean() == pytest.approx(records[cell].top1(measure))
    assert len(content["checkpoint"]) == 64
    assert records.path(cell).stat().st_size < 60_000
    assert not list((out / "cache").rglob("*.npy"))  # features of every encoder would fill the disk
    assert str(tmp_path) not in json.dumps({**content, "data": "", "unit": ""})


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["views"], 2, "Missing option '--out'"),
        (["views", "--out", "s", "--std", "0.1,x"], 2, "'0.1,x' is not a list of numbers above 0 joined by commas"),
        (["scaling", "--out", "s", "--n", "0,4"], 2, "'0,4' is not a list of numbers above 0"),
        (["views", "--out", "s", "--dry-run", "--report"], 2, "give one of them"),
        (["std", "--out", "s", "--report"], 1, "holds no finished cell of this study"),
        (["std", "--out", "s", "--samples", "100"], 1, "an update takes 256 samples and the smallest set has 100"),
        (["scaling", "--out", "s", "--n", "64"], 1, "use --images 128 or less"),
        (["std", "--out", "s", "--device", "abacus"], 1, "device 'abacus' cannot be used"),
        (["std", "--out", "s", "--data", "imagenet"], 1, "unknown data 'imagenet'"),
    ],
)
def test_wrong_input_is_one_line(arguments, status, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = invoke(*arguments)
    assert outcome.exit_code == status
    (line,) = outcome.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert told in line
    assert not (tmp_path / "s").exists()
    assert list(tmp_path.iterdir()) == []
