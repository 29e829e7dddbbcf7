"""Sets and real data with what a test planted in them."""

import numpy as np

from genrep.evaluate.data import Part, RealData
from genrep.shards.batch import Batch
from genrep.shards.layout import layout_of
from genrep.shards.writer import DatasetWriter


def write_planted(folder, images, *, labels=None, latents=None, class_names=("dark", "light"), std=0.5):
    """A set of images uint8 (N, V, H, W, 1), the anchor first, with latents float (N, V, D)."""
    count, num_images, height, width, channels = images.shape
    labels = np.full(count, -1) if labels is None else np.asarray(labels)
    latents = np.zeros((count, num_images, 0)) if latents is None else latents
    recipe = {
        "format": "genrep/1",
        "kind": "generated",
        "num_samples": count,
        "shard_size": 64,
        "seed": 0,
        "views": ["gauss"] * (num_images - 1),
        "image": {
            "format": "png",
            "quality": None,
            "resize": None,
            "height": height,
            "width": width,
            "channels": channels,
        },
        "generator": {"name": "planted", "num_classes": len(class_names), "class_names": list(class_names)},
        "std": std,
    }
    writer = DatasetWriter(folder, recipe, licence=None)
    for spec in layout_of(recipe).shards:
        rows = slice(spec.first, spec.first + spec.count)
        meta = [{"index": index, "views": [{"kind": "gauss"}] * (num_images - 1)} for index in range(count)[rows]]
        batch = Batch(spec.first, images[rows], latents[rows].astype(np.float32), labels[rows], meta, {})
        writer.write_shard(spec, iter([batch]), {"torch": "none"})
    writer.finish()
    return folder


def patches(rng, labels, *, side=12):
    """Images uint8 (N, side, side, 1): noise below 100 for label 0, above 155 for label 1."""
    noise = rng.integers(0, 100, (len(labels), side, side, 1))
    return (noise + 156 * np.asarray(labels).reshape(-1, 1, 1, 1)).astype(np.uint8)


def real_patches(seed=1, *, num_fit=80, num_held_out=40, side=12, refuse_test=True):
    """Real data of two classes; reading its test images fails a test."""
    rng = np.random.default_rng(seed)

    def part(count, source="train"):
        labels = np.arange(count) % 2
        images = patches(rng, labels, side=side)

        def read(rows):
            assert source == "train" or not refuse_test, "test images were read"
            return list(images[np.asarray(rows)])

        return Part(source, np.arange(count), labels, read)

    return RealData("patches", ("dark", "light"), side, "0" * 64, part(num_fit), part(num_held_out), part(20, "test"))
