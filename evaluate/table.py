"""A result for people."""

from collections.abc import Sequence

from genrep.evaluate.result import Result, Score

TITLES = {"linear": "linear probe", "linear-genrep": "linear probe by the paper's protocol", "knn": "20-NN"}


def table(result: Result) -> str:
    """Title, one aligned row for the encoder and each floor, and a line for what wins against the encoder.

    How far a number may be off is said apart for the test images and, where labels are drawn, for the draws.
    """
    drawn = result.labels_per_class is not None
    rows = [["", "top-1 %", *(["95 % of draws"] if drawn else []), "95 %, test images", "features"]]
    rows += [_row(name, score, drawn=drawn) for name, score in _scores(result).items()]
    return "\n".join([_title(result), *aligned(rows), *_winners(result)])


def protocol_table(result: Result) -> str:
    """As :func:`table`, for the paper's protocol: last epoch and best epoch side by side, under their names."""
    rows = [["top-1 %", "last epoch", "its seeds", "95 %, test images", "best epoch on test images", "lr", "features"]]
    for name, score in _scores(result).items():
        settings = score.settings
        seeds = [100 * top1 for top1 in settings["last_epoch_top1_by_seed"]]
        low, high = score.test_interval
        rows.append(
            [
                name,
                f"{100 * score.top1:.1f}",
                f"{min(seeds):.1f} to {max(seeds):.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{100 * settings['best_epoch_top1']:.1f} (epoch {settings['best_epoch']})",
                f"{settings['learning_rate']:g}",
                str(score.feature_width),
            ]
        )
    epochs = result.score.settings["epochs"]
    note = "The paper's authors report the best epoch on the images they test on; the last epoch is the honest number."
    return "\n".join([f"{_title(result)}, {epochs} epochs", *aligned(rows), *_winners(result), note])


def _winners(result: Result) -> list[str]:
    return [
        f"{name} wins by {100 * (floor.top1 - result.score.top1):.1f} points: this number does not show learning"
        for name, floor in result.floors.items()
        if floor.top1 >= result.score.top1
    ]


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
