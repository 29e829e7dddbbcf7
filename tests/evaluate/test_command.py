import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from genrep.evaluate.command import main


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments, status=1):
    """The one line of a refusal."""
    outcome = invoke(*arguments)
    assert outcome.exit_code == status, outcome.output
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit)
    assert "Traceback" not in outcome.output
    lines = outcome.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    assert status == 2 or len(lines) == 1
    return lines[-1]


@pytest.mark.parametrize("measure", ["linear", "knn"])
def test_a_measurement_ends_with_a_table_and_a_result(measure, run, photographs, tmp_path):
    out = tmp_path / "results" / "result.json"
    arguments = ["--checkpoint", run, "--data", f"imagefolder:{photographs}", "--shift", "affine", "--out", out]
    outcome = invoke(measure, *arguments, "--labels-per-class", 3, "--seed", 4, "--threads", 1, "--device", "cpu")
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(out.read_text())
    assert (result["measure"], result["seed"], result["labels_per_class"]) == (measure, 4, 3)
    assert set(result["floors"]) == {"raw pixels", "untrained backbone", "untrained convolution"}
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith(f"imagefolder:{photographs}, ")
    assert lines[2].split()[:3] == ["this", "encoder", f"{100 * result['top1']:.1f}"]
    assert lines[-1] == f"written to {out}"
    assert outcome.stderr == ""  # no bar: this is no terminal


def test_left_out_the_result_is_named_after_the_measurement(run, photographs):
    outcome = invoke("knn", "--checkpoint", run, "--data", f"imagefolder:{photographs}", "--threads", 1, "--quiet")
    assert (outcome.exit_code, outcome.output) == (0, "")
    file = run / "checkpoints" / "step-00000002.pt"
    outcome = invoke(
        "linear", "--checkpoint", file, "--data", f"imagefolder:{photographs}", "--labels-per-class", 2,
        "--shift", "affine", "--seed", 1, "--threads", 1, "--quiet",
    )  # fmt: skip
    assert (outcome.exit_code, outcome.output) == (0, "")
    assert sorted(path.name for path in (run / "evaluation").glob("*.json")) == [
        "knn-imagefolder-photographs.json",
        "linear-imagefolder-photographs-2-labels-affine-seed1-step-00000002.json",
    ]


def test_several_numbers_of_labels_give_a_result_each_and_a_curve(run, photographs, tmp_path):
    out = tmp_path / "result.json"
    outcome = invoke(
        "linear", "--checkpoint", run, "--data", f"imagefolder:{photographs}", "--labels-per-class", "2,20%,all",
        "--grid", "wide", "--threads", 1, "--out", out,
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    labels = {file.name: json.loads(file.read_text())["labels_per_class"] for file in tmp_path.glob("*.json")}
    assert labels == {"result-2-labels.json": 2, "result-20-percent-labels.json": "20%", "result.json": None}
    lines = outcome.stdout.splitlines()
    assert lines[-5].split() == ["top-1", "%,", "labels", "a", "class:", "2", "20%", "all", "features"]
    names = ["result-2-labels.json", "result-20-percent-labels.json", "result.json"]
    top1s = [json.loads((tmp_path / name).read_text())["top1"] for name in names]
    assert lines[-4].split()[2:5] == [f"{100 * top1:.1f}" for top1 in top1s]


def test_a_run_that_is_not_there_leaves_nothing_behind(tmp_path, photographs):
    line = refused("knn", "--checkpoint", tmp_path / "gone", "--data", f"imagefolder:{photographs}")
    assert str(tmp_path / "gone") in line
    assert not (tmp_path / "gone").exists()


def test_a_data_set_that_is_not_there_leaves_nothing_behind(run, tmp_path):
    before = set(tmp_path.rglob("*"))
    assert "put the images into" in refused("knn", "--checkpoint", run, "--data", f"imagefolder:{tmp_path}/gone")
    assert "use fashion-mnist, imagefolder:PATH, t" in refused("linear", "--checkpoint", run, "--data", "mnist")
    assert set(tmp_path.rglob("*")) == before


def test_a_device_that_is_not_there_is_refused(run, photographs):
    line = refused("knn", "--checkpoint", run, "--data", f"imagefolder:{photographs}", "--device", "cuda:99")
    assert "device 'cuda:99' cannot be used" in line


@pytest.mark.parametrize(
    "option",
    [
        ("--labels-per-class", 0),
        ("--labels-per-class", "100%"),
        ("--labels-per-class", "1,few"),
        ("--shift", "colour"),
        ("--seed", -1),
        ("--threads", 0),
    ],
)
def test_a_value_out_of_range_is_a_usage_fault(run, option):
    assert option[0] in refused("linear", "--checkpoint", run, *option, status=2)


def test_a_checkpoint_must_be_named():
    assert "--checkpoint" in refused("knn", status=2)


def test_a_place_where_nothing_can_be_written_is_refused_before_the_work(run, photographs, tmp_path):
    (tmp_path / "file").write_text("")
    common = ["knn", "--checkpoint", run, "--data", f"imagefolder:{photographs}", "--out"]
    assert "nothing can be written into" in refused(*common, tmp_path / "file" / "result.json")
    assert "name a file in it, such as" in refused(*common, tmp_path)
    assert not (run / "evaluation").exists()


def test_a_folder_of_somebody_else_is_refused_before_the_work(run, photographs):
    import genrep.evaluate.evaluation  # noqa: F401 - nobody may be unable to read it

    arguments = ["knn", "--checkpoint", run, "--data", f"imagefolder:{photographs}", "--out"]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        with unprivileged():
            assert f"nothing can be written into {folder}" in refused(*arguments, f"{folder}/new/result.json")
        os.chmod(folder, 0o755)


@contextmanager
def unprivileged():
    """As nobody if this is root, who may write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_ctrl_c_and_termination_are_one_line(run, photographs, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):

        def stop(*args, number=number, **kwargs):
            os.kill(os.getpid(), number)
            signal.pause()

        monkeypatch.setattr("genrep.evaluate.evaluation.evaluate", stop)
        line = refused("knn", "--checkpoint", run, "--data", f"imagefolder:{photographs}")
        assert line == "Error: interrupted; run the same command to continue"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_killed_measurement_leaves_no_result_and_goes_on(run, photographs, tmp_path):
    out = tmp_path / "result.json"
    arguments = ["--checkpoint", run, "--data", f"imagefolder:{photographs}", "--out", out, "--threads", "1"]
    program = (
        "import os, signal; from genrep.evaluate import floors\n"
        "floors.raw_pixels = lambda side: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"from genrep.evaluate.command import main; main(['linear', *{[str(a) for a in arguments]!r}])"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert finished.returncode == -signal.SIGKILL
    assert not out.exists()
    assert len(list(run.rglob("evaluation/cache/features/*.npy"))) == 3
    assert invoke("linear", *arguments).exit_code == 0
    assert json.loads(out.read_text())["measure"] == "linear"


@pytest.mark.parametrize("page", [[], ["linear"], ["knn"]])
def test_the_examples_of_the_help_are_understood(page):
    text = invoke(*page, "--help").output
    examples = [line.split() for line in text.splitlines() if line.strip().startswith("genrep-evaluate ")]
    assert examples
    for _, measure, *options in examples:
        command = main.commands[measure]
        params = command.make_context(measure, options).params
        assert (params["checkpoint"] or params["follow"]).name == "gauss"


def test_help_starts_without_heavy_imports():
    program = "import sys, genrep.evaluate.command; print(sorted({'torch', 'numpy', 'tqdm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
