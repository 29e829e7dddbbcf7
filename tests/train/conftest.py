"""Shared by the tests of train/: the sets of ``wave_sets.py``."""

import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)

from wave_sets import write_set  # noqa: E402


@pytest.fixture(scope="session")
def labelled_set(tmp_path_factory):
    """Folder of 40 labelled samples of 28 px grey images, an anchor and two views, in shards of 16, 16 and 8."""
    return write_set(tmp_path_factory.mktemp("sets") / "labelled")


@pytest.fixture(scope="session")
def unlabelled_set(tmp_path_factory):
    """The same without labels."""
    return write_set(tmp_path_factory.mktemp("sets") / "unlabelled", labelled=False)


@pytest.fixture(scope="session")
def anchors_only_set(tmp_path_factory):
    """The same without views."""
    return write_set(tmp_path_factory.mktemp("sets") / "anchors", num_views=0)
