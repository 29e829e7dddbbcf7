"""Sets from another lab that mean harm: one line each, nothing made outside, memory bounded."""

import errno
import io
import json
import os
import resource
import shutil
import signal
import struct
import tarfile
import traceback
import zlib
from hashlib import sha256

import numpy as np
import pytest
from click.testing import CliRunner
from forgery import forge
from tiny_sets import tiny_recipe, write_set

import genrep.generate.rebuild  # torch maps much memory, which is not what a set makes it take
import genrep.shards
from genrep.shards.command import main
from genrep.shards.layout import layout_of
from genrep.shards.manifest import build_manifest, json_bytes, manifest_bytes
from genrep.shards.table import read_table, table_bytes

SPARE = 400 << 20  # bytes that a command may take beside what the test process has: a tiny set needs a few
COMMANDS = {
    "info": ["info", "set"],
    "verify": ["verify", "set", "--deep"],
    "prove": ["verify", "set", "--prove", "100%"],
    "preview": ["preview", "set", "--out", "sheet.png"],
    "recipe": ["recipe", "set"],
    "diff": ["diff", "set", "set"],
    "subset": ["subset", "set", "--samples", "0", "--out", "few.json"],
    "repair": ["repair", "set"],
    "extend": ["extend", "set", "--n", "1000"],
    "add-views": ["add-views", "set", "--views", "gauss", "--out", "more"],
}
READERS = ["info", "verify", "preview", "diff", "subset", "repair", "extend", "add-views"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A set in the current folder, beside a file that nobody may touch."""
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    (tmp_path / "victim").write_text("precious")
    write_set(tmp_path / "inside/set")
    return tmp_path / "inside/set"


def listing(folder):
    return {str(p.relative_to(folder)): p.lstat().st_mtime_ns for p in folder.rglob("*") if not p.is_dir()}


def outcome(words):
    """Exit status and output of a command in a process that may take little memory."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(60)  # whoever waits for a pipe waits for ever
            with open("/proc/self/statm") as file:
                now = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + SPARE, now + SPARE))
            result = CliRunner().invoke(main, words)
            told = [result.exit_code, result.stdout, result.stderr]
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                told = [99, "", "".join(traceback.format_exception(result.exception))]
            os.write(writer, json.dumps(told).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    assert text, "the process did not survive"
    return json.loads(text)


def refused(folder, words, *, faults=False):
    """The line that refuses; a command that lists faults may print them before it."""
    around = folder.parent.parent
    before = listing(around)
    status, out, error = outcome(words)
    assert status == 1, (words, status, out, error)
    assert error.count("\n") == 1, error
    assert error.startswith("Error: ")
    assert all(letter.isprintable() or letter == "\n" for letter in out + error)
    assert faults or not out
    assert listing(around) == before
    return out + error


# recipe and manifest


def rewritten(folder, name, change):
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_bytes(json_bytes(content))


def both(change):
    """Change the recipe in recipe.json and in the manifest alike."""

    def edit(folder):
        rewritten(folder, "recipe.json", change)
        rewritten(folder, "manifest.json", lambda m: change(m["recipe"]))

    return edit


def manifest(change):
    return lambda folder: rewritten(folder, "manifest.json", change)


def named(name):
    return manifest(lambda m: m["shards"][1].update(name=name))


NAMES = [
    "../../x.tar", "/etc/passwd", "http://127.0.0.1:9/shard-000001.tar", "s3://bucket/shard-000001.tar", "file:///x",
    "..", "", "shard-000001.tar\0", "shard-000001.tar\nError: all is well", "a/../shard-000001.tar",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_shard_has_the_name_that_the_recipe_gives_it_or_none(folder, name):
    named(name)(folder)
    for command in READERS:
        text = refused(folder, COMMANDS[command], faults=command == "verify")
        if command not in ("repair", "extend", "add-views"):  # those ask for the generator first
            assert "manifest.json is not that of the recipe beside it" in text


DEEP = b"[" * 10_000
JSON = {
    "deep lists": b"[" * 10_000,
    "deep objects": b'{"format":' * 10_000,
    "no object": b"[1]",
    "no text": b"\xff\xfe\x00",
    "nothing": b"",
    "a huge number": b'{"num_samples": ' + b"9" * 100_000 + b"}",
    "twenty million brackets": b"[" * 20_000_000,
    "a key with a line in it": b'{"a\\nError: all is well\\u001b[2J": 1, "shards": []}',
}


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("name", ["recipe.json", "manifest.json"])
def test_json_that_is_none_of_ours_is_refused(folder, name, kind):
    (folder / name).write_bytes(JSON[kind])
    for command in COMMANDS:
        if command != "recipe" or name == "recipe.json":  # it reads the recipe alone
            refused(folder, COMMANDS[command], faults=command == "verify")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(num_samples=10**9, shard_size=10**9),
        lambda r: r.update(num_samples=10**9, shard_size=2**20),
        lambda r: r.update(num_samples=10**9, shard_size=1),
        lambda r: r.update(num_samples=10**18),
        lambda r: r.update(num_samples=-5),
        lambda r: r.update(views=["gauss"] * 1_000_000),
        lambda r: r.update(views="gauss"),
        lambda r: r.update(segments=[1] * 10),
        lambda r: r.update(segments=[2**62, 10 - 2**62]),
        lambda r: r.update(segments={"a": 1}),
        lambda r: r.update(parent={"manifest_sha256": "../../x", "views": []}),
        lambda r: r.update(parent=[]),
        lambda r: r["image"].update(height=10**6, width=10**6),
        lambda r: r["image"].update(height=2**30, width=1),
        lambda r: r["image"].update(channels=2**20),
        lambda r: r["image"].update(format="../png"),
        lambda r: r["image"].update(format=["png"]),
        lambda r: r.pop("image"),
    ],
)
def test_a_recipe_that_asks_for_too_much_is_refused(folder, change):
    both(change)(folder)
    for command in COMMANDS:
        if command == "recipe":  # which prints what is there, or refuses it
            status, out, error = outcome(COMMANDS[command])
            assert (status, error) == (0, "") or (status, out, error.count("\n")) == (1, "", 1)
        else:
            refused(folder, COMMANDS[command], faults=command == "verify")


