import collections
import contextlib
import io
import os
import pickle
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from genrep.generate.pickled import Record
from genrep.generate.unpickling import load_tensors, module_tensors
from genrep.shards.errors import DataError


def example_state():
    source = torch.Generator().manual_seed(0)
    base = torch.randn(6, 4, generator=source)
    return collections.OrderedDict(
        matrix=base,
        view=base[1:, ::2],  # shares its storage, with an offset and a stride
        parameter=torch.nn.Parameter(torch.randn(3, generator=source)),
        half=torch.randn(2, 2, generator=source).to(torch.bfloat16),
        count=torch.tensor(7),
        empty=torch.empty(0, 5),
        flags=torch.tensor([True, False]),
    )


@pytest.mark.parametrize("how", ["zip", "legacy", "plain pickle"])
def test_tensors_come_back_equal_from_every_format(tmp_path, how):
    state = example_state()
    path = tmp_path / "weights.pt"
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "zip")

    loaded = load_tensors(path)

    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert type(loaded[name]) is torch.Tensor
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_come_back_equal_from_every_protocol(tmp_path, protocol):
    value = {
        "list": [1, -1, 300, 70_000, -(2**40), 2**70, 1.5, float("inf"), True, False, None],
        "text": ["", "ascii", "na\u00efve \u20ac", "x" * 300],
        "bytes": [b"", b"\x00\xff" * 200],
        ("tuple", 1): (1, (2, 3), (4, 5, 6), (7, 8, 9, 10), ()),
        "set": {1, "a"},
        "array": np.arange(12, dtype=np.float32).reshape(3, 4),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "big endian": np.arange(3, dtype=">i4"),
        "scalar": np.float64(2.5),
    }
    path = tmp_path / "values.pkl"
    path.write_bytes(pickle.dumps(value, protocol))

    loaded = load_tensors(path)

    for name in ("array", "columns", "big endian"):
        expected = value.pop(name)
        assert np.array_equal(loaded[name], expected)
        assert loaded.pop(name).dtype == expected.dtype.newbyteorder("=")
    assert loaded == value


def test_values_that_appear_twice_are_one_object(tmp_path):
    array = np.arange(3)
    path = tmp_path / "values.pkl"
    path.write_bytes(pickle.dumps([array, array]))
    first, second = load_tensors(path)
    assert first is second
    assert first.tolist() == [0, 1, 2]


def test_safetensors_are_read_too(tmp_path):
    save_file({"a": torch.arange(3)}, tmp_path / "w.safetensors")
    assert load_tensors(tmp_path / "w.safetensors")["a"].tolist() == [0, 1, 2]


@pytest.mark.filterwarnings("ignore::torch.serialization.SourceChangeWarning")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_becomes_a_record_with_its_state_dict(tmp_path, zipped):
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.BatchNorm1d(2))
    torch.save({"walk": network}, tmp_path / "walk.pth", _use_new_zipfile_serialization=zipped)

    record = load_tensors(tmp_path / "walk.pth")["walk"]

    assert isinstance(record, Record)
    assert record.name == "torch.nn.modules.container.Sequential"
    tensors = module_tensors(record)
    expected = network.state_dict()
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


