"""An audit as one page of HTML that needs nothing else, and as lines for a terminal."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.evaluate.audit import Evidence
from genrep.evaluate.audit_record import Audit
from genrep.evaluate.audit_thresholds import Thresholds
from genrep.evaluate.data import RealData
from genrep.evaluate.fidelity import Estimate
from genrep.evaluate.neighbours import Nearest
from genrep.shards.codec import encode
from genrep.shards.frame import fill_page
from genrep.shards.preview import chosen
from genrep.shards.reader import ShardDataset

TEMPLATE = "audit.html"
ROWS, MOST_COLUMNS = 10, 8  # of a panel of views
PAIRS = 8  # nearest pairs shown
BINS, STEPS = 24, 60  # of histograms; of curves


def audit_page(
    found: Audit,
    evidence: Evidence,
    sets: Mapping[str, ShardDataset],
    data: RealData | None,
    *,
    thresholds: Thresholds,
    crossed: Sequence[str],
    command: str | None = None,
) -> bytes:
    """The page; names of classes and sets are text in it, never markup."""
    datasets = list(sets.values())
    firsts = [next(number for number, each in enumerate(found.sets) if each.anchors == g) for g in _groups(found)]
    return fill_page(
        __package__,
        TEMPLATE,
        filters={"percent": _percent, "within": _within, "distance": "{:.3f}".format},
        found=found,
        thresholds=thresholds,
        crossed=crossed,
        command=command,
        views=_view_rows(found),
        panels=[_panel(found, evidence, datasets, data, group) for group in _groups(found)],
        latents=_histograms(found, evidence),
        curves=None if evidence.held_out is None else [_curves(found, evidence, group) for group in _groups(found)],
        twins=[_twins(datasets[first], evidence, group, first) for group, first in enumerate(firsts)],
        copies=[_copies(datasets[first], evidence, data, group, first) for group, first in enumerate(firsts)],
        balances=[_balance(found, group) for group in _groups(found)],
        is_small=max(datasets[0].image_shape) <= 64,
    )


def audit_table(found: Audit) -> str:
    """Title, a row a view of each set, a line for the anchors."""
    rows = [("", "latent distance", "feature move", "class survives", "95 % interval")]
    for row in _view_rows(found):
        survival: Estimate | None = row["survival"]
        rows.append(
            (
                row["name"],
                "none" if row["latent"] is None else f"{row['latent'].median:.2f}",
                f"{row['move']:.2f}",
                "not measured" if survival is None else _percent(survival.value),
                "" if survival is None else _within(survival),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [f"{r[0]:<{widths[0]}}  " + "  ".join(f"{r[c]:>{widths[c]}}" for c in range(1, 5)) for r in rows]
    for each in found.anchors:
        parts = [f"near duplicates {_percent(each.duplicates.value)}"]
        if each.copies is not None and each.nearer_to_training is not None and found.real is not None:
            parts[0] += f" (real {_percent(found.real.duplicates.value)})"
            floor = _percent(found.real.copies.value)
            parts.append(f"near a training image {_percent(each.copies.value)} (held-out real {floor})")
            parts.append(f"nearer to training than to held-out images {_percent(each.nearer_to_training.value)}")
        lines.append(f"anchors of {', '.join(each.sets)}: {', '.join(parts)}")
    if found.real is not None:
        lines.append(f"the probe is right on {_percent(found.real.probe.value)} of held-out real images")
    return "\n".join([f"{found.num_images:,} samples a set, {found.width} features of {found.features}", *lines])


def _groups(found: Audit) -> range:
    return range(len(found.anchors))


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _within(estimate: Estimate) -> str:
    if estimate.interval is None:
        return ""
    return f"{100 * estimate.interval[0]:.1f} to {100 * estimate.interval[1]:.1f}"


def _view_rows(found: Audit) -> list[dict[str, Any]]:
    """A row a view of each set, as bars in percent of a common track."""
    top = max([1.0, *(view.feature_move for each in found.sets for view in each.views)])
    rows = []
    for each in found.sets:
        for view in each.views:
            chance = found.anchors[each.anchors].chance
            rows.append(
                {
                    "name": each.name if len(each.views) == 1 else f"{each.name}, view {view.image} {view.kind}",
                    "kind": view.kind,
                    "latent": view.latent,
                    "latent_relative": view.latent_relative,
                    "latent_cosine": view.latent_cosine,
                    "feature": view.feature,
                    "move": view.feature_move,
                    "move_bar": 100 * view.feature_move / top,
                    "unrelated_mark": 100 / top,
                    "survival": view.survival,
                    "chance": chance,
                }
            )
    return rows


def _panel(
    found: Audit, evidence: Evidence, datasets: Sequence[ShardDataset], data: RealData | None, group: int
) -> dict[str, Any]:
    """Anchors, a row each, with the views that the sets which share them have of them."""
    numbers = [number for number, each in enumerate(found.sets) if each.anchors == group]
    first = numbers[0]
    positions, predictions = evidence.positions[first], evidence.predictions[first]
    labels = datasets[first].labels[positions]
    spread_over = labels if predictions is None or (labels >= 0).all() else predictions[0]
    rows: list[dict[str, Any]] = []
    for row in chosen(spread_over, ROWS):
        anchor = _image(datasets[first], positions[row], 0)
        cells: list[dict[str, Any]] = [{"head": "anchor", "source": anchor, "class": "", "kept": True}]
        if predictions is not None and data is not None:
            cells[0]["class"] = data.class_names[predictions[0, row]]
        for number in numbers:
            known, each = evidence.predictions[number], found.sets[number]
            for view in each.views[: max(1, MOST_COLUMNS // len(numbers))]:
                head = each.name if len(each.views) == 1 else f"{each.name}, view {view.image}"
                cell = {
                    "head": head if len(numbers) > 1 else f"view {view.image} {view.kind}",
                    "source": _image(datasets[number], evidence.positions[number][row], view.image),
                    "class": "",
                    "kept": True,
                }
                if known is not None and data is not None:
                    cell["class"] = data.class_names[known[view.image, row]]
                    cell["kept"] = bool(known[view.image, row] == known[0, row])
                cells.append(cell)
        rows.append({"position": int(positions[row]), "cells": cells})
    return {
        "sets": found.anchors[group].sets,
        "rows": rows,
        "width": f"{1.5 + 5.6 * min(len(rows[0]['cells']), 9):.1f}",
    }


def _histograms(found: Audit, evidence: Evidence) -> list[dict[str, Any]]:
    """Latent distances of every view, all on one scale."""
    top = max([1e-9, *(float(moves.max()) for moves in evidence.latent if moves is not None and moves.size)])
    shown = []
    for each, moves in zip(found.sets, evidence.latent, strict=True):
        if moves is None:
            continue
        for view, values in zip(each.views, moves.T, strict=True):
            counts, _ = np.histogram(values, bins=BINS, range=(0, top))
            bars = [{"x": number, "height": count / counts.max()} for number, count in enumerate(counts.tolist())]
            head = each.name if len(each.views) == 1 else f"{each.name}, view {view.image}"
            shown.append({"head": head, "spread": view.latent, "bars": bars, "top": f"{top:.1f}"})
    return shown


def _curves(found: Audit, evidence: Evidence, group: int) -> dict[str, Any]:
    """Shares of anchors, and of held-out real images, that lie nearer to a training image than each distance."""
    assert evidence.held_out is not None
    training = evidence.training[group]
    assert training is not None
    top = float(np.quantile(np.concatenate([training.distances.numpy(), evidence.held_out.distances.numpy()]), 0.995))
    grid = np.linspace(0, max(top, 1e-9), STEPS + 1)

    def line(found: Nearest) -> str:
        ranks = np.searchsorted(np.sort(found.distances.numpy()), grid, side="right") / len(found.distances)
        return " ".join(f"{number},{100 * (1 - share):.2f}" for number, share in enumerate(ranks))

    cut = None if found.copy_cut is None else STEPS * found.copy_cut / grid[-1]
    return {
        "sets": found.anchors[group].sets,
        "anchors": line(training),
        "real": line(evidence.held_out),
        "cut": cut,
        "steps": STEPS,
        "top": f"{grid[-1]:.2f}",
    }


def _twins(dataset: ShardDataset, evidence: Evidence, group: int, first: int) -> list[dict[str, Any]]:
    """The nearest pairs of anchors, each pair once."""
    own, positions = evidence.own[group], evidence.positions[first]
    pairs: dict[tuple[int, int], float] = {}
    for row in own.distances.argsort(stable=True).tolist():
        other = int(own.rows[row])
        pairs.setdefault((min(row, other), max(row, other)), float(own.distances[row]))
        if len(pairs) == PAIRS:
            break
    return [
        {
            "distance": distance,
            "left": {"source": _image(dataset, positions[a], 0), "caption": f"sample {positions[a]}"},
            "right": {"source": _image(dataset, positions[b], 0), "caption": f"sample {positions[b]}"},
        }
        for (a, b), distance in pairs.items()
    ]


def _copies(
    dataset: ShardDataset, evidence: Evidence, data: RealData | None, group: int, first: int
) -> list[dict[str, Any]]:
    """The anchors nearest to training images, with these."""
    training, positions, rows = evidence.training[group], evidence.positions[first], evidence.training_rows
    if training is None or data is None or rows is None:
        return []
    pairs = []
    for row in training.distances.argsort(stable=True).tolist()[:PAIRS]:
        place = int(rows[int(training.rows[row])])
        [image] = data.fit.read(range(place, place + 1))
        name = data.class_names[data.fit.labels[place]]
        pairs.append(
            {
                "distance": float(training.distances[row]),
                "left": {"source": _image(dataset, positions[row], 0), "caption": f"anchor, sample {positions[row]}"},
                "right": {"source": _data_url(image), "caption": f"training image {data.fit.positions[place]}: {name}"},
            }
        )
    return pairs


def _balance(found: Audit, group: int) -> dict[str, Any]:
    """Shares of each class by label, by the probe, and among real images."""
    each = found.anchors[group]
    columns = {"by label": each.given, "by the probe": each.predicted}
    if found.real is not None:
        columns["real images"] = found.real.classes
    known = {head: shares for head, shares in columns.items() if shares}
    names = list(dict.fromkeys(name for shares in known.values() for name in shares))
    top = max([1e-9, *(share for shares in known.values() for share in shares.values())])
    rows = [
        {
            "name": name,
            "bars": [
                {"head": head, "share": shares[name], "width": 100 * shares[name] / top}
                for head, shares in known.items()
                if name in shares
            ],
        }
        for name in names
    ]
    return {"sets": each.sets, "rows": rows, "agreement": each.agreement}


def _image(dataset: ShardDataset, position: int, image: int) -> str:
    out = np.empty((1, 1, *dataset.image_shape, dataset.channels), np.uint8)
    dataset.images_into([int(position)], np.array([[image]]), out)
    return _data_url(out[0, 0])


def _data_url(image: NDArray[np.uint8]) -> str:
    small = max(image.shape[:2]) <= 64
    content = encode(np.ascontiguousarray(image)[None], format="png" if small else "jpg")[0]
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(content).decode()}"
