import dataclasses
import re
from itertools import islice

import fsspec
import numpy as np
import pytest
import torch
from wave_sets import NUM_SAMPLES, damage, image_of, write_set

import genrep.shards
from genrep.shards.errors import DataError
from genrep.shards.ffcv import FfcvSet, export_ffcv
from genrep.train.config import resolve
from genrep.train.data import Loader
from genrep.train.order import epoch_order


def loader(folder, *, workers=2, mix=None, settings=None, **how):
    shards = genrep.shards.open(folder)
    mixed = None if mix is None else genrep.shards.open(mix[0])
    mix_settings = {} if mix is None else {"mixed": mixed, "mix_ratio": mix[1]}
    config = resolve(shards, **{"batch_size": 8, "steps": 12} | mix_settings | (settings or {}))
    return Loader(shards, config, mixed=mixed, workers=workers, **how)


def pixels_of(batch):
    """The images of a batch without augmentation as they were stored: (V, B, H, W) of its first channel."""
    values = (batch.images[:, 0].numpy() * 0.5 + 0.5) * 255
    return values.round().astype(np.uint8).reshape(2, len(batch.samples), *values.shape[1:])


def test_batches_follow_the_epochs_order_and_leave_out_what_makes_no_whole_batch(labelled_set):
    batches = list(loader(labelled_set, settings={"batch_size": 16, "steps": 4}).batches(0))
    orders = [epoch_order(0, epoch, [16, 16, 8]) for epoch in (0, 1)]
    expected = [order[first : first + 16] for order in orders for first in (0, 16)]
    assert [batch.samples.tolist() for batch in batches] == [samples.tolist() for samples in expected]


def assert_equal_batches(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.samples.tolist() == other.samples.tolist()
        assert one.images.equal(other.images)
        assert one.labels.equal(other.labels)
        assert (one.latents is None) == (other.latents is None)
        assert one.latents is None or one.latents.equal(other.latents)


@pytest.mark.parametrize("views", ["both", "latent", "pixel"])
@pytest.mark.parametrize("workers", [1, 4])
def test_batches_are_equal_however_many_workers_load_them_and_wherever_they_begin(labelled_set, views, workers):
    whole = list(loader(labelled_set, workers=0, settings={"views": views}).batches(0))
    assert_equal_batches(loader(labelled_set, workers=workers, settings={"views": views}).batches(5), whole[5:])


def test_ranks_deal_out_the_batches_of_one_process(labelled_set):
    whole = list(loader(labelled_set).batches(0))
    ranks = [list(loader(labelled_set, rank=rank, world=4).batches(0)) for rank in range(4)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        images = batch.images.unflatten(0, (2, -1))
        for rank, share in enumerate(shares):
            assert share.global_samples.tolist() == batch.samples.tolist()
            assert share.samples.tolist() == batch.samples[rank::4].tolist()
            assert share.images.unflatten(0, (2, -1)).equal(images[:, rank::4])
            assert share.labels.equal(batch.labels[rank::4])


def test_what_a_gpu_would_be_given_equals_what_the_cpu_computes(labelled_set):
    """The torch path on CPU tensors: the same samples, draws and labels, pixels to rounding."""
    loading = loader(labelled_set)
    for batch, read in zip(loading.batches(0), map(loading._read_batch, plan_of(loading)), strict=True):
        images = loading._by_torch(read)
        assert images.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(images, batch.images, atol=1e-5, rtol=0)


def plan_of(loading):
    return ([stream.at(step) for stream in loading.streams] for step in range(loading.config.steps))


def test_batches_from_a_store_are_those_from_a_folder_and_it_is_never_asked_twice_for_a_tar(
    labelled_set, tmp_path, monkeypatch
):
    monkeypatch.setenv("GENREP_CACHE", str(tmp_path))
    url = "memory://train/labelled"
    write_set(url)
    for ours, theirs in zip(loader(url).batches(0), loader(labelled_set).batches(0), strict=True):
        assert ours.images.equal(theirs.images)
    assert len(list(tmp_path.glob("*.tar"))) == 3
    for number in range(3):
        fsspec.filesystem("memory").rm_file(f"{url}/shard-{number:06d}.tar")
    assert len(list(loader(url).batches(0))) == 12


def test_latent_views_are_the_anchor_and_one_of_its_views_untouched(labelled_set):
    chosen = set()
    for batch in loader(labelled_set, settings={"views": "latent", "steps": 100}).batches(0):
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
    (batch,) = Loader(shards, dataclasses.replace(config, pixels=still), workers=1).batches(0)
    for views in pixels_of(batch):
        for sample, image in zip(batch.samples.tolist(), views, strict=True):
            anchor = image_of(sample, 0, (28, 28, 1))[..., 0]
            assert (image == anchor).all() or (image == anchor[:, ::-1]).all()


def test_the_two_views_get_draws_of_their_own(labelled_set):
    (batch,) = islice(loader(labelled_set, settings={"views": "pixel"}).batches(0), 1)
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
    limited = loader(labelled_set, settings={"limit": 20, "batch_size": 4, "steps": 50})
    seen = {int(i) for batch in limited.batches(0) for i in batch.samples}
    assert seen == set(range(20))


# an FFCV file in place of the tars


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 40, 3)])
@pytest.mark.parametrize("views", ["both", "pixel"])
def test_the_batches_of_an_ffcv_file_are_those_of_the_tars(tmp_path, shape, views):
    shards = genrep.shards.open(write_set(tmp_path / "set", shape=shape))
    export_ffcv(shards, tmp_path / "set.beton")
    settings = {"views": views, "method": "multipos", "num_views": 1, "latent_tau": 0.5}
    images = FfcvSet(tmp_path / "set.beton", shards)
    assert_equal_batches(
        loader(tmp_path / "set", images=images, settings=settings).batches(0),
        loader(tmp_path / "set", settings=settings).batches(0),
    )


