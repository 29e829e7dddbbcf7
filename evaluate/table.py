"""A result for people."""

from collections.abc import Sequence

from genrep.evaluate.result import Result, Score

TITLES = {"linear": "linear probe", "knn": "20-NN"}


def table(result: Result) -> str:
    """Title, one aligned row for the encoder and each floor, and a line for what wins against the encoder.

    How far a number may be off is said apart for the test images and, where labels are drawn, for the draws.
    """
    drawn = result.labels_per_class is not None
    rows = [["", "top-1 %", *(["95 % of draws"] if drawn else []), "95 %, test images", "features"]]
    rows += [_row(name, score, drawn=drawn) for name, score in _scores(result).items()]
    winners = [
        f"{name} wins by {100 * (floor.top1 - result.score.top1):.1f} points: this number does not show learning"
        for name, floor in result.floors.items()
        if floor.top1 >= result.score.top1
    ]
    return "\n".join([_title(result), *aligned(rows), *winners])


def curve(results: Sequence[Result]) -> str:
    """Measurements that differ in their labels alone: a row for the encoder and each floor, a column for each."""
    first = results[0]
    rows = [["top-1 %, labels a class:", *(str(result.labels_per_class or "all") for result in results), "features"]]
    for name, score in _scores(first).items():
        numbers = [f"{100 * _scores(result)[name].top1:.1f}" for result in results]
        rows.append([name, *numbers, str(score.feature_width)])
    return "\n".join([_title(first, labels=False), *aligned(rows)])


def _scores(result: Result) -> dict[str, Score]:
    return {"this encoder": result.score, **{f"floor: {name}": floor for name, floor in result.floors.items()}}


def aligned(rows: list[list[str]]) -> list[str]:
    """A line for each row: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _title(result: Result, *, labels: bool = True) -> str:
    parts = [result.data, TITLES[result.measure]]
    if labels and result.labels_per_class is not None:
        parts += [f"{result.labels_per_class} labels a class (mean of {result.score.settings['num_draws']} draws)"]
    if result.shift != "none":
        parts += [f"{result.shift} shift"]
    return f"{', '.join(parts)}, {result.num_images['test']} test images"


def _row(name: str, score: Score, *, drawn: bool) -> list[str]:
    intervals = ([score.interval] if drawn else []) + [score.test_interval]
    shown = [f"{100 * low:.1f} to {100 * high:.1f}" for low, high in intervals]
    return [name, f"{100 * score.top1:.1f}", *shown, str(score.feature_width)]
