"""Real data of others: torchvision's layouts, WebDataset tars, Hugging Face; each made here in miniature."""

import hashlib
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as vision

from genrep.evaluate.data import open_data
from genrep.shards.errors import DataError
from genrep.shards.imagenet import IMAGENET_100


def save_image(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (grey, grey, grey)).save(path)


def greys(part):
    return [int(image[0, 0, 0]) for image in part.read(range(len(part.labels)))]


def make_dtd(root):
    for number, (split, names) in enumerate({"train": "ab", "val": "cd", "test": "ef"}.items()):
        lines = [f"{kind}/{name}.png" for kind, name in zip(("dots", "lines"), names, strict=True)]
        for place, line in enumerate(lines):
            save_image(root / "dtd" / "dtd" / "images" / line, 10 * number + place)
        labels = root / "dtd" / "dtd" / "labels"
        labels.mkdir(exist_ok=True)
        (labels / f"{split}1.txt").write_text("\n".join(lines))


def make_aircraft(root):
    data = root / "fgvc-aircraft-2013b" / "data"
    for number, split in enumerate(("train", "val", "test")):
        for place in range(2):
            save_image(data / "images" / f"{number}{place}.jpg", 10 * number + place)
        lines = f"{number}0 A 1\n{number}1 B 2\n"
        (data / f"images_variant_{split}.txt").write_text(lines)
    (data / "variants.txt").write_text("A 1\nB 2\n")


def make_flowers(root):
    base = root / "flowers-102"
    for number in range(6):
        save_image(base / "jpg" / f"image_{number + 1:05d}.jpg", 10 * (number // 2) + number % 2)
    savemat(base / "imagelabels.mat", {"labels": np.array([1, 2] * 3)})
    savemat(base / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})


@pytest.mark.parametrize(
    ("name", "make"), [("DTD", make_dtd), ("FGVCAircraft", make_aircraft), ("Flowers102", make_flowers)]
)
def test_a_data_set_of_three_parts_keeps_its_own_held_out_part(tmp_path, monkeypatch, name, make):
    make(tmp_path)
    monkeypatch.setattr(vision.Flowers102, "_check_integrity", lambda self: True)  # it knows the true files' hashes
    if name == "Flowers102":
        with pytest.raises(DataError, match="has no image to fit on"):
            open_data(f"torchvision:{name}:{tmp_path}")  # 102 classes, of which two are here
        monkeypatch.setattr(vision.Flowers102, "classes", ("rose", "tulip"))
    data = open_data(f"torchvision:{name}:{tmp_path}")
    assert len(data.class_names) == 2
    for number, part in enumerate((data.fit, data.held_out, data.test)):
        assert np.allclose(greys(part), [10 * number, 10 * number + 1], atol=1)
        assert part.labels.tolist() == [0, 1]
    assert data.held_out.positions.tolist() == [2, 3]  # beside those of the training part: other random shifts


def make_food(root):
    meta = root / "food-101" / "meta"
    meta.mkdir(parents=True)
    for split, count in (("train", 4), ("test", 1)):
        names = {kind: [f"{kind}/{split}{number}" for number in range(count)] for kind in ("pie", "soup")}
        (meta / f"{split}.json").write_text(json.dumps(names))
        for place, kind in enumerate(names):
            for number, name in enumerate(names[kind]):
                save_image(root / "food-101" / "images" / f"{name}.jpg", 20 * place + number + 100 * (split == "test"))


def make_pets(root):
    base = root / "oxford-iiit-pet"
    for split, count in (("trainval", 4), ("test", 1)):
        lines = []
        for place, kind in enumerate(("Pug", "Manx")):
            for number in range(count):
                name = f"{kind}_{split}{number}".replace("_test", "_9")
                save_image(base / "images" / f"{name}.jpg", 20 * place + number + 100 * (split == "test"))
                lines.append(f"{name} {place + 1} 1 1")
        (base / "annotations").mkdir(exist_ok=True)
        (base / "annotations" / f"{split}.txt").write_text("\n".join(lines))


def make_cars(root):
    base = root / "stanford_cars"
    for split, count in (("train", 4), ("test", 1)):
        rows = []
        for place in range(2):
            for number in range(count):
                name = f"{place}{number}.jpg"
                save_image(base / f"cars_{split}" / name, 20 * place + number + 100 * (split == "test"))
                rows.append((name, place + 1))
        annotations = np.array(rows, dtype=[("fname", object), ("class", object)])
        (base / "devkit").mkdir(exist_ok=True)
        file = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        savemat(base / file, {"annotations": annotations})
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["Fiat", "Lada"], dtype=object)})


