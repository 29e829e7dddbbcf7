"""Shared by the tests of evaluate/: a checkpoint and a folder of photographs, both tiny."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrep.train.backbones import build_backbone
from genrep.train.checkpoint import save_checkpoint
from genrep.train.config import PRESETS, TrainConfig

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)  # drawn_voc.py


@pytest.fixture(autouse=True)
def one_thread():
    """Before each test, since the command sets its own number."""
    torch.set_num_threads(1)


@pytest.fixture
def save_run():
    """Write a run's folder with one checkpoint: weights of ``seed``, changed as asked."""

    def save(folder, *, seed=5, change=lambda weights: None):
        preset = PRESETS["fashion"]
        config = TrainConfig(
            recipe_sha256="c0ffee",
            num_samples=40,
            method="simclr",
            views="both",
            backbone=preset.backbone,
            projection_dim=preset.projection_dim,
            batch_size=8,
            steps=2,
            temperature=preset.temperature,
            loss_scale=1.0,
            optimiser=preset.optimiser,
            pixels=preset.pixels,
            crop=28,
            resize=28,
            mean=preset.mean,
            std=preset.std,
            seed=0,
            dtype="float32",
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            weights = build_backbone(config.backbone).state_dict()
        change(weights)
        folder.mkdir()
        save_checkpoint(folder, 2, config, {"backbone": weights, "projection_head": {}, "optimiser": {}})
        return folder

    return save


@pytest.fixture
def run(save_run, tmp_path):
    return save_run(tmp_path / "run")


@pytest.fixture
def photographs(tmp_path):
    """An image folder: stripes of three directions, 20 + 8 images a class, of two sizes."""
    for part, count in (("train", 20), ("test", 8)):
        for label, name in enumerate(("across", "down", "slanted")):
            folder = tmp_path / "photographs" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(stripes(label, number + 100 * (part == "test"))).save(folder / f"{number:02}.png")
    return tmp_path / "photographs"


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    from drawn_voc import draw_voc

    root = tmp_path_factory.mktemp("voc")
    draw_voc(root / "VOCdevkit" / "VOC2007")
    return root


@pytest.fixture
def voc(drawn, tmp_path):
    """The root of a tiny set in VOC's layout, to change at will."""
    return shutil.copytree(drawn, tmp_path / "voc")


def stripes(label, number):
    """Image uint8 (H, W, 3)."""
    rng = np.random.Generator(np.random.PCG64([label, number]))
    y, x = np.mgrid[: 40 + 8 * (number % 2), :40]
    wave = np.sin((y, x, (x + y) / 2**0.5)[label] * rng.uniform(0.5, 1) + rng.uniform(0, 6))
    noisy = wave[..., None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 0.5, (*wave.shape, 3))
    return np.clip(127 + 60 * noisy, 0, 255).astype(np.uint8)
