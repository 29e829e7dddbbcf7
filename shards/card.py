"""The dataset card: README.md with a Hub header, a sheet of samples, and croissant.json, for whoever gets the set."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from genrep.shards import atomic
from genrep.shards.croissant import CROISSANT, croissant
from genrep.shards.distance import distances, measured
from genrep.shards.info import MANY, describe, shown
from genrep.shards.layout import README
from genrep.shards.location import Location
from genrep.shards.manifest import Manifest, json_bytes
from genrep.shards.preview import contact_sheet
from genrep.shards.reader import ShardDataset
from genrep.shards.readme import DATA_FILES, how_to_read, label_meaning, origin, plain, title

SHEET = "samples.png"
# identifiers of the Hub, by what generators call their licence
_LICENCES = {name.lower() for name in ("MIT", "Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0")}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_CITATION = """```bibtex
@inproceedings{jahanian2022generative,
  title     = {Generative Models as a Data Source for Multiview Representation Learning},
  author    = {Jahanian, Ali and Puig, Xavier and Tian, Yonglong and Isola, Phillip},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  url       = {https://arxiv.org/abs/2106.05258}
}
```"""


def write_card(dataset: ShardDataset) -> list[Location]:
    """Write ``README.md``, ``samples.png`` and ``croissant.json`` into the set's folder; nothing else changes there.

    Returns:
        The three files.

    Raises:
        DataError: If a sample is damaged or something cannot be written.
    """
    sheet = contact_sheet(dataset, num_rows=8)
    contents = {
        SHEET: sheet,
        CROISSANT: json_bytes(croissant(dataset.manifest)),
        README: card(dataset).encode(),
    }
    for name, content in contents.items():
        atomic.write(dataset.folder / name, content)
    return [dataset.folder / name for name in contents]


def card(dataset: ShardDataset) -> str:
    """Markdown under the YAML header that the Hub reads. Names from the recipe are text in it, never markup."""
    manifest = dataset.manifest
    told = describe(dataset.folder)
    is_generated = manifest.recipe.get("kind") != "imported"
    parts = [
        f"# {title(manifest)}",
        origin(manifest),
        f"![Samples: a row each, the anchor first]({SHEET})",
        "## Licence and terms",
        _terms(manifest),
        "## What is in it",
        how_to_read(manifest).rstrip(),
        "## Statistics",
        _statistics(dataset, told),
        "## How it was made",
        _made(manifest) if is_generated else _imported(manifest),
        _environments(told),
        "## How to check it and make it again",
        _again(manifest) if is_generated else _check(),
        "## What it is not",
        _limits(manifest),
        "## Citation",
        "For the method:" if is_generated else "Cite the source of the images; for the shards:",
        _CITATION,
    ]
    return f"---\n{_header(manifest)}---\n\n" + "\n\n".join(parts) + "\n"


def _header(manifest: Manifest) -> str:
    licence = manifest.licence
    known = licence is not None and licence.lower() in _LICENCES
    is_generated = manifest.recipe.get("kind") != "imported"
    size = next((name for limit, name in _SIZES if manifest.num_samples < limit), "n>10M")
    lines = [f"license: {licence.lower() if known and licence else 'other' if licence else 'unknown'}"]
    if licence and not known:
        lines.append(f"license_name: {json.dumps(re.sub(r'[^a-z0-9.-]+', '-', plain(licence).lower())[:60])}")
    lines += [
        f"pretty_name: {json.dumps(title(manifest))}",
        f"size_categories:\n- {size}",
        "task_categories:\n- image-feature-extraction",
        "tags:\n- webdataset\n- contrastive-learning\n- genrep" + ("\n- synthetic" if is_generated else ""),
    ]
    return "\n".join(lines) + f"\n{DATA_FILES}"


def _terms(manifest: Manifest) -> str:
    if manifest.licence:
        return f"The images stand under {plain(manifest.licence)}, like the weights or the collection they come from."
    return "Nobody has stated a licence: ask whoever made the generator or the images before you use or share them."


def _statistics(dataset: ShardDataset, told: Mapping[str, Any]) -> str:
    totals, classes = told["totals"], told["classes"]
    rows = [
        ("samples", f"{totals['samples']:,}"),
        ("images", f"{totals['images']:,}"),
        ("archives", f"{totals['shards']:,}, {totals['bytes']:,} bytes"),
        ("bytes a sample", f"{totals['bytes'] / totals['samples']:,.0f}"),
    ]
    if classes:
        counts = [entry["samples"] for entry in classes]
        rows.append(("classes", f"{len(classes):,}, of {min(counts):,} to {max(counts):,} samples"))
    text = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    if 0 < len(classes) <= MANY:
        names = [f"| {entry['label']} | {plain(entry['name'] or '')} | {entry['samples']:,} |" for entry in classes]
        text += "\n\n" + "\n".join(["| label | class | samples |", "|---|---|---|", *names])
    positions = measured(dataset)
    found = distances(dataset, positions)
    if found is not None:
        lines = [
            f"| {number} | {plain(str(kind))} | {values.mean():.2f} | {np.percentile(values, 5):.2f} to "
            f"{np.percentile(values, 95):.2f} | {found.relative[:, number - 1].mean():.0%} |"
            for number, (kind, values) in enumerate(zip(dataset.recipe["views"], found.views.T, strict=True), start=1)
        ]
        head = ["| view | kind | mean distance | nine in ten | of the anchor's length |", "|---|---|---|---|---|"]
        text += f"\n\nFrom a view's latent to its anchor's, over {len(positions):,} samples:\n\n"
        text += "\n".join(head + lines)
    return text


def _made(manifest: Manifest) -> str:
    recipe = manifest.recipe
    generator, render = dict(recipe.get("generator") or {}), dict(recipe.get("render") or {})
    rows = {
        "generator": generator.get("name"),
        "sha256 of its weights and configuration": generator.get("fingerprint"),
        "bytes of its weights": f"{generator['bytes']:,}" if isinstance(generator.get("bytes"), int) else None,
        "numbers in a latent": generator.get("latent_dim"),
        "prior": generator.get("prior"),
        "space of the latents": generator.get("latent_space"),
        "truncation": generator.get("truncation"),
        "views": ", ".join(map(str, recipe["views"])) or "none",
        "strength of gauss, angular and uniform views": recipe.get("std"),
        "seed": recipe.get("seed"),
        "arithmetic": f"{render.get('dtype')}, {render.get('micro_batch')} images at once",
    }
    lines = [f"| {name} | {plain(str(value))} |" for name, value in rows.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines, "", f"The label is {label_meaning(manifest)}."])


def _imported(manifest: Manifest) -> str:
    source = manifest.recipe.get("source")
    name = source.get("name") if isinstance(source, Mapping) else None
    return f"Imported from `{plain(str(name))}` by `genrep-shards import`; `recipe.json` identifies the images."


def _environments(told: Mapping[str, Any]) -> str:
    lines = [f"- {plain(shown(entry['environment']))} ({entry['shards']:,} archives)" for entry in told["environments"]]
    return "\n".join(["Pixels may depend on the environment that wrote an archive:", "", *lines])


def _check() -> str:
    return "`genrep-shards verify FOLDER` compares every archive with its sha256, `--deep` every image and label."


def _again(manifest: Manifest) -> str:
    name = plain(str((manifest.recipe.get("generator") or {}).get("name")))
    return f"""{_check()}

The recipe of a few kilobytes makes the whole set again; on the same environment the archives have the same hashes,
on any other the same latents and labels:

```
genrep-generate --from-recipe recipe.json --out again
genrep-shards verify again
```

It renders with `{name}`; a generator with weights of its own needs `--weights` as well, and they must have the sha256
above."""


def _limits(manifest: Manifest) -> str:
    if manifest.recipe.get("kind") == "imported":
        return "These are other people's images: their limits are those of the collection."
    return (
        "Not photographs, and no stand-in for them in an evaluation: faults and biases of the generator, and of the\n"
        "images that it learned from, are in every sample. A label is what the generator was asked for; nobody has\n"
        "looked at them all."
    )
