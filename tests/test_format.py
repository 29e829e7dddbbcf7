"""docs/format.md is complete: a reader written from it, on the standard library alone, finds every byte and latent."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import genrep.shards
from genrep.generate.defaults import make_recipe
from genrep.generate.generation import generate
from genrep.generate.generators import load_generator
from genrep.generate.rebuild import Chosen, add_views, extend
from genrep.shards.subset import parse_ranges, subset_bytes

# section by section of docs/format.md; nothing is imported that the page does not name
READER = r"""
import base64, hashlib, json, math, pathlib, struct, sys, zlib

folder = pathlib.Path(sys.argv[1])
recipe = json.loads((folder / "recipe.json").read_text("ascii"))
manifest = json.loads((folder / "manifest.json").read_text("ascii"))
assert manifest["recipe"] == recipe and recipe["format"] == "genrep/1"
image, generator, seed = recipe["image"], recipe["generator"], recipe["seed"]
K, D = len(recipe["views"]), generator["latent_dim"]
P = len(recipe["parent"]["views"]) if "parent" in recipe else 0
is_added = "parent" in recipe
rows = K if is_added else 1 + K
members = [f"view{P + k}" for k in range(1, K + 1)]
members = members if is_added else ["anchor", *members]
members = [f"{name}.{image['format']}" for name in members] + ["latents.npy", "cls", "json"]


def header(name, size):  # section 3
    block = bytearray(512)
    def put(offset, text):
        block[offset : offset + len(text)] = text
    put(0, name.encode())
    put(100, b"0000444\0"), put(108, b"0000000\0"), put(116, b"0000000\0")
    put(124, b"%011o\0" % size), put(136, b"00000000000\0"), put(148, b" " * 8), put(156, b"0")
    put(257, b"ustar\00000"), put(265, b"bigdata"), put(297, b"bigdata")
    put(148, b"%06o\0 " % sum(block))
    return bytes(block)


def samples():
    plan, end = [], 0
    for segment in recipe.get("segments", [recipe["num_samples"]]):
        first, end = end, end + segment
        plan += [(i, min(recipe["shard_size"], end - i)) for i in range(first, end, recipe["shard_size"])]
    assert end == recipe["num_samples"] and len(plan) == len(manifest["shards"])
    for number, (shard, (first, count)) in enumerate(zip(manifest["shards"], plan)):
        assert (shard["name"], shard["first"], shard["count"]) == (f"shard-{number:06d}.tar", first, count)
        tar = (folder / f"shard-{number:06d}.tar").read_bytes()
        assert len(tar) == shard["bytes"] and len(tar) % 10240 == 0
        assert hashlib.sha256(tar).hexdigest() == shard["sha256"]
        position = 0
        for index in range(first, first + count):
            sample = {}
            for member in members:
                size = int(tar[position + 124 : position + 135], 8)
                assert tar[position : position + 512] == header(f"{index:09d}.{member}", size)
                sample[member] = tar[position + 512 : position + 512 + size]
                end = position + 512 + -(-size // 512) * 512
                assert not any(tar[position + 512 + size : end])
                position = end
            yield index, sample
        assert not any(tar[position:]) and 1024 <= len(tar) - position < 1024 + 10240


def pixels(png):  # section 4: IHDR, one IDAT, IEND, rows filtered by up
    height, width, channels = image["height"], image["width"], image["channels"]
    assert struct.unpack(">IIBBBBB", png[16:29]) == (width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    length = int.from_bytes(png[33:37], "big")
    raw, stride = zlib.decompress(png[41 : 41 + length]), 1 + width * channels
    rows, above = [], [0] * (stride - 1)
    for start in range(0, height * stride, stride):
        assert raw[start] == 2
        above = [(a + b) % 256 for a, b in zip(above, raw[start + 1 : start + stride])]
        rows.append(above)
    return rows


def latents(npy):
    assert npy[:8] == b"\x93NUMPY\x01\x00"
    length = int.from_bytes(npy[8:10], "little")
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {D}), }}".encode()
    assert npy[10 : 10 + length] == head + b" " * (length - 1 - len(head)) + b"\n" and (10 + length) % 64 == 0
    numbers = struct.unpack(f"<{rows * D}f", npy[10 + length :])
    return [list(numbers[row * D : row * D + D]) for row in range(rows)]


