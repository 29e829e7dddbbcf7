"""Sets changed after they were made: a damaged file, or a shard rewritten with every hash made right again."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from genrep.shards import tar
from genrep.shards.layout import layout_of
from genrep.shards.manifest import read_recipe
from genrep.shards.table import ShardFacts, ShardTable, read_table, table_bytes
from genrep.shards.writer import DatasetWriter


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def hashes(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest() for file in files}


def place_of(folder: Path, key: str, member: str) -> tuple[Path, int, int]:
    """Tar, offset and size of a member."""
    layout = layout_of(read_recipe(folder))
    (spec,) = [spec for spec in layout.shards if spec.first <= int(key) < spec.first + spec.count]
    table = read_table(folder / spec.table, members=layout.members, num_samples=spec.count)
    row = int(key) - spec.first
    return folder / spec.name, int(table.offsets[member][row]), int(table.sizes[member][row])


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def forge(
    folder: Path,
    change: Callable[[str, str, bytes], bytes] = lambda key, member, content: content,
    *,
    table: Callable[[ShardTable], ShardTable] = lambda table: table,
    facts: Callable[[ShardFacts], ShardFacts] = lambda facts: facts,
    label: Callable[[bytes], int] = int,
    with_manifest: bool = True,
) -> None:
    """Rewrite every shard.

    Args:
        change: From key, member and content to the new content.
        table, facts: Further changes of each table.
        label: Of a ``cls`` member, for the table.
    """
    recipe = read_recipe(folder)
    layout = layout_of(recipe)
    for spec in layout.shards:
        old = read_table(folder / spec.table, members=layout.members, num_samples=spec.count)
        archive = (folder / spec.name).read_bytes()
        contents = []
        for row, key in enumerate(spec.keys):
            for member in layout.members:
                offset, size = int(old.offsets[member][row]), int(old.sizes[member][row])
                contents.append(change(key, member, archive[offset : offset + size]))
        sizes = np.array([len(content) for content in contents], np.int64)
        offsets = tar.data_offsets(sizes)
        digests = np.stack([np.frombuffer(sha256(content).digest(), np.uint8) for content in contents])
        packed = tar.pack(tar.member_names(spec.first, spec.count, layout.members), contents)
        count = len(layout.members)
        new = ShardTable(
            facts=facts(replace(old.facts, tar_sha256=sha256(packed).hexdigest(), tar_bytes=len(packed))),
            keys=old.keys,
            labels=np.array([label(content) for content in contents[count - 2 :: count]], np.int64),
            offsets={member: offsets[place::count] for place, member in enumerate(layout.members)},
            sizes={member: sizes[place::count] for place, member in enumerate(layout.members)},
            digests={member: digests[place::count] for place, member in enumerate(layout.members)},
            columns=old.columns,
        )
        (folder / spec.table).write_bytes(table_bytes(table(new)))
        (folder / spec.name).write_bytes(packed)
    if with_manifest:
        DatasetWriter(folder, recipe).finish()
