import dataclasses
import re
from itertools import islice

import numpy as np
import pytest
import torch
from wave_sets import NUM_SAMPLES, image_of, write_set

import genrep.shards
from genrep.shards.errors import DataError
from genrep.train.config import resolve
from genrep.train.data import Loader
from genrep.train.order import epoch_order


def loader(folder, *, threads=2, **settings):
    shards = genrep.shards.open(folder)
    return Loader(shards, resolve(shards, **{"batch_size": 8, "steps": 12} | settings), threads=threads)


def pixels_of(batch):
    """The images of a batch without augmentation as they were stored: (V, B, H, W) of its first channel."""
    values = (batch.images[:, 0].numpy() * 0.5 + 0.5) * 255
    return values.round().astype(np.uint8).reshape(2, len(batch.samples), *values.shape[1:])


def test_batches_follow_the_epochs_order_and_leave_out_what_makes_no_whole_batch(labelled_set):
    batches = list(loader(labelled_set, batch_size=16, steps=4).batches(0))
    orders = [epoch_order(0, epoch, [16, 16, 8]) for epoch in (0, 1)]
    expected = [order[first : first + 16] for order in orders for first in (0, 16)]
    assert [batch.samples.tolist() for batch in batches] == [samples.tolist() for samples in expected]


@pytest.mark.parametrize("views", ["both", "latent", "pixel"])
def test_batches_are_equal_however_many_threads_load_them_and_wherever_they_begin(labelled_set, views):
    whole = list(loader(labelled_set, threads=1, views=views).batches(0))
    rest = list(loader(labelled_set, threads=4, views=views).batches(5))
    assert len(rest) == len(whole) - 5
    for ours, theirs in zip(rest, whole[5:], strict=True):
        assert ours.images.equal(theirs.images)
        assert ours.labels.equal(theirs.labels)


def test_latent_views_are_the_anchor_and_one_of_its_views_untouched(labelled_set):
    chosen = set()
    for batch in loader(labelled_set, views="latent", steps=100).batches(0):
        for sample, anchor, view in zip(batch.samples.tolist(), *pixels_of(batch), strict=True):
            known = [image_of(sample, k, (28, 28, 1))[..., 0] for k in range(3)]
            np.testing.assert_array_equal(anchor, known[0])
            k = next(k for k in range(3) if (view == known[k]).all())
            chosen.add((sample, k))
    assert chosen == {(sample, k) for sample in range(NUM_SAMPLES) for k in (1, 2)}  # within 20 epochs


def test_pixel_views_are_two_draws_of_the_anchor(tmp_path):
    shards = genrep.shards.open(write_set(tmp_path / "set", num_samples=8))
    config = resolve(shards, batch_size=8, steps=1, views="pixel")
    still = dataclasses.replace(config.pixels, scale=(1, 1), ratio=(1, 1), brightness=0, contrast=0, erase_p=0)
    (batch,) = Loader(shards, dataclasses.replace(config, pixels=still), threads=1).batches(0)
    for views in pixels_of(batch):
        for sample, image in zip(batch.samples.tolist(), views, strict=True):
            anchor = image_of(sample, 0, (28, 28, 1))[..., 0]
            assert (image == anchor).all() or (image == anchor[:, ::-1]).all()


def test_the_two_views_get_draws_of_their_own(labelled_set):
    (batch,) = islice(loader(labelled_set, views="pixel").batches(0), 1)
    first, second = batch.images.unflatten(0, (2, -1))
    assert not any(a.equal(b) for a, b in zip(first, second, strict=True))


def test_images_lie_in_memory_as_convolutions_want_them(labelled_set):
    (batch,) = islice(loader(labelled_set).batches(0), 1)
    assert batch.images.shape == (16, 3, 28, 28)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_labels_are_those_of_the_samples(labelled_set):
    for batch in loader(labelled_set).batches(0):
        assert batch.labels.tolist() == [sample % 4 for sample in batch.samples]


def test_a_limit_keeps_to_the_first_samples(labelled_set):
    seen = {
        int(i) for batch in loader(labelled_set, limit=20, batch_size=4, steps=50).batches(0) for i in batch.samples
    }
    assert seen == set(range(20))


def test_a_damaged_image_is_named(tmp_path):
    folder = write_set(tmp_path / "set", num_samples=8)
    place = bytes(genrep.shards.open(folder).members(3)["anchor.png"])
    tar = folder / "shard-000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content.replace(place, place[:50] + bytes(len(place) - 50)))
    with pytest.raises(DataError, match=re.escape(f"{folder}: member 000000003.anchor.png is a damaged PNG")):
        list(loader(folder).batches(0))