def words(stream, sample, view, count):  # section 6.1
    result = []
    for block in range(-(-count // 4)):
        k0, k1 = seed % 2**32, stream
        c0, c1, c2, c3 = sample, view, block, seed >> 32
        for _ in range(10):
            a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
            c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b % 2**32, (a >> 32) ^ c3 ^ k1, a % 2**32
            k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
        result += [c0, c1, c2, c3]
    return result[:count]


def polynomial(coefficients, x):  # section 6.2
    y = x * coefficients[0]
    for c in coefficients[1:-1]:
        y = (y + c) * x
    return y + coefficients[-1]


def log(x):
    m, e = math.frexp(x)
    if m < 0.7071067811865476:
        m, e = m * 2, e - 1
    s = (m - 1) / (m + 1)
    return e * 0.6931471805599453 + (2 * s) * polynomial([1 / k for k in range(23, 0, -2)], s * s)


page = pathlib.Path(sys.argv[2]).read_text()
def listed(letter):  # the page's own numbers
    start = page.index(f"\n    {letter}  ") + 6
    return [float(text) for text in page[start:].split()[:8]]
A, B, E, F = map(listed, "ABEF")


def quantile(q):
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        return q * (polynomial(A, r) / polynomial(B, r))
    d = math.sqrt(-log(0.5 - abs(q))) - 1.6
    return math.copysign(polynomial(E, d) / polynomial(F, d), q)


def uniform(w):
    return (w + 0.5) * 2.0**-32
def normal(w):
    return quantile(uniform(w) - 0.5)
def truncated(w):
    return quantile((uniform(w) - 0.5) * 0.9544997361036416)
def box(w):
    return (uniform(w) - 0.5) * (2 * 1.7320508075688772)
def millionths(w):
    return (((w * 2000001) >> 32) - 1e6) / 1e6
def single(numbers):
    return list(struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers)))


prior = {"normal": normal, "truncated-normal": truncated}[generator["prior"]]
scale = generator["prior_scale"]


def norm(numbers):
    squares = [x * x for x in numbers]
    squares += [0.0] * ((1 << (len(squares) - 1).bit_length()) - len(squares))
    while len(squares) > 1:
        half = len(squares) // 2
        squares = [squares[j] + squares[j + half] for j in range(half)]
    return math.sqrt(squares[0])


def strengths(index, k):
    names = recipe["walks"]["names"]
    return dict(zip(names, map(millionths, words(6, index, k, len(names)))))


def moves(view):
    for move in view.split("+"):
        kind, _, part = move.partition("@")
        if not part:
            yield kind, None, list(range(D))
            continue
        sizes = generator.get("blocks", [D])
        starts = [sum(sizes[:b]) for b in range(len(sizes) + 1)]
        spans = [[int(end) for end in (span.split("-") * 2)[:2]] for span in part.removeprefix("c").split("/")]
        if part[0] != "c":
            spans = [[starts[first], starts[last + 1] - 1] for first, last in spans]
        yield kind, spans, [place for first, last in spans for place in range(first, last + 1)]


def moved(index, k, kind, z, places):
    # the coordinates of the part, from those that they have
    if kind == "independent":
        return [scale * prior(w) for w in (words(3, index, k, D)[place] for place in places)]
    if kind == "steer":
        flat = base64.b64decode(recipe["walks"]["directions"])
        for e, c in enumerate(strengths(index, k).values()):
            direction = struct.unpack(f"<{D}f", flat[4 * D * e : 4 * D * (e + 1)])
            z = [a + c * direction[place] for a, place in zip(z, places)]
        return z
    stream, shape = {"gauss": (2, prior), "angular": (4, prior), "uniform": (5, box)}[kind]
    std, sigma, w = recipe["std"], recipe["std"] * scale, words(stream, index, k, D)
    noise = [shape(w[place]) for place in places]
    if kind == "angular":
        y = [a + sigma * b for a, b in zip(z, noise)]
        factor = norm(z) / norm(y)
        return [a * factor for a in y]
    kept = math.sqrt(1 - std * std) if generator.get("keeps_variance") else 1
    return [kept * a + sigma * b for a, b in zip(z, noise)]


def expected_latents(index):  # section 6.3
    anchor = single([scale * prior(w) for w in words(0, index, 0, D)])
    found = [] if is_added else [anchor]
    for k, view in enumerate(recipe["views"], start=P + 1):
        z = list(anchor)
        for kind, _, places in moves(view):
            for place, value in zip(places, single(moved(index, k, kind, [z[place] for place in places], places))):
                z[place] = value
        found.append(z)
    return found


