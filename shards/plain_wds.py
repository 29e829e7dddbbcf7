"""Plain WebDataset tars of one image a sample, as readers of classification sets expect them (timm's among these)."""

from genrep.shards import atomic, tar
from genrep.shards.errors import DataError
from genrep.shards.export import Progress, claim, finish, shards_of
from genrep.shards.layout import key
from genrep.shards.location import Location
from genrep.shards.reader import ShardDataset

INDEX = "_info.json"  # where timm looks for names and lengths


def export_wds(dataset: ShardDataset, out: Location, *, image: str, progress: Progress | None = None) -> int:
    """Write one image of every sample and its label: ``KEY.png`` (or jpg, webp) and ``KEY.cls``.

    What an earlier run finished stays.

    Args:
        image: ``anchor``, ``view1``, ...

    Returns:
        Number of tars, one a shard.

    Raises:
        DataError: If there is no such image, the folder holds other things, or the set is damaged.
    """
    image_format = dataset.recipe["image"]["format"]
    member = f"{image}.{image_format}"
    images = [name.partition(".")[0] for name in dataset.member_names[:-3]]
    if image not in images:
        raise DataError(f"{dataset.folder} has no image {image!r}: it has {', '.join(images)}")
    claim(dataset, out, kind="wds", settings={"image": image})
    names, lengths = [], []
    for number, positions in shards_of(dataset):
        path = out / f"train-{number:06d}.tar"
        if not path.exists():
            entries: list[str] = []
            contents: list[bytes] = []
            for position in positions:
                found, sample = dataset.members(position, [member, "cls"]), key(dataset.index(position))
                entries += (f"{sample}.{image_format}", f"{sample}.cls")
                contents += (bytes(found[member]), bytes(found["cls"]))
            atomic.write(path, tar.pack(entries, contents))
        names.append(path.name)
        lengths.append(len(positions))
        if progress:
            progress(positions.stop, len(dataset))
    split = {"name": "train", "filenames": names, "shard_lengths": lengths, "num_samples": len(dataset)}
    finish(out, INDEX, {"splits": {"train": split}})
    return len(names)
