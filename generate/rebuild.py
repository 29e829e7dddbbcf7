"""A set that is there, proven, mended or made to grow by its recipe; loaded by name when genrep-shards needs it."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genrep.generate.defaults import recipe_of_views
from genrep.generate.generation import Rank, generate
from genrep.generate.proof import Chosen, Original, Proof, environment_changes, prove, recorded_recipe
from genrep.generate.recipe import Recipe
from genrep.generate.render import render_settings
from genrep.generate.views import parse_views
from genrep.generate.walks import load_walks
from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.shards.layout import MANIFEST, RECIPE, ShardSpec
from genrep.shards.location import Location
from genrep.shards.manifest import (
    Manifest,
    ShardEntry,
    json_bytes,
    manifest_sha256,
    read_manifest,
    read_object,
    recipe_differences,
)
from genrep.shards.reader import check_finished
from genrep.shards.table import ShardFacts, read_facts
from genrep.shards.verify import Fault, verify
from genrep.shards.writer import DatasetWriter

__all__ = ["Chosen", "Proof", "Repair", "add_views", "extend", "prove", "repair"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes:
        rebuilt: Names of the shards that were rendered again and put in place.
        changed: Shards whose sha256 is another now: name, before (None if nothing told it), after.
        faults: What is still wrong, and cannot be mended by rendering.
    """

    rebuilt: list[str]
    changed: list[tuple[str, str | None, str]]
    faults: list[Fault]


def repair(
    folder: Path,
    *,
    share: float = 0.0,
    seed: int = 0,
    change_hashes: bool = False,
    chosen: Chosen | None = None,
    encode_workers: int = 1,
    progress: Progress | None = None,
) -> Repair:
    """Render broken and missing shards of a finished set again, and write its manifest anew if it needs that.

    A shard is broken if ``prove`` finds a fault in it (images are rendered again only for ``share``), or if manifest
    and table disagree about it. It ends with the sha256 in the manifest (or, where no manifest can be read, in its
    table), or stays as it is. Every other file keeps its inode and time.

    Args:
        share, seed: As of ``prove``.
        change_hashes: Write shards with another sha256 too: in another environment, or where manifest and table were
            changed together with the shard.
        progress: Called with the number of samples looked at or rendered, and of all.

    Raises:
        DataError: If there is no finished set, its generator is missing or another one, a shard cannot be brought
            back to its sha256, or something cannot be written.
    """
    recipe = _settled_recipe(folder, chosen or Chosen())
    check_finished(folder)
    original = Original(recipe, chosen or Chosen(), where=str(folder / RECIPE))
    recorded = _recorded(folder, recipe)
    proof = original.prove(folder, share=share, seed=seed, deep=True, progress=progress)
    faulty = {fault.shard for fault in proof.faults}
    broken = [spec for spec in recipe.shards if spec.name in faulty or recorded[spec].is_contradictory]
    if not change_hashes:
        for spec in broken:
            _check_environment(folder / spec.name, recorded[spec], original.environment)
    writer = DatasetWriter(folder, recipe.to_json(), licence=original.generator.licence, encode_workers=encode_workers)
    rebuilt, changed = [], []
    with render_settings(recipe):
        for spec in broken:
            batches = original.renderer.batches(spec.first, spec.count)
            shard = writer.pack_shard(spec, batches, original.environment)
            before, after = recorded[spec].hashes, shard.facts.tar_sha256
            if after not in before:
                told = before[0] if before else None
                if not change_hashes:
                    raise DataError(
                        f"{folder / spec.name} would have the sha256 {after[:12]}... if it were rendered again, and "
                        f"{MANIFEST} or its table say {(told or 'nothing')[:12]}...: it stays as it is; "
                        "--change-hashes writes it all the same"
                    )
                changed.append((spec.name, told, after))
            if writer.replace_shard(spec, shard):
                rebuilt.append(spec.name)
    writer.finish()
    return Repair(rebuilt, changed, verify(folder))


