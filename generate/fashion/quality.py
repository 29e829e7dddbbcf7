"""Measure the embedded generators against held-out real images, jittered like their training data.

`python -m genrep.generate.fashion.quality --out quality.json`

Needs the ``fidelity`` extra for the Frechet distance (torch-fidelity). Test images are never read.
"""

import json
import math
import time
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from genrep.generate.fashion import FashionGenerator
from genrep.generate.fashion.classifier import Classifier, trained_classifier
from genrep.generate.fashion.jitter import jitter_images
from genrep.generate.fashion.network import NUM_CLASSES
from genrep.shards import fashion_mnist
from genrep.shards.cli import faults_in_one_line

NUM_HELD_OUT = 6000  # images on each side of every Frechet distance


@click.command()
@click.option(
    "--class-weights", type=click.Path(exists=True, path_type=Path), help="Left out: the weights in the package."
)
@click.option("--null-weights", type=click.Path(exists=True, path_type=Path), help="The same for the null mode.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
@click.option(
    "--classifier", "classifier_file", type=click.Path(path_type=Path), help="Keep the real-trained classifier here."
)
@click.option("--samples", "samples_file", type=click.Path(path_type=Path), help="Draw a sheet of samples here (PNG).")
@click.option("--twins/--no-twins", default=True, help="Also train classifiers on generated images and on real ones.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1))
def main(
    class_weights: Path | None,
    null_weights: Path | None,
    out: Path,
    classifier_file: Path | None,
    samples_file: Path | None,
    twins: bool,
    seed: int,
    threads: int,
) -> None:
    """Frechet distances, class fidelity, the classifier trained on generated images, and the speed."""
    torch.set_num_threads(threads)
    with faults_in_one_line():
        conditional, unconditional = FashionGenerator("class", class_weights), FashionGenerator("null", null_weights)
    draws = torch.Generator().manual_seed(seed)
    learn = jittered("learn", draws)
    held_out = jittered("held-out", draws)
    classifier = trained_classifier(learn.images, learn.labels, seed=seed, file=classifier_file)
    num_views = NUM_HELD_OUT
    labels = torch.arange(num_views) % NUM_CLASSES
    by_class = rendered(conditional, num_views, labels, draws)
    by_null = rendered(unconditional, num_views, None, draws)
    if samples_file is not None:
        save_sheet(by_class[:60], by_null[:60], samples_file)
    sets = {
        "held_out": held_out.images,
        "floor": learn.images[torch.randperm(len(learn.images), generator=draws)[:num_views]],
        "class_mode": by_class,
        "null_mode": by_null,
    }
    features = {name: classifier.features_of(images) for name, images in sets.items()}
    distance = {
        name: frechet_distance(value, features["held_out"]) for name, value in features.items() if name != "held_out"
    }
    result = {
        "seed": seed,
        "images_a_side": num_views,
        "frechet_distance": distance,
        "times_floor": {mode: distance[mode] / distance["floor"] for mode in ("class_mode", "null_mode")},
        "real_accuracy_held_out": accuracy(classifier, held_out.images, held_out.labels),
        "class_fidelity": accuracy(classifier, by_class, labels),
        "null_mode_class_shares": (classifier.predict(by_null).bincount(minlength=NUM_CLASSES) / num_views).tolist(),
        "images_per_s_one_thread": images_per_second(conditional),
    }
    if twins:
        count = len(learn.images)
        labels = torch.arange(count) % NUM_CLASSES
        generated = Labelled(rendered(conditional, count, labels, draws), labels)
        # a classifier can lean on what bare generated images have and real ones lack; T_x hides some of it
        plain = [classifier, trained_classifier(generated.images, generated.labels, seed=seed)]
        moved = [trained_classifier(data.images, data.labels, seed=seed, view=augmented) for data in (learn, generated)]
        result["accuracy_held_out_of_classifiers"] = {
            f"trained on {source}, {protocol}": accuracy(twin, held_out.images, held_out.labels)
            for protocol, twins_of in (("plain", plain), ("T_x", moved))
            for source, twin in zip(("real", "generated"), twins_of, strict=True)
        }
    out.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(result, indent=1))


class Labelled:
    """Images float32 (N, 1, 28, 28) in [-1, 1] with labels int64 (N,)."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels


def jittered(part: fashion_mnist.Part, draws: torch.Generator) -> Labelled:
    """Real images of one part, each jittered once."""
    data = fashion_mnist.load(part)
    return Labelled(jitter_images(torch.from_numpy(data.images.copy()), draws), torch.from_numpy(data.labels.copy()))


def augmented(images: Tensor, draws: torch.Generator) -> Tensor:
    """T_x of the trainer's preset for small images: crop, flip, brightness and contrast, a box erased in every second.

    Args:
        images: (B, 1, H, W) in [-1, 1].
        draws: Source of the draws, each image's its own.

    Returns:
        Images of the same shape and range.
    """
    count, _, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=draws)

    def box(area: tuple[float, float], ratio: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Half width, half height and centre (x, y), in units in which the image spans -1 to 1."""
        share, shape = uniform(*area), torch.exp(uniform(*(math.log(bound) for bound in ratio)))
        half_width, half_height = (share * shape).sqrt().clamp(max=1), (share / shape).sqrt().clamp(max=1)
        return half_width, half_height, (1 - half_width) * uniform(-1, 1), (1 - half_height) * uniform(-1, 1)

    half_width, half_height, x, y = box((0.3, 1), (3 / 4, 4 / 3))
    mirror = (uniform(0, 1) < 0.5) * -2 + 1
    zero = torch.zeros(count)
    theta = torch.stack([mirror * half_width, zero, x, zero, half_height, y], dim=1).view(count, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    light = F.grid_sample(images, grid, padding_mode="border", align_corners=False) / 2 + 0.5
    brightness, contrast = (uniform(0.6, 1.4)[:, None, None, None] for _ in range(2))
    light = (light * brightness).clamp(0, 1)
    mean = light.mean((1, 2, 3), keepdim=True)
    light = (mean + (light - mean) * contrast).clamp(0, 1)
    half_width, half_height, x, y = box((0.02, 0.33), (0.3, 3.3))
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    is_erased = ((rows - y[:, None]).abs() < half_height[:, None])[:, :, None]
    is_erased = is_erased & ((columns - x[:, None]).abs() < half_width[:, None])[:, None, :]
    is_erased &= (uniform(0, 1) < 0.5)[:, None, None]
    return light.masked_fill(is_erased[:, None], 0.5) * 2 - 1


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    return (classifier.predict(images) == labels).double().mean().item()


@torch.no_grad()
def rendered(generator: FashionGenerator, count: int, labels: Tensor | None, draws: torch.Generator) -> Tensor:
    """Images (count, 1, 28, 28), rounded to grey levels as they would be stored."""
    latents = torch.randn(count, generator.latent_dim, generator=draws)
    chunks = labels.split(500) if labels is not None else [None] * len(latents.split(500))
    images = [generator.render(z, y) for z, y in zip(latents.split(500), chunks, strict=True)]
    return (torch.cat(images) * 127.5 + 127.5).round() / 127.5 - 1


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Frechet distance of two feature sets (N, 128), by torch-fidelity."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(features.double()) for features in (first, second)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])


def save_sheet(by_class: Tensor, by_null: Tensor, path: Path) -> None:
    """Six rows of one image a class, then six rows of the null mode, each pixel drawn as four."""
    from torchvision.utils import make_grid, save_image

    sheet = make_grid(torch.cat([by_class, by_null]) / 2 + 0.5, nrow=NUM_CLASSES, pad_value=0.5)
    save_image(F.interpolate(sheet[None], scale_factor=2), path)


@torch.no_grad()
def images_per_second(generator: FashionGenerator, *, micro_batch: int = 64, rounds: int = 7) -> float:
    """Median of ``rounds`` timings of ten micro-batches in float32 on one thread."""
    torch.set_num_threads(1)
    latents, labels = torch.randn(micro_batch, generator.latent_dim), torch.arange(micro_batch) % NUM_CLASSES
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(10):
            generator.render(latents, labels)
        seconds.append(time.perf_counter() - started)
    return round(10 * micro_batch / sorted(seconds)[rounds // 2], 1)


if __name__ == "__main__":
    main()
