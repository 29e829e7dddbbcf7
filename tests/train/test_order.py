import numpy as np
import pytest

from genrep.train.order import epoch_order, limited


@pytest.mark.parametrize("shard_counts", [[1], [5], [16, 16, 16], [100, 100, 37], [3] * 50])
@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("shuffle_buffer", [1, 10, 1000])
def test_an_epoch_visits_every_sample_once(shard_counts, lanes, shuffle_buffer):
    order = epoch_order(0, 0, shard_counts, lanes=lanes, shuffle_buffer=shuffle_buffer)
    assert sorted(order.tolist()) == list(range(sum(shard_counts)))


def test_order_is_a_function_of_seed_and_epoch():
    counts = [64, 64, 30]
    assert epoch_order(1, 2, counts).tolist() == epoch_order(1, 2, counts).tolist()
    assert epoch_order(1, 2, counts).tolist() != epoch_order(1, 3, counts).tolist()
    assert epoch_order(1, 2, counts).tolist() != epoch_order(2, 2, counts).tolist()


def test_without_a_buffer_the_lanes_laid_end_to_end_are_whole_shards_in_an_order_of_their_own():
    counts = [20, 30, 10, 40]
    starts = np.cumsum(counts) - counts
    shards = [list(range(start, start + count)) for start, count in zip(starts, counts, strict=True)]
    orders = []
    for epoch in range(3):
        order = epoch_order(0, epoch, counts, lanes=8, shuffle_buffer=1)
        end_to_end = np.concatenate([order[lane::8] for lane in range(8)]).tolist()
        places = [end_to_end.index(shard[0]) for shard in shards]
        orders.append(np.argsort(places).tolist())
        assert end_to_end == [sample for shard in orders[-1] for sample in shards[shard]]
    assert len(set(map(tuple, orders))) > 1


def test_a_sample_leaves_the_buffer_only_after_it_was_read():
    size = 10
    order = epoch_order(3, 0, [500], lanes=1, shuffle_buffer=size)
    leaves = np.argsort(order)  # place in the order of each sample
    assert (leaves >= np.arange(500) - (size - 1)).all()
    assert (order != np.arange(500)).mean() > 0.5


def test_a_lane_that_fits_into_its_buffer_is_shuffled_uniformly():
    first = [epoch_order(0, epoch, [4], lanes=1, shuffle_buffer=4)[0] for epoch in range(2000)]
    counts = np.bincount(first, minlength=4)
    assert (abs(counts - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)).all()  # five standard deviations


def test_a_limit_keeps_the_first_samples_of_the_set():
    assert limited([10, 10, 5], 12) == [10, 2]
    assert limited([10, 10, 5], 25) == [10, 10, 5]
    assert limited([10, 10, 5], 10) == [10]
