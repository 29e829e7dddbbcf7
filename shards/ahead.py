"""Work that threads do ahead of whoever takes the results, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


def ahead(work: Callable[[Item], Value], items: Iterable[Item], workers: int) -> Iterator[Value]:
    """``work`` of each item, in the order of the items.

    Args:
        work: Called by the threads; what it raises is raised where its result would have come.
        items: Drawn by the caller's thread, at most two more than there are workers ahead of the results.
        workers: Threads; 0: the work is done when its result is asked for.
    """
    if not workers:
        yield from map(work, items)
        return
    waiting: deque[Future[Value]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
