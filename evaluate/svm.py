"""Linear support vector machines on frozen features: one for each class, against all else."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from genrep.evaluate.average_precision import ranking
from genrep.evaluate.draws import words
from genrep.shards.errors import DataError

# the costs and settings of the paper's authors
DECADES = tuple(10.0**power for power in range(-7, 3))
HALVES = tuple(0.5**power for power in range(19, 3, -1))
POSITIVE_WEIGHT, MAX_ITERATIONS, TOLERANCE = 2, 2000, 1e-4
NUM_FOLDS = 3
COPIES_AT_ONCE = 2**33  # bytes that parallel fits may take; liblinear copies the features of each

Progress = Callable[[str, int, int], None]  # what is being done, steps done, of how many
Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


class Machine(NamedTuple):
    """Score (N,) = features (N, F) @ weights + bias."""

    weights: NDArray[np.float64]
    bias: float


@dataclass(frozen=True)
class Svms:
    """C machines: scores (N, C) = features (N, F) @ weights + bias.

    Attributes:
        costs: The cost chosen, for each class.
        tried: For each class, what the choice went by: cost -> number.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    costs: tuple[float, ...]
    tried: tuple[dict[float, float], ...]

    def scores(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return features @ self.weights + self.bias


def fit_multi_label(
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    *,
    seed: int,
    progress: Progress = lambda what, done, total: None,
) -> Svms:
    """A machine for each class, each with its own cost: that of the best average precision (area) over three folds.

    The ten decades are tried first, then those powers of a half that lie within a decade of the best.

    Args:
        features: (N, F), rows of unit length.
        labels: (N, C): 1, -1, and 0 for what takes no part in a class.
        seed: Of the folds.

    Raises:
        DataError: If a class has fewer than three images with it, or without it.
    """
    for column, name in zip(labels.T, class_names, strict=True):
        if min((column == 1).sum(), (column == -1).sum()) < NUM_FOLDS:
            raise DataError(
                f"class {name!r} has {(column == 1).sum()} images with it and {(column == -1).sum()} without it to "
                f"fit on: {NUM_FOLDS} of each are needed"
            )
    classes = range(len(class_names))
    rows = [np.flatnonzero(labels[:, label]) for label in classes]
    positive = [labels[rows[label], label] == 1 for label in classes]
    fold = [folds(positive[label], rows[label], seed=seed) for label in classes]

    def precision(task: tuple[int, float]) -> float:
        label, cost = task
        areas = []
        for held in range(NUM_FOLDS):
            inside, outside = fold[label] == held, fold[label] != held
            machine = fit_svm(features[rows[label][outside]], positive[label][outside], cost)
            scores = features[rows[label][inside]] @ machine.weights + machine.bias
            areas.append(ranking(scores, positive[label][inside]).curve().area)
        return float(np.mean(areas))

    tried: tuple[dict[float, float], ...] = tuple({} for _ in classes)
    for what, costs_of in (("costs", lambda _: DECADES), ("finer costs", finer_costs)):
        tasks = [(label, cost) for label in classes for cost in costs_of(tried[label])]
        measured = _each(precision, tasks, features, what, progress)
        for (label, cost), value in zip(tasks, measured, strict=True):
            tried[label][cost] = value
    costs = tuple(best(each) for each in tried)

    def final(label: int) -> Machine:
        return fit_svm(features[rows[label]], positive[label], costs[label])

    machines = _each(final, classes, features, "machines", progress)
    return _svms(machines, costs, tried)


def fit_single_label(
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    held_out_features: NDArray[np.float64],
    held_out_labels: NDArray[np.int64],
    *,
    num_classes: int,
    progress: Progress = lambda what, done, total: None,
) -> Svms:
    """A machine for each class, all of one cost: that of the best mean per-class accuracy on the held-out part.

    Args:
        features: (N, F), rows of unit length; ``labels`` (N,), classes 0..C-1, each with an image or more.
    """
    tried: dict[float, float] = {}
    fitted: dict[float, Svms] = {}

    def fit(task: tuple[int, float]) -> Machine:
        label, cost = task
        return fit_svm(features, labels == label, cost)

    for what, costs_of in (("costs", lambda _: DECADES), ("finer costs", finer_costs)):
        costs = costs_of(tried)
        tasks = [(label, cost) for cost in costs for label in range(num_classes)]
        machines = _each(fit, tasks, features, what, progress)
        for number, cost in enumerate(costs):
            of_cost = machines[number * num_classes : (number + 1) * num_classes]
            fitted[cost] = _svms(of_cost, (cost,) * num_classes, (tried,) * num_classes)
            predictions = fitted[cost].scores(held_out_features).argmax(1)
            tried[cost] = mean_per_class(predictions == held_out_labels, held_out_labels)
    return fitted[best(tried)]


def fit_svm(features: NDArray[np.float64], positive: NDArray[np.bool_], cost: float) -> Machine:
    """The linear machine with squared hinge loss.

    It is found in the primal: the authors' dual has the same minimum, and comes to it by a random order.
    """
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=cost, class_weight={1: POSITIVE_WEIGHT}, dual=False, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    machine.fit(features, positive.astype(np.int64))
    return Machine(machine.coef_[0], float(machine.intercept_[0]))


def finer_costs(tried: dict[float, float]) -> tuple[float, ...]:
    """Powers of a half within a decade of the best."""
    return tuple(cost for cost in HALVES if best(tried) / 10 < cost < best(tried) * 10)


def best(tried: dict[float, float]) -> float:
    """The smallest cost of the best ones."""
    return max(sorted(tried), key=lambda cost: tried[cost])


def folds(positive: NDArray[np.bool_], positions: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Which of three folds each of N images is in; positives and negatives are dealt out apart, the same everywhere.

    Args:
        positions: (N,), what keys an image's word.
    """
    keys = words("folds", positions, seed=seed, count=1)[:, 0]
    fold = np.empty(len(positive), np.int64)
    for side in (positive, ~positive):
        rows = np.flatnonzero(side)
        fold[rows[np.argsort(keys[rows], kind="stable")]] = np.arange(len(rows)) % NUM_FOLDS
    return fold


def mean_per_class(
    right: NDArray[np.bool_], labels: NDArray[np.int64], counts: NDArray[np.int64] | None = None
) -> float:
    """Mean over classes of the share that is right.

    Args:
        counts: (N,), how often each image counts; a class that is left without one does not.
    """
    totals = np.bincount(labels, counts)
    rights = np.bincount(labels, right if counts is None else right * counts)
    return float((rights[totals > 0] / totals[totals > 0]).mean())


def _each(
    work: Callable[[Task], Outcome],
    tasks: Sequence[Task],
    features: NDArray[np.float64],
    what: str,
    progress: Progress,
) -> list[Outcome]:
    """All outcomes, as many at once as there are threads and memory; liblinear releases the GIL."""
    outcomes = []
    with ThreadPoolExecutor(min(torch.get_num_threads(), COPIES_AT_ONCE // (3 * features.nbytes) + 1)) as pool:
        for outcome in pool.map(work, tasks):
            outcomes.append(outcome)
            progress(what, len(outcomes), len(tasks))
    return outcomes


def _svms(machines: list[Machine], costs: tuple[float, ...], tried: tuple[dict[float, float], ...]) -> Svms:
    weights, bias = zip(*machines, strict=True)
    return Svms(np.stack(weights, 1), np.array(bias), costs, tried)
