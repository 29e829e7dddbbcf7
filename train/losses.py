"""Contrastive losses: functions of projections, the textbook values on unit rows."""

import torch
import torch.nn.functional as F


def nt_xent(first: torch.Tensor, second: torch.Tensor, *, temperature: float = 0.1) -> torch.Tensor:
    """NT-Xent: each projection has to find the other view of its sample among the 2N - 1 others.

    Args:
        first, second: Projections (N, P) of the two views, rows of unit length, N >= 1.
        temperature: tau > 0.

    Returns:
        Scalar, the mean over all 2N projections; N identical pairs give log(2N - 1).

    Source: Chen et al. 2020 (SimCLR, arXiv:2002.05709), equation 1 and algorithm 1.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"two (N, P) tensors are needed, got {tuple(first.shape)} and {tuple(second.shape)}")
    num_pairs = len(first)
    partner = torch.arange(2 * num_pairs, device=first.device).roll(num_pairs)
    return F.cross_entropy(_similarities(torch.cat([first, second]), temperature), partner)


def sup_con(projections: torch.Tensor, labels: torch.Tensor, *, temperature: float = 0.1) -> torch.Tensor:
    """SupCon: every other projection with the same label is a positive, the mean over positives outside the log.

    Args:
        projections: (B, V, P), V views of each sample, rows of unit length.
        labels: Integers (B,), the class of each sample.
        temperature: tau > 0.

    Returns:
        Scalar, the mean over the B * V projections that have a positive (with V >= 2 all do). With labels that
        are all different and V = 2 it equals :func:`nt_xent`.

    Source: Khosla et al. 2020 (arXiv:2004.11362), equation 2 ("out"), without the factor tau / tau0 of its code.
    """
    if projections.ndim != 3 or labels.shape != projections.shape[:1]:
        raise ValueError(
            f"(B, V, P) projections and (B,) labels are needed, got {tuple(projections.shape)} and "
            f"{tuple(labels.shape)}"
        )
    similarities = _similarities(projections.flatten(0, 1), temperature)
    labels = labels.repeat_interleave(projections.shape[1])
    positives = (labels[:, None] == labels[None, :]).fill_diagonal_(False)
    num_positives = positives.sum(1)
    # log sum_a exp(s_ia) - mean_p s_ip, the mean over P(i)
    positive_sums = similarities.masked_fill(~positives, 0).sum(1)
    losses = similarities.logsumexp(1) - positive_sums / num_positives.clamp(min=1)
    return losses[num_positives > 0].mean()


def _similarities(rows: torch.Tensor, temperature: float) -> torch.Tensor:
    """v_i . v_a / tau for all pairs of rows (M, P); -inf on the diagonal, since A(i) is everything but i."""
    return (rows @ rows.T / temperature).fill_diagonal_(float("-inf"))
