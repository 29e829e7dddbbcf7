import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrep.shards.errors import DataError
from genrep.shards.table import PARTS, ShardFacts, ShardTable, read_facts, read_table, table_bytes

MEMBERS = ["anchor.png", "cls"]
TABLE = ShardTable(
    facts=ShardFacts("ab" * 32, 10_240, {"torch": "2.9", "cpu": "any"}, "MIT"),
    keys=["000000004", "000000005", "000000006"],
    labels=np.array([3, -1, 2**40]),
    offsets={"anchor.png": np.array([512, 2048, 4096]), "cls": np.array([1536, 3072, 5120])},
    sizes={"anchor.png": np.array([10, 20, 30]), "cls": np.array([1, 2, 13])},
    digests={m: np.arange(96, dtype=np.uint8).reshape(3, 32) + shift for shift, m in enumerate(MEMBERS)},
    columns={"view1.zoom": np.array([0.5, -0.25, 1], np.float32)},
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "shard-000000.parquet"
    path.write_bytes(table_bytes(TABLE))
    return path


def as_lists(table, part):
    value = getattr(table, part)
    return {k: v.tolist() for k, v in value.items()} if isinstance(value, dict) else list(value)


@pytest.mark.parametrize("part", PARTS)
def test_a_table_comes_back_whole_or_in_the_parts_asked_for(path, part):
    whole = read_table(path, members=MEMBERS, num_samples=3)
    alone = read_table(path, members=MEMBERS, num_samples=3, parts=[part])
    assert whole.facts == alone.facts == read_facts(path) == TABLE.facts
    assert as_lists(whole, part) == as_lists(alone, part) == as_lists(TABLE, part)
    assert not any(len(getattr(alone, other)) for other in PARTS if other != part)


def test_the_same_values_give_the_same_bytes():
    other = replace(TABLE, facts=replace(TABLE.facts, environment={"cpu": "any", "torch": "2.9"}))
    assert table_bytes(TABLE) == table_bytes(other)


def test_anybody_can_read_a_table(path):
    table = pq.read_table(path)
    assert table["key"].to_pylist() == TABLE.keys
    assert table["sha256.cls"].to_pylist()[0] == bytes(range(1, 33))
    assert json.loads(table.schema.metadata[b"genrep"])["tar_sha256"] == "ab" * 32


@pytest.mark.parametrize(
    ("members", "num_samples"), [(MEMBERS[:1], 3), ([*MEMBERS, "json"], 3), (MEMBERS[::-1], 3), (MEMBERS, 4)]
)
def test_a_table_of_other_samples_is_refused(path, members, num_samples):
    with pytest.raises(DataError, match="not the table of a shard of this set"):
        read_table(path, members=members, num_samples=num_samples)


def test_a_missing_table_is_named_with_a_remedy(tmp_path):
    with pytest.raises(DataError, match=r"gone\.parquet is missing: get the set again"):
        read_table(tmp_path / "gone.parquet", members=MEMBERS, num_samples=3)


def rewritten(path, change):
    table = pq.read_table(path)
    pq.write_table(change(table), path, compression="zstd")


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.set_column(1, "label", pa.array([1.0, 2.0, 3.0])),
        lambda table: table.set_column(1, "label", pa.array([1, None, 3])),
        lambda table: table.append_column("view1.shift", pa.array(["a", "b", "c"])),
        lambda table: table.replace_schema_metadata({}),
        lambda table: table.replace_schema_metadata({b"genrep": b"[" * 100_000}),
        lambda table: table.replace_schema_metadata({b"genrep": b'{"surprise": 1}'}),
        lambda table: table.replace_schema_metadata(
            {b"genrep": b'{"tar_sha256": 1, "tar_bytes": "x", "environment": 0}'}
        ),
        lambda table: pa.concat_tables([table] * 1_000),
    ],
    ids=["type", "empty cell", "text", "no facts", "deep facts", "other facts", "wrong facts", "rows that inflate"],
)
def test_a_table_of_another_make_is_refused(path, change):
    rewritten(path, change)
    num_samples = pq.read_metadata(path).num_rows
    with pytest.raises(DataError, match="not the table of a shard of this set"):
        read_table(path, members=MEMBERS, num_samples=num_samples)


def test_a_table_cut_or_damaged_is_refused(path):
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match="not the table of a shard of this set"):
            read_table(path, members=MEMBERS, num_samples=3)
