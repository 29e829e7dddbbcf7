"""Shared by the tests of shards/: tiny sets (``tiny_sets.py``), also importable in child processes."""

import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Where tars of sets in stores are kept: never the user's own cache."""
    monkeypatch.setenv("GENREP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def recipe():
    """Ten samples of two 9 x 7 grey images in shards of four, four and two."""
    from tiny_sets import tiny_recipe

    return tiny_recipe()


@pytest.fixture
def tiny_set(tmp_path, recipe):
    """Folder of the finished set of ``recipe``."""
    from tiny_sets import write_set

    write_set(tmp_path / "set", recipe)
    return tmp_path / "set"
