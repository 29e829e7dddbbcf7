import math
import random

import pytest
import torch
import torch.nn.functional as F

from genrep.train.losses import nt_xent, sup_con


def unit_rows(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def literal_sup_con(projections, labels, temperature):
    """Equation 2 of Khosla et al. 2020, term by term."""
    rows = [(view, int(label)) for sample, label in zip(projections, labels, strict=True) for view in sample]
    terms = []
    for i, (row, label) in enumerate(rows):
        others = [rows[a] for a in range(len(rows)) if a != i]
        positives = [other for other, its_label in others if its_label == label]
        denominator = sum(math.exp(float(row @ other) / temperature) for other, _ in others)
        logs = [math.log(math.exp(float(row @ positive) / temperature) / denominator) for positive in positives]
        terms.append(-sum(logs) / len(logs))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("num_pairs", [1, 2, 16, 256])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_identical_pairs_cost_the_log_of_the_number_of_others(num_pairs, temperature):
    row = unit_rows(1, 8).expand(num_pairs, 8)
    expected = math.log(2 * num_pairs - 1)
    assert float(nt_xent(row, row, temperature=temperature)) == pytest.approx(expected, abs=1e-5)


def test_orthogonal_pairs_have_a_closed_form():
    rows = torch.eye(4)  # each pair meets itself (similarity 1) and 2 * 3 orthogonal rows
    expected = math.log(math.exp(1 / 0.1) + 6) - 1 / 0.1
    assert float(nt_xent(rows, rows)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("num_views", [2, 3])
def test_sup_con_equals_its_formula_term_by_term(num_views):
    projections, labels = unit_rows(7, num_views, 5), torch.tensor([0, 1, 0, 2, 2, 0, 3])
    expected = literal_sup_con(projections, labels, 0.2)
    assert float(sup_con(projections, labels, temperature=0.2)) == pytest.approx(expected, rel=1e-5)


def test_sup_con_of_one_class_of_equal_rows_costs_the_log_of_the_number_of_others():
    rows = unit_rows(1, 1, 8).expand(6, 2, 8)
    assert float(sup_con(rows, torch.zeros(6, dtype=torch.int64))) == pytest.approx(math.log(11), abs=1e-5)


def test_sup_con_of_all_different_labels_is_nt_xent():
    projections = unit_rows(9, 2, 6)
    expected = nt_xent(projections[:, 0], projections[:, 1])
    torch.testing.assert_close(sup_con(projections, torch.arange(9)), expected)


def test_a_sample_without_a_positive_is_left_out_of_the_mean():
    projections = unit_rows(3, 1, 4)
    alone = sup_con(projections, torch.tensor([0, 0, 1]))
    first, second, third = projections[:, 0]
    terms = [
        torch.logsumexp(torch.stack([row @ other, row @ third]) / 0.1, 0) - row @ other / 0.1
        for row, other in ((first, second), (second, first))
    ]
    torch.testing.assert_close(alone, torch.stack(terms).mean())


@pytest.mark.parametrize("seed", range(3))
def test_both_losses_agree_with_pytorch_metric_learning(seed):
    from pytorch_metric_learning.losses import NTXentLoss, SupConLoss

    projections = unit_rows(12, 2, 16, seed=seed)
    rows, partners = torch.cat([projections[:, 0], projections[:, 1]]), torch.arange(12).repeat(2)
    theirs = NTXentLoss(temperature=0.1)(rows, partners)
    assert float(nt_xent(projections[:, 0], projections[:, 1])) == pytest.approx(float(theirs), abs=1e-5)
    labels = torch.tensor(random.Random(seed).choices(range(4), k=12))
    theirs = SupConLoss(temperature=0.1)(rows, labels.repeat(2))
    assert float(sup_con(projections, labels)) == pytest.approx(float(theirs), abs=1e-5)


def test_gradients_are_those_of_the_formula():
    projections, labels = unit_rows(4, 2, 3).double().requires_grad_(), torch.tensor([0, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda rows: sup_con(rows, labels, temperature=0.5), projections)
    assert torch.autograd.gradcheck(lambda rows: nt_xent(rows[:, 0], rows[:, 1], temperature=0.5), projections)


def test_shapes_that_do_not_fit_are_refused_with_what_came():
    with pytest.raises(ValueError, match=r"\(N, P\) tensors are needed, got \(2, 3\) and \(3, 3\)"):
        nt_xent(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2,\)"):
        sup_con(torch.zeros(2, 3), torch.zeros(2))