def expected_label(index):
    classes = recipe["classes"] or list(range(generator["num_classes"]))
    if not classes:
        return -1
    random = words(1, index // len(classes), 0, len(classes))
    order = sorted(range(len(classes)), key=lambda number: random[number])
    return classes[order[index % len(classes)]]


told = []
for index, sample in samples():
    assert latents(sample["latents.npy"]) == expected_latents(index), index
    label = expected_label(index)
    assert sample["cls"] == b"%d" % label
    views = []
    for k, view in enumerate(recipe["views"], start=P + 1):
        one, parts = {"kind": view}, {kind: spans for kind, spans, _ in moves(view)}
        if any(parts.values()):
            one["coordinates"] = {kind: spans for kind, spans in parts.items() if spans}
        if {"gauss", "angular", "uniform"} & set(parts):
            one["std"] = recipe["std"]
            if generator.get("keeps_variance"):
                one["keeps_variance"] = True
        if "steer" in parts:
            one["strengths"] = strengths(index, k)
        views.append(one)
    meta = {"index": index, "class": generator["class_names"][label] if label >= 0 else None, "views": views}
    assert sample["json"] == json.dumps(meta, separators=(",", ":")).encode()
    told.append([pixels(sample[member]) for member in members[:rows]])
assert not any(name.split(".")[0] in ("genrep", "numpy") for name in sys.modules)
print(json.dumps(told))
"""
PAGE = Path(__file__).parents[1] / "docs/format.md"
SETS = {
    "every kind of view": {
        "generator": "fashion",
        "views": ("gauss", "steer", "gauss+steer", "independent", "angular", "uniform", "independent+uniform"),
        "seed": 2**40 + 7,
        "classes": (1, 4, 9),
        "truncation": 0.7,
    },
    "no classes, no views": {"generator": "fashion-null", "views": (), "seed": 3},
    "parts of the latent": {
        "generator": "fashion",
        "views": ("gauss@c0-9/12/20-63+steer@c5-30", "independent@c3-40", "angular@c0-30", "uniform@c7"),
    },
    "blocks": {"generator": "stub_generators:blocked", "views": ("gauss@1", "independent@0+uniform@0-1")},
    "variance kept": {"generator": "stub_generators:keeps_variance", "views": ("gauss+uniform", "angular"), "std": 0.3},
}


def read_alone(folder):
    return subprocess.run(
        [sys.executable, "-I", "-c", READER, str(folder), str(PAGE)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )


@pytest.mark.parametrize("name", SETS)
def test_a_reader_written_from_the_page_finds_every_sample_and_recomputes_every_latent(tmp_path, monkeypatch, name):
    monkeypatch.syspath_prepend(Path(__file__).parent / "generate")  # for its stubs
    settings = dict(SETS[name])
    generator = load_generator(settings.pop("generator"))
    recipe = make_recipe(generator, num_samples=37, shard_size=16, micro_batch=8, **settings)
    generate(recipe, tmp_path / "set", generator=generator, device="cpu")
    done = read_alone(tmp_path / "set")
    assert done.returncode == 0, done.stderr
    for sample, found in zip(genrep.shards.read(tmp_path / "set"), json.loads(done.stdout), strict=True):
        assert np.array_equal(sample.images[..., 0], found)


@pytest.mark.parametrize("change", ["extended", "added to"])
def test_the_reader_understands_sets_that_grew_and_views_that_were_added(tmp_path, change):
    generator = load_generator("fashion")
    recipe = make_recipe(generator, num_samples=10, shard_size=8, micro_batch=8, views=("gauss",))
    generate(recipe, tmp_path / "set", generator=generator, device="cpu")
    if change == "extended":
        extend(tmp_path / "set", num_samples=21, chosen=Chosen(device="cpu"))
        place, expected = tmp_path / "set", genrep.shards.read(tmp_path / "set")
    else:
        place = tmp_path / "added"
        add_views(tmp_path / "set", place, views="steer,gauss", chosen=Chosen(device="cpu"))
        expected = genrep.shards.read(tmp_path / "set", join=place)
    done = read_alone(place)
    assert done.returncode == 0, done.stderr
    for sample, found in zip(expected, json.loads(done.stdout), strict=True):
        assert np.array_equal(sample.images[-len(found) :, ..., 0], found)


def test_a_subset_file_is_what_the_page_says(tmp_path):
    generator = load_generator("fashion")
    recipe = make_recipe(generator, num_samples=10, shard_size=8, micro_batch=8, views=("gauss",))
    generate(recipe, tmp_path / "set", generator=generator, device="cpu")
    path = tmp_path / "set.json"
    path.write_bytes(subset_bytes(tmp_path / "set", parse_ranges("0-3,7"), path=path))
    assert json.loads(path.read_text("ascii")) == {
        "format": "genrep/1",
        "kind": "subset",
        "parent": "set",
        "parent_sha256": hashlib.sha256((tmp_path / "set/manifest.json").read_bytes()).hexdigest(),
        "ranges": [{"first": 0, "count": 4}, {"first": 7, "count": 1}],
    }


def test_the_page_lists_the_columns_and_metadata_that_a_table_has(tmp_path):
    import pyarrow.parquet as pq

    generator = load_generator("fashion")
    generate(
        make_recipe(generator, num_samples=8, shard_size=8, micro_batch=8, views=("steer",)), tmp_path, device="cpu"
    )
    schema = pq.read_schema(tmp_path / ".tables/shard-000000.parquet")
    assert schema.names[:5] == ["key", "label", "sha256.anchor.png", "offset.anchor.png", "size.anchor.png"]
    assert [name for name in schema.names if name.startswith("size.")] == [
        f"size.{member}" for member in ("anchor.png", "view1.png", "latents.npy", "cls", "json")
    ]
    assert set(json.loads(schema.metadata[b"genrep"])) == {"tar_sha256", "tar_bytes", "environment", "licence"}
    text = PAGE.read_text()
    assert all(f"`{word}`" in text for word in ("tar_sha256", "tar_bytes", "environment", "licence", "key", "label"))
