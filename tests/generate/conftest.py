"""Shared by the tests of generate/: stub generators that a command line can name (``stub_generators:conditional``)."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)


@pytest.fixture(autouse=True)
def stub_generators_can_be_imported(monkeypatch):
    """Also in child processes."""
    monkeypatch.setenv("PYTHONPATH", HERE)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def walks():
    """Two directions of the stubs' latent space, of no generator in particular."""
    from genrep.generate.walks import Walks

    directions = np.array([[1, 0, 0, 0], [0, 0.5, 0, -0.5]], np.float32)
    return Walks(
        names=("zoom", "shift"),
        directions=directions,
        latent_space="z",
        generator="",
        full={"zoom": 0.2, "shift": 4.0},
        units={"zoom": "ln", "shift": "px"},
    )