def extend(
    folder: Path,
    num_samples: int,
    *,
    chosen: Chosen | None = None,
    encode_workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Add anchors to a finished set until it has ``num_samples``; the shards that are there stay as they are.

    The recipe lists the new samples as a segment of their own, so a short last shard stays short. While it is being
    extended the set counts as unfinished; the same call continues it.

    Raises:
        DataError: If there is no finished set, it has more samples already, its generator is missing or another one,
            or something cannot be written.
    """
    recipe = recorded_recipe(folder)
    where = folder / RECIPE
    if recipe.parent is not None:
        raise DataError(f"{folder} holds views that belong to another set: extend that one, and add the views again")
    generator = (chosen or Chosen()).load(recipe, str(where))
    device = (chosen or Chosen()).device
    with atomic.locked(where):
        recipe = recorded_recipe(folder)  # what another process made of it since
        if num_samples < recipe.num_samples:
            raise DataError(
                f"{folder} has {recipe.num_samples:,} samples, more than the {num_samples:,} asked for: "
                "ask for the number that it shall have in all, or take a part with genrep-shards subset"
            )
        if num_samples > recipe.num_samples:
            check_finished(folder)
            read_manifest(folder)
            segments = (*(recipe.segments or (recipe.num_samples,)), num_samples - recipe.num_samples)
            recipe = replace(recipe, num_samples=num_samples, segments=segments)
            atomic.write(where, json_bytes(recipe.to_json()))  # first: what it says is then continued
            with atomic.reported(folder / MANIFEST):
                (folder / MANIFEST).unlink(missing_ok=True)
    manifest = generate(
        recipe,
        folder,
        generator=generator,
        device=device,
        encode_workers=encode_workers,
        rank=Rank(),
        progress=progress,
    )
    assert manifest is not None  # one rank alone finds no others at work
    return manifest


def add_views(
    parent: Location,
    out: Location,
    *,
    views: str,
    num_views: int | None = None,
    std: float | None = None,
    walks_path: Path | None = None,
    chosen: Chosen | None = None,
    encode_workers: int = 1,
    progress: Progress | None = None,
) -> Manifest | None:
    """Write further views of the samples of a set as a set of their own, which names the manifest of the first.

    Joined to its parent it reads as one set that was generated with the views of both.

    Args:
        views, num_views: As :func:`genrep.generate.views.parse_views` takes them.
        std: By default the parent's if it has one, else the generator's own.
        walks_path: By default the parent's walks if it has any, else those shipped with the generator.

    Raises:
        DataError: As :func:`genrep.generate.generation.generate`, and if the parent is not finished, or is made of
            added views itself.
    """
    kinds = parse_views(views, num_views)
    walks = None if walks_path is None else load_walks(walks_path)
    check_finished(parent)
    read_manifest(parent)
    recipe = recorded_recipe(parent)
    if recipe.parent is not None:
        raise DataError(f"{parent} holds added views itself: name the set with the anchors")
    generator = (chosen or Chosen()).load(recipe, str(parent / RECIPE))
    return generate(
        recipe_of_views(recipe, generator, kinds, std=std, walks=walks, manifest_sha256=manifest_sha256(parent)),
        out,
        generator=generator,
        device=(chosen or Chosen()).device,
        encode_workers=encode_workers,
        progress=progress,
    )


@dataclass(frozen=True)
class _Recorded:
    """What manifest and table tell of a shard, as far as they can be read."""

    entry: ShardEntry | None
    facts: ShardFacts | None

    @property
    def hashes(self) -> list[str]:
        """Of the tar, the manifest's first."""
        found = [] if self.entry is None else [self.entry.sha256]
        return found if self.facts is None else [*found, self.facts.tar_sha256]

    @property
    def is_contradictory(self) -> bool:
        return len(set(self.hashes)) > 1

    @property
    def environment(self) -> Mapping[str, Any] | None:
        known = self.facts or self.entry
        return None if known is None else known.environment


def _recorded(folder: Path, recipe: Recipe) -> dict[ShardSpec, _Recorded]:
    entries: dict[str, ShardEntry] = {}
    with suppress(DataError):
        entries = {entry.name: entry for entry in read_manifest(folder).shards}

    def facts_of(spec: ShardSpec) -> ShardFacts | None:
        try:
            return read_facts(folder / spec.table)
        except DataError:
            return None

    return {spec: _Recorded(entries.get(spec.name), facts_of(spec)) for spec in recipe.shards}


def _check_environment(path: Path, recorded: _Recorded, environment: Mapping[str, Any]) -> None:
    if recorded.environment is None:
        raise DataError(
            f"neither {MANIFEST} nor a table tells of {path}: nothing says whether it would be the same again; "
            "--change-hashes renders it all the same"
        )
    changes = environment_changes(recorded.environment, environment)
    if changes:
        raise DataError(
            f"{path} was made in another environment ({changes}), so its sha256 would change: repair it there, or take "
            "--change-hashes"
        )


def _settled_recipe(folder: Path, chosen: Chosen) -> Recipe:
    """The recipe of the set. Where recipe.json and the manifest name two, it is the one that the shards follow.

    A recipe.json that is not it is put right.
    """
    found: dict[str, Recipe] = {}
    faults = []
    for name in (RECIPE, MANIFEST):
        try:
            content = read_object(folder / name, "name the folder of a finished set")
            found[name] = Recipe.from_json(content if name == RECIPE else content.get("recipe", {}))
        except DataError as error:
            faults.append(error)
    recipes = list(found.values())
    if len(recipes) == 2 and recipes[0] == recipes[1]:
        del recipes[1]
    if len(recipes) == 2:
        recipes = [recipe for recipe in recipes if _is_followed(folder, recipe, chosen)]
        if len(recipes) != 1:
            ours, theirs = found[RECIPE].to_json(), found[MANIFEST].to_json()
            fields = ", ".join(field for field, _, _ in recipe_differences(ours, theirs))
            raise DataError(
                f"{folder}: {RECIPE} and {MANIFEST} name two recipes, which differ in {fields}, and the shards do not "
                f"tell which is theirs: put the right {RECIPE} back"
            )
    if not recipes:
        raise faults[0]
    if found.get(RECIPE) != recipes[0]:
        atomic.write(folder / RECIPE, json_bytes(recipes[0].to_json()))
    return recipes[0]


def _is_followed(folder: Path, recipe: Recipe, chosen: Chosen) -> bool:
    """Whether any shard is what this recipe gives."""
    try:
        original = Original(recipe, chosen, where=str(folder / RECIPE))
    except DataError:
        return False
    return any(original.gave(folder, spec) for spec in recipe.shards)
