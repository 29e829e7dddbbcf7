import sys
import time

import pytest
from click.testing import CliRunner

from genrep.evaluate.studies.cell import Cell
from genrep.evaluate.studies.command import main
from genrep.evaluate.studies.slurm import Cluster
from genrep.evaluate.studies.work import Order
from genrep.shards.errors import DataError


def ended(job):
    deadline = time.monotonic() + 60
    while job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job.returncode, job.communicate()[1]


def test_a_job_does_its_cell_or_says_what_was_wrong(make_setting, finish, records, tmp_path):
    """submitit's own local cluster: the same jobs, as processes."""
    cluster = Cluster(tmp_path / "slurm", {"timeout_min": 1}, kind="local")
    done, broken = Cell(make_setting(), 0), Cell(make_setting(0.5), 0)
    finish(done)
    (tmp_path / "sets" / broken.setting.source.name).mkdir(parents=True)
    (tmp_path / "sets" / broken.setting.source.name / "manifest.json").write_text("{}")
    first, second = (cluster.start(Order(cell, tmp_path, tmp_path, "bars")) for cell in (done, broken))
    assert ended(first) == (0, "")
    status, fault = ended(second)
    assert status == 1
    assert fault.startswith("genrep-train --shards ")
    assert "\n" not in fault


def test_without_submitit_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(DataError, match=r"pip install 'genrep\[slurm\]'"):
        Cluster(tmp_path, {})


def test_an_unknown_parameter_is_refused(tmp_path):
    with pytest.raises(DataError, match="Slurm jobs cannot be made"):
        Cluster(tmp_path, {"colour": "red"}, kind="local")


def test_parameters_without_slurm_are_refused(tmp_path):
    outcome = CliRunner().invoke(main, ["std", "--out", str(tmp_path), "--slurm", "timeout_min=5"])
    assert outcome.exit_code == 2
    assert outcome.stderr == "Error: --slurm is for --engine slurm, which was not asked for\n"
