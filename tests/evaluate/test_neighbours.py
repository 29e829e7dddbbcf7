import torch

from genrep.evaluate import neighbours
from genrep.evaluate.neighbours import nearest


def literal(queries, bank, *, is_itself=False):
    table = torch.cdist(queries.double(), bank.double())
    if is_itself:
        table.fill_diagonal_(torch.inf)
    return table.min(1)


def test_blocks_of_any_size_find_what_the_whole_table_finds(monkeypatch):
    draws = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(23, 5, generator=draws), torch.randn(41, 5, generator=draws)
    for rows, columns in ((1024, 2**15), (4, 7), (1, 1)):
        monkeypatch.setattr(neighbours, "QUERIES", rows)
        monkeypatch.setattr(neighbours, "BANK", columns)
        for itself in (False, True):
            found = nearest(bank if itself else queries, bank, is_itself=itself)
            distances, indices = literal(bank if itself else queries, bank, is_itself=itself)
            assert torch.equal(found.rows, indices)
            assert torch.allclose(found.distances, distances)


def test_the_distance_to_a_copy_is_exactly_0():
    bank = torch.randn(50, 8, generator=torch.Generator().manual_seed(1)) * 1000
    assert nearest(bank[[7, 3]], bank).distances.tolist() == [0, 0]
    assert nearest(bank[[7, 3]], bank).rows.tolist() == [7, 3]