@pytest.mark.parametrize(
    ("name", "make"), [("Food101", make_food), ("OxfordIIITPet", make_pets), ("StanfordCars", make_cars)]
)
def test_of_a_data_set_of_two_parts_one_training_image_a_class_is_held_out(tmp_path, name, make):
    make(tmp_path)
    data = open_data(f"torchvision:{name}:{tmp_path}")
    assert np.bincount(data.fit.labels).tolist() == [3, 3]
    assert np.bincount(data.held_out.labels).tolist() == [1, 1]
    assert np.allclose(sorted(greys(data.fit) + greys(data.held_out)), [0, 1, 2, 3, 20, 21, 22, 23], atol=1)
    for part in (data.fit, data.held_out, data.test):
        assert [(grey % 100 + 2) // 20 for grey in greys(part)] == part.labels.tolist()
    assert np.allclose(greys(data.test), [100, 120], atol=1)


@pytest.mark.parametrize(("name", "num_training"), [("Caltech101", 30), ("SUN397", 50)])
def test_a_data_set_without_parts_is_parted_by_class_and_alike_every_time(tmp_path, name, num_training):
    for kind in ("arch", "barn"):
        for number in range(1, num_training + 4):
            caltech = tmp_path / "caltech101" / "101_ObjectCategories" / kind / f"image_{number:04d}.jpg"
            save_image(
                caltech if name == "Caltech101" else tmp_path / "SUN397" / "x" / kind / f"sun_{number}.jpg", number
            )
    (tmp_path / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google").mkdir(parents=True, exist_ok=True)
    if name == "SUN397":
        (tmp_path / "SUN397" / "ClassName.txt").write_text("/x/arch\n/x/barn\n")
    data, again = (open_data(f"torchvision:{name}:{tmp_path}") for _ in range(2))
    num_held_out = round(0.1 * num_training)
    assert np.bincount(data.fit.labels).tolist() == [num_training - num_held_out] * 2
    assert np.bincount(data.held_out.labels).tolist() == [num_held_out] * 2
    assert np.bincount(data.test.labels).tolist() == [3, 3]
    assert greys(again.test) == greys(data.test)
    assert again.sha256 == data.sha256


def test_imagenet_100_is_those_classes_of_an_image_folder(tmp_path):
    for wordnet_id in (*IMAGENET_100, "n00000001"):
        for split, count in (("train", 2), ("val", 1)):
            for number in range(count):
                save_image(tmp_path / split / wordnet_id / f"{number}.png", number)
    save_image(tmp_path / "test" / "ILSVRC2012_test_00000001.JPEG", 0)  # without labels, as ImageNet's are
    assert len(open_data(f"torchvision:ImageNet:{tmp_path}").class_names) == 101
    data = open_data(f"torchvision:ImageNet-100:{tmp_path}")
    assert data.class_names == tuple(sorted(IMAGENET_100))
    assert [len(part.labels) for part in (data.fit, data.held_out, data.test)] == [100, 100, 100]
    (tmp_path / "train" / IMAGENET_100[0]).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"lacks 1 of 100 classes, such as {IMAGENET_100[0]}"):
        open_data(f"torchvision:ImageNet-100:{tmp_path}")


def make_cifar(root, monkeypatch):
    """Of ten images a file, whose hashes torchvision is made to expect."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    batches = [
        write(name, {"data": np.full((4, 3072), number, np.uint8), "labels": [0, 1, 0, 1]})
        for number, name in enumerate(("data_batch_1", "test_batch"))
    ]
    monkeypatch.setattr(vision.CIFAR10, "train_list", batches[:1])
    monkeypatch.setattr(vision.CIFAR10, "test_list", batches[1:])
    name, digest = write("batches.meta", {"label_names": ["cat", "dog"]})
    monkeypatch.setattr(vision.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})


def test_cifar_is_read_where_its_files_have_the_known_hashes(tmp_path, monkeypatch):
    make_cifar(tmp_path, monkeypatch)
    data = open_data(f"torchvision:CIFAR10:{tmp_path}")
    assert data.class_names == ("cat", "dog")
    assert [image.shape for image in data.test.read(range(1))] == [(32, 32, 3)]
    assert greys(data.test) == [1, 1, 1, 1]
    assert sorted([*data.fit.labels, *data.held_out.labels]) == [0, 0, 1, 1]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickle_that_is_not_cifar_is_never_loaded(tmp_path, monkeypatch):
    make_cifar(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="is not CIFAR10 as torchvision knows it"):
        open_data(f"torchvision:CIFAR10:{tmp_path}")


def test_a_missing_data_set_says_where_to_put_it(tmp_path):
    with pytest.raises(
        DataError, match=rf"{tmp_path}/dtd/dtd is not there: put what torchvision.datasets.DTD downloads"
    ):
        open_data(f"torchvision:DTD:{tmp_path}")


def test_places365_of_large_or_small_images(tmp_path, monkeypatch):
    for split, count in (("train-standard", 4), ("val", 1)):
        folder = "data_256_standard" if split == "train-standard" else "val_256"
        names = [f"{kind}_{number}.jpg" for kind in range(2) for number in range(count)]
        for name in names:
            save_image(tmp_path / folder / name, 20 * int(name[0]) + int(name[2]) + 100 * (split == "val"))
        listing = "".join(f"/{name} {name[0]}\n" for name in names)
        monkeypatch.setitem(vision.Places365._FILE_LIST_META, split, write_known(tmp_path / f"{split}.txt", listing))
    monkeypatch.setattr(
        vision.Places365, "_CATEGORIES_META", write_known(tmp_path / "kinds.txt", "/a/arch 0\n/b/bar 1\n")
    )
    data = open_data(f"torchvision:Places365:{tmp_path}")
    assert data.class_names == ("/a/arch", "/b/bar")
    assert np.allclose(greys(data.test), [100, 120], atol=1)
    assert np.bincount(data.fit.labels).tolist() == [3, 3]


def write_known(path, text):
    """A file, with the hash that torchvision is made to expect."""
    path.write_text(text)
    return path.name, hashlib.md5(text.encode()).hexdigest()


def test_a_data_set_that_is_not_whole_says_what_torchvision_said(tmp_path):
    with pytest.raises(DataError, match=r"is not Places365 .*categories_places365.txt does not exist or is corrupted"):
        open_data(f"torchvision:Places365:{tmp_path}")


@pytest.mark.parametrize("name", ["torchvision:MNISTT:x", "torchvision:DTD", "torchvision:DTD:"])
def test_the_known_data_sets_of_torchvision_are_listed(name):
    with pytest.raises(DataError, match="NAME one of CIFAR10, CIFAR100, Caltech101, DTD"):
        open_data(name)


def encoded(grey, image_format="PNG"):
    content = io.BytesIO()
    Image.new("RGB", (6, 4), (grey, grey, grey)).save(content, image_format)
    return content.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def tars(tmp_path):
    for number in range(2):
        samples = [(2 * number + i, i % 2) for i in range(4)]
        members = [(f"{g}.png", encoded(g)) for g, _ in samples] + [(f"{g}.cls", b"%d" % c) for g, c in samples]
        write_tar(tmp_path / f"train-{number}.tar", members)
    write_tar(
        tmp_path / "test.tar", [("a.cls", b"0"), ("a.jpg", encoded(100)), ("b.jpg", encoded(101)), ("b.cls", b"1\n")]
    )
    return tmp_path


def test_tars_are_read_by_a_pattern_of_each_part(tars):
    data = open_data(f"wds:{tars}/train-{{0..1}}.tar,{tars}/test.tar")
    assert sorted(greys(data.fit) + greys(data.held_out)) == [0, 1, 2, 2, 3, 3, 4, 5]
    assert all(grey % 2 == label for grey, label in zip(greys(data.fit), data.fit.labels, strict=True))
    assert greys(data.test) == [100, 101]
    assert open_data(f"wds:{tars}/train-{{0,1}}.tar,{tars}/test.tar").sha256 == data.sha256


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", b"x")], "sample 'a' has png: give each one image"),
        ([("a.png", b"x"), ("a.jpg", b"x"), ("a.cls", b"1")], "sample 'a' has cls, jpg, png"),
        ([("a.png", b"x"), ("a.cls", b"cat")], "the .cls of sample 'a' is b'cat': it must be a class number"),
        ([], "has no samples"),
    ],
)
def test_a_sample_that_is_no_labelled_image_is_refused_by_name(tars, members, message):
    write_tar(tars / "test.tar", members)
    with pytest.raises(DataError, match=message):
        open_data(f"wds:{tars}/train-0.tar,{tars}/test.tar")


@pytest.mark.parametrize("where", ["header", "content"])
def test_a_truncated_tar_is_refused_by_name(tars, where):
    with tarfile.open(tars / "test.tar") as file:
        last = file.getmembers()[-1]
    whole = (tars / "test.tar").read_bytes()
    (tars / "test.tar").write_bytes(whole[: {"header": last.offset + 100, "content": last.offset_data}[where]])
    with pytest.raises(DataError, match=r"test\.tar is not a whole tar"):
        open_data(f"wds:{tars}/train-0.tar,{tars}/test.tar")


@pytest.mark.parametrize("place", ["one.tar", "a.tar,b.tar,c.tar", "pipe:cat a.tar,b.tar"])
def test_tars_need_a_part_to_fit_on_and_one_to_test_on(place):
    with pytest.raises(DataError, match="two paths or URLs of tars"):
        open_data(f"wds:{place}")


def test_a_missing_tar_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"gone.tar cannot be read \(No such file or directory\)"):
        open_data(f"wds:{tmp_path}/gone.tar,{tmp_path}/gone.tar")


def write_tables(folder, **parts):
    import datasets

    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    for part, values in parts.items():
        rows = {"picture": [{"bytes": encoded(g), "path": None} for g in values], "kind": [g % 2 for g in values]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{part}-00000-of-00001.parquet")


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "pets"
    folder.mkdir()
    return folder


def test_a_data_set_of_hugging_face_keeps_its_validation_part(hub_cache):
    write_tables(hub_cache, train=[0, 1, 2, 3], validation=[10, 11], test=[20, 21])
    data = open_data(f"hf:{hub_cache}")
    assert data.class_names == ("cat", "dog")
    assert [greys(part) for part in (data.fit, data.held_out, data.test)] == [[0, 1, 2, 3], [10, 11], [20, 21]]
    assert [part.labels.tolist() for part in (data.fit, data.test)] == [[0, 1, 0, 1], [0, 1]]


def test_validation_serves_where_there_is_no_test_part(hub_cache):
    write_tables(hub_cache, train=[0, 1, 2, 3], validation=[10, 11])
    data = open_data(f"hf:{hub_cache}")
    assert greys(data.test) == [10, 11]
    assert len(data.held_out.labels) == 2
    assert sorted(greys(data.fit) + greys(data.held_out)) == [0, 1, 2, 3]


def test_a_data_set_without_a_test_part_is_refused(hub_cache):
    write_tables(hub_cache, train=[0, 1, 2, 3])
    with pytest.raises(DataError, match="has the parts train: it needs train, and test or validation"):
        open_data(f"hf:{hub_cache}")


def test_parts_without_labels_are_not_tested_on(hub_cache):
    import datasets

    write_tables(hub_cache, train=[0, 1, 2, 3], validation=[10, 11], test=[20, 21])
    file = hub_cache / "test-00000-of-00001.parquet"
    table = datasets.Dataset.from_parquet(str(file))
    table.map(lambda row: {"kind": -1}, features=table.features).to_parquet(file)
    assert greys(open_data(f"hf:{hub_cache}").test) == [10, 11]


def test_what_hugging_face_cannot_load_is_one_line(tmp_path):
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        open_data(f"hf:{tmp_path}/gone")
    assert "\n" not in str(caught.value)


def test_the_hash_of_unchanged_files_is_not_computed_again(tmp_path, monkeypatch):
    make_dtd(tmp_path)
    name = f"torchvision:DTD:{tmp_path}"
    before = open_data(name).sha256
    monkeypatch.setattr("genrep.evaluate.data.part.Split._hash", lambda self: pytest.fail("hashed again"))
    assert open_data(name).sha256 == before
    monkeypatch.undo()
    save_image(tmp_path / "dtd" / "dtd" / "images" / "dots" / "a.png", 77)
    assert open_data(name).sha256 != before
