"""Real images as shards of the same layout: Fashion-MNIST, or a folder with a sub-folder for every class."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from genrep.shards import fashion_mnist, philox
from genrep.shards.batch import Batch
from genrep.shards.codec import codec_versions, default_format
from genrep.shards.errors import DataError
from genrep.shards.layout import (
    FORMAT,
    FULL_COLOUR,
    MAX_PIXELS,
    ShardSpec,
    default_shard_size,
    subsampling_complaint,
)
from genrep.shards.location import Location
from genrep.shards.manifest import Manifest
from genrep.shards.writer import DatasetWriter

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
GREY_MODES, COLOUR_MODES = ("1", "L"), ("LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_ORDER_STREAM = 300  # apart from the streams of the other parts
_BATCH_BYTES = 1 << 24  # of pixels that are encoded together


@dataclass(frozen=True)
class Source:
    """N labelled images of one size.

    Attributes:
        facts: What the recipe says of them, with no path of this machine: at least ``name`` and ``class_names``.
        labels: int64 (N,).
        shape: (H, W, C), C 1 or 3.
        resize: Side that they were resized and cropped to; None if they are as they lie.
        licence: Under which they stand, if that is known.
        files: Where each comes from, relative to the folder; empty if they are in one file.
        images: From image numbers to uint8 (B, H, W, C).
    """

    facts: dict[str, Any]
    labels: NDArray[np.int64]
    shape: tuple[int, int, int]
    resize: int | None
    licence: str | None
    files: Sequence[str]
    images: Callable[[range], Pixels]


def import_images(
    source: Source,
    out: Location,
    *,
    image_format: str | None = None,
    quality: int | None = None,
    subsampling: str = FULL_COLOUR,
    shard_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write images as samples without views, going on where an earlier run stopped.

    Args:
        image_format: ``png``, ``jpg`` or ``webp``; left out, as small or large images are generated.
        subsampling: Of the colours of a jpg, ``4:4:4`` or ``4:2:0``.
        progress: Called with the number of samples that are done, and of all.

    Raises:
        DataError: If the folder holds another set, an image cannot be read, or something cannot be written.
    """
    height, width, channels = source.shape
    image_format = image_format or default_format(height, width)
    if quality is not None and image_format == "png":
        raise DataError("png is lossless and takes no quality: leave it out, or take jpg or webp")
    complaint = subsampling_complaint(subsampling, image_format=image_format, channels=channels)
    if complaint:
        raise DataError(complaint)
    recipe = {
        "format": FORMAT,
        "kind": "imported",
        "num_samples": len(source.labels),
        "shard_size": shard_size or default_shard_size(height, width),
        "source": source.facts,
        "views": [],
        "image": {
            "format": image_format,
            "quality": quality,
            "resize": source.resize,
            "height": height,
            "width": width,
            "channels": channels,
            **({} if subsampling == FULL_COLOUR else {"subsampling": subsampling}),
        },
    }
    is_new = isinstance(out, Path) and not out.exists()
    writer = DatasetWriter(out, recipe, licence=source.licence)
    missing = writer.missing_shards()
    done = len(source.labels) - sum(shard.count for shard in missing)

    def reported(batches: Iterator[Batch]) -> Iterator[Batch]:
        nonlocal done
        for batch in batches:
            yield batch
            done += len(batch)
            if progress:
                progress(done, len(source.labels))

    if progress:
        progress(done, len(source.labels))
    try:
        for shard in missing:
            writer.write_shard(shard, reported(_batches(source, shard)), {"codec": codec_versions()})
    except DataError:
        if is_new and isinstance(out, Path) and not any(out.glob("shard-*.tar")):
            shutil.rmtree(out)  # else the recipe of these images would refuse them once they are mended
        raise
    return writer.finish()


