"""The manifest, and reading what a dataset folder says of itself in JSON."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genrep.shards.errors import DataError
from genrep.shards.layout import FORMAT, MANIFEST, RECIPE, ShardSpec, layout_of
from genrep.shards.location import Location
from genrep.shards.table import ShardFacts

MAX_JSON_BYTES = 2**28


@dataclass(frozen=True)
class ShardEntry:
    """A shard in the manifest: sample indices ``first`` to ``first + count - 1`` of the ``samples`` in its tar."""

    name: str
    sha256: str
    bytes: int
    samples: int
    first: int
    count: int
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """A finished set; the fields are those of ``manifest.json``.

    Attributes:
        format: ``genrep/1``.
        recipe: As in ``recipe.json``.
        licence: Under which the images stand, if the generator says so.
        totals: ``samples``, ``images``, ``shards``, ``bytes`` (of the tars).
        shards: In the order of their samples.
    """

    format: str
    recipe: Mapping[str, Any]
    licence: str | None
    totals: Mapping[str, int]
    shards: Sequence[ShardEntry]

    @property
    def num_samples(self) -> int:
        return self.totals["samples"]


def build_manifest(recipe: Mapping[str, Any], facts: Mapping[ShardSpec, ShardFacts]) -> Manifest:
    """The manifest follows from recipe and tables alone: no clock, no host.

    Args:
        facts: What the table of each shard says, in the order of the plan.
    """
    shards = tuple(
        ShardEntry(
            name=spec.name,
            sha256=fact.tar_sha256,
            bytes=fact.tar_bytes,
            samples=spec.count,
            first=spec.first,
            count=spec.count,
            environment=fact.environment,
        )
        for spec, fact in facts.items()
    )
    licence = next((fact.licence for fact in facts.values()), None)
    return Manifest(FORMAT, recipe, licence, _totals(recipe, shards), shards)


def _totals(recipe: Mapping[str, Any], shards: Sequence[ShardEntry]) -> dict[str, int]:
    samples = sum(shard.count for shard in shards)
    return {
        "samples": samples,
        "images": samples * layout_of(recipe).num_images,
        "shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
    }


def _is_sound(shard: ShardEntry) -> bool:
    is_hash = isinstance(shard.sha256, str) and re.fullmatch("[0-9a-f]{64}", shard.sha256)
    return bool(is_hash) and type(shard.bytes) is int and shard.bytes > 0 and isinstance(shard.environment, dict)


def json_bytes(value: Any) -> bytes:
    """JSON as all files of a set hold it."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def manifest_bytes(manifest: Manifest) -> bytes:
    return json_bytes(asdict(manifest))


def wids_bytes(manifest: Manifest) -> bytes:
    """``shards.json``, the index of webdataset's wids."""
    shards = [{"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes} for shard in manifest.shards]
    return json_bytes({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards})


def read_recipe(folder: Location) -> dict[str, Any]:
    """The recipe of a set, finished or not, with a layout that can be used.

    Raises:
        DataError: If the folder is none of a set.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: name one that genrep-generate or genrep-shards import made")
    recipe = read_object(folder / RECIPE, "name a folder that genrep-generate or genrep-shards import made")
    try:
        layout_of(recipe)
    except DataError as error:
        raise DataError(f"{folder / RECIPE}: {error}") from error
    return recipe


def recipe_differences(theirs: Any, ours: Any, field: str = "") -> list[tuple[str, str, str]]:
    """Dotted name and both values, shortened, of every field in which two recipes differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [
            difference
            for name in sorted(theirs.keys() | ours.keys())
            for difference in recipe_differences(theirs.get(name), ours.get(name), f"{field}.{name}".lstrip("."))
        ]
    return [] if theirs == ours else [(field, _shortened(theirs), _shortened(ours))]


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_manifest(folder: Location) -> Manifest:
    """The manifest of a finished set.

    Raises:
        DataError: If the folder is none of a set, the set is not finished, or the manifest is not of its recipe.
    """
    recipe = read_recipe(folder)
    path = folder / MANIFEST
    content = read_object(path, "the set is not finished, run the command that makes it again")
    try:
        manifest = Manifest(**content | {"shards": tuple(ShardEntry(**entry) for entry in content["shards"])})
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is no manifest ({error}): get the set again") from error
    plan = [(spec.name, spec.first, spec.count, spec.count) for spec in layout_of(recipe).shards]
    if manifest.recipe != recipe or [(s.name, s.first, s.count, s.samples) for s in manifest.shards] != plan:
        raise DataError(f"{path} is not that of the recipe beside it: get the set again")
    if not all(map(_is_sound, manifest.shards)) or manifest.totals != _totals(recipe, manifest.shards):
        raise DataError(f"{path} has hashes, sizes or totals that cannot be: get the set again")
    return manifest


def manifest_sha256(folder: Location) -> str:
    """Identity of a finished set, in hexadecimal digits.

    Raises:
        DataError: If there is no manifest.
    """
    return hashlib.sha256(_read(folder / MANIFEST, "name the folder of a finished set")).hexdigest()


def read_object(path: Location, remedy: str) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises:
        DataError: If it is missing (then with this remedy) or something else.
    """
    text = _read(path, remedy)
    try:
        value = json.loads(text) if len(text) <= MAX_JSON_BYTES else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({type(error).__name__}: {error}): get the set again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is no JSON object of at most {MAX_JSON_BYTES:,} bytes: get the set again")
    return value


def _read(path: Location, remedy: str) -> bytes:
    """Not more than a little over ``MAX_JSON_BYTES``."""
    try:
        if not path.is_file() and path.exists():  # opening a pipe would wait for its other end
            raise DataError(f"{path} is no file: {remedy}")
        with path.open("rb") as file:
            return file.read(MAX_JSON_BYTES + 1)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {remedy}") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): see that you may read it, and that its place can be reached"
        ) from error
