"""The linear probe: multinomial logistic regression on frozen features."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from genrep.evaluate.draws import Labels, label_draws
from genrep.evaluate.features import Labelled

ROUGH, FINE = 1e-3, 1e-4  # largest entry of the scaled gradient: along the grid; at its best point
MAX_EVALUATIONS = 300
CURVATURE = 0.1  # typical p (1 - p) of a class; speed alone depends on it
DRAWN_AT_ONCE = 2**26  # floats of drawn features in one batched problem
LOGITS_AT_ONCE = 2**24


class Grid(NamedTuple):
    """What is tried: every normalisation of every pooling of the features, with every prior variance, rising.

    The prior variance of a weight is C of scikit-learn: the weight decay of the mean loss over n images is 1 / (C n).
    """

    normalisations: tuple[str, ...]
    variances: tuple[float, ...]


GRIDS = {
    "narrow": Grid(("standardised",), (1e-3, 1e-2, 1e-1, 1.0, 10.0)),
    "wide": Grid(("standardised", "none", "l2"), tuple(10.0 ** (step / 2) for step in range(-6, 8))),
}


@dataclass(frozen=True)
class LinearProbe:
    """Fits on all labels, or on each of several draws of ``labels_per_class`` labels of each class.

    The point of the grid is the one with the best top-1 on the held-out part, for each draw by itself; the first of
    equal ones. Means and scales are those of the whole part to fit on, which need no label.

    Attributes:
        labels_per_class: A number of each class (50 draws), a share such as ``10%`` (5 draws), or None: all.
        grid: ``narrow``: five decades of weight decay on standardised features. ``wide``: half decades, on features
            standardised, as they are (one scale for all) and of unit length, of every pooling the encoder gives.
    """

    labels_per_class: Labels = None
    grid: str = "narrow"

    name = "linear"

    @property
    def wants_poolings(self) -> bool:
        return self.grid == "wide"

    def fit(self, fit: Labelled, held_out: Labelled, *, num_classes: int, seed: int) -> "LinearModel":
        """Fit and choose; the test part is not among the arguments.

        Args:
            seed: Of the label draws; a fit on all labels is a convex problem and has no chance in it.
        """
        grid = GRIDS[self.grid]
        poolings = fit.poolings if self.grid == "wide" else fit.poolings[:1]
        views = [
            _view(fit, pooling, normalisation)
            for pooling in range(len(poolings))
            for normalisation in grid.normalisations
        ]
        held_out_views = [Labelled(view(held_out.features), held_out.labels) for view in views]
        chunks: list[torch.Tensor | None]
        if self.labels_per_class is None:
            num_images, chunks = len(fit.labels), [None]
        else:
            draws = label_draws(fit.labels.cpu().numpy(), self.labels_per_class, seed=seed)
            num_images = draws.shape[1]
            at_once = max(1, DRAWN_AT_ONCE // (num_images * fit.width))
            chunks = list(torch.from_numpy(draws).to(fit.labels.device).split(at_once))
        fitted = [_fit(fit, rows, views, held_out_views, grid.variances, num_classes=num_classes) for rows in chunks]
        weights, bias, choices, top1s = (torch.cat(each) for each in zip(*fitted, strict=True))
        points = [(view, decay) for view in views for decay in _weight_decays(grid.variances, num_images)]
        chosen = [points[choice] for choice in choices.tolist()]
        names = {
            "weight_decay": [decay for _, decay in chosen],
            "normalisation": [view.normalisation for view, _ in chosen],
            "pooling": [poolings[view.pooling] for view, _ in chosen],
        }
        settings = {
            **(names if self.labels_per_class is not None else {name: values[0] for name, values in names.items()}),
            "weight_decay_grid": [decay for _, decay in points],
            "normalisation_grid": [view.normalisation for view, _ in points],
            "pooling_grid": [poolings[view.pooling] for view, _ in points],
            "held_out_top1": [round(top1, 6) for top1 in top1s.mean(0).tolist()],
        }
        return LinearModel(views, choices // len(grid.variances), weights, bias, settings)


class View(NamedTuple):
    """One way to look at features: a pooling of width F, of unit length if ``l2``, then minus mean over scale (F,).

    A feature that does not vary becomes 0.
    """

    pooling: int
    normalisation: str
    mean: torch.Tensor
    scale: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Features (..., P * F) of P poolings -> (..., F)."""
        return (_pooled(features, self.pooling, self.normalisation, len(self.mean)) - self.mean) / self.scale


def _pooled(features: torch.Tensor, pooling: int, normalisation: str, width: int) -> torch.Tensor:
    block = features[..., pooling * width : (pooling + 1) * width]
    return F.normalize(block, dim=-1) if normalisation == "l2" else block


def _view(fit: Labelled, pooling: int, normalisation: str) -> View:
    """Its mean and scale are those of the part to fit on."""
    std, mean = torch.std_mean(_pooled(fit.features, pooling, normalisation, fit.width), 0)
    varies = std > 1e-5 * mean.abs()
    if normalisation != "standardised":  # one scale for all: a weight decay means the same in every view
        std = (std.square().where(varies, 0).sum() / varies.sum().clamp(min=1)).sqrt().expand_as(std)
    return View(pooling, normalisation, mean, torch.where(varies, std, torch.inf))


