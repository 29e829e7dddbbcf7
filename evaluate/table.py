"""A result for people."""

from genrep.evaluate.result import Result, Score

TITLES = {"linear": "linear probe", "knn": "20-NN"}


def table(result: Result) -> str:
    """Title, one aligned row for the encoder and each floor, and a line for what wins against the encoder."""
    rows = [("", "top-1 %", "95 % interval", "features")]
    rows += [_row("this encoder", result.score)]
    rows += [_row(f"floor: {name}", floor) for name, floor in result.floors.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}" for row in rows
    ]
    winners = [
        f"{name} wins by {100 * (floor.top1 - result.score.top1):.1f} points: this number does not show learning"
        for name, floor in result.floors.items()
        if floor.top1 >= result.score.top1
    ]
    return "\n".join([_title(result), *lines, *winners])


def _title(result: Result) -> str:
    parts = [result.data, TITLES[result.measure]]
    if result.labels_per_class is not None:
        draws = result.score.settings["num_draws"]
        parts += [f"{result.labels_per_class} labels a class (mean of {draws} draws, and where 95 % of them lie)"]
    if result.shift != "none":
        parts += [f"{result.shift} shift"]
    return f"{', '.join(parts)}, {result.num_images['test']} test images"


def _row(name: str, score: Score) -> tuple[str, str, str, str]:
    low, high = score.interval
    return name, f"{100 * score.top1:.1f}", f"{100 * low:.1f} to {100 * high:.1f}", str(score.feature_width)
