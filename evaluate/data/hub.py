"""Data sets of the Hugging Face hub, and folders of this machine that `datasets` loads."""

from pathlib import Path
from typing import Any

import numpy as np

from genrep.evaluate.data.part import RealData, Split, decoded, file_bytes, real_data
from genrep.shards.errors import DataError

VALIDATION = ("validation", "valid", "val", "dev")


def open_hub(name: str, place: str) -> RealData:
    """A hub id or folder, with one column of images and one of class labels.

    Parts: ``train``; ``test``, or ``validation`` where there is no ``test`` or it has no labels. Held out is
    ``validation`` where it is not what is tested on. No code of a data set is run.

    Raises:
        DataError: If `datasets` is not installed or cannot load it, or parts or columns are missing.
    """
    splits = _loaded(place)
    columns = _columns(splits, place)
    labelled = [part for part in splits if min(splits[part][columns[1]], default=-1) >= 0]
    tests = [part for part in ("test", *VALIDATION) if part in labelled]
    if "train" not in labelled or not tests:
        raise DataError(
            f"{place} has the parts {', '.join(splits)}: it needs train, and test or validation, with labels"
        )
    held_out = next((part for part in VALIDATION if part in labelled and tests[0] == "test"), None)
    train = _split(splits["train"], "train", columns)
    mask = None
    if held_out is not None:
        other = _split(splits[held_out], held_out, columns)
        mask = np.arange(len(train.labels) + len(other.labels)) >= len(train.labels)
        train = _joined(train, other)
    names = tuple(splits["train"].features[columns[1]].names)
    return real_data(name, names, train=train, test=_split(splits[tests[0]], tests[0], columns), held_out=mask)


def _loaded(place: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError("hf: data needs the package datasets: pip install 'genrep[hf]'") from error
    try:
        return datasets.load_dataset(place)
    except Exception as error:  # each version and each store raises its own kinds
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise DataError(f"hf:{place} cannot be loaded ({reason}): name a data set of the hub or a folder") from error


def _columns(splits: Any, place: str) -> tuple[str, str]:
    """The only image column and the only class column."""
    import datasets

    features = next(iter(splits.values())).features
    found = [[c for c, f in features.items() if isinstance(f, kind)] for kind in (datasets.Image, datasets.ClassLabel)]
    if [len(columns) for columns in found] != [1, 1]:
        raise DataError(f"hf:{place} has the columns {dict(features)}: it needs one of images and one of class labels")
    return found[0][0], found[1][0]


def _split(table: Any, part: str, columns: tuple[str, str]) -> Split:
    import datasets

    image, label = columns
    encoded = table.cast_column(image, datasets.Image(decode=False)).select_columns([image])

    def content(position: int) -> bytes:
        row = encoded[position][image]
        if row["bytes"] is not None:
            return row["bytes"]
        return file_bytes(Path(row["path"]))

    names = [f"{part}, row {row}" for row in range(len(table))]
    return Split(names, np.array(table[label]), content, decoded)


def _joined(first: Split, second: Split) -> Split:
    border = len(first.names)

    def content(position: int) -> bytes:
        return first.content(position) if position < border else second.content(position - border)

    labels = np.concatenate([first.labels, second.labels])
    return Split([*first.names, *second.names], labels, content, decoded)
