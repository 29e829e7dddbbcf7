"""Whether a set is what its recipe gives: all that follows without rendering, and a random part of the images."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrep.generate.defaults import check_fit
from genrep.generate.generation import Rank, resolve_device
from genrep.generate.generators import LoadedGenerator, load_recorded
from genrep.generate.recipe import Recipe
from genrep.generate.render import Renderer, render_environment, render_settings
from genrep.generate.samples import Drawn, describe_samples, strength_columns
from genrep.shards.codec import encode
from genrep.shards.difference import PixelDifference, decoded
from genrep.shards.errors import DataError
from genrep.shards.layout import RECIPE, SetLayout, ShardSpec, key, layout_of
from genrep.shards.location import Location
from genrep.shards.manifest import read_recipe
from genrep.shards.npy import latents_of
from genrep.shards.table import ShardTable, read_table
from genrep.shards.verify import Fault, check_shard, listed, mapped, shards_of, verify
from genrep.shards.writer import described

_AT_ONCE = 4096  # samples drawn
_DESCRIBED = ("latents.npy", "cls", "json")
# grey levels by which an image may differ between environments: sums are rounded elsewhere
_ROUNDING = {"float32": 1, "float16": 8, "bfloat16": 32}
_LOSSY = 16  # and a lossy codec may make more of it


@dataclass(frozen=True)
class Chosen:
    """What the command line says of the generator; without a name the recipe's is taken if it is registered."""

    name: str | None = None
    weights: Path | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"

    def load(self, recipe: Recipe, where: str) -> LoadedGenerator:
        """The generator that made the set of a recipe.

        Raises:
            DataError: If the recipe names one that is not registered and was not chosen, or it is another one.
        """
        generator = load_recorded(
            recipe.generator.name, where=where, chosen=self.name, weights=self.weights, arguments=self.arguments
        )
        check_fit(recipe, generator)
        return generator


@dataclass
class Proof:
    """What came of comparing a set with its recipe and its generator.

    Attributes:
        faults: Those of ``verify``, and whatever is not what recipe and generator give.
        seed: What the choice of the samples that were rendered again was drawn from.
        num_rendered: How many there are.
        environments: How those of their shards differ from this one, each once; empty if none does.
        difference: Of the images rendered here and those stored, in shards of another environment.
    """

    faults: list[Fault]
    seed: int
    num_rendered: int = 0
    environments: list[str] = field(default_factory=list)
    difference: PixelDifference = field(default_factory=PixelDifference)

    @property
    def told(self) -> str:
        """One line for a person; if there are no faults."""
        again = f"{self.num_rendered:,} samples rendered again (--seed {self.seed})"
        if not self.num_rendered:
            return "it is what its recipe gives; no sample was rendered again"
        if not self.environments:
            return f"it is what recipe and generator give: {again}, every image has the same bytes"
        return (
            f"it is what recipe and generator give: {again}, in another environment ({' / '.join(self.environments)}): "
            f"{self.difference}"
        )


