import threading

import pytest

from genrep.shards.ahead import ahead


def drawn(items, seen):
    for item in items:
        seen.append(item)
        yield item


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(workers):
    first = threading.Event()

    def work(item):
        if item == 0 and workers > 1:
            first.wait(20)  # for a later one to be done
        first.set()
        return 10 * item

    assert list(ahead(work, range(20), workers)) == [10 * item for item in range(20)]


@pytest.mark.parametrize(("workers", "most"), [(0, 1), (1, 3), (2, 4)])
def test_items_are_drawn_only_a_little_ahead_of_their_results(workers, most):
    seen = []
    results = ahead(abs, drawn(range(100), seen), workers)
    for number in range(50):
        assert next(results) == number
        assert len(seen) <= number + most
    results.close()
    assert len(seen) <= 49 + most


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_is_raised_where_its_result_would_have_come(workers):
    results = ahead(lambda item: 1 / (item - 2), range(9), workers)
    assert [next(results), next(results)] == [-0.5, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
