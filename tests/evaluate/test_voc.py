import re

import numpy as np
import pytest
from drawn_voc import CLASSES, draw_voc

from genrep.evaluate.voc import Box, open_voc
from genrep.shards.errors import DataError


def folder_of(voc):
    return voc / "VOCdevkit" / "VOC2007"


def test_splits_have_the_images_and_labels_of_their_lists(voc):
    fit, test = open_voc(voc, "trainval,test")
    assert fit.class_names == CLASSES
    assert [file.name for file in fit.files] == [f"{number:06}.jpg" for number in range(30)]
    assert [file.name for file in test.files] == [f"{number:06}.jpg" for number in range(30, 60)]
    assert fit.labels.shape == (30, 3)
    assert set(map(tuple, fit.labels[9::10])) == {(0, -1, -1)}  # a difficult disc alone
    for row, file in enumerate(fit.files):
        objects = re.findall("<name>(.*?)</name>", (folder_of(voc) / "Annotations" / f"{file.stem}.xml").read_text())
        assert {CLASSES[label] for label in np.flatnonzero(fit.labels[row] >= 0)} == set(objects)


@pytest.mark.parametrize("place", ["VOC2007", "VOCdevkit/VOC2007", "anything"])
def test_the_folder_may_be_the_root_or_lie_in_it(tmp_path, place):
    draw_voc(tmp_path / place, images=8)
    root = tmp_path / place if place == "anything" else tmp_path
    fit, test = open_voc(root, "train,val")
    assert (len(fit.files), len(test.files)) == (2, 2)


def test_splits_of_several_years_are_joined(tmp_path):
    draw_voc(tmp_path / "VOC2007", images=8)
    draw_voc(tmp_path / "VOC2012", images=16)
    fit, test = open_voc(tmp_path, "2007/train+2012/trainval,test")
    assert [file.parent.parent.name for file in fit.files] == 2 * ["VOC2007"] + 8 * ["VOC2012"]
    assert fit.labels.shape == (10, 3)
    assert len(test.files) == 4


def test_a_box_counts_from_zero_and_ends_after_its_last_pixel(voc):
    (folder_of(voc) / "Annotations" / "000000.xml").write_text(
        "<annotation><object><name>square</name><difficult>1</difficult><bndbox><ymin>1</ymin><xmin>1</xmin>"
        "<ymax>1</ymax><xmax>1.5</xmax></bndbox><part><name>head</name></part></object></annotation>"
    )
    fit, _ = open_voc(voc, "trainval,test")
    assert fit.boxes(0) == [Box(CLASSES.index("square"), (0, 0, 1.5, 1), True)]


def test_a_missing_folder_says_where_to_put_voc(tmp_path):
    with pytest.raises(
        DataError, match=rf"{tmp_path} holds no VOC2007: unpack the VOC archives \(trainval and test\) there"
    ):
        open_voc(tmp_path, "trainval,test")


def test_a_missing_split_is_named(voc):
    with pytest.raises(DataError, match=r"ImageSets/Main has no CLASS_validation.txt"):
        open_voc(voc, "train,validation")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("trainval", "does not name two splits"),
        ("test,test", "does not name two splits"),
        ("../x,test", "is no split"),
        ("train,trainval", "share 15 images, such as 000000.jpg"),
    ],
)
def test_splits_that_cannot_be_are_refused(voc, splits, message):
    with pytest.raises(DataError, match=message):
        open_voc(voc, splits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("000000 2\n", "entry 1 is '000000 2', not NAME 1"),
        ("../../secret 1\n", "not NAME 1"),
        ("000000\n", "not NAME 1"),
        ("\x00\xff", "not NAME 1"),
        ("", "lists no image"),
        ("000001 1\n", "does not list the images of disc_test.txt"),
    ],
)
def test_a_broken_list_of_labels_is_one_line(voc, text, message):
    for name in CLASSES if text == "" else CLASSES[:1] if "000001" not in text else CLASSES[1:2]:
        (folder_of(voc) / "ImageSets" / "Main" / f"{name}_test.txt").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        open_voc(voc, "trainval,test")
    assert "\n" not in str(caught.value)


OBJECT = (
    "<object><name>{0}</name><bndbox><xmin>{1}</xmin><ymin>1</ymin><xmax>{2}</xmax><ymax>9</ymax></bndbox></object>"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "is no annotation of VOC"),
        ("", "is no annotation of VOC"),
        (f"<a>{OBJECT.format('horse', 1, 9)}</a>", "an object of class 'horse', which ImageSets/Main does not name"),
        (f"<a>{OBJECT.format('disc', 9, 1)}</a>", r"a box of disc from \(9, 1\) to \(1, 9\)"),
        (f"<a>{OBJECT.format('disc', 0, 9)}</a>", "a box of disc from"),
        (f"<a>{OBJECT.format('disc', 1, 'nan')}</a>", "a box of disc from"),
        (f"<a>{OBJECT.format('disc', 1, 'inf')}</a>", "a box of disc from"),
        ("<a><object><name>disc</name></object></a>", "is no annotation of VOC"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "has a document type"),
        ("<a>" + " " * 2**20 + "</a>", "is larger than 1,048,576 bytes"),
    ],
)
def test_a_broken_annotation_is_one_line(voc, text, message):
    file = folder_of(voc) / "Annotations" / "000003.xml"
    file.write_text(text)
    fit, _ = open_voc(voc, "trainval,test")
    with pytest.raises(DataError, match=message) as caught:
        fit.boxes(3)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        fit.boxes(3)
