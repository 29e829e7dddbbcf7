"""Sets whose samples are known in closed form, written for real: by tests, or as a program of its own.

``python tiny_sets.py FOLDER NUM_SAMPLES SHARD_SIZE SECONDS`` writes one, resting that long before every batch.
"""

import sys
import time

import numpy as np

from genrep.shards.batch import Batch
from genrep.shards.layout import layout_of
from genrep.shards.writer import DatasetWriter

ENVIRONMENT = {"torch": "none", "cpu": "any"}
LATENT_DIM = 4


def tiny_recipe(
    num_samples=10,
    shard_size=4,
    *,
    views=("gauss",),
    image_format="png",
    quality=None,
    height=9,
    width=7,
    channels=1,
    kind="generated",
):
    recipe = {
        "format": "genrep/1",
        "kind": kind,
        "num_samples": num_samples,
        "shard_size": shard_size,
        "seed": 0,
        "views": list(views),
        "image": {
            "format": image_format,
            "quality": quality,
            "resize": None,
            "height": height,
            "width": width,
            "channels": channels,
        },
    }
    if kind == "imported":
        return {**recipe, "source": {"name": "closed form", "class_names": ["even", "odd"]}}
    return {
        **recipe,
        "generator": {
            "name": "closed-form",
            "latent_dim": LATENT_DIM,
            "class_names": ["even", "odd"],
            "num_classes": 2,
        },
        "std": 0.5,
    }


def expected_image(index, view, *, height=9, width=7, channels=1):
    """A slope that starts at a value of its own: (H, W, C)."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return ((37 * index + 101 * view + 3 * y + 5 * x + 11 * c) % 256).astype(np.uint8)


def expected_latents(index, *, num_images=2, dim=LATENT_DIM):
    return (index + np.arange(num_images * dim).reshape(num_images, dim) / 8).astype(np.float32)


def expected_meta(index, *, views=("gauss",)):
    return {
        "index": index,
        "class": ("even", "odd")[index % 2],
        "views": [{"kind": kind, "std": 0.5, "strengths": {"zoom": index / 16}} for kind in views],
    }


def expected_sample(recipe, index):
    """Images (1+K, H, W, C), latents (1+K, D), label and meta of a sample."""
    layout, views = layout_of(recipe), recipe["views"]
    height, width, channels = layout.image_shape
    dim = 0 if recipe["kind"] == "imported" else LATENT_DIM
    return (
        np.stack(
            [expected_image(index, v, height=height, width=width, channels=channels) for v in range(1 + len(views))]
        ),
        expected_latents(index, num_images=1 + len(views), dim=dim),
        index % 2,
        expected_meta(index, views=views),
    )


def batches_of(recipe, spec, *, batch_size=3):
    for first in range(spec.first, spec.first + spec.count, batch_size):
        indices = range(first, min(first + batch_size, spec.first + spec.count))
        images, latents, labels, meta = zip(*(expected_sample(recipe, index) for index in indices), strict=True)
        columns = {"view1.zoom": np.array([index / 16 for index in indices], np.float32)} if recipe["views"] else {}
        yield Batch(first, np.stack(images), np.stack(latents), np.array(labels, np.int64), list(meta), columns)


def write_set(folder, recipe=None, *, licence="MIT", batch_size=3, encode_workers=1, rest=0.0):
    """Write what is missing of the set, and finish it."""
    recipe = tiny_recipe() if recipe is None else recipe
    writer = DatasetWriter(folder, recipe, licence=licence, encode_workers=encode_workers)
    for spec in writer.missing_shards():

        def rested(spec=spec):
            for batch in batches_of(recipe, spec, batch_size=batch_size):
                time.sleep(rest)
                yield batch

        writer.write_shard(spec, rested(), ENVIRONMENT)
    return writer.finish()


if __name__ == "__main__":
    folder, num_samples, shard_size, rest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    write_set(folder, tiny_recipe(num_samples, shard_size), rest=rest)
