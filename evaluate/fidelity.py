"""How near the images of a set are to real ones: Frechet and kernel distance, precision and recall, class fidelity."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrep.evaluate.data import Part, RealData
from genrep.evaluate.extractors import Extractor
from genrep.evaluate.features import Labelled, Progress
from genrep.evaluate.interval import Z_95, Interval, wilson
from genrep.evaluate.linear import LinearModel, LinearProbe
from genrep.evaluate.sources import channels_of, drawn, features, rows_of, set_part
from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.shards.info import class_names
from genrep.shards.manifest import manifest_sha256
from genrep.shards.reader import ShardDataset

FORMAT = "genrep-fidelity/1"
MEASURES = ("frechet_distance", "kernel_distance", "precision", "recall")
KERNEL_SUBSETS, KERNEL_SUBSET = 20, 1000
RESAMPLES = 50
WIDEST_RESAMPLED = 512  # F: above, one Frechet distance takes seconds
NEIGHBOURHOOD = 3
ROWS_AT_ONCE = 2000
PROBE_IMAGES = 10_000
LEAST = 4  # images a side: precision and recall look at the third neighbour


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval for drawing the images anew; None where that would take too long."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Reference:
    """Real images.

    Attributes:
        name: For people.
        sha256: Of the data set, or of the manifest of the set.
        pool: What they are drawn from.
        fit, held_out: Labelled images for the probe; None where there are no labels.
        class_names: Of the labels.
    """

    name: str
    sha256: str
    pool: Part
    fit: Part | None
    held_out: Part | None
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class ClassFidelity:
    """Shares of images in which a linear probe of real images finds the label: of the set, and of held-out real ones.

    Attributes:
        per_class: Of the set, by name.
        num_fit: Real images the probe was fitted to.
        num_images: Of the set.
        num_held_out: Real ones, on which the probe's weight decay was chosen as well.
    """

    set: Estimate
    real: Estimate
    per_class: dict[str, float]
    num_fit: int
    num_images: int
    num_held_out: int


@dataclass(frozen=True)
class Fidelity:
    """One comparison; :func:`write_fidelity` turns it into JSON.

    Attributes:
        set: Name, image and sha256 of the manifest of what was measured.
        real: Name and sha256 of the real images.
        num_images: n, of each side of each comparison.
        measures: Of the set against n real images.
        floors: Of n other real images against the same.
        width: F.
    """

    set: dict[str, str]
    real: dict[str, str]
    num_images: int
    measures: dict[str, Estimate]
    floors: dict[str, Estimate]
    class_fidelity: ClassFidelity | None
    extractor: str
    extractor_identity: dict[str, Any]
    warning: str | None
    width: int
    seed: int
    command: str | None

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        unit = (
            f"distances between {self.num_images} images of the set and {self.num_images} real ones in the features of "
            f"{self.extractor}; precision, recall and class fidelity: fractions"
        )
        is_fid = self.warning is None
        return {"format": FORMAT, "measure": "fidelity", "unit": unit, "is_fid": is_fid, **fields}


def real_reference(data: RealData, part: Part, *, name: str) -> Reference:
    """A part of real data; the probe fits on the part to fit on and chooses on the held-out one, whatever the part."""
    return Reference(f"{data.name}, {name}", data.sha256, part, data.fit, data.held_out, data.class_names)


def set_reference(dataset: ShardDataset, name: str, *, seed: int) -> Reference:
    """The anchors of a shard set, such as one of imported real images; a tenth is held out for the probe's choice."""
    pool = set_part(dataset, 0, np.arange(len(dataset)))
    sha256 = manifest_sha256(dataset.folder)
    if (dataset.labels < 0).any() or len(dataset) < 10:
        return Reference(name, sha256, pool, None, None, ())
    num_held_out = len(dataset) // 10
    held_out = rows_of(pool, drawn(len(dataset), num_held_out, seed=seed))
    fit = rows_of(pool, drawn(len(dataset), len(dataset), seed=seed, skip=num_held_out))
    return Reference(name, sha256, pool, fit, held_out, names_of(dataset))


