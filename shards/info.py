"""What is in a finished set: its recipe, totals, shards, class balance, and what it weighs beside its generator."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from genrep.shards.errors import printable
from genrep.shards.layout import RECIPE
from genrep.shards.location import RemotePath
from genrep.shards.reader import ShardDataset

MANY = 12  # longer lists are told by their length, more classes by the rarest and the most frequent


def describe(folder: str | PathLike[str] | RemotePath) -> dict[str, Any]:
    """What there is to say of a set, as JSON-able values.

    Returns:
        ``recipe``; ``licence``; ``totals`` as in the manifest; ``shards`` with name, samples, bytes and sha256;
        ``environments``, each with its number of shards; ``classes`` with label, name and samples; ``bytes`` of the
        ``generator`` (None if the recipe does not tell), of the ``recipe`` and of the ``set`` (its tars).

    Raises:
        DataError: If there is no set, or none that is finished and has all its shards.
    """
    dataset = ShardDataset(folder)
    manifest, recipe = dataset.manifest, dataset.recipe
    environments = Counter(json.dumps(dict(shard.environment), sort_keys=True) for shard in manifest.shards)
    generator_bytes = _part(recipe, "generator").get("bytes")
    return {
        "recipe": dict(recipe),
        "licence": manifest.licence,
        "totals": dict(manifest.totals),
        "shards": [
            {"name": shard.name, "samples": shard.samples, "bytes": shard.bytes, "sha256": shard.sha256}
            for shard in manifest.shards
        ],
        "environments": [
            {"environment": json.loads(environment), "shards": count} for environment, count in environments.items()
        ],
        "classes": class_balance(dataset),
        "bytes": {
            "generator": generator_bytes if isinstance(generator_bytes, int) else None,
            "recipe": (dataset.folder / RECIPE).stat().st_size,
            "set": manifest.totals["bytes"],
        },
    }


def class_balance(dataset: ShardDataset) -> list[dict[str, Any]]:
    """Label, name and number of samples of every class that there is."""
    names = class_names(dataset.recipe)
    labels, counts = np.unique(dataset.labels[dataset.labels >= 0], return_counts=True)
    return [
        {"label": label, "name": names[label] if label < len(names) else None, "samples": count}
        for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
    ]


def class_names(recipe: Mapping[str, Any]) -> Sequence[str]:
    """Names by label, of the generator's classes or of the imported ones; empty if there are none."""
    names = {**_part(recipe, "source"), **_part(recipe, "generator")}.get("class_names")
    return [str(name) for name in names] if isinstance(names, list) else []


def as_text(told: Mapping[str, Any]) -> str:
    """A description in lines for a person."""
    totals, recipe = told["totals"], told["recipe"]
    apart = ("format", "kind", "num_samples", "walks", "classes")
    rows = {
        "samples": f"{totals['samples']:,} {recipe.get('kind')}, {totals['images']:,} images",
        "shards": f"{totals['shards']:,}, {totals['bytes'] / totals['samples']:,.0f} bytes a sample",
        **{name: shown(value) for name, value in recipe.items() if name not in apart},
        "walks": shown(_part(recipe, "walks").get("names")),
        "licence": shown(told["licence"] or "not stated"),
        "environment": "\n".join(
            f"{shown(entry['environment'])} ({entry['shards']:,} of {totals['shards']:,} shards)"
            for entry in told["environments"]
        ),
        "classes": _class_lines(told["classes"]),
        "bytes": _size_lines(told["bytes"], is_generated=recipe.get("kind") != "imported"),
    }
    width = 2 + max(map(len, rows))
    return "\n".join(
        printable(name).ljust(width) + text.replace("\n", "\n" + " " * width) for name, text in rows.items()
    )


def _part(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = recipe.get(name)
    return value if isinstance(value, Mapping) else {}


def shown(value: Any) -> str:
    """A JSON value in one line: long lists and texts are cut, names of classes have their own place."""
    if isinstance(value, Mapping):
        parts = [f"{printable(name)} {shown(part)}" for name, part in value.items() if name != "class_names"]
        return ", ".join(parts) or "none"
    if isinstance(value, list):
        return f"{len(value):,} values" if len(value) > MANY else ", ".join(map(shown, value)) or "none"
    text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return printable(text if len(text) <= 40 else f"{text[:12]}...")


def _class_lines(classes: Sequence[Mapping[str, Any]]) -> str:
    def told(entry: Mapping[str, Any]) -> str:
        return f"{entry['samples']:>13,}  {entry['label']} {printable(entry['name'] or '')}".rstrip()

    if len(classes) <= MANY:
        return "\n".join(map(told, classes)) or "none"
    by_count = sorted(classes, key=lambda entry: entry["samples"])
    ends = [f"{told(by_count[0])} (fewest)", f"{told(by_count[-1])} (most)"]
    return "\n".join([f"{len(classes):>13,}  in all", *ends])


def _size_lines(sizes: Mapping[str, Any], *, is_generated: bool) -> str:
    lines = [f"{sizes[part]:>13,}  {part}" for part in ("generator", "recipe", "set") if sizes[part] is not None]
    if is_generated and sizes["generator"] is None:
        lines.insert(0, f"{'not recorded':>13}  generator")
    elif is_generated:
        share = (sizes["generator"] + sizes["recipe"]) / sizes["set"]
        lines.append(f"generator and recipe make the set again from {share:.2%} of its bytes")
    return "\n".join(lines)
