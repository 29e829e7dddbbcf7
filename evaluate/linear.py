"""The linear probe: multinomial logistic regression on frozen features."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from genrep.evaluate.draws import label_draws
from genrep.evaluate.features import Labelled

# prior variance of a weight, C of scikit-learn: the weight decay of the mean loss over n images is 1 / (C n)
VARIANCES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
ROUGH, FINE = 1e-3, 1e-4  # largest entry of the scaled gradient: along the grid; at its best point
MAX_EVALUATIONS = 300
CURVATURE = 0.1  # typical p (1 - p) of a class; speed alone depends on it
DRAWN_AT_ONCE = 2**26  # floats of drawn features in one batched problem
LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class LinearProbe:
    """Fits on all labels, or on each of 50 draws of ``labels_per_class`` labels of each class.

    The weight decay, one of five decades, is the one with the best top-1 on the held-out part, for each draw by itself.
    Features are standardised by the statistics of the whole part to fit on, which need no label.
    """

    labels_per_class: int | None = None

    name = "linear"

    def fit(self, fit: Labelled, held_out: Labelled, *, num_classes: int, seed: int) -> "LinearModel":
        """Fit and choose; the test part is not among the arguments.

        Args:
            seed: Of the label draws; a fit on all labels is a convex problem and has no chance in it.
        """
        standardisation = _standardisation(fit.features)
        held_out = Labelled(standardisation(held_out.features), held_out.labels)
        if self.labels_per_class is None:
            features = standardisation(fit.features)
            fitted = [_fit(features[None], fit.labels[None], held_out, num_classes=num_classes)]
        else:
            draws = label_draws(fit.labels.cpu().numpy(), self.labels_per_class, seed=seed)
            at_once = max(1, DRAWN_AT_ONCE // (draws.shape[1] * fit.features.shape[1]))
            fitted = [
                _fit(standardisation(fit.features[rows]), fit.labels[rows], held_out, num_classes=num_classes)
                for rows in torch.from_numpy(draws).to(fit.labels.device).split(at_once)
            ]
        weights, bias, choices, top1s = (torch.cat(each) for each in zip(*fitted, strict=True))
        num_images = len(fit.labels) if self.labels_per_class is None else self.labels_per_class * num_classes
        grid = _weight_decays(num_images)
        decays = [grid[choice] for choice in choices.tolist()]
        settings = {
            "weight_decay": decays[0] if self.labels_per_class is None else decays,
            "weight_decay_grid": grid,
            "held_out_top1": [round(top1, 6) for top1 in top1s.mean(0).tolist()],
        }
        return LinearModel(standardisation, weights, bias, settings)


class Standardisation(NamedTuple):
    """Mean and scale (F,) of features; a feature that does not vary becomes 0."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean) / self.scale


