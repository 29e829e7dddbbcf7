import struct

import numpy as np
import pytest
from PIL import Image

from genrep.evaluate.data import open_data
from genrep.shards.errors import DataError


def write_idx(path, array):
    path.write_bytes(struct.pack(f">i{array.ndim}i", 0x0800 + array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """Stands in for Fashion-MNIST: 60,000 and 10,000 images of 2x2."""
    for prefix, count in (("train", 60_000), ("t10k", 10_000)):
        images = (np.arange(4 * count).reshape(count, 2, 2) % 251).astype(np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    monkeypatch.setenv("GENREP_FASHION_MNIST", str(tmp_path))
    return tmp_path


def test_fashion_mnist_fits_on_54000_chooses_on_6000_and_tests_on_10000(fashion):
    data = open_data("fashion-mnist")
    assert [len(part.labels) for part in (data.fit, data.held_out, data.test)] == [54_000, 6_000, 10_000]
    assert [part.source for part in (data.fit, data.held_out, data.test)] == ["train", "train", "test"]
    assert data.held_out.positions[0] == 54_000
    [image] = data.held_out.read(range(0, 1))
    assert image[..., 0].ravel().tolist() == [(4 * 54_000 + k) % 251 for k in range(4)]
    assert image.shape == (2, 2, 1)
    assert len(data.class_names) == 10


def test_missing_fashion_mnist_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GENREP_FASHION_MNIST", str(tmp_path))
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        open_data("fashion-mnist")


def contents(part):
    return {image.tobytes() for image in part.read(range(0, len(part.labels)))}


def test_one_training_image_in_ten_of_each_class_of_a_folder_is_held_out(photographs):
    data = open_data(f"imagefolder:{photographs}")
    assert data.class_names == ("across", "down", "slanted")
    assert np.bincount(data.fit.labels).tolist() == [18] * 3
    assert np.bincount(data.held_out.labels).tolist() == [2] * 3
    assert np.bincount(data.test.labels).tolist() == [8] * 3
    assert sorted([*data.fit.positions, *data.held_out.positions]) == list(range(60))
    again = open_data(f"imagefolder:{photographs}")
    assert np.array_equal(again.held_out.positions, data.held_out.positions)
    assert again.sha256 == data.sha256


def test_the_rows_of_a_part_are_its_images_in_rgb(photographs):
    data = open_data(f"imagefolder:{photographs}")
    for part, folder in ((data.fit, "train"), (data.held_out, "train"), (data.test, "test")):
        files = sorted((photographs / folder).rglob("*.png"))
        wanted = [np.array(Image.open(files[position])) for position in part.positions]
        read = part.read(range(0, len(part.labels)))
        assert all(np.array_equal(a, b) for a, b in zip(read, wanted, strict=True))
        assert [data.class_names[label] for label in part.labels] == [files[p].parent.name for p in part.positions]


def test_grey_images_of_a_folder_get_three_channels(photographs):
    Image.new("L", (5, 4), 9).save(photographs / "test" / "across" / "00.png")
    image = open_data(f"imagefolder:{photographs}").test.read(range(0, 1))[0]
    assert image.shape == (4, 5, 3)
    assert np.unique(image).tolist() == [9]


def test_val_serves_where_there_is_no_test(photographs):
    wanted = contents(open_data(f"imagefolder:{photographs}").test)
    (photographs / "test").rename(photographs / "val")
    assert contents(open_data(f"imagefolder:{photographs}").test) == wanted


def test_the_hash_of_a_folder_knows_content_and_class(photographs):
    before = open_data(f"imagefolder:{photographs}").sha256
    last_across = photographs / "train" / "across" / "19.png"
    last_across.rename(photographs / "train" / "down" / "+.png")  # now the first of the next class: in the same place
    moved = open_data(f"imagefolder:{photographs}").sha256
    Image.new("RGB", (40, 40)).save(photographs / "test" / "down" / "03.png")
    changed = open_data(f"imagefolder:{photographs}").sha256
    assert len({before, moved, changed}) == 3


def test_a_missing_folder_says_where_to_put_the_images(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/gone/train cannot be read \(No such file.*CLASS"):
        open_data(f"imagefolder:{tmp_path}/gone")


@pytest.mark.parametrize("name", ["cifar", "imagefolder:", "fashion-mnist:x"])
def test_unknown_data_lists_the_known_ones(name):
    with pytest.raises(
        DataError, match="use fashion-mnist, imagefolder:PATH, torchvision:NAME:ROOT, wds:TRAIN,TEST or hf:ID"
    ):
        open_data(name)


def test_a_folder_without_classes_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train has no class folders"):
        open_data(f"imagefolder:{tmp_path}")


def test_a_class_without_images_is_refused_by_name(photographs):
    for file in (photographs / "train" / "down").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="down has no images"):
        open_data(f"imagefolder:{photographs}")


def test_hidden_files_and_folders_are_passed_over(photographs):
    before = open_data(f"imagefolder:{photographs}")
    (photographs / "train" / "down" / "._00.png").write_bytes(b"what some archives leave beside a file")
    (photographs / "train" / ".thumbnails").mkdir()
    after = open_data(f"imagefolder:{photographs}")
    assert (after.sha256, after.class_names) == (before.sha256, before.class_names)


def test_a_class_of_one_image_is_refused_by_name(photographs):
    for file in sorted((photographs / "train" / "down").iterdir())[1:]:
        file.unlink()
    with pytest.raises(DataError, match=r"'down' has no image to fit on \(one of each class is held out"):
        open_data(f"imagefolder:{photographs}")


def test_classes_that_differ_between_train_and_test_are_refused_by_name(photographs):
    (photographs / "test" / "down").rename(photographs / "test" / "up")
    with pytest.raises(DataError, match="different classes, such as 'down'"):
        open_data(f"imagefolder:{photographs}")


def test_an_unreadable_image_is_refused_by_name(photographs):
    (photographs / "test" / "across" / "00.png").write_bytes(b"no image")
    data = open_data(f"imagefolder:{photographs}")
    with pytest.raises(DataError, match=r"across/00\.png is not a readable image"):
        data.test.read(range(0, 1))
