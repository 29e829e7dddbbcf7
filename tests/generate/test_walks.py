import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genrep.generate.walks import Walks, load_walks, save_walks
from genrep.shards.errors import DataError


def test_walks_survive_the_file_and_json(tmp_path, walks):
    save_walks(walks, tmp_path / "walks.safetensors")
    assert load_walks(tmp_path / "walks.safetensors") == walks
    assert Walks.from_json(json.loads(json.dumps(walks.to_json()))) == walks


def test_equal_walks_give_equal_bytes_and_other_walks_another_identity(tmp_path, walks):
    save_walks(walks, tmp_path / "first.safetensors")
    save_walks(dataclasses.replace(walks), tmp_path / "second.safetensors")
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "second.safetensors").read_bytes()
    for change in ({"directions": 2 * walks.directions}, {"generator": "abc"}, {"full": {"zoom": 0.2, "shift": 3.0}}):
        other = dataclasses.replace(walks, **change)
        assert other != walks
        assert other.sha256 != walks.sha256


def test_anyone_can_read_the_directions_without_genrep(tmp_path, walks):
    save_walks(walks, tmp_path / "walks.safetensors")
    np.testing.assert_array_equal(load_file(tmp_path / "walks.safetensors")["directions"], walks.directions)


def test_the_json_holds_little_endian_float32_in_base64(walks):
    one = dataclasses.replace(
        walks, names=("zoom",), directions=np.array([[1.0, -2.0]]), full={"zoom": 1}, units={"zoom": ""}
    )
    assert one.to_json()["directions"] == "AACAPwAAAMA="  # 0x3f800000, 0xc0000000, lowest byte first


def test_directions_cannot_be_changed_behind_the_identity(walks):
    own = np.ones((2, 4), np.float32)
    taken = dataclasses.replace(walks, directions=own)
    own[:] = 7
    assert taken.directions.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        taken.directions[0, 0] = 5


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"names": ("zoom", "zoom")}, "a name occurs twice"),
        ({"names": ("zoom", "../x")}, "'../x' is no name of a direction"),
        ({"names": ("zoom",)}, "1 names need"),
        ({"names": (), "directions": np.zeros((0, 4))}, "0 directions"),
        ({"directions": np.full((2, 4), np.nan)}, "no numbers"),
        ({"directions": np.ones(4)}, r"shape \(4,\)"),
        ({"latent_space": "s"}, "latent_space is 's'; known: z, w"),
        ({"full": {"zoom": 0.2}}, "full must name each of zoom, shift"),
        ({"full": {"zoom": 0.2, "shift": 0}}, "full strength of shift is 0; it must be a positive number"),
        ({"units": {"zoom": "ln", "shift": 3}}, "units must be text"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused_in_one_line(walks, change, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        dataclasses.replace(walks, **change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "genrep-walks/2"}, "not of format 'genrep-walks/1'"),
        ({"names": None}, "names must be a list"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"directions": "AAAA"}, "not base64 of float32 values"),
        ({"directions": "?"}, "not base64"),
        ({"latent_dim": 5}, "8 values are not 2 directions of latent_dim 5"),
        ({"latent_dim": "4"}, "8 values are not 2 directions"),
    ],
)
def test_json_that_is_no_walks_is_refused_by_field(walks, change, complaint):
    with pytest.raises(DataError, match=complaint):
        Walks.from_json({**walks.to_json(), **change})


def test_json_without_a_field_names_it(walks):
    plain = walks.to_json()
    del plain["units"]
    with pytest.raises(DataError, match="field 'units' is missing"):
        Walks.from_json(plain)


def test_files_that_are_no_walks_are_refused_in_one_line(tmp_path, walks):
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 40)
    save_file({"other": np.ones(3, np.float32)}, tmp_path / "weights.safetensors")
    save_file({"directions": np.ones((1, 3), np.float32)}, tmp_path / "bare.safetensors")
    save_file(
        {"directions": walks.directions.astype(np.float64)},
        tmp_path / "double.safetensors",
        metadata={"genrep": json.dumps({k: v for k, v in walks.to_json().items() if k != "directions"})},
    )
    save_file({"directions": walks.directions}, tmp_path / "deep.safetensors", metadata={"genrep": "[" * 100_000})
    for name, complaint in {
        "absent": "there is no such file of walks; genrep-walks train makes one",
        "damaged": "not a safetensors file of walks",
        "weights": "the file holds other, not walks",
        "bare": "the file holds directions, not walks",
        "double": "the directions are float64, walks are float32",
        "deep": "the description of the walks is damaged",
    }.items():
        with pytest.raises(DataError, match=complaint) as caught:
            load_walks(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path, walks):
    (tmp_path / "taken").mkdir()
    with pytest.raises(DataError, match="could not be written"):
        save_walks(walks, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
