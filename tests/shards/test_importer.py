"""Real images as shards: order, labels, pixels, and what is refused before or while they are read."""

import hashlib
import io
import json
import os
import struct
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import genrep.shards
from genrep.shards import DataError, fashion_mnist, philox
from genrep.shards.importer import fashion_mnist_source, folder_source, import_images
from genrep.shards.verify import verify


def ramp(start, *, height=6, width=8, channels=3):
    """uint8 (H, W, C) or, of one channel, (H, W)."""
    values = start + np.arange(height * width * channels)
    return (values % 256).astype(np.uint8).reshape(height, width, channels).squeeze()


def save(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


@pytest.fixture
def photos(tmp_path):
    """Three classes made in another order than that of their names; files of other kinds beside the images."""
    folder = tmp_path / "photos"
    save(folder / "cup" / "b.png", ramp(30))
    save(folder / "cup" / "a.png", ramp(20))
    save(folder / "ant" / "z.png", ramp(10))
    save(folder / "bee" / "deep" / "y.bmp", ramp(50))
    save(folder / "bee" / "x.PNG", ramp(40), format="PNG")
    (folder / "bee" / "notes.txt").write_text("no image")
    (folder / "bee" / "._x.png").write_text("what another system leaves behind")
    (folder / ".cache").mkdir()
    return folder


def mixed(values):
    """Sorted by their random words: what the order of an import is."""
    words = [
        philox.philox([np.array([word], np.uint64) for word in (i, 0, 0, 0)], (0, 300)) for i in range(len(values))
    ]
    return [values[i] for i in sorted(range(len(values)), key=lambda i: [int(word[0]) for word in words[i]])]


FILES = ["ant/z.png", "bee/deep/y.bmp", "bee/x.PNG", "cup/a.png", "cup/b.png"]
MIXED = mixed(FILES)


def test_a_folder_comes_in_a_mixed_order_with_sorted_classes_as_labels(photos, tmp_path):
    import_images(folder_source(photos), tmp_path / "set")
    samples = list(genrep.shards.read(tmp_path / "set"))
    expected = [("ant", 0, 10), ("bee", 1, 50), ("bee", 1, 40), ("cup", 2, 20), ("cup", 2, 30)]
    for index, (sample, file, (name, label, start)) in enumerate(zip(samples, MIXED, mixed(expected), strict=True)):
        assert sample.meta == {"index": index, "class": name, "views": [], "file": file}
        assert sample.label == label
        assert sample.latents.shape == (1, 0)
        np.testing.assert_array_equal(sample.images, ramp(start)[None])
    assert verify(tmp_path / "set", deep=True) == []


def test_every_part_of_an_import_holds_its_share_of_every_class(tmp_path):
    for name in "abc":
        for number in range(100):
            save(tmp_path / name / f"{number}.png", ramp(number, height=1, width=1))
    labels = folder_source(tmp_path).labels
    assert np.bincount(labels).tolist() == [100] * 3
    for part in labels.reshape(5, 60):
        assert (abs(np.bincount(part) - 20) < 5 * np.sqrt(60 * 2 / 9)).all()  # five standard deviations
    assert folder_source(tmp_path, num_images=60).labels.tolist() == labels[:60].tolist()


def test_the_recipe_tells_where_images_come_from_without_a_path_of_this_machine(photos, tmp_path):
    recipe = dict(import_images(folder_source(photos), tmp_path / "set").recipe)
    assert recipe["kind"] == "imported"
    assert recipe["source"].pop("listing_sha256")
    order = {"by": "philox4x32-10", "key": [0, 300]}
    assert recipe["source"] == {"name": "photos", "order": order, "class_names": ["ant", "bee", "cup"]}
    image = {"format": "png", "quality": None, "resize": None, "height": 6, "width": 8, "channels": 3}
    assert (recipe["image"], recipe["views"], recipe["num_samples"], recipe["shard_size"]) == (image, [], 5, 4096)


def test_images_are_grey_only_if_all_of_them_are(tmp_path):
    save(tmp_path / "grey" / "a" / "1.png", ramp(5, channels=1))
    save(tmp_path / "mixed" / "a" / "1.png", ramp(5, channels=1))
    save(tmp_path / "mixed" / "a" / "2.png", ramp(5))
    assert folder_source(tmp_path / "grey").shape == (6, 8, 1)
    both = folder_source(tmp_path / "mixed")
    assert both.shape == (6, 8, 3)
    grey = both.files.index("a/1.png")
    np.testing.assert_array_equal(both.images(range(2))[grey], np.stack([ramp(5, channels=1)] * 3, axis=-1))


@pytest.mark.parametrize(("height", "width", "side"), [(20, 31, 9), (31, 20, 9), (5, 7, 12), (8, 8, 8)])
def test_resizing_is_that_of_torchvision_short_side_then_centre(tmp_path, height, width, side):
    from torchvision import transforms

    pixels = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    save(tmp_path / "a" / "1.png", pixels)
    expected = transforms.CenterCrop(side)(transforms.Resize(side)(Image.fromarray(pixels)))
    source = folder_source(tmp_path, resize=side)
    assert source.shape == (side, side, 3)
    np.testing.assert_array_equal(source.images(range(1))[0], np.asarray(expected))


def test_only_the_first_images_are_taken_and_their_number_is_checked(photos, tmp_path):
    import_images(folder_source(photos, num_images=2), tmp_path / "set")
    assert [sample.meta["file"] for sample in genrep.shards.read(tmp_path / "set")] == MIXED[:2]
    with pytest.raises(DataError, match="has 5 images, fewer than the 6 asked for"):
        folder_source(photos, num_images=6)


def hashes(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_stopped_anywhere_and_run_again_or_with_more_threads_the_bytes_are_the_same(photos, tmp_path):
    import_images(folder_source(photos), tmp_path / "whole", shard_size=2)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_images(folder_source(photos), tmp_path / "stopped", shard_size=2, progress=stop)
    assert sorted(path.name for path in (tmp_path / "stopped").glob("*.tar")) == ["shard-000000.tar"]
    seen = []
    import_images(
        folder_source(photos, workers=3),
        tmp_path / "stopped",
        shard_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert hashes(tmp_path / "stopped") == hashes(tmp_path / "whole")


def test_another_content_of_the_folder_is_another_set(photos, tmp_path):
    import_images(folder_source(photos), tmp_path / "set")
    (photos / "cup" / "b.png").rename(photos / "cup" / "c.png")
    with pytest.raises(DataError, match=r"holds another set: source\.listing_sha256 is"):
        import_images(folder_source(photos), tmp_path / "set")
    save(photos / "cup" / "b.png", ramp(30, height=6, width=8) // 128)  # the old name, another size in bytes
    (photos / "cup" / "c.png").unlink()
    with pytest.raises(DataError, match=r"holds another set: source\.listing_sha256 is"):
        import_images(folder_source(photos), tmp_path / "set")
    save(photos / "cup" / "b.png", ramp(30))
    import_images(folder_source(photos), tmp_path / "set")


def test_format_quality_and_shard_size_are_those_asked_for(photos, tmp_path):
    manifest = import_images(folder_source(photos), tmp_path / "set", image_format="jpg", quality=50, shard_size=3)
    assert [shard.samples for shard in manifest.shards] == [3, 2]
    assert genrep.shards.open(tmp_path / "set").members(0)["anchor.jpg"][:2] == b"\xff\xd8"
    with pytest.raises(DataError, match="png is lossless and takes no quality"):
        import_images(folder_source(photos), tmp_path / "other", quality=50)
    with pytest.raises(DataError, match="subsampling 4:2:0 is for jpg of 3 channels, the images are png of 3"):
        import_images(folder_source(photos), tmp_path / "other", subsampling="4:2:0")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("subsampling", "of_brightness"), [("4:4:4", (1, 1)), ("4:2:0", (2, 2))])
def test_colours_are_subsampled_as_asked_and_the_recipe_says_so_only_then(photos, tmp_path, subsampling, of_brightness):
    import_images(folder_source(photos), tmp_path / "set", image_format="jpg", subsampling=subsampling)
    image = Image.open(io.BytesIO(genrep.shards.open(tmp_path / "set").members(0)["anchor.jpg"]))
    assert image.layer[0][1:3] == of_brightness
    recipe = json.loads((tmp_path / "set" / "recipe.json").read_text())
    assert recipe["image"].get("subsampling", "4:4:4") == subsampling
    assert ("subsampling" in recipe["image"]) == (subsampling == "4:2:0")


# what is refused


def test_a_folder_that_is_none_of_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path / 'none'} cannot be read \(No such file or directory\)"):
        folder_source(tmp_path / "none")
    with pytest.raises(DataError, match="has no sub-folders"):
        folder_source(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "readme.txt").touch()
    with pytest.raises(DataError, match=rf"{tmp_path / 'a'} holds no images"):
        folder_source(tmp_path)


@contextmanager
def unprivileged():
    """As nobody, if this is root, who may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("closed", ["", "ant", "bee/deep", "ant/z.png"])
def test_what_may_not_be_read_is_named(photos, closed):
    folder_source(photos)  # what it loads at first use may not be readable for nobody
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "photos")
        photos.rename(folder)
        os.chmod(parent, 0o755)
        os.chmod(folder / closed, 0)
        with unprivileged(), pytest.raises(DataError, match=f"{folder / closed} cannot be read .Permission denied.:"):
            folder_source(folder)
        os.chmod(folder / closed, 0o755)


def test_images_of_several_sizes_need_one_to_be_named(photos):
    save(photos / "cup" / "c.png", ramp(0, height=7))
    with pytest.raises(DataError, match=r"c\.png is 8 x 7 pixels where .* is 8 x 6: .* need --resize S"):
        folder_source(photos)
    assert folder_source(photos, resize=4).shape == (4, 4, 3)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge_png():
    """A few bytes that declare 60,000 x 60,000 pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no image"),
        (b"not an image at all", "is no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image"),  # Pillow would start an interpreter
        (huge_png(), "cannot be read|more than 67,108,864"),
    ],
)
def test_what_is_no_image_is_named_before_anything_is_written(photos, content, message):
    (photos / "cup" / "c.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"^{photos / 'cup' / 'c.png'} ({message}).*: \w+"):
        folder_source(photos)


def test_images_of_sixteen_bits_are_refused_and_not_clipped(photos):
    save(photos / "cup" / "c.png", np.full((6, 8), 40_000, np.uint16))
    with pytest.raises(DataError, match=r"c\.png has pixels of mode I;16"):
        folder_source(photos)


def save_truncated(path):
    """Noise, of which the header and half of the pixels are left."""
    save(path, np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8))
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "webp"])
def test_a_truncated_image_is_named_and_leaves_nothing_behind(photos, tmp_path, kind):
    path = photos / "bee" / f"cut.{kind}"
    save_truncated(path)
    with pytest.raises(DataError, match=rf"^{path} (is damaged|cannot be read) \(.*\): replace or remove it"):
        import_images(folder_source(photos, resize=4, workers=2), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_what_is_finished_stays_when_a_later_image_is_damaged(photos, tmp_path):
    save_truncated(photos / MIXED[-1])
    with pytest.raises(DataError, match="is damaged"):
        import_images(folder_source(photos, resize=4), tmp_path / "set", shard_size=2)
    assert sorted(path.name for path in (tmp_path / "set").glob("*.tar")) == ["shard-000000.tar", "shard-000001.tar"]


# Fashion-MNIST


@pytest.fixture
def fashion_folder(tmp_path, monkeypatch):
    """Sixty thousand images of 2 x 2 pixels in the files of Fashion-MNIST."""
    folder = tmp_path / "fashion"
    folder.mkdir()
    images = (np.arange(60_000 * 4) % 251).astype(np.uint8)
    labels = (np.arange(60_000) % 10).astype(np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 60_000, 2, 2) + images.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 60_000) + labels.tobytes())
    monkeypatch.setenv("GENREP_FASHION_MNIST", str(folder))
    return folder


