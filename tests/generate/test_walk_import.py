import math
import os

import numpy as np
import pytest
import torch
from torch import nn

from genrep.generate.walk_import import import_walks
from genrep.shards.errors import DataError


def tensors(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def composed():
    flat = ("walk_rot3d", "walk_rot2d", "walk_zoom", "walk_shiftx", "walk_shifty")
    return {"walk_color": tensors(1, 128, 3), **{name: tensors(1, 128) * k for k, name in enumerate(flat, start=1)}}


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_composed_walks_come_in_with_their_strengths(tmp_path, new_format):
    state = composed()
    torch.save(state, tmp_path / "composed.pth", _use_new_zipfile_serialization=new_format)
    walks, passed_over = import_walks(tmp_path / "composed.pth", generator="abc")

    assert passed_over == []
    assert (walks.latent_space, walks.generator) == ("z", "abc")
    moves = dict(zip(walks.names, walks.directions, strict=True))
    assert walks.full == pytest.approx(
        {
            "red": 0.5,
            "green": 0.5,
            "blue": 0.5,
            "rotation_3d": 60,
            "rotation": 30,
            "zoom": math.log(4),
            "shift_x": 100,
            "shift_y": 100,
        }
    )
    # their coefficients: strength / 30 degrees, strength / 100 px, the colour itself, ln of the shrinking
    np.testing.assert_array_equal(moves["rotation"], state["walk_rot2d"][0])
    np.testing.assert_array_equal(moves["shift_y"], state["walk_shifty"][0])
    np.testing.assert_allclose(moves["blue"], 0.5 * state["walk_color"][0, :, 2])
    np.testing.assert_allclose(moves["zoom"], -math.log(4) * state["walk_zoom"][0], rtol=1e-6)


def test_a_colour_file_gives_three_directions(tmp_path):
    torch.save({"walk": nn.Parameter(tensors(1, 128, 3))}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    walks, _ = import_walks(tmp_path / "w.pth")
    assert (walks.names, walks.generator) == (("red", "green", "blue"), "")


@pytest.mark.parametrize(("count", "names"), [(1, ("hue",)), (4, ("brightness", "contrast", "saturation", "hue"))])
def test_augmentation_walks_come_in_without_their_network(tmp_path, count, names):
    network = nn.Sequential(nn.Linear(132, 132), nn.ReLU(), nn.Linear(132, 128))
    state = {"walk_jit": tensors(1, 128, count), "walk_rrc": network}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    walks, passed_over = import_walks(tmp_path / "w.pth")
    assert walks.names == names
    np.testing.assert_allclose(walks.directions[-1], 0.1 * state["walk_jit"][0, :, -1], rtol=1e-6)
    assert walks.full["hue"] == 0.1
    assert passed_over == ["walk_rrc: a network, not a direction"]


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ({"walk_jit": tensors(1, 128)}, r"no linear walk in it \(walk_jit: shape \(1, 128\) is not known\)"),
        ({}, "it is empty"),
        ([tensors(1, 128)], "holds a list, not named walks"),
        ({"walk_zoom": tensors(1, 128), "walk_rot2d": tensors(1, 64)}, "its walks have 64 and 128 coordinates"),
        ({"walk_zoom": torch.full((1, 4), float("nan"))}, "directions hold values that are no numbers"),
    ],
)
def test_what_holds_no_walks_is_refused_in_one_line(tmp_path, state, complaint):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(DataError, match=complaint) as caught:
        import_walks(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


class Hostile:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_a_hostile_checkpoint_is_refused_and_creates_nothing(tmp_path, new_format):
    state = {"walk_zoom": tensors(1, 128), "walk_rrc": Hostile(tmp_path / "created")}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(DataError, match="nothing in the file was executed"):
        import_walks(tmp_path / "w.pth")
    assert not (tmp_path / "created").exists()