def test_a_recipe_names_code_and_no_command_runs_it(folder):
    from genrep.generate import load_generator, make_recipe

    generator = load_generator("procedural:dead-leaves")
    recipe = make_recipe(generator, num_samples=10, shard_size=4, micro_batch=4).to_json()
    for name in ("os:mkdir", "subprocess:run", "trap:load", "../trap:load", "trap", "\n:\n"):
        recipe["generator"]["name"] = name
        (folder / "recipe.json").write_bytes(json_bytes(recipe))
        rewritten(folder, "manifest.json", lambda m: m.update(recipe=recipe))
        (folder.parent / "trap.py").write_text("open('sprung', 'w')\n")
        for command in ("prove", "repair", "extend", "add-views"):
            text = refused(folder, COMMANDS[command])
            assert "which is not registered; a recipe cannot say what code to run" in text, (command, text)
    assert not (folder.parent / "sprung").exists()


def test_names_of_classes_stay_text(folder):
    html = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x1b[2J\n# "
    shutil.rmtree(folder)
    recipe = tiny_recipe()
    recipe["generator"] |= {"class_names": [html, "odd"], "name": html}
    write_set(folder, recipe, licence=html)
    readme = (folder / "README.md").read_text()
    assert not {"<", "\x1b", "\u202e"} & set(readme)
    status, out, _ = outcome(COMMANDS["info"])
    assert status == 0
    assert all(letter.isprintable() or letter == "\n" for letter in out)
    assert outcome(COMMANDS["preview"])[0] == 0


# files that are no files


@pytest.mark.parametrize("name", ["recipe.json", "manifest.json", ".tables/shard-000001.parquet", "shard-000001.tar"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a device", "link to nothing"])
def test_what_is_no_file_is_refused_and_nobody_waits_for_it(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "link to a device" else folder.parent / "nothing")
    for command in COMMANDS:
        if command != "recipe" and not (command == "subset" and "shard-" in name):  # these read recipe and manifest
            refused(folder, COMMANDS[command], faults=command == "verify")


def test_nothing_is_written_through_a_link(folder):
    from genrep.shards.writer import DatasetWriter

    recipe = json.loads((folder / "recipe.json").read_text())
    elsewhere = folder.parent.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(folder / ".tables")
    (folder / ".tables").symlink_to(elsewhere)
    with pytest.raises(genrep.shards.DataError, match="is a link, and nothing is written through it"):
        DatasetWriter(folder, recipe)
    assert list(elsewhere.iterdir()) == []


# members


def with_tar(folder, archive):
    """Another first shard, whose hash and size stand in table and manifest."""
    recipe = json.loads((folder / "recipe.json").read_text())
    layout = layout_of(recipe)
    facts = {}
    for spec in layout.shards:
        table = read_table(folder / spec.table, members=layout.members, num_samples=spec.count)
        if spec.first == 0:
            (folder / spec.name).write_bytes(archive)
            changed = type(table.facts)(sha256(archive).hexdigest(), len(archive), table.facts.environment, "MIT")
            table = type(table)(**{**vars(table), "facts": changed})
            (folder / spec.table).write_bytes(table_bytes(table))
        facts[spec] = table.facts
    (folder / "manifest.json").write_bytes(manifest_bytes(build_manifest(recipe, facts)))


MEMBERS = {
    "a path upwards": {"name": "../../victim"},
    "an absolute path": {"name": "/tmp/victim"},
    "a symbolic link": {"type": tarfile.SYMTYPE, "linkname": "../../victim"},
    "a hard link": {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"},
    "a device": {"type": tarfile.CHRTYPE},
    "a pipe": {"type": tarfile.FIFOTYPE},
    "a huge size": {"size": 8**11 - 1},
    "a huge binary size": {"size": 2**60},
    "a name with a line in it": {"name": "a\nError: all is well"},
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_member_that_is_no_plain_file_of_a_sample_is_named_and_read_by_nobody(folder, kind):
    size = (folder / "shard-000000.tar").stat().st_size
    info = tarfile.TarInfo("000000000.anchor.png")
    for field, value in MEMBERS[kind].items():
        setattr(info, field, value)
    with_tar(folder, info.tobuf(tarfile.GNU_FORMAT).ljust(size, b"\0"))
    text = refused(folder, COMMANDS["verify"], faults=True)
    assert "shard-000000.tar, sample 000000000, anchor.png: its header in the tar is not that of this member" in text
    for command in ("preview", "diff"):
        assert "000000000.anchor.png is not where the table of the shard says" in refused(folder, COMMANDS[command])
    (folder / ".tables/shard-000000.parquet").unlink()
    assert "shard-000000.tar: at byte 0, after the beginning: " in refused(folder, COMMANDS["verify"], faults=True)


def gigapixel_png(width=10**6, height=10**6, colour=2):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000_000), 9)) + chunk(b"IEND", b"")


def gigapixel_jpg():
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG")
    content = bytearray(file.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 65_000, 65_000)
    return bytes(content)


def gigapixel_webp(side=2**14, *, extended=False):
    """Of 16,384 pixels a side; the extended header may claim up to 2^24."""
    if extended:
        canvas = (side - 1).to_bytes(3, "little")
        body = b"VP8X" + struct.pack("<I", 10) + bytes([0x02, 0, 0, 0]) + canvas + canvas
        body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    else:
        bits = (side - 1) | (side - 1) << 14
        body = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", bits) + b"\0"
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def npy(header, data=b""):
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


CONTENTS = {
    "a gigapixel PNG": ("anchor.png", gigapixel_png()),
    "a PNG as wide as a number": ("anchor.png", gigapixel_png(2**31 - 1, 2**31 - 1)),
    "a PNG with a bomb in it": ("anchor.png", gigapixel_png(7, 9, 0)),
    "a gigapixel JPEG": ("view1.png", gigapixel_jpg()),
    "a WebP of 16,384 pixels a side": ("view1.png", gigapixel_webp()),
    "a gigapixel WebP": ("view1.png", gigapixel_webp(2**15, extended=True)),
    "an SVG": ("anchor.png", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
    "latents of a huge shape": ("latents.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 10**12)}")),
    "latents of many numbers": (
        "latents.npy",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1000000000000), }", bytes(32)),
    ),
    "latents of objects": ("latents.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 4), }", b"cos\n")),
    "latents with code in the header": ("latents.npy", npy("__import__('os').mkdir('sprung')")),
    "latents with a deep header": ("latents.npy", npy("(" * 60_000)),
    "a deep json": ("json", DEEP),
    "a json of a huge number": ("json", b'{"index": ' + b"9" * 50_000 + b"}"),
    "a label of a huge number": ("cls", b"9" * 50_000),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_member_that_means_harm_is_named_and_memory_stays_small(folder, kind):
    member, content = CONTENTS[kind]
    forge(
        folder,
        lambda key, name, old: content if (key, name) == ("000000005", member) else old,
        label=lambda found: int(found) if len(found) < 19 else 0,
    )
    text = refused(folder, COMMANDS["verify"], faults=True)
    assert f"shard-000001.tar, sample 000000005, {member}: " in text
    script = (
        "for index in range(10):\n    try:\n        data[index]\n    except DataError:\n        bad.append(index)\n"
    )
    bad = []
    exec(script, {"data": genrep.shards.open(folder), "DataError": genrep.shards.DataError, "bad": bad})
    assert bad == [5]
    assert not (folder.parent / "sprung").exists()


def test_a_table_whose_cells_unpack_to_gigabytes_is_refused(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / ".tables/shard-000001.parquet"
    table = pq.read_table(path)
    keys = pa.array(["0" * 200_000_000, "1", "2", "3"])
    columns = table.set_column(0, "key", keys)
    pq.write_table(columns, path, compression={n: "none" if "sha" in n else "zstd" for n in columns.schema.names})
    assert path.stat().st_size < 100_000
    del keys, columns
    text = refused(folder, COMMANDS["verify"], faults=True)
    assert "its 4 rows unpack to" in text


def test_an_unreadable_disk_is_one_line(folder, monkeypatch):
    import genrep.shards.verify as module

    def broken(path):
        raise genrep.shards.DataError(f"cannot be read ({os.strerror(errno.EIO)})")

    monkeypatch.setattr(module, "_read", broken)
    result = CliRunner().invoke(main, COMMANDS["verify"])
    assert result.stdout.splitlines()[0] == "shard-000000.tar: cannot be read (Input/output error)"
    assert result.stderr.count("\n") == 1
    assert np.int64(result.exit_code) == 1