def _batches(source: Source, shard: ShardSpec) -> Iterator[Batch]:
    names = source.facts["class_names"]
    step = max(1, _BATCH_BYTES // int(np.prod(source.shape)))
    end = shard.first + shard.count
    for first in range(shard.first, end, step):
        numbers = range(first, min(first + step, end))
        labels = source.labels[numbers.start : numbers.stop]
        yield Batch(
            first=first,
            images=source.images(numbers)[:, None],
            latents=np.empty((len(numbers), 1, 0), np.float32),
            labels=labels,
            meta=[
                {"index": number, "class": names[label], "views": []}
                | ({"file": source.files[number]} if source.files else {})
                for number, label in zip(numbers, labels.tolist(), strict=True)
            ],
        )


def fashion_mnist_source(*, num_images: int | None = None, resize: int | None = None) -> Source:
    """The 54,000 images of Fashion-MNIST to learn from, or the first of them.

    Raises:
        DataError: If they are not on this machine, or fewer than asked for.
    """
    images, labels = fashion_mnist.load("learn")
    num_images = _checked_number(num_images, len(labels), "Fashion-MNIST's part to learn from")
    images, labels = images[:num_images], labels[:num_images]

    def read(numbers: range) -> Pixels:
        chosen = images[numbers.start : numbers.stop]
        if resize:
            from PIL import Image

            chosen = np.stack([_squared(Image.fromarray(image), resize) for image in chosen])
        return chosen[..., None]

    return Source(
        facts={
            "name": "fashion-mnist",
            "part": "learn",
            "sha256": hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest(),
            "class_names": list(fashion_mnist.CLASS_NAMES),
        },
        labels=labels,
        shape=(resize or images.shape[1], resize or images.shape[2], 1),
        resize=resize,
        licence="MIT",
        files=(),
        images=read,
    )


def folder_source(
    folder: Path,
    *,
    num_images: int | None = None,
    resize: int | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Source:
    """The images of a folder with a sub-folder for every class, in an order that mixes the classes.

    A trainer shuffles within a few thousand samples at a time, which must not all be of one class: sorted by class
    and path, an image takes the place of its random word (Philox, key (0, 300), counter its position) among all.

    The headers of all are read at once, so what cannot be imported is found before anything is written. As in
    torchvision's ``ImageFolder`` the label is the place of the class among the sorted names, files of other kinds
    are passed over, and pixels are taken as they lie (the orientation that a camera notes is not applied).

    Args:
        num_images: Only the first ones; of more, these are the first ones too.
        resize: Side S of the result: the short side is resized to S, then the centre cut out.
        workers: Threads that decode.
        progress: Called with the number of headers read, and of all.

    Raises:
        DataError: If the folder or an image cannot be read, there are none, or their sizes differ without ``resize``.
    """
    class_names, sorted_paths, sorted_labels = _listed(folder)
    num_images = _checked_number(num_images, len(sorted_paths), str(folder))
    order = _mixed_order(len(sorted_paths))[:num_images].tolist()
    paths, labels = ([values[position] for position in order] for values in (sorted_paths, sorted_labels))
    modes: set[str] = set()
    sizes: dict[tuple[int, int], Path] = {}  # and the first image of each
    for number, path in enumerate(paths, start=1):
        with _opened(path) as picture:
            modes.add(picture.mode)
            sizes.setdefault(picture.size, path)
        if progress:
            progress(number, len(paths))
    if len(sizes) > 1 and not resize:
        (first_size, first), (other_size, other) = list(sizes.items())[:2]
        raise DataError(
            f"{other} is {other_size[0]} x {other_size[1]} pixels where {first} is {first_size[0]} x {first_size[1]}: "
            "images of several sizes need --resize S"
        )
    width, height = (resize, resize) if resize else next(iter(sizes))
    mode = "L" if modes <= set(GREY_MODES) else "RGB"

    def read_one(path: Path) -> Pixels:
        with _opened(path) as picture:
            try:
                converted = picture.convert(mode)
            except Exception as error:  # Pillow raises whatever its decoders meet
                raise DataError(
                    f"{path} is damaged ({_one_line(error)}): replace or remove it and import into a new folder"
                ) from error
        return _squared(converted, resize) if resize else np.asarray(converted)

    def read(numbers: range) -> Pixels:
        with ThreadPoolExecutor(workers) as pool:
            images = np.stack(list(pool.map(read_one, paths[numbers.start : numbers.stop])))
        return images.reshape(len(numbers), height, width, -1)

    files = [path.relative_to(folder).as_posix() for path in paths]
    listing = json.dumps([[file, path.stat().st_size] for file, path in zip(files, paths, strict=True)])
    return Source(
        facts={
            "name": folder.resolve().name,
            "listing_sha256": hashlib.sha256(listing.encode()).hexdigest(),
            "order": {"by": "philox4x32-10", "key": [0, _ORDER_STREAM]},
            "class_names": class_names,
        },
        labels=np.asarray(labels, np.int64),
        shape=(height, width, 1 if mode == "L" else 3),
        resize=resize,
        licence=None,
        files=files,
        images=read,
    )


def _mixed_order(count: int) -> NDArray[np.int64]:
    """A permutation of 0..count-1, the same everywhere."""
    first, second = philox.words((0, _ORDER_STREAM), np.arange(count), count=2).T
    return np.lexsort((second, first))


def _checked_number(wanted: int | None, there: int, where: str) -> int:
    if wanted is not None and wanted > there:
        raise DataError(f"{where} has {there:,} images, fewer than the {wanted:,} asked for: ask for at most {there}")
    return there if wanted is None else wanted


def _listed(folder: Path) -> tuple[list[str], list[Path], list[int]]:
    """Class names, image files, and of each file the place of its class."""

    def refuse(error: OSError) -> NoReturn:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}): "
            "name fashion-mnist or a folder with a sub-folder of images for every class"
        ) from error

    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        refuse(error)
    class_folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if not class_folders:
        raise DataError(f"{folder} has no sub-folders: put the images of each class into one named after it")
    files, labels = [], []
    for label, class_folder in enumerate(class_folders):
        found = sorted(
            Path(parent, name)
            for parent, _, names in os.walk(class_folder, onerror=refuse)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        )
        if not found:
            raise DataError(f"{class_folder} holds no images ({', '.join(SUFFIXES)}): fill or remove it")
        files += found
        labels += [label] * len(found)
    return [class_folder.name for class_folder in class_folders], files, labels


def _opened(path: Path) -> "Image.Image":
    """An image of which so far only the header was read."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no image ({', '.join(FORMATS)}): replace or remove it") from error
    except Exception as error:  # Pillow raises whatever its parsers meet
        raise DataError(f"{path} cannot be read ({_one_line(error)}): replace or remove it") from error
    complaint = ""
    if picture.mode not in GREY_MODES + COLOUR_MODES:
        complaint = f"has pixels of mode {picture.mode}: convert it to eight bits a channel"
    elif picture.width * picture.height > MAX_PIXELS:
        complaint = f"has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}: shrink it"
    if complaint:
        picture.close()
        raise DataError(f"{path} {complaint}")
    return picture


def _squared(picture: "Image.Image", side: int) -> Pixels:
    """uint8 (S, S) or (S, S, 3): the short side resized to S, bilinear with antialias, then the centre."""
    from PIL import Image

    width, height = (side * length // min(picture.size) for length in picture.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