@pytest.mark.usefixtures("fashion_folder")
def test_of_fashion_mnist_the_images_to_learn_from_are_imported(tmp_path):
    assert len(fashion_mnist_source().labels) == 54_000
    with pytest.raises(DataError, match="has 54,000 images, fewer than the 54,001"):
        fashion_mnist_source(num_images=54_001)
    manifest = import_images(fashion_mnist_source(num_images=30), tmp_path / "set", shard_size=16)
    assert manifest.licence == "MIT"
    samples = list(genrep.shards.read(tmp_path / "set"))
    assert [sample.label for sample in samples] == [index % 10 for index in range(30)]
    assert samples[9].meta == {"index": 9, "class": fashion_mnist.CLASS_NAMES[9], "views": []}
    assert samples[9].images[0, :, :, 1].tolist() == [[36, 37], [38, 39]]
    assert genrep.shards.open(tmp_path / "set").channels == 1


@pytest.mark.usefixtures("fashion_folder")
def test_fashion_mnist_can_be_resized(tmp_path):
    import_images(fashion_mnist_source(num_images=3, resize=5), tmp_path / "set")
    [*_, last] = genrep.shards.read(tmp_path / "set")
    assert last.images.shape == (1, 5, 5, 3)
    assert last.images[0, 0, 0, 0] == 8  # the corner of an enlarged image is the corner of the image
    assert last.images[0, 4, 4, 0] == 11
