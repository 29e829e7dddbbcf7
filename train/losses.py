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
    return multi_positive(projections, positive_weights(labels, projections.shape[1]), temperature=temperature)


def multi_positive(projections: torch.Tensor, weights: torch.Tensor, *, temperature: float = 0.1) -> torch.Tensor:
    """Cross-entropy between how a projection should and how it does choose among all others.

    Args:
        projections: (B, V, P), V views of each sample, rows of unit length.
        weights: (B * V, B * V), row i how much each other projection is a positive of i, >= 0; see
            :func:`positive_weights`.
        temperature: tau > 0.

    Returns:
        Scalar, the mean over the projections that have a positive.

    Source: Tian et al. 2023 (StableRep, arXiv:2306.00984), equations 1 (q), 2 (p: the weights, normalised) and 3.
    """
    similarities = _similarities(projections.flatten(0, 1), temperature)
    totals = weights.sum(1)
    # H(p, q) = log sum_a exp(s_ia) - sum_j p_ij s_ij; where p is 0 the similarity may be -inf
    chosen = (similarities.masked_fill(weights == 0, 0) * weights).sum(1)
    losses = similarities.logsumexp(1) - chosen / totals.clamp(min=torch.finfo(totals.dtype).tiny)
    return losses[totals > 0].mean()


def positive_weights(
    labels: torch.Tensor, num_views: int, *, latents: torch.Tensor | None = None, tau: float | None = None
) -> torch.Tensor:
    """How much each projection is a positive of each other: those of its label are, equally or the near ones more.

    Args:
        labels: Integers (B,), the class of each sample; all different, only views of one sample are positives.
        num_views: V.
        latents: (B, V, D) of the images.
        tau: With it a positive weighs exp(-d^2 / (2 tau^2)), d the root mean square difference of the two latents'
            coordinates (sigma or a little less for a Gaussian view of strength sigma). A large tau weights equally.

    Returns:
        float32 (B * V, B * V), the diagonal 0; each row's largest is 1 if it has a positive.
    """
    labels = labels.repeat_interleave(num_views)
    positives = (labels[:, None] == labels[None, :]).fill_diagonal_(False)
    if tau is None:
        return positives.float()
    assert latents is not None
    rows = latents.flatten(0, 1).float()
    # not by the matrix product, which loses the small distances
    squares = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square() / rows.shape[1]
    logs = (-squares / (2 * tau**2)).masked_fill(~positives, float("-inf"))
    nearest = logs.amax(1, keepdim=True).clamp(min=torch.finfo(logs.dtype).min)  # else a small tau leaves no positive
    return (logs - nearest).exp()


def _similarities(rows: torch.Tensor, temperature: float) -> torch.Tensor:
    """v_i . v_a / tau for all pairs of rows (M, P); -inf on the diagonal, since A(i) is everything but i."""
    return (rows @ rows.T / temperature).fill_diagonal_(float("-inf"))
