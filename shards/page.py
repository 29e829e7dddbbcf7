"""A set as one page of HTML that needs nothing else: panels, latent distances, class balance, recipe."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.shards.codec import encode
from genrep.shards.distance import distances, measured
from genrep.shards.frame import fill_page
from genrep.shards.info import class_balance, describe
from genrep.shards.preview import chosen, panel_columns, row_titles, view_columns
from genrep.shards.reader import ShardDataset
from genrep.shards.readme import origin, title

TEMPLATE = "page.html"
BINS = 24
MOST_CLASSES = 40  # shown one by one, at once; more are folded away
_LONGEST = 120  # letters of a text in the recipe


def preview_page(dataset: ShardDataset, *, num_rows: int = 10, panels: bool = False) -> bytes:
    """The page; whatever the set says of itself is text in it, never markup.

    Args:
        num_rows: Samples, at most; of a set with classes they are spread over the classes.
        panels: The panels of the paper's figure instead of the views in the order of the set.

    Raises:
        DataError: If panels need views that the set does not hold, or a sample is damaged.
    """
    told = describe(dataset.folder)
    if "subset" in dataset.recipe:  # what is told of its parent's samples is told of its own
        told["totals"] |= {"samples": len(dataset), "images": len(dataset) * dataset.num_images}
        told["classes"] = class_balance(dataset)
    positions = chosen(dataset.labels, num_rows)
    columns = panel_columns(dataset, positions) if panels else view_columns(dataset, positions)
    shown = None if panels else distances(dataset, positions)
    rows = []
    for row, (name, position) in enumerate(zip(row_titles(dataset, positions), positions, strict=True)):
        figures = [
            {
                "head": column.head,
                "source": _data_url(column.images[row]),
                "distance": f"{shown.views[row, number - 1]:.2f}" if shown and number else "",
            }
            for number, column in enumerate(columns)
        ]
        rows.append({"title": name, "position": position, "figures": figures})
    return fill_page(
        __package__,
        TEMPLATE,
        title=title(dataset.manifest) + (f": {len(dataset):,} of them" if "subset" in dataset.recipe else ""),
        origin=origin(dataset.manifest).replace("\n", " ").replace("`", ""),
        facts=_facts(told),
        rows=rows,
        width=dataset.image_shape[1],
        card_width=f"{1.5 + 6.2 * min(len(columns), 8):.1f}",
        spread=_spread(dataset),
        classes=_classes(told["classes"]),
        most_classes=MOST_CLASSES,
        recipe=json.dumps(_cut(told["recipe"]), indent=2, ensure_ascii=False),
        environments=[json.dumps(entry["environment"], ensure_ascii=False) for entry in told["environments"]],
    )


def _data_url(image: NDArray[np.uint8]) -> str:
    small = max(image.shape[:2]) <= 64
    content = encode(image[None], format="png" if small else "jpg")[0]
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(content).decode()}"


def _facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    recipe, totals = told["recipe"], told["totals"]
    generator, image = recipe.get("generator"), recipe["image"]
    facts = [
        ("samples", f"{totals['samples']:,}"),
        ("images", f"{totals['images']:,}"),
        ("shards", f"{totals['shards']:,}"),
        ("bytes", f"{totals['bytes']:,}"),
        ("image", f"{image['height']} x {image['width']} px, {image['channels']} channel, {image['format']}"),
        ("views", ", ".join(map(str, recipe["views"])) or "none"),
    ]
    if isinstance(generator, Mapping):
        facts.append(("generator", str(generator.get("name"))))
        facts.append(("fingerprint", str(generator.get("fingerprint"))))
    facts += [(name, str(recipe[name])) for name in ("std", "seed") if recipe.get(name) is not None]
    facts.append(("licence", str(told["licence"] or "not stated")))
    return [(name, _short(value)) for name, value in facts]


def _spread(dataset: ShardDataset) -> list[dict[str, Any]]:
    """Of each view the distances to the anchor: mean, range of nine in ten, and a histogram on one common scale."""
    positions = measured(dataset)
    found = distances(dataset, positions)
    if found is None:
        return []
    top = max(float(found.views.max()), 1e-9)
    spread = []
    for view, kind in enumerate(dataset.recipe["views"]):
        values = found.views[:, view]
        counts, _ = np.histogram(values, bins=BINS, range=(0, top))
        low, high = np.percentile(values, [5, 95])
        spread.append(
            {
                "head": f"view {view + 1}: {kind}",
                "mean": f"{values.mean():.2f}",
                "range": f"{low:.2f} to {high:.2f}",
                "relative": f"{found.relative[:, view].mean():.0%}",
                "bars": [{"x": number, "height": count / counts.max()} for number, count in enumerate(counts.tolist())],
                "top": f"{top:.1f}",
                "samples": f"{len(positions):,}",
            }
        )
    return spread


def _classes(classes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    most = max((entry["samples"] for entry in classes), default=1)
    return [
        {
            "name": f"{entry['label']} {entry['name'] or ''}".strip(),
            "samples": f"{entry['samples']:,}",
            "share": f"{100 * entry['samples'] / most:.1f}",
        }
        for entry in classes
    ]


def _cut(value: Any) -> Any:
    """A JSON value whose long texts, such as directions, are cut."""
    if isinstance(value, Mapping):
        return {name: _cut(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_cut(part) for part in value]
    return _short(value) if isinstance(value, str) else value


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} letters)"