@dataclass(frozen=True)
class LinearModel:
    """D fitted classifiers: weights (D, C, F) and bias (D, C) on standardised features."""

    standardisation: Standardisation
    weights: torch.Tensor
    bias: torch.Tensor
    settings: dict[str, Any]

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Most probable classes int64 (D, N) of features (N, F)."""
        return _predict(self.weights, self.bias, self.standardisation(features))


class _Fitted(NamedTuple):
    weights: torch.Tensor  # (D, C, F)
    bias: torch.Tensor  # (D, C)
    choice: torch.Tensor  # (D,), of VARIANCES
    held_out_top1: torch.Tensor  # (D, len(VARIANCES))


def _standardisation(features: torch.Tensor) -> Standardisation:
    std, mean = torch.std_mean(features, 0)
    return Standardisation(mean, torch.where(std > 1e-5 * mean.abs(), std, torch.inf))


def _weight_decays(num_images: int) -> list[float]:
    """The grid, strongest first."""
    return [1 / (variance * num_images) for variance in VARIANCES]


def _fit(features: torch.Tensor, labels: torch.Tensor, held_out: Labelled, *, num_classes: int) -> _Fitted:
    """D fits at once, from standardised features (D, n, F) and labels (D, n), each with its own choice."""
    problem = _problem(features, labels)
    num_draws, num_images, rank = problem.coordinates.shape
    solution = _Solution(features.new_zeros(num_draws, num_classes, rank), features.new_zeros(num_draws, num_classes))
    chosen, choice = solution, labels.new_zeros(num_draws)
    best = features.new_full((num_draws,), -1.0)
    grid = features.new_tensor(_weight_decays(num_images))
    top1s = []
    for number, decay in enumerate(grid):  # each solution is the start of the next
        solution = _solve(problem, decay.expand(num_draws), start=solution, tolerance=ROUGH)
        predictions = _predict(solution.weights @ problem.basis.mT, solution.bias, held_out.features)
        top1s.append((predictions == held_out.labels).float().mean(1))
        better = top1s[-1] > best
        best = torch.where(better, top1s[-1], best)
        choice = torch.where(better, number, choice)
        chosen = _Solution(
            torch.where(better[:, None, None], solution.weights, chosen.weights),
            torch.where(better[:, None], solution.bias, chosen.bias),
        )
    chosen = _solve(problem, grid[choice], start=chosen, tolerance=FINE)
    return _Fitted(chosen.weights @ problem.basis.mT, chosen.bias, choice, torch.stack(top1s, 1))


class _Problem(NamedTuple):
    """Features in the basis of their principal directions, R <= min(n, F) of them.

    The L2-regularised weights lie in the span of the features, and a rotation does not change their length: the
    problem is the same, smaller where there are few images, and its curvatures are known up to a factor.
    """

    coordinates: torch.Tensor  # (D, n, R)
    basis: torch.Tensor  # (D, F, R), orthonormal columns
    spectrum: torch.Tensor  # (D, R), mean squares of the coordinates
    labels: torch.Tensor  # (D, n)


class _Solution(NamedTuple):
    weights: torch.Tensor  # (D, C, R), on the coordinates
    bias: torch.Tensor  # (D, C)


def _problem(features: torch.Tensor, labels: torch.Tensor) -> _Problem:
    num_images, width = features.shape[1:]
    if num_images >= width:
        basis = torch.linalg.eigh(features.mT @ features)[1]
    else:
        precise = features.double()
        squares, left = torch.linalg.eigh(precise @ precise.mT)
        lengths = squares.clamp(min=0).sqrt()[:, None]
        inverse = torch.where(lengths > 1e-6 * lengths.amax(2, keepdim=True), 1 / lengths, 0)
        basis = (precise.mT @ (left * inverse)).float()
    coordinates = features @ basis
    return _Problem(coordinates, basis, coordinates.square().mean(1), labels)


def _solve(problem: _Problem, decay: torch.Tensor, *, start: _Solution, tolerance: float) -> _Solution:
    """Minimise, for each draw, mean cross-entropy + decay (D,) / 2 * sum of squared weights; the bias goes free.

    The D problems are independent, but one L-BFGS runs on their sum. Its variables are scaled by the inverse square
    root of the expected curvature, which cuts the steps to a tenth.
    """
    scale = (CURVATURE * problem.spectrum + decay[:, None]).rsqrt()[:, None]  # (D, 1, R)
    bias_scale = CURVATURE**-0.5
    scaled_weights = (start.weights / scale).requires_grad_()
    scaled_bias = (start.bias / bias_scale).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [scaled_weights, scaled_bias],
        max_iter=MAX_EVALUATIONS,
        max_eval=MAX_EVALUATIONS,
        history_size=10,
        tolerance_grad=tolerance,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimiser.zero_grad()
        weights = scaled_weights * scale
        logits = weights @ problem.coordinates.mT + (scaled_bias * bias_scale)[..., None]  # (D, C, n)
        cross_entropy = F.cross_entropy(logits, problem.labels, reduction="sum") / problem.labels.shape[1]
        value = cross_entropy + (decay * weights.square().sum((1, 2))).sum() / 2
        value.backward()
        return value.item()

    optimiser.step(loss)
    return _Solution((scaled_weights * scale).detach(), (scaled_bias * bias_scale).detach())


def _predict(weights: torch.Tensor, bias: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Classes (D, N) of standardised features (N, F)."""
    num_draws, num_classes, width = weights.shape
    rows = max(1, LOGITS_AT_ONCE // (num_draws * num_classes))
    flat = weights.reshape(-1, width)
    return torch.cat(
        [
            ((flat @ some.mT).view(num_draws, num_classes, -1) + bias[..., None]).argmax(1)
            for some in features.split(rows)
        ],
        1,
    )
