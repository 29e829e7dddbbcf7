"""Small sets, written for real, whose pixels are known in closed form; and commands as processes of their own."""

import json
import os
import subprocess
import sys

import numpy as np

import genrep.shards
from genrep.shards.batch import Batch
from genrep.shards.writer import DatasetWriter

NUM_SAMPLES = 40
NUM_VIEWS = 2


def image_of(sample, view, shape):
    """Image uint8 (H, W, C) number ``view`` of a sample: a wave of its own, seldom equal to another one's."""
    y, x, c = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return ((7 * sample + 83 * view + (2 + sample % 3) * y + (3 + sample % 5) * x + 29 * c) % 256).astype(np.uint8)


def latent_of(sample, view):
    """Latent float32 (3,) of an image: views of a sample lie near its anchor."""
    return np.array([np.cos(sample), np.sin(sample), view / 4], np.float32)


def write_set(
    folder,
    *,
    num_samples=NUM_SAMPLES,
    shape=(28, 28, 1),
    num_views=NUM_VIEWS,
    labelled=True,
    shard_size=16,
    latent_dim=3,
):
    recipe = {
        "format": "genrep/1",
        "kind": "generated",
        "num_samples": num_samples,
        "shard_size": shard_size,
        "generator": {"name": "waves"},
        "views": ["gauss"] * num_views,
        "image": dict(zip(("height", "width", "channels"), shape, strict=True))
        | {"format": "png", "quality": None, "resize": None},
    }
    writer = DatasetWriter(folder, recipe)
    for spec in writer.missing_shards():
        samples = range(spec.first, spec.first + spec.count)
        images = np.stack([[image_of(i, view, shape) for view in range(1 + num_views)] for i in samples])
        batch = Batch(
            first=spec.first,
            images=images,
            latents=np.stack([[latent_of(i, view)[:latent_dim] for view in range(1 + num_views)] for i in samples]),
            labels=np.array([i % 4 if labelled else -1 for i in samples], np.int64),
            meta=[{"index": i} for i in samples],
        )
        writer.write_shard(spec, [batch], {})
    writer.finish()
    return folder


def command(module, *arguments):
    """Arguments and environment of a process of its own that runs a command of ours."""
    program = f"from genrep.train.{module} import main; main()"
    return {
        "args": [sys.executable, "-c", program, *map(str, arguments)],
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }


def metrics_of(run):
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def damage(folder, *samples, member="anchor.png"):
    """Zeros from byte 50 on, in a member of these samples; the folder."""
    for sample in samples:
        place = bytes(genrep.shards.open(folder).members(sample)[member])
        tar = folder / f"shard-{sample // 16:06d}.tar"
        content = tar.read_bytes()
        assert content.count(place) == 1
        tar.write_bytes(content.replace(place, place[:50] + bytes(len(place) - 50)))
    return folder
