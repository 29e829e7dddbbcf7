"""Plots of a study that need no colour: every row and curve has its own marker and line style."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genrep.evaluate.studies.analysis import ALL, MEAN, Analysis, Curve
from genrep.evaluate.studies.record import TELLING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"  # replaced by the colour of the text around
COLOURS = ("#3b8fd1", "#d1792b", "#2f9e6e", "#a868c9", "#97892f", "#c8506a")  # on white and on black
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
FLOOR_LINES = (":", "--", "-.")


@dataclass(frozen=True)
class Plot:
    """A picture in three forms.

    Attributes:
        name: Of its files.
        caption: What it shows.
        inline: SVG that takes its ink from the page.
        svg, png: Files, black on white.
    """

    name: str
    caption: str
    inline: str
    svg: bytes
    png: bytes


def plots(analysis: Analysis) -> list[Plot]:
    """Curves where rows lie on curves, else a panel a measure; then the differences."""
    made = []
    if analysis.curves:
        for measure in (MEAN, "20-NN, clean", "full probe, clean"):
            made.append(_plot(f"curve-{_slug(measure)}", _curve_caption(analysis, measure), _curves, analysis, measure))
    elif analysis.rows:
        for measure in TELLING:
            made.append(_plot(f"rows-{_slug(measure)}", f"{measure}: {_ROWS}", _rows, analysis, measure))
    if any(difference.numbers for difference in analysis.differences):
        made.append(_plot("differences", _DIFFERENCES, _differences, analysis, MEAN))
    return made


_ROWS = "mean (marker), range of seeds (bar), floors (vertical lines)"
_DIFFERENCES = (
    f"Differences, {MEAN}: mean, each seed (small marks), 95 % interval over seeds and test images; primary ones filled"
)


def _curve_caption(analysis: Analysis, measure: str) -> str:
    shown = "mean, range of seeds"
    if any(curve.growth for curve in analysis.curves):
        shown += ", 95 % band of the best law, beyond the points too"
    return f"{measure} over {analysis.study.x}: {shown}; a ring marks what is best on held-out images"


def _rows(axes: "Axes", analysis: Analysis, measure: str) -> None:
    for number, found in enumerate(analysis.rows):
        values = [100 * each for each in found.numbers[measure].by_seed]
        marker, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
        axes.plot([min(values), max(values)], [number, number], color=colour, linewidth=2)
        filled = colour if found.row.primary else "none"
        axes.plot(np.mean(values), number, marker=marker, markersize=7, color=colour, markerfacecolor=filled)
    for number, (floor, of_floor) in enumerate(analysis.floors.items()):
        label = floor.removeprefix("floor: ")
        axes.axvline(100 * of_floor[measure], linestyle=FLOOR_LINES[number % 3], color=INK, linewidth=1, label=label)
    axes.set_yticks(range(len(analysis.rows)), [found.row.name for found in analysis.rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"top-1 %, {measure}")
    axes.margins(y=0.5 / max(len(analysis.rows), 2))
    axes.legend(loc="upper center", bbox_to_anchor=(0.3, _below(axes)), ncol=3, columnspacing=1, handlelength=1.5)


def _curves(axes: "Axes", analysis: Analysis, measure: str) -> None:
    for number, curve in enumerate(analysis.curves):
        marker, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
        means = [100 * found.numbers[measure].mean for found in curve.rows]
        ends = np.array([[min(values), max(values)] for values in _by_seed(curve, measure)]).T
        axes.plot(
            curve.x, means, linestyle=LINES[number % 6], marker=marker, markersize=5, color=colour, label=curve.group
        )
        axes.vlines(curve.x, *ends, color=colour, linewidth=1)
        axes.plot(
            curve.x[curve.best], means[curve.best], "o", markersize=11, markerfacecolor="none", markeredgecolor=colour
        )
        if measure in curve.growth:
            growth = curve.growth[measure]
            low, high = 100 * growth.bands[growth.best]
            axes.fill_between(growth.band_sizes, low, high, facecolor=colour, alpha=0.15, linewidth=0)
    for number, found in enumerate(found for found in analysis.rows if not found.row.group):
        value = 100 * found.numbers[measure].mean
        axes.axhline(value, linestyle=LINES[(number + 4) % 6], color=INK, linewidth=1.2, label=found.row.name)
    ticks = sorted({x for curve in analysis.curves for x in curve.x})
    if ticks[0] > 0:
        axes.set_xscale("log")
    if ticks[0] > 0 and analysis.study.x != "samples":
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set_xlabel(analysis.study.x)
    axes.set_ylabel(f"top-1 %, {measure}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, _below(axes)), ncol=2, columnspacing=1)


def _below(axes: "Axes") -> float:
    """Half an inch under the axes, where their label ends, in their height."""
    return -0.5 * axes.figure.dpi / axes.get_window_extent().height


def _by_seed(curve: Curve, measure: str) -> list[list[float]]:
    return [[100 * value for value in found.numbers[measure].by_seed] for found in curve.rows]


def _differences(axes: "Axes", analysis: Analysis, measure: str) -> None:
    shown = [difference for difference in analysis.differences if difference.numbers]
    labels = []
    for number, difference in enumerate(shown):
        estimate = difference.numbers[measure]
        low, high = (100 * end for end in estimate.interval)
        colour = COLOURS[0] if difference.contrast.primary else COLOURS[1]
        axes.plot([low, high], [number, number], color=colour, linewidth=2)
        filled = colour if difference.contrast.primary else "none"
        axes.plot(100 * estimate.mean, number, marker="s", markersize=7, color=colour, markerfacecolor=filled)
        seeds = [100 * value for value in estimate.by_seed]
        axes.plot(seeds, [number + 0.25] * len(seeds), "|", color=INK, markersize=5)
        labels.append(f"{difference.contrast.first}\nminus {difference.contrast.second}")
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f"points, {measure}")


def _plot(
    name: str, caption: str, draw: Callable[["Axes", Analysis, str], None], analysis: Analysis, measure: str
) -> Plot:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert measure in ALL
    style: Any = {
        "font.size": 9,
        "font.family": "sans-serif",
        "svg.fonttype": "none",
        "svg.hashsalt": f"{analysis.study.name}-{name}",  # ids of several pictures in a page must differ
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
    }
    rows = len(analysis.differences) * 1.3 if draw is _differences else len(analysis.rows)
    height = 3.6 if draw is _curves else 1.1 + 0.27 * max(rows, 3)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.4, height))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.grid(alpha=0.25, color=INK, linewidth=0.5)
        draw(axes, analysis, measure)
        inline = _saved(figure, "svg", facecolor="none").decode()
        svg = _saved(figure, "svg", facecolor="white")
        png = _saved(figure, "png", facecolor="white")
    inline = inline[inline.index("<svg") :].replace(INK, "currentColor")
    return Plot(name, caption, inline, svg.replace(INK.encode(), b"black"), png)


def _saved(figure: Any, form: str, *, facecolor: str) -> bytes:
    content = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    axes_colour = "none" if facecolor == "none" else "white"
    for axes in figure.axes:
        axes.set_facecolor(axes_colour)
    figure.savefig(content, format=form, dpi=150, facecolor=facecolor, bbox_inches="tight", metadata=metadata)
    return content.getvalue()


def _slug(text: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in text).lower().split())
