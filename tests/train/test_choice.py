import dataclasses

import numpy as np
import pytest

import genrep.shards
from genrep.train.choice import shown_images
from genrep.train.config import resolve


def shown(folder, samples, *, method="simclr", views="both", num_views=1, epoch=0, of=5):
    config = resolve(genrep.shards.open(folder), batch_size=8, steps=1, views=views)
    config = dataclasses.replace(config, method=method, num_views=num_views)
    return shown_images(config, np.asarray(samples), epoch=epoch, num_views=of)


def test_with_pixel_views_every_place_shows_the_anchor(labelled_set):
    assert shown(labelled_set, range(3), views="pixel", num_views=2).tolist() == [[0, 0, 0]] * 3


@pytest.mark.parametrize("num_views", [1, 3, 5])
def test_the_anchor_comes_first_and_its_views_are_drawn_without_replacement(labelled_set, num_views):
    images = shown(labelled_set, range(200), num_views=num_views)
    assert images.shape == (1 + num_views, 200)
    assert not images[0].any()
    assert all(len(set(column)) == num_views for column in images[1:].T.tolist())
    assert np.unique(images[1:]).tolist() == [1, 2, 3, 4, 5]


def test_every_view_is_equally_likely_in_every_place(labelled_set):
    for place in shown(labelled_set, range(10_000), num_views=2)[1:]:
        counts = np.bincount(place, minlength=6)[1:]
        assert (abs(counts - 2000) < 5 * np.sqrt(10_000 * 0.2 * 0.8)).all()  # five standard deviations


@pytest.mark.parametrize("method", ["inverter", "classifier"])
def test_a_method_of_one_image_is_shown_a_view_or_without_latent_views_the_anchor(labelled_set, method):
    assert shown(labelled_set, range(50), method=method).min() == 1
    assert shown(labelled_set, range(50), method=method).shape == (1, 50)
    assert shown(labelled_set, range(3), method=method, views="pixel").tolist() == [[0, 0, 0]]


def test_a_sample_is_shown_the_same_in_any_batch_and_something_else_in_another_epoch(labelled_set):
    whole = shown(labelled_set, range(50), num_views=2)
    assert shown(labelled_set, [17, 4], num_views=2).tolist() == whole[:, [17, 4]].tolist()
    assert (shown(labelled_set, range(50), num_views=2, epoch=1) != whole).any(axis=0).mean() > 0.5