def measure_fidelity(
    dataset: ShardDataset,
    name: str,
    reference: Reference,
    extractor: Extractor,
    *,
    image: int = 0,
    most: int = 10_000,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
    command: str | None = None,
) -> Fidelity:
    """Compare n images of a set with n real ones, and n other real ones with the same.

    n is the least of ``most``, the samples of the set and half of the real images: distances depend on n, so set and
    floor are taken at the same.

    Args:
        image: Of each sample: 0 the anchor, k its view k.
        seed: Of all draws.

    Raises:
        DataError: If an image is damaged, a feature is not finite, or there are too few images.
    """
    num_images = min(most, len(dataset), len(reference.pool.labels) // 2)
    if num_images < LEAST:
        raise DataError(
            f"{name} has {len(dataset)} samples and {reference.name} {len(reference.pool.labels)} images: at least "
            f"{LEAST} and {2 * LEAST} are needed to compare them"
        )
    chosen = set_part(dataset, image, drawn(len(dataset), num_images, seed=seed))
    halves = [
        rows_of(reference.pool, drawn(len(reference.pool.labels), num_images, seed=seed, skip=skip))
        for skip in (0, num_images)
    ]
    channels = max(channels_of(chosen), channels_of(halves[0]))

    def seen(part: Part) -> torch.Tensor:
        return features(extractor.encoder, part, channels=channels, device=device, progress=progress)

    of_set, real, other = seen(chosen), *(seen(half) for half in halves)
    measures = distances(of_set, real, seed=seed, progress=progress)
    floors = distances(other, real, seed=seed, progress=progress)
    return Fidelity(
        set={
            "name": name,
            "image": "anchor" if image == 0 else f"view{image}",
            "manifest_sha256": manifest_sha256(dataset.folder),
        },
        real={"name": reference.name, "sha256": reference.sha256},
        num_images=num_images,
        measures=measures,
        floors=floors,
        class_fidelity=_class_fidelity(dataset, chosen, of_set, reference, seen, seed=seed),
        extractor=extractor.title,
        extractor_identity=extractor.encoder.identity,
        warning=extractor.warning,
        width=of_set.shape[1],
        seed=seed,
        command=command,
    )


def distances(
    sample: torch.Tensor,
    real: torch.Tensor,
    *,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Estimate]:
    """The four measures by torch-fidelity, of features (N, F) of a sample against as many of real images.

    Intervals: of the Frechet distance 1.96 standard deviations over resampled images (its mean over these is biased
    upwards and not used), of the kernel distance from the spread over subsets, of precision and recall Wilson's, for
    drawing the images that are asked about anew.

    Raises:
        DataError: If torch-fidelity is not installed.
    """
    try:
        from torch_fidelity.metric_kid import kid_features_to_metric
        from torch_fidelity.metric_prc import prc_features_to_metric
    except ImportError as error:
        raise DataError(f"fidelity needs torch-fidelity ({error}): pip install 'genrep[fidelity]'") from error
    num_images = len(sample)
    subset = min(KERNEL_SUBSET, num_images)
    progress("kernel distance", 0, 1)
    kernel = kid_features_to_metric(
        sample, real, kid_subsets=KERNEL_SUBSETS, kid_subset_size=subset, rng_seed=seed, verbose=False
    )
    mean, deviation = kernel["kernel_inception_distance_mean"], kernel["kernel_inception_distance_std"]
    half = Z_95 * deviation * math.sqrt(subset / num_images)
    progress("precision and recall", 0, 1)
    shares = prc_features_to_metric(
        sample,
        real,
        prc_neighborhood=NEIGHBOURHOOD,
        prc_batch_size=ROWS_AT_ONCE,
        save_cpu_ram=True,
        verbose=False,
    )
    return {
        "frechet_distance": _frechet_estimate(sample, real, seed=seed, progress=progress),
        # all of the images in every subset: no spread to tell from
        "kernel_distance": Estimate(mean, (mean - half, mean + half) if subset < num_images else None),
        **{
            name: Estimate(shares[name], wilson(round(shares[name] * num_images), num_images))
            for name in ("precision", "recall")
        },
    }


def _frechet_estimate(sample: torch.Tensor, real: torch.Tensor, *, seed: int, progress: Progress) -> Estimate:
    value = frechet_distance(sample, real)
    if sample.shape[1] > WIDEST_RESAMPLED:
        return Estimate(value, None)
    draws = torch.Generator().manual_seed(seed)
    resampled = []
    for number in range(RESAMPLES):
        progress("Frechet distance", number, RESAMPLES)
        resampled.append(
            frechet_distance(
                *(rows[torch.randint(len(rows), (len(rows),), generator=draws)] for rows in (sample, real))
            )
        )
    half = Z_95 * float(np.std(resampled, ddof=1))
    return Estimate(value, (max(0.0, value - half), value + half))


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Of two sets of features (N, F), by torch-fidelity; rounding below 0 is cut."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(rows.double()) for rows in (first, second)]
    return max(0.0, float(fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]))


