"""Class folders with the names of the paper's authors (ali-design/GenRep), for their reader and for ImageFolder's."""

import os
import pickle
import re
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrep.shards import atomic
from genrep.shards.codec import encode
from genrep.shards.errors import DataError
from genrep.shards.export import Progress, claim
from genrep.shards.info import class_names
from genrep.shards.reader import ShardDataset

LISTS = ("full_imgList.txt", "ratiodata1.0_imgList.txt")  # the reader's own choice at its ratio 1.0 is the second
LATENTS = "z_dataset.pkl"


def export_folder(dataset: ShardDataset, out: Path, *, progress: Progress | None = None) -> int:
    """Write every image as an RGB PNG file, and the latents and lists that the authors' reader looks for.

    A sample of class c, the i-th of its class: ``train/CLASS/seed<c>_sample<i>_anchor.png`` and
    ``..._1.0_<k>.png`` for view k. CLASS is the class's number and name; of a set without classes every shard is a
    folder, as theirs are. ``train/CLASS/z_dataset.pkl`` maps a file's name to its latent and class number; the
    lists hold the paths of all anchors. Files that an earlier run wrote stay; the lists come last, when
    the disk has all of them (after a power cut before that, begin in a new folder).

    Returns:
        Number of images.

    Raises:
        DataError: If the folder holds other things or cannot be written, or the set is damaged.
    """
    claim(dataset, out, kind="folder")
    folders, numbers = _places(dataset)
    images_per_sample = 1 + dataset.num_views
    anchors = []
    done = 0
    by_folder = np.argsort(folders, kind="stable")
    for folder, group in groupby(by_folder.tolist(), key=lambda position: folders[position]):
        path = out / "train" / folder
        with atomic.reported(path):
            path.mkdir(parents=True, exist_ok=True)
        atomic.remove_stale(path)
        there = set(os.listdir(path))
        latents: dict[str, list[object]] = {}
        for position in group:
            label = int(dataset.labels[position])
            stem = f"seed{max(label, 0):04d}_sample{numbers[position]:05d}"
            names = [f"{stem}_anchor.png", *(f"{stem}_1.0_{view}.png" for view in range(1, images_per_sample))]
            if not there.issuperset(names):
                for name, content in zip(names, encode(dataset[position].images, format="png"), strict=True):
                    if name not in there:
                        atomic.write(path / name, content, synced=False)
            rows = dataset.latents(position)
            latents |= {name: [row.copy(), label] for name, row in zip(names, rows, strict=True)}
            anchors.append(path / names[0])
            done += 1
            if progress:
                progress(done, len(dataset))
        if rows.shape[1] and LATENTS not in there:
            atomic.write(path / LATENTS, pickle.dumps(latents, protocol=4), synced=False)
    os.sync()  # one for all files: their names came before their bytes were safe
    listing = "".join(f"{path.resolve()}\n" for path in anchors).encode()
    for name in LISTS:
        atomic.write(out / name, listing)
    return images_per_sample * len(dataset)


def _places(dataset: ShardDataset) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Folder of each sample, and its number in there."""
    labels = dataset.labels
    names = class_names(dataset.recipe)
    if (labels < 0).any():
        keys = np.repeat(np.arange(len(dataset.shard_counts)), dataset.shard_counts)
        titles = [f"shard-{number:06d}" for number in range(len(dataset.shard_counts))]
    else:
        keys = labels
        titles = [_title(label, names) for label in range(int(labels.max()) + 1)]
    order = np.argsort(keys, kind="stable")
    _, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    numbers = np.empty(len(keys), np.int64)
    numbers[order] = np.arange(len(keys)) - np.repeat(starts, counts)
    return np.array(titles)[keys], numbers


def _title(label: int, names: object) -> str:
    """Number and name of a class, as the name of a folder; numbers keep the order of labels when sorted."""
    name = names[label] if isinstance(names, list | tuple) and label < len(names) else ""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60]
    return f"{label:04d}_{plain}" if plain else f"{label:04d}"


def check_local(out: object) -> Path:
    """The folder, which must be one of this machine: millions of small files are no load for a store."""
    if not isinstance(out, Path):
        raise DataError(f"{out} is a URL, and this export writes a file for every image: name a folder, and copy that")
    return out
