"""Nearest neighbours by Euclidean distance, exact, in memory that does not grow with their number."""

from dataclasses import dataclass

import torch

QUERIES, BANK = 1024, 2**15  # rows of one block of squared distances


@dataclass(frozen=True)
class Nearest:
    """Of Q queries: how far the nearest row of the bank lies, float64 (Q,), and which it is, int64 (Q,)."""

    distances: torch.Tensor
    rows: torch.Tensor


def nearest(queries: torch.Tensor, bank: torch.Tensor, *, is_itself: bool = False) -> Nearest:
    """The nearest row of ``bank`` (N, F) to each row of ``queries`` (Q, F).

    Candidates are found by |b|^2 - 2 q.b in float32; the distance to the best is then computed by itself, so that of
    equal rows is exactly 0.

    Args:
        is_itself: The queries are the bank: no row is its own neighbour. The bank then needs two rows.
    """
    assert len(bank) > is_itself
    squares = bank.square().sum(1)
    found = []
    for start in range(0, len(queries), QUERIES):
        some = queries[start : start + QUERIES]
        best = some.new_full((len(some),), torch.inf)
        rows = torch.zeros(len(some), dtype=torch.int64, device=some.device)
        for first in range(0, len(bank), BANK):
            block = torch.addmm(squares[first : first + BANK], some, bank[first : first + BANK].mT, alpha=-2)
            if is_itself:
                own = torch.arange(start, start + len(some), device=some.device) - first
                inside = ((own >= 0) & (own < block.shape[1])).nonzero()[:, 0]
                block[inside, own[inside]] = torch.inf
            values, columns = block.min(1)
            better = values < best
            best = torch.where(better, values, best)
            rows = torch.where(better, columns + first, rows)
        found.append(rows)
    rows = torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)
    gaps = [
        (queries[start : start + QUERIES].double() - bank[rows[start : start + QUERIES]].double()).norm(dim=1)
        for start in range(0, len(queries), QUERIES)
    ]
    return Nearest(torch.cat(gaps) if gaps else torch.zeros(0, dtype=torch.float64), rows)
