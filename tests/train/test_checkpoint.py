import hashlib
import pickle

import numpy as np
import pytest
import torch

import genrep.shards
from genrep.shards.errors import DataError
from genrep.train.checkpoint import checkpoints, load_backbone, load_checkpoint
from genrep.train.config import resolve
from genrep.train.loop import train


@pytest.fixture(scope="module")
def run(labelled_set, tmp_path_factory):
    """A run of two updates with a checkpoint after each."""
    shards, folder = genrep.shards.open(labelled_set), tmp_path_factory.mktemp("runs") / "run"
    train(shards, resolve(shards, batch_size=8, steps=2), folder, checkpoint_every=1)
    return folder


def changed(run, tmp_path, change):
    """A copy of the last checkpoint with its content changed."""
    content = load_checkpoint(checkpoints(run)[-1])
    change(content)
    path = tmp_path / "changed.pt"
    torch.save(content, path)
    return path


def test_a_run_folder_gives_the_backbone_of_its_last_checkpoint(run):
    loaded = load_backbone(run)
    last = checkpoints(run)[-1]
    assert last.name == "step-00000002.pt"
    assert loaded.sha256 == hashlib.sha256(last.read_bytes()).hexdigest()
    weights = load_checkpoint(last)["backbone"]
    assert all(torch.equal(value, weights[name]) for name, value in loaded.module.state_dict().items())
    assert (loaded.name, loaded.image_size, loaded.resize_size) == ("resnet-tiny", 28, 28)
    assert loaded.mean == loaded.std == (0.5, 0.5, 0.5)
    assert loaded.config["batch_size"] == 8


def test_one_checkpoint_file_can_be_named(run):
    first = checkpoints(run)[0]
    assert load_backbone(first).sha256 == hashlib.sha256(first.read_bytes()).hexdigest()


def test_a_loaded_backbone_is_frozen(run):
    module = load_backbone(str(run)).module
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_checkpoint_of_another_backbone_is_refused_by_what_does_not_fit(run, tmp_path):
    def claim(content):
        content["config"]["backbone"] = "resnet18"

    with pytest.raises(DataError, match=r"the backbone resnet18 has other weights: no conv1.weight, .* and \d+ more"):
        load_backbone(changed(run, tmp_path, claim))


def test_weights_of_another_shape_are_refused(run, tmp_path):
    def cut(content):
        content["backbone"]["stem.0.weight"] = torch.zeros(32, 1, 5, 5)

    with pytest.raises(DataError, match=r"stem.0.weight of shape \(32, 1, 5, 5\) for \(32, 3, 5, 5\)"):
        load_backbone(changed(run, tmp_path, cut))


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no checkpoints/step-\*.pt: name the folder of a run"):
        load_backbone(tmp_path)


def test_a_missing_or_damaged_file_is_refused(run, tmp_path):
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        load_backbone(tmp_path / "absent.pt")
    (tmp_path / "cut.pt").write_bytes(checkpoints(run)[-1].read_bytes()[:5000])
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        load_backbone(tmp_path / "cut.pt")


def test_a_checkpoint_of_another_format_is_refused(run, tmp_path):
    path = changed(run, tmp_path, lambda content: content.update(format="genrep-checkpoint/9"))
    with pytest.raises(DataError, match="is not a genrep-checkpoint/1 checkpoint"):
        load_backbone(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(DataError, match="is not a genrep-checkpoint/1 checkpoint"):
        load_backbone(tmp_path / "other.pt")
    np.savez(tmp_path / "arrays.pt.npz", a=1)
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        load_backbone(tmp_path / "arrays.pt.npz")


class _Touch:
    """What a hostile pickle looks like: loading it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, save):
    save({"format": "genrep-checkpoint/1", "x": _Touch(tmp_path / "executed")}, tmp_path / "hostile.pt")
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        load_backbone(tmp_path / "hostile.pt")
    assert not (tmp_path / "executed").exists()