class Hostile:
    """Creates a file when an ordinary loader reads it."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


HOSTILE = {
    "os.system": lambda path: Hostile(os.system, f"touch {path}"),
    "open": lambda path: Hostile(open, str(path), "w"),
    "eval": lambda path: Hostile(eval, f"open({str(path)!r}, 'w')"),
    "subprocess": lambda path: Hostile(subprocess.Popen, ["touch", str(path)]),
    "getattr": lambda path: Hostile(getattr, [], "append"),
    "numpy.load": lambda path: Hostile(np.savetxt, str(path), [0]),
    "torch.save": lambda path: Hostile(torch.save, 0, str(path)),
}


@pytest.mark.parametrize("suffix", ["pkl", "pth", "legacy.pth"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_in_one_line_and_nothing_is_created(tmp_path, kind, suffix):
    created, path = tmp_path / "created", tmp_path / f"weights.{suffix}"
    content = {"w": torch.zeros(2), "payload": HOSTILE[kind](created)}
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=suffix == "pth")

    with pytest.raises(
        DataError, match=r"weights\.\S+: it asks for \S+, which is not among .* nothing .* executed"
    ) as info:
        load_tensors(path)

    assert "\n" not in str(info.value)
    assert not created.exists()


def test_a_pickle_hidden_in_a_tensor_is_refused_too(tmp_path):
    created = tmp_path / "created"
    inner = io.BytesIO()
    torch.save(HOSTILE["os.system"](created), inner, _use_new_zipfile_serialization=False)
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(Hostile(torch.storage._load_from_bytes, inner.getvalue())))
    with pytest.raises(DataError, match=r"it asks for posix\.system"):
        load_tensors(path)
    assert not created.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\nset\n}b.",  # BUILD on a global: would change the function itself
        b"(lp0\n]}b.",
        b"cos\nsystem\n(Vtouch x\ntR.",
        b"(cos\nsystem\nVtouch x\no.",  # OBJ
        b"(Vtouch x\nios\nsystem\n.",  # INST
        b"\x82\x01.",  # an extension code
        b"Pid\n.",  # a persistent id
        b"\x80\x09N.",
        b"ctorch.nn.modules.linear\nLinear.__init__\n)\x81.",
    ],
)
def test_what_data_do_not_need_is_refused(tmp_path, program):
    (tmp_path / "w.pkl").write_bytes(program)
    with pytest.raises(DataError, match=r"w\.pkl: "):
        load_tensors(tmp_path / "w.pkl")


BOMBS = {
    "bytes longer than the file": b"\x8e" + (2**50).to_bytes(8, "little") + b"x.",
    "array of bytes longer than the file": b"\x96" + (2**40).to_bytes(8, "little") + b"x.",
    "memo index": b"Nr\xff\xff\xff\xff.",
    "bytearray by number": b"cbuiltins\nbytearray\n(I1000000000\ntR.",
    "number with many digits": b"I" + b"9" * 9000 + b"\n.",
    "nested tuple as key": b"}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "list copied again and again": (
        b"(" + b"".join(b"M" + number.to_bytes(2, "little") for number in range(3000)) + b"lq\x00"
        b"(" + b"cbuiltins\nset\nq\x01(h\x00tR" + b"h\x01(h\x00tR" * 10_000 + b"l."
    ),
    "operations without end": b"N" + b"20" * 1_000_000 + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_little_memory(tmp_path, name):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(BOMBS[name])
    if name == "memo index":  # harmless here: the memo is a dictionary
        assert load_tensors(path) is None
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"bomb\.pkl: "):
        load_tensors(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_tensor_outside_its_storage_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(4, 4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    entries[name] = entries[name].replace(b"K\x04K\x04\x86", b"K\x04K\x05\x86", 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(DataError, match=r"shape \(4, 5\) reaches outside its storage of 16"):
        load_tensors(path)


def test_a_compressed_archive_is_refused_because_it_could_unfold_to_any_size(tmp_path):
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"N" + b" " * 1_000_000)
    with pytest.raises(DataError, match="uncompressed"):
        load_tensors(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_cut_file_is_reported_in_one_line_wherever_it_is_cut(tmp_path, zipped):
    torch.save(example_state(), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "w.pt").read_bytes()
    for length in range(0, len(whole) - 1, 97):
        (tmp_path / "w.pt").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"w\.pt: .*(damaged|executed)") as info:
            load_tensors(tmp_path / "w.pt")
        assert "\n" not in str(info.value)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.pt: there is no such file"):
        load_tensors(tmp_path / "nowhere.pt")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_raise_anything_but_data_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "w.pkl"
    content = bytearray(pickle.dumps({"a": np.arange(3), "b": torch.zeros(2), "c": [1, "x", {2}]}, 2))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        load_tensors(path)


def test_a_module_that_holds_itself_is_reported():
    record = Record("torch.nn.modules.container.Sequential")
    record.state["_modules"] = {"0": record}
    with pytest.raises(DataError, match="holds itself"):
        module_tensors(record)


def test_modules_that_share_modules_level_by_level_are_not_walked_through():
    record = Record("torch.nn.modules.container.Sequential")
    for _ in range(50):  # 2**50 paths lead to the first
        record = Record("torch.nn.modules.container.Sequential", (), {"_modules": {"0": record, "1": record}})
    with pytest.raises(DataError, match="twice"):
        module_tensors(record)


def test_reading_imports_nothing_the_file_names(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(b"(cantigravity\nfly\nctorch.nn.modules.conv\nConv2d\nl.")
    load_tensors(path)
    assert "antigravity" not in sys.modules