def fitted_probe(
    fit: Part, held_out: Part, seen: Any, *, num_classes: int, seed: int, most: int = PROBE_IMAGES
) -> tuple[LinearModel, Labelled]:
    """A linear probe of at most ``most`` real images, and the held-out ones on which its weight decay was chosen."""
    fit = rows_of(fit, drawn(len(fit.labels), most, seed=seed))
    held_out = rows_of(held_out, drawn(len(held_out.labels), most, seed=seed))
    choices = Labelled(seen(held_out), torch.from_numpy(held_out.labels))
    examples = Labelled(seen(fit), torch.from_numpy(fit.labels))
    return LinearProbe().fit(examples, choices, num_classes=num_classes, seed=seed), choices


def _class_fidelity(
    dataset: ShardDataset, chosen: Part, of_set: torch.Tensor, reference: Reference, seen: Any, *, seed: int
) -> ClassFidelity | None:
    """None unless set and real images have labels of the same classes."""
    if reference.fit is None or reference.held_out is None or (chosen.labels < 0).any():
        return None
    num_classes = len(reference.class_names)
    if num_classes < 2 or tuple(names_of(dataset)) != reference.class_names:
        return None
    model, held_out = fitted_probe(reference.fit, reference.held_out, seen, num_classes=num_classes, seed=seed)
    right = (model.predict(of_set)[0].numpy() == chosen.labels).astype(bool)
    right_real = int((model.predict(held_out.features)[0] == held_out.labels).sum())
    return ClassFidelity(
        set=share(int(right.sum()), len(right)),
        real=share(right_real, len(held_out.labels)),
        per_class={
            name: float(right[chosen.labels == label].mean())
            for label, name in enumerate(reference.class_names)
            if (chosen.labels == label).any()
        },
        num_fit=min(PROBE_IMAGES, len(reference.fit.labels)),
        num_images=len(right),
        num_held_out=len(held_out.labels),
    )


def share(count: int, total: int) -> Estimate:
    """A share of ``total`` images, with Wilson's interval."""
    return Estimate(count / total, wilson(count, total))


def names_of(dataset: ShardDataset) -> tuple[str, ...]:
    """Class names of a set, by label; empty where there are none."""
    return tuple(class_names(dataset.recipe))


def write_fidelity(result: Fidelity, path: Path) -> None:
    """Write it as JSON; the file appears whole or not at all."""
    write_json(result.to_json(), path)


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Strict JSON: a number that is not finite is a bug."""
    text = json.dumps(content, indent=1, allow_nan=False)
    with atomic.reported(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, text.encode() + b"\n")


def fidelity_table(result: Fidelity) -> str:
    """Title, a row a measure with the floor beside it, and what a reader must know."""
    n = result.num_images
    is_fid = result.warning is None
    titles = {
        "frechet_distance": "FID" if is_fid else "Frechet distance",
        "kernel_distance": "KID" if is_fid else "kernel distance",
        "precision": "precision",
        "recall": "recall",
    }
    rows = [("", "set", "95 % interval", "floor: real against real", "95 % interval")]
    rows += [
        (titles[name], *_cells(name, result.measures[name]), *_cells(name, result.floors[name])) for name in MEASURES
    ]
    if result.class_fidelity is not None:
        fidelity = result.class_fidelity
        rows.append(("class fidelity", *_cells("share", fidelity.set), *_cells("share", fidelity.real)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{row[column]:>{widths[column]}}" for column in range(1, 5))
        for row in rows
    ]
    title = (
        f"{result.set['name']} ({result.set['image']}) against {result.real['name']}: {n:,} images a side, "
        f"{result.extractor}, {result.width} features"
    )
    if result.class_fidelity is None:
        lines.append("class fidelity  not measured: set and real images have no labels of the same classes")
    return "\n".join([*([f"!! {result.warning} !!"] if result.warning else []), title, *lines])


def _cells(name: str, estimate: Estimate) -> tuple[str, str]:
    def shown(value: float) -> str:
        return f"{value:.4g}" if name.endswith("distance") else f"{100 * value:.1f} %"

    if estimate.interval is None:
        return shown(estimate.value), "not computed"
    low, high = estimate.interval
    return shown(estimate.value), f"{shown(low)} to {shown(high)}"
