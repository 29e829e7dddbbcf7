"""The contact sheet, looked at pixel by pixel."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_sets import ENVIRONMENT, batches_of, expected_image, tiny_recipe, write_set

import genrep.shards
from genrep.shards import DataError
from genrep.shards.layout import layout_of
from genrep.shards.preview import GAP, MARGIN, contact_sheet, pixel_view
from genrep.shards.writer import DatasetWriter

FACTOR = 16  # of 9 x 7 pixels the short side becomes 112
HEIGHT, WIDTH = 9 * FACTOR, 7 * FACTOR


def sheet_of(folder, **settings):
    return np.asarray(Image.open(io.BytesIO(contact_sheet(genrep.shards.open(folder), **settings))))


def place_of(image, sheet):
    """Top and left of an image (H, W, 1) on the sheet, whose every pixel became a square."""
    enlarged = np.repeat(np.repeat(np.broadcast_to(image, (*image.shape[:2], 3)), FACTOR, 0), FACTOR, 1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, enlarged.shape[:2], axis=(0, 1))
    samples = [(0, 0), (70, 50), (143, 111), (20, 100), (130, 3)]
    agree = np.logical_and.reduce([(windows[..., y, x] == enlarged[y, x]).all(axis=2) for y, x in samples])
    places = [
        (int(top), int(left))
        for top, left in np.argwhere(agree)
        if np.array_equal(sheet[top : top + HEIGHT, left : left + WIDTH], enlarged)
    ]
    assert len(places) == 1, places
    return places[0]


def test_a_row_is_a_sample_its_anchor_and_then_its_views_by_whole_pixels(tmp_path):
    write_set(tmp_path, tiny_recipe(views=("gauss", "steer")))
    sheet = sheet_of(tmp_path, num_rows=2)
    places = [[place_of(expected_image(sample, view), sheet) for view in range(3)] for sample in (0, 1)]
    top, left = places[0][0]
    assert places == [
        [(top + row * (HEIGHT + GAP), left + view * (WIDTH + GAP)) for view in range(3)] for row in range(2)
    ]
    bottom, right = top + 2 * HEIGHT + GAP, left + 3 * WIDTH + 2 * GAP
    assert sheet.shape == (bottom + MARGIN, right + MARGIN, 3)
    assert (sheet[bottom:] == 255).all()
    assert (sheet[:, right:] == 255).all()


def test_rows_are_spread_over_the_classes_and_ordered_by_them(tmp_path):
    write_set(tmp_path, tiny_recipe(views=()))  # even and odd samples are two classes
    sheet = sheet_of(tmp_path, num_rows=5)
    tops = {sample: place_of(expected_image(sample, 0), sheet)[0] for sample in (0, 2, 4, 1, 3)}
    assert sorted(tops, key=tops.get) == [0, 2, 4, 1, 3]
    assert len(set(np.diff(list(tops.values())))) == 1


def write_labelled(folder, labels, *, views=()):
    recipe = tiny_recipe(num_samples=len(labels), shard_size=len(labels), views=views)
    [spec] = layout_of(recipe).shards
    [batch] = batches_of(recipe, spec, batch_size=len(labels))
    writer = DatasetWriter(folder, recipe)
    writer.write_shard(spec, [replace(batch, labels=np.array(labels, np.int64))], ENVIRONMENT)
    writer.finish()


def test_of_more_classes_than_rows_some_evenly_apart_are_drawn(tmp_path):
    write_labelled(tmp_path, [4, 3, 2, 1, 0, 0, 0])
    sheet = sheet_of(tmp_path, num_rows=3)
    tops = [place_of(expected_image(sample, 0), sheet)[0] for sample in (4, 2, 0)]  # classes 0, 2 and 4
    assert tops == sorted(tops)
    assert tops[0] + 3 * (HEIGHT + GAP) - GAP + MARGIN == len(sheet)


def test_no_more_rows_are_drawn_than_there_are_samples(tmp_path):
    write_labelled(tmp_path, [-1, -1])
    sheet = sheet_of(tmp_path, num_rows=9)
    assert place_of(expected_image(1, 0), sheet)[0] + HEIGHT + MARGIN == len(sheet)


def test_a_large_image_is_shrunk_by_averages_and_keeps_its_shape(tmp_path):
    write_set(tmp_path, tiny_recipe(num_samples=1, shard_size=1, views=(), height=300, width=640))
    sheet = sheet_of(tmp_path)
    expected = np.asarray(Image.fromarray(expected_image(0, 0, height=300, width=640)[..., 0]).reduce(3))
    height, width = expected.shape
    assert (height, width) == (100, 214)
    drawn = sheet[-MARGIN - height : -MARGIN, -MARGIN - width : -MARGIN]
    np.testing.assert_array_equal(drawn, np.stack([expected] * 3, axis=-1))


def test_names_of_any_length_and_script_are_drawn(tmp_path):
    recipe = tiny_recipe(views=("gauss",) * 3)
    recipe["generator"]["class_names"] = ["n" * 10_000, "Käse\n\x1b[2J 漢"]
    write_set(tmp_path, recipe)
    assert sheet_of(tmp_path).shape[1] < 1000


# panels


def columns_of(sheet, top, left):
    return [
        sheet[top : top + HEIGHT, left + column * (WIDTH + GAP) : left + column * (WIDTH + GAP) + WIDTH]
        for column in range(6)
    ]


def test_panels_of_a_set_with_classes(tmp_path):
    write_set(tmp_path, tiny_recipe(views=("independent", "gauss", "steer")))
    sheet = sheet_of(tmp_path, num_rows=2, panels=True)
    places = [
        place_of(expected_image(0, view), sheet) for view in (0, 2, 3, 1)
    ]  # anchor, Gaussian, steered, independent
    top, left = places[0]
    assert places == [(top, left + column * (WIDTH + GAP)) for column in range(4)]
    assert left + 6 * (WIDTH + GAP) - GAP + MARGIN == sheet.shape[1]
    supcon, gauss_supcon = columns_of(sheet, top, left)[4:]
    small = [np.asarray(Image.fromarray(panel).reduce(FACTOR)) for panel in (supcon, gauss_supcon)]
    for panel, view, stream in zip(small, (0, 2), (0, 1), strict=True):  # T_x of sample 4, of the class of sample 0
        other = np.repeat(expected_image(4, view), 3, axis=2)
        np.testing.assert_array_equal(panel, pixel_view(other, np.random.default_rng([0, stream])))


def test_another_sample_of_the_class_stands_in_for_an_independent_view(tmp_path):
    write_set(tmp_path, tiny_recipe(views=("gauss", "steer")))
    sheet = sheet_of(tmp_path, num_rows=1, panels=True)
    top, left = place_of(expected_image(0, 0), sheet)
    assert place_of(expected_image(2, 0), sheet) == (top, left + 3 * (WIDTH + GAP))


def test_panels_of_a_set_without_classes(tmp_path):
    write_labelled(tmp_path, [-1] * 3, views=("gauss", "steer"))
    sheet = sheet_of(tmp_path, num_rows=1, panels=True)
    top, left = place_of(expected_image(0, 0), sheet)
    assert place_of(expected_image(0, 1), sheet) == (top, left + WIDTH + GAP)
    assert place_of(expected_image(0, 2), sheet) == (top, left + 2 * (WIDTH + GAP))
    for view, panel in enumerate(columns_of(sheet, top, left)[3:]):  # SimCLR, Gaussian + SimCLR, steer + SimCLR
        image = np.repeat(expected_image(0, view), 3, axis=2)
        drawn = np.asarray(Image.fromarray(panel).reduce(FACTOR))
        np.testing.assert_array_equal(drawn, pixel_view(image, np.random.default_rng([0, view])))


@pytest.mark.parametrize(
    ("labels", "views", "lacking", "wanted"),
    [
        ([0, 0], ("gauss",), "steer", "gauss,steer,independent"),
        ([0, 0], (), "gauss and steer", "gauss,steer,independent"),
        ([-1, -1], ("steer", "gauss+steer"), "gauss", "gauss,steer"),
        ([0, 1, 1], ("gauss", "steer"), "independent", "gauss,steer,independent"),
    ],
)
def test_panels_say_which_views_to_generate(tmp_path, labels, views, lacking, wanted):
    write_labelled(tmp_path, labels, views=views)
    message = f"no views of kind {lacking}, which the panels show: .* genrep-generate --views {wanted}$"
    with pytest.raises(DataError, match=message):
        sheet_of(tmp_path, panels=True)


def test_the_same_set_gives_the_same_sheet(tmp_path):
    write_set(tmp_path, tiny_recipe(views=("gauss", "steer")))
    dataset = genrep.shards.open(tmp_path)
    assert contact_sheet(dataset, panels=True) == contact_sheet(dataset, panels=True)


# T_x


def test_pixel_views_differ_between_draws_and_show_only_what_is_in_the_image():
    image = np.full((12, 40, 3), 100, np.uint8)
    image[:, 20:] = 140
    views = [pixel_view(image, np.random.default_rng([0, draw])) for draw in range(300)]
    assert len({view.tobytes() for view in views}) > 200
    for view in views:
        assert view.shape == image.shape
        assert (view == view[:1, :, :1]).all()  # as in the image, rows are alike and nothing has colour: no border
        assert 50 <= view.min() <= view.max() <= 219  # contrast 1.4 takes 100 and 140 to at least 84, at most 156
    assert {100, 140} <= {int(view.min()) for view in views if view.min() == view.max()}  # crops of either half


def test_pixel_views_of_colours_turn_grey_now_and_then():
    image = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    grey = [
        (lambda view: (view == view[..., :1]).all())(pixel_view(image, np.random.default_rng([1, draw])))
        for draw in range(300)
    ]
    assert 0.13 < np.mean(grey) < 0.27  # a fifth