def prove(
    folder: Location,
    *,
    share: float = 0.01,
    seed: int = 0,
    deep: bool = False,
    chosen: Chosen | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Proof:
    """Verify a set, then compare it with what its recipe and its generator give.

    Labels, latents, walk strengths and metadata of all samples are drawn again and must be equal (latents of w, which a
    network made, up to rounding where the environment is another). Random micro-batches are rendered again from the
    stored latents: in the environment of a shard the encoded images must have the same bytes; in another one both are
    decoded, and may differ by the rounding of sums.

    Args:
        folder: Of the set, or the file of a subset.
        share: Of the micro-batches, in [0, 1]; at least one unless it is 0.
        seed: Of the choice among them.
        deep: As of ``verify``.
        progress: Called with the number of samples done, and of all; each counts twice, verified and proven.

    Raises:
        DataError: If there is no set, if it was not generated, or if its generator is missing or another one.
    """
    root, _ = shards_of(folder)
    original = Original(recorded_recipe(root), chosen or Chosen(), where=str(root / RECIPE))
    return original.prove(folder, share=share, seed=seed, deep=deep, progress=progress)


def recorded_recipe(folder: Location) -> Recipe:
    """The recipe of a set that can be generated again.

    Raises:
        DataError: If it is missing, or of another kind.
    """
    plain = read_recipe(folder)
    try:
        return Recipe.from_json(plain)
    except DataError as error:
        raise DataError(f"{folder / RECIPE}: {error}") from error


class Original:
    """What recipe and generator say of any shard of a set."""

    def __init__(self, recipe: Recipe, chosen: Chosen, *, where: str) -> None:
        self.recipe = recipe
        self.layout: SetLayout = layout_of(recipe.to_json())
        self.generator = chosen.load(recipe, where)
        device = resolve_device(chosen.device, Rank())
        self.environment: dict[str, Any] = render_environment(device, recipe)
        self.renderer = Renderer(self.generator, recipe, device=device)

    def prove(
        self, folder: Location, *, share: float, seed: int, deep: bool, progress: Callable[[int, int], None] | None
    ) -> Proof:
        """As :func:`prove`."""
        root, wanted = shards_of(folder)
        specs = [spec for spec in self.layout.shards if wanted is None or spec.name in wanted]
        done, total = 0, 2 * sum(spec.count for spec in specs)

        def advance(samples: int) -> None:
            nonlocal done
            done += samples
            if progress:
                progress(done, total)

        proof = Proof(verify(folder, deep=deep, progress=advance), seed=seed)
        broken = {fault.shard for fault in proof.faults}
        again = _MicroBatches(self.recipe, share=share, seed=seed)
        with render_settings(self.recipe):
            for spec in specs:
                if spec.name not in broken:
                    self.prove_shard(root, spec, again, proof)
                advance(spec.count)
        return proof

    def gave(self, folder: Location, spec: ShardSpec) -> bool:
        """Whether a shard is whole, and what in it is no image is what the recipe gives."""
        facts, faults = check_shard(folder, spec, self.layout, deep=False)
        if faults or facts is None:
            return False
        is_exact = not environment_changes(facts.environment, self.environment)
        return not any(self._drawn_faults(_Stored(folder, spec, self.layout), is_exact=is_exact))

    def prove_shard(self, folder: Location, spec: ShardSpec, again: "_MicroBatches", proof: Proof) -> None:
        """Add to a proof what is found in a shard in which ``verify`` found no fault."""
        stored = _Stored(folder, spec, self.layout)
        changes = environment_changes(stored.table.facts.environment, self.environment)
        parts = list(again.within(spec))
        proof.num_rendered += sum(map(len, parts))
        if parts and changes and changes not in proof.environments:
            proof.environments.append(changes)
        difference = proof.difference if changes else None
        images = (self._image_faults(stored, part, difference) for part in parts)
        proof.faults += listed(chain(self._drawn_faults(stored, is_exact=not changes), *images), spec)

    def _drawn_faults(self, stored: "_Stored", *, is_exact: bool) -> Iterator[Fault]:
        """Hold all that is no image against what the recipe gives."""
        spec, table = stored.spec, stored.table
        licence = self.generator.licence
        if table.facts.licence != licence:
            yield Fault(spec.name, "", "", f"states the licence {table.facts.licence!r:.80}, the generator {licence!r}")
        end = spec.first + spec.count
        for first in range(spec.first, end, _AT_ONCE):
            drawn = self.renderer.draw(range(first, min(first + _AT_ONCE, end)))
            meta = describe_samples(self.recipe, drawn)
            for index, expected in enumerate(described(drawn.latents, drawn.labels, meta), start=first):
                for member, content in zip(_DESCRIBED, expected, strict=True):
                    found = stored.member(index, member)
                    if found != content and (message := self._apart(member, found, content, is_exact=is_exact)):
                        yield Fault(spec.name, key(index), member, message)
            yield from _table_faults(self.recipe, spec, table, drawn)

    def _apart(self, member: str, found: memoryview, expected: bytes, *, is_exact: bool) -> str:
        """What to say of a member with other bytes than the recipe gives; empty if it may have them."""
        if member == "cls":
            return f"is {bytes(found)[:20]!r} where the recipe gives {expected!r}"
        if member == "json":
            return "is not the metadata that the recipe gives"
        ours = latents_of(expected, num_images=self.layout.num_images)
        try:
            theirs = latents_of(found, num_images=self.layout.num_images)
        except DataError as error:
            return str(error)
        if ours.shape != theirs.shape:
            return f"has {theirs.shape[1]} coordinates where the recipe gives {ours.shape[1]}"
        if self.recipe.generator.latent_space == "w" and not is_exact and np.allclose(ours, theirs, 1e-3, 1e-3):
            return ""
        with np.errstate(all="ignore"):
            largest = np.abs(ours - theirs).max()
        return (
            f"differs from what the recipe gives in {np.count_nonzero(ours != theirs)} of {ours.size} numbers, "
            f"by up to {largest:.3g}"
        )

    def _image_faults(self, stored: "_Stored", part: range, difference: PixelDifference | None) -> Iterator[Fault]:
        """Render the samples of a shard that lie in one micro-batch from their stored latents.

        Args:
            difference: Counts the pixels if the environment is another; None if it is the same.
        """
        size = self.recipe.render.micro_batch
        start = part.start - part.start % size
        drawn = self.renderer.draw(range(start, min(start + size, self.recipe.num_samples)))
        latents = drawn.latents.copy()
        for index in part:
            found = stored.latents(index)
            if found is not None and found.shape == latents.shape[1:] and np.isfinite(found).all():
                latents[index - start] = found
        images = self.renderer.images(replace(drawn, latents=latents))[part.start - start : part.stop - start]
        how = self.recipe.image
        encoded = encode(
            images.reshape(-1, *images.shape[2:]), format=how.format, quality=how.quality, subsampling=how.subsampling
        )
        members = self.layout.members[: self.layout.num_images]
        for number, ours in enumerate(encoded):
            index, member = part.start + number // len(members), members[number % len(members)]
            theirs = stored.member(index, member)
            apart = PixelDifference()
            try:
                if difference is None and theirs == ours:
                    continue
                both = decoded(ours, theirs, shape=self.layout.image_shape)
                largest = apart.add(*both)
                if difference is not None:
                    difference.add(*both)
            except DataError as error:
                yield Fault(stored.spec.name, key(index), member, str(error))
                continue
            if difference is None or largest > self._tolerance:
                yield Fault(stored.spec.name, key(index), member, f"is not what the generator renders: {apart}")

    @cached_property
    def _tolerance(self) -> int:
        how = self.recipe.image
        is_lossless = how.format == "png" or (how.format == "webp" and how.quality is None)
        return _ROUNDING[self.recipe.render.dtype] + (0 if is_lossless else _LOSSY)


def environment_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In what two environments differ, in words; empty if in nothing."""
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)!s:.80}, is {now.get(name)!s:.80}" for name in names)


class _Stored:
    """A shard as it lies there; for one in which ``verify`` found no fault."""

    def __init__(self, folder: Location, spec: ShardSpec, layout: SetLayout) -> None:
        self.spec = spec
        self.table: ShardTable = read_table(folder / spec.table, members=layout.members, num_samples=spec.count)
        self._archive = mapped(folder / spec.name)
        self._num_images = layout.num_images

    def member(self, index: int, member: str) -> memoryview:
        row = index - self.spec.first
        offset, size = int(self.table.offsets[member][row]), int(self.table.sizes[member][row])
        return self._archive[offset : offset + size]

    def latents(self, index: int) -> NDArray[np.float32] | None:
        try:
            return latents_of(self.member(index, "latents.npy"), num_images=self._num_images)
        except DataError:
            return None


class _MicroBatches:
    """A random choice among the micro-batches of a set."""

    def __init__(self, recipe: Recipe, *, share: float, seed: int) -> None:
        self._size = recipe.render.micro_batch
        number = -(-recipe.num_samples // self._size)
        source = random.Random(seed)
        order = np.argsort([source.random() for _ in range(number)], kind="stable")
        self._chosen = np.sort(order[: math.ceil(share * number)])

    def within(self, spec: ShardSpec) -> Iterator[range]:
        """The samples of each chosen one that lie in a shard."""
        first, last = spec.first // self._size, (spec.first + spec.count - 1) // self._size
        here = np.searchsorted(self._chosen, [first, last + 1])
        for number in self._chosen[here[0] : here[1]].tolist():
            start = max(number * self._size, spec.first)
            yield range(start, min((number + 1) * self._size, spec.first + spec.count))


def _table_faults(recipe: Recipe, spec: ShardSpec, table: ShardTable, drawn: Drawn) -> Iterator[Fault]:
    """Hold labels and walk strengths in the table against those of the recipe."""
    rows = drawn.indices - spec.first
    columns = strength_columns(recipe, drawn)
    if table.columns.keys() != columns.keys():
        given = ", ".join(columns) or "none"
        yield Fault(spec.name, "", "", f"its table has other columns of strengths than the recipe gives ({given})")
        return
    pairs: list[tuple[str, NDArray[Any], NDArray[Any]]] = [("label", table.labels[rows], drawn.labels)]
    pairs += [(name, table.columns[name][rows], values) for name, values in columns.items()]
    for name, found, expected in pairs:
        for place in np.flatnonzero(found != expected).tolist():
            message = f"{name} in the table is {found[place]}, the recipe gives {expected[place]}"
            yield Fault(spec.name, key(int(drawn.indices[place])), "", message)
