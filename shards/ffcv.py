"""A set as one FFCV file beside a JSON that says which set it is: written from shards, and read in their place."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genrep.shards import atomic
from genrep.shards.beton import Beton, BetonWriter, Field
from genrep.shards.codec import decode_into
from genrep.shards.errors import DataError
from genrep.shards.location import Location, RemotePath
from genrep.shards.manifest import json_bytes, manifest_sha256
from genrep.shards.reader import ShardDataset

FORMAT = "genrep-ffcv/1"


def beside(folder: Location) -> Path:
    """Where the FFCV file of a set is looked for unless it is named; of a set in a store, in the working folder."""
    if isinstance(folder, RemotePath):
        return Path(f"{folder.name}.beton")
    return folder.resolve().with_name(f"{folder.resolve().name}.beton")


def sidecar(path: Path) -> Path:
    """The JSON beside an FFCV file."""
    return path.with_name(f"{path.name}.json")


def _identity(shards: ShardDataset) -> dict[str, str]:
    """What tells a set, or a part of one, or one joined with added views, from all others."""
    recipe = json.dumps(shards.recipe, sort_keys=True).encode()
    return {
        "manifest_sha256": manifest_sha256(shards.folder),
        "recipe_sha256": hashlib.sha256(recipe).hexdigest(),
    }


def export_ffcv(
    shards: ShardDataset,
    out: Path,
    *,
    images: Literal["raw", "jpg"] = "raw",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write a set as one file with the fields ``anchor``, ``view1`` ... ``viewK``, ``latents``, ``label``, ``index``.

    Either way an image read from it is that of the set to the bit. One-channel images become array fields, since
    FFCV's image field knows colours only; without latents (an import) there is no such field.

    Args:
        images: ``raw`` pixels, or ``jpg``: the JPEG files of the set as they are.
        progress: Called with the number of samples that are done, and of all.

    Returns:
        Bytes of the file.

    Raises:
        DataError: If ``jpg`` is asked of a set of other images, a sample is damaged, or something cannot be written.
    """
    image = shards.recipe["image"]
    shape = (*shards.image_shape, shards.channels)
    if images == "jpg" and (image["format"] != "jpg" or shards.channels == 1):
        what = "one-channel images" if shards.channels == 1 else f"{image['format']} images"
        raise DataError(f"{shards.folder} holds {what}, and --images jpg copies JPEGs in colour: use --images raw")
    names = ["anchor", *(f"view{number}" for number in range(1, 1 + shards.num_views))]
    fields = [Field(name, "array" if shards.channels == 1 else images, shape) for name in names]
    latents = shards.latents(0)
    if latents.size:
        fields.append(Field("latents", "array", latents.shape, "<f4"))
    fields += [Field("label", "int"), Field("index", "int")]
    labels, indices = shards.labels.tolist(), shards.indices.tolist()
    numbers = np.arange(len(names))[:, None]
    pixels = np.empty((len(names), 1, *shape), np.uint8)

    def image_data(position: int) -> list[bytes | memoryview]:
        if images == "jpg":
            return list(shards.members(position, shards.member_names[: len(names)]).values())
        shards.images_into([position], numbers, pixels)
        return [each.reshape(-1).data for each in pixels]

    with atomic.reported(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    atomic.remove_stale(out.parent)  # what a killed process was writing
    with atomic.being_written(out) as temporary, open(temporary, "wb") as file:
        writer = BetonWriter(file, fields, num_samples=len(shards))
        for position, label in enumerate(labels):
            values: list[int | bytes | memoryview] = [*image_data(position)]
            if latents.size:
                values.append(shards.latents(position).tobytes())
            writer.add([*values, label, indices[position]])
            if (position + 1) % 256 == 0 or position + 1 == len(shards):
                progress(position + 1, len(shards))
        writer.finish()
        size = file.seek(0, 2)
        sidecar(out).unlink(missing_ok=True)  # that of an older file must not speak for this one
    about = {
        "format": FORMAT,
        **_identity(shards),
        "images": images,
        "samples": len(shards),
        "bytes": size,
        "fields": [field.name for field in fields],
    }
    atomic.write(sidecar(out), json_bytes(about))
    return size


class FfcvSet:
    """The images and latents of a set, read from its FFCV file instead of its tars.

    Raises:
        DataError: If it is missing, damaged, or the file of another set.
    """

    def __init__(self, path: Path, shards: ShardDataset) -> None:
        self.path = path
        self.shards = shards
        self._check_sidecar()
        self._beton = Beton(path)
        names = ["anchor", *(f"view{number}" for number in range(1, 1 + shards.num_views))]
        fields = self._beton.fields
        fits = self._beton.num_samples == len(shards) and all(
            name in fields and fields[name].shape == (*shards.image_shape, 3 if fields[name].kind != "array" else 1)
            for name in names
        )
        latents = fields.get("latents")
        fits = fits and (latents is None or (latents.dtype, latents.shape[:-1]) == ("<f4", (len(names),)))
        if not fits:
            raise DataError(f"{path} does not hold the fields of {shards.folder}: export it again")
        self._names = names

    def images_into(self, positions: Sequence[int], numbers: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Decode images of B samples.

        Args:
            positions: Of the samples.
            numbers: (R, B), which images of each: 0 the anchor, k view k.
            out: uint8 (R, B, H, W, C), each image C-contiguous.

        Raises:
            DataError: If one is damaged.
        """
        at = np.asarray(positions)
        for own, images in zip(numbers, out, strict=True):
            for number in np.unique(own):
                name, chosen = self._names[number], np.flatnonzero(own == number)
                data = self._beton.data(name, at[chosen])
                if self._beton.fields[name].kind != "jpg":
                    rows = images.reshape(len(images), -1)
                    for row, pixels in zip(chosen.tolist(), data, strict=True):
                        rows[row] = pixels
                    continue
                for row, content in zip(chosen.tolist(), data, strict=True):
                    try:
                        decode_into(content.data, images[row])
                    except DataError as error:
                        raise DataError(
                            f"{self.path}: {name} of sample {at[row]} {error}; export the file again"
                        ) from error

    def latents(self, position: int) -> NDArray[np.float32]:
        """float32 (1+K, D), row 0 the anchor's; a set without latents has none to ask for."""
        field = self._beton.fields["latents"]
        [content] = self._beton.data("latents", np.array([position]))
        return content.view("<f4").reshape(field.shape)

    def __reduce__(self) -> tuple[Any, ...]:  # another process maps the file itself
        return FfcvSet, (self.path, self.shards)

    def _check_sidecar(self) -> None:
        path, command = sidecar(self.path), f"genrep-shards export ffcv {self.shards.folder} --out {self.path}"
        try:
            about: dict[str, Any] = json.loads(path.read_bytes())
            found = {name: about[name] for name in ("manifest_sha256", "recipe_sha256")}
            size = self.path.stat().st_size
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read ({error.strerror}): make it with {command}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is no JSON of genrep-shards export ffcv ({error!r}): run {command}") from error
        expected = _identity(self.shards)
        if found != expected:
            name = next(name for name in expected if found[name] != expected[name])
            raise DataError(
                f"{self.path} was made from another set, of {name} {str(found[name])[:12]} where that of "
                f"{self.shards.folder} is {expected[name][:12]}: run {command}"
            )
        if about.get("format") != FORMAT or about.get("bytes") != size:
            raise DataError(
                f"{self.path} is not whole, {size:,} bytes where {path.name} says {about.get('bytes')}: run {command}"
            )