# damaged samples


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(tmp_path, workers):
    folder = damage(write_set(tmp_path / "set", num_samples=8), 3)
    with pytest.raises(
        DataError, match=re.escape(f"{folder}/shard-000000.tar: member 000000003.anchor.png is a damaged PNG")
    ):
        list(loader(folder, workers=workers).batches(0))


def test_asked_to_a_damaged_sample_is_passed_over_for_the_one_in_its_place_in_the_next_batch(tmp_path):
    whole = list(loader(write_set(tmp_path / "whole")).batches(0))
    folder = damage(write_set(tmp_path / "set"), 3, 20)
    passed_over = 0
    for number, batch in enumerate(loader(folder, skip_bad=True).batches(0)):
        expected = whole[number]
        for b, (planned, taken) in enumerate(zip(batch.global_samples.tolist(), batch.samples.tolist(), strict=True)):
            if planned not in (3, 20):
                assert taken == planned
                assert batch.images.unflatten(0, (2, -1))[:, b].equal(expected.images.unflatten(0, (2, -1))[:, b])
                continue
            order = epoch_order(0, number // 5, [16, 16, 8])
            later = [int(order[(number % 5 * 8 + b + 8 * ahead) % 40]) for ahead in (1, 2)]
            assert taken == next(sample for sample in later if sample not in (3, 20))
            assert batch.labels[b] == taken % 4
            passed_over += 1
        assert batch.samples.tolist().count(3) == batch.samples.tolist().count(20) == 0
        assert len(batch.passed_over) >= sum(planned in (3, 20) for planned in batch.global_samples)
    assert passed_over > 2  # in twelve steps of a set of five


def test_what_is_passed_over_is_told_with_its_fault(tmp_path):
    folder = damage(write_set(tmp_path / "set"), 3)
    told = [
        fault
        for batch in loader(folder, settings={"steps": 5}, skip_bad=True).batches(0)
        for fault in batch.passed_over
    ]
    assert len(told) == 1
    assert "000000003.anchor.png is a damaged PNG" in told[0]


def test_if_nothing_can_be_read_passing_over_ends(tmp_path):
    folder = damage(write_set(tmp_path / "set", num_samples=8), *range(8))
    with pytest.raises(
        DataError, match=r"no sample that could take the place of a damaged one can be read: .*damaged PNG"
    ):
        list(loader(folder, skip_bad=True).batches(0))


# another set mixed in


@pytest.fixture(scope="module")
def other_set(tmp_path_factory):
    """Twelve labelled anchors without views."""
    return write_set(tmp_path_factory.mktemp("sets") / "other", num_samples=12, num_views=0)


def test_every_batch_holds_the_ratio_of_the_other_set_and_each_set_its_own_epochs(labelled_set, other_set):
    batches = list(loader(labelled_set, mix=(other_set, 0.3), settings={"method": "simclr", "steps": 14}).batches(0))
    own = [batch.samples[:6] for batch in batches]  # round(0.3 * 8) = 2 are of the other
    others = [batch.samples[6:] - NUM_SAMPLES for batch in batches]
    expected = np.concatenate([epoch_order(0, epoch, [16, 16, 8])[:36] for epoch in range(3)])
    assert np.concatenate(own).tolist() == expected[: 14 * 6].tolist()
    epochs = np.concatenate(others)[:24].reshape(2, 12)
    assert np.sort(epochs).tolist() == [list(range(12))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()
    labels = [sample % 4 for sample in others[0]]
    assert batches[0].labels[6:].tolist() == labels


def test_of_a_set_without_views_both_images_show_the_anchor_each_with_its_own_augmentation(labelled_set, other_set):
    (batch,) = islice(loader(labelled_set, mix=(other_set, 0.5), settings={"method": "simclr"}).batches(0), 1)
    first, second = batch.images.unflatten(0, (2, -1))[:, 4:]
    assert not any(a.equal(b) for a, b in zip(first, second, strict=True))


def test_mixed_batches_are_equal_by_any_number_of_workers_and_ranks(labelled_set, other_set):
    mix, settings = (other_set, 0.25), {"method": "simclr"}
    whole = list(loader(labelled_set, workers=0, mix=mix, settings=settings).batches(0))
    assert_equal_batches(loader(labelled_set, mix=mix, settings=settings).batches(3), whole[3:])
    for rank in range(2):
        shares = loader(labelled_set, mix=mix, settings=settings, rank=rank, world=2).batches(0)
        for batch, share in zip(whole, shares, strict=True):
            assert share.samples.tolist() == batch.samples[rank::2].tolist()
            assert share.images.unflatten(0, (2, -1)).equal(batch.images.unflatten(0, (2, -1))[:, rank::2])
            assert share.labels.equal(batch.labels[rank::2])


def test_samples_of_the_two_sets_share_no_draws(labelled_set):
    batches = list(loader(labelled_set, mix=(labelled_set, 0.5), settings={"views": "pixel", "steps": 10}).batches(0))
    seen = {}
    for batch in batches:
        for sample, image in zip(batch.samples.tolist(), batch.images.unflatten(0, (2, -1))[0], strict=True):
            seen[sample] = image
    assert set(seen) == set(range(2 * NUM_SAMPLES))
    assert not any(seen[sample].equal(seen[sample + NUM_SAMPLES]) for sample in range(NUM_SAMPLES))