@dataclass(frozen=True)
class LinearModel:
    """D fitted classifiers: weights (D, C, F) and bias (D, C) on features as seen by ``views[view[d]]``."""

    views: list[View]
    view: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor
    settings: dict[str, Any]

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Most probable classes int64 (D, N) of features (N, P * F)."""
        predictions = self.view.new_empty(len(self.weights), len(features))
        for number in self.view.unique().tolist():
            mine = self.view == number
            predictions[mine] = _predict(self.weights[mine], self.bias[mine], self.views[number](features))
        return predictions


class _Fitted(NamedTuple):
    weights: torch.Tensor  # (D, C, F)
    bias: torch.Tensor  # (D, C)
    choice: torch.Tensor  # (D,), of the grid's points, view by view
    held_out_top1: torch.Tensor  # (D, number of points)


def _weight_decays(variances: tuple[float, ...], num_images: int) -> list[float]:
    """The grid, strongest first."""
    return [1 / (variance * num_images) for variance in variances]


def _fit(
    fit: Labelled,
    rows: torch.Tensor | None,
    views: list[View],
    held_out: list[Labelled],
    variances: tuple[float, ...],
    *,
    num_classes: int,
) -> _Fitted:
    """D fits at once, on rows (D, n) of the part to fit on, each with its own choice of view and weight decay.

    Without rows it is one fit on all of them.
    """
    labels = _rows_of(fit.labels, rows)
    num_draws, num_images = labels.shape
    decays = fit.features.new_tensor(_weight_decays(variances, num_images))
    paths = []
    for view, held in zip(views, held_out, strict=True):
        problem = _problem(view(_rows_of(fit.features, rows)), labels)
        paths.append(_path(problem, decays, held, num_classes=num_classes))
    top1s = torch.cat([path.held_out_top1 for path in paths], 1)
    choice = _first_best(top1s)
    weights = fit.features.new_zeros(num_draws, num_classes, fit.width)
    bias = fit.features.new_zeros(num_draws, num_classes)
    for number, (view, path) in enumerate(zip(views, paths, strict=True)):
        mine = choice // len(decays) == number
        if not mine.any():
            continue
        if len(views) > 1:
            problem = _problem(view(_rows_of(fit.features, None if rows is None else rows[mine])), labels[mine])
        start = _Solution(path.best.weights[mine], path.best.bias[mine])
        solution = _solve(problem, decays[choice[mine] % len(decays)], start=start, tolerance=FINE)
        weights[mine], bias[mine] = solution.weights @ problem.basis.mT, solution.bias
    return _Fitted(weights, bias, choice, top1s)


def _rows_of(values: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """(D, n, ...); one draw of all, not copied, where rows are left out."""
    return values[None] if rows is None else values[rows]


class _Path(NamedTuple):
    best: "_Solution"  # of each draw, the one with the best top-1 on the held-out part; the first of equal ones
    held_out_top1: torch.Tensor  # (D, number of decays)


def _path(problem: "_Problem", decays: torch.Tensor, held_out: Labelled, *, num_classes: int) -> _Path:
    """Solve for each weight decay in turn; each solution is the start of the next."""
    num_draws, rank, _ = problem.coordinates.shape
    solution = _Solution(decays.new_zeros(num_draws, num_classes, rank), decays.new_zeros(num_draws, num_classes))
    best, best_top1, top1s = solution, decays.new_full((num_draws,), -1.0), []
    for decay in decays:
        solution = _solve(problem, decay.expand(num_draws), start=solution, tolerance=ROUGH)
        predictions = _predict(solution.weights @ problem.basis.mT, solution.bias, held_out.features)
        top1s.append((predictions == held_out.labels).float().mean(1))
        better = top1s[-1] > best_top1
        best_top1 = torch.where(better, top1s[-1], best_top1)
        best = _Solution(
            torch.where(better[:, None, None], solution.weights, best.weights),
            torch.where(better[:, None], solution.bias, best.bias),
        )
    return _Path(best, torch.stack(top1s, 1))


def _first_best(values: torch.Tensor) -> torch.Tensor:
    """Column (D,) of the largest value of each row; ``argmax`` names any of equal ones."""
    return (values == values.amax(1, keepdim=True)).int().cumsum(1).eq(0).sum(1)


class _Problem(NamedTuple):
    """Features in the basis of their principal directions, R <= min(n, F) of them.

    The L2-regularised weights lie in the span of the features, and a rotation does not change their length: the
    problem is the same, smaller where there are few images, and its curvatures are known up to a factor.
    """

    coordinates: torch.Tensor  # (D, R, n)
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
    coordinates = (features @ basis).mT.contiguous()  # both products of a step read it along its rows
    return _Problem(coordinates, basis, coordinates.square().mean(2), labels)


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
        history_size=20,
        tolerance_grad=tolerance,
        line_search_fn="strong_wolfe",
    )

    num_images, labels = problem.labels.shape[1], problem.labels[:, None]

    @torch.no_grad()
    def loss() -> float:
        """The value; the gradient, in closed form, is half the time of autograd's."""
        weights = scaled_weights * scale
        logits = torch.baddbmm((scaled_bias * bias_scale)[..., None], weights, problem.coordinates)  # (D, C, n)
        highest = logits.amax(1, keepdim=True)
        own = logits.gather(1, labels).sum()
        probabilities = logits.sub_(highest).exp_()
        totals = probabilities.sum(1, keepdim=True)
        cross_entropy = ((totals.log() + highest).sum() - own) / num_images
        surplus = probabilities.div_(totals).scatter_add_(1, labels, -torch.ones_like(highest))
        gradient = surplus @ problem.coordinates.mT / num_images + decay[:, None, None] * weights
        scaled_weights.grad = gradient * scale
        scaled_bias.grad = surplus.sum(2) / num_images * bias_scale
        return (cross_entropy + (decay * weights.square().sum((1, 2))).sum() / 2).item()

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
