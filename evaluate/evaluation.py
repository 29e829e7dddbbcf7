"""The whole measurement: features of the checkpoint and of the floors, probes on both, test labels last."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genrep.evaluate.data import RealData
from genrep.evaluate.encoders import load_encoder, run_folder
from genrep.evaluate.features import PARTS, Encoder, Features, Progress, backbone_encoder, features_of, key_of
from genrep.evaluate.floors import floors
from genrep.evaluate.knn import KnnProbe
from genrep.evaluate.linear import LinearProbe
from genrep.evaluate.result import Result, Score, read_score, score, write_score
from genrep.evaluate.shift import Shift
from genrep.shards.errors import DataError
from genrep.train.checkpoint import LoadedBackbone

Probe = LinearProbe | KnnProbe
PROBES: dict[str, type[Probe]] = {"linear": LinearProbe, "knn": KnnProbe}


class _Measured(NamedTuple):
    score: Score
    right: NDArray[np.int64]  # (N,), draws that were right on each test image
    held_out_top1: float


def evaluate(
    checkpoint: Path | str,
    data: RealData,
    probes: Sequence[Probe],
    *,
    shift: Shift = "none",
    seed: int = 0,
    cache: Path | None = None,
    keep_features: bool = True,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress = lambda what, done, total: None,
    command: str | None = None,
) -> list[Result]:
    """Measure a frozen encoder on real images by each probe, beside the floors.

    Args:
        checkpoint: A run's folder (its last checkpoint), a checkpoint file, or an encoder of others, as
            :func:`~genrep.evaluate.encoders.load_encoder` takes it.
        data: Of :func:`genrep.evaluate.data.open_data`.
        shift: ``affine``: all images under fixed random affine maps, those to fit on and those to test on.
        seed: Of the label draws.
        cache: Keeps features and the floors' scores, which depend on data, shift and probe alone: runs that share
            one share the floors.  Left out: ``evaluation/cache`` in the run's folder.
        keep_features: In the cache; False where many encoders would fill the disk.
        dtype: What the networks compute in, as for :func:`~genrep.evaluate.features.features_of`.
        progress: Called with (what, done, total).
        command: What the user typed, for the record.

    Returns:
        One result for each probe, in their order.

    Raises:
        DataError: If the checkpoint, the data or the cache cannot be read, a class has too few images, or features are
            not finite.
    """
    check_labels(probes, data)
    loaded = load_encoder(checkpoint)
    cache = cache or run_folder(checkpoint) / "evaluation" / "cache"
    pooled = any(probe.wants_poolings for probe in probes)
    trained = backbone_encoder("backbone", loaded, loaded.module, {"checkpoint": loaded.sha256}, pooled=pooled)

    def scores_of(encoder: Encoder, wanted: Sequence[Probe]) -> Iterator[_Measured]:
        if wanted:
            encoder = dataclasses.replace(encoder, worth_keeping=encoder.worth_keeping and keep_features)
            features = features_of(
                encoder, data, shift=shift, cache=cache, device=device, progress=progress, dtype=dtype
            )
        for done, probe in enumerate(wanted):
            progress(f"{encoder.name}: probes", done, len(wanted))
            yield _measure(probe, features, data, seed=seed)

    measured = list(scores_of(trained, probes))
    floor_scores: dict[str, list[Score]] = {}
    for floor in floors(loaded, side=data.side, pooled=pooled):
        files = [cache / "floors" / f"{_key(floor, probe, data, shift, seed, dtype)}.json" for probe in probes]
        missing = [number for number, file in enumerate(files) if not file.exists()]
        for number, new in zip(missing, scores_of(floor, [probes[number] for number in missing]), strict=True):
            write_score(new.score, files[number])
        floor_scores[floor.name] = [read_score(file) for file in files]
    return [
        result_of(
            loaded,
            data,
            measure=probe.name,
            score=measured[number].score,
            floors={name: of_floor[number] for name, of_floor in floor_scores.items()},
            shift=shift,
            seed=seed,
            labels_per_class=probe.labels_per_class,
            checkpoint_path=str(checkpoint),
            command=command,
            right=measured[number].right,
            held_out_top1=measured[number].held_out_top1,
            dtype=dtype,
        )
        for number, probe in enumerate(probes)
    ]


def result_of(loaded: LoadedBackbone, data: RealData, **measured: Any) -> Result:
    """A result with what checkpoint and data say of themselves; ``measured`` holds the other fields."""
    num_images = {part: len(getattr(data, part).labels) for part in PARTS}
    return Result(
        data=data.name,
        data_sha256=data.sha256,
        num_images=num_images,
        checkpoint=loaded.sha256,
        training=loaded.config,
        recipe=loaded.config.get("recipe_sha256"),
        **measured,
    )


def check_labels(probes: Sequence[Probe], data: RealData) -> None:
    """Raise DataError unless the part to fit on has as many labels of every class as the probes ask for."""
    counts = np.bincount(data.fit.labels)
    asked = max((probe.labels_per_class for probe in probes if isinstance(probe.labels_per_class, int)), default=0)
    if counts.min() < asked:
        raise DataError(
            f"{data.name} has {counts.min()} images of {data.class_names[counts.argmin()]!r} to fit on, not {asked}: "
            f"use --labels-per-class {counts.min()} or less"
        )


def _measure(probe: Probe, features: Features, data: RealData, *, seed: int) -> _Measured:
    """Fit, choose, and only then look at the test part."""
    model = probe.fit(features.fit, features.held_out, num_classes=len(data.class_names), seed=seed)
    held_out = (model.predict(features.held_out.features) == features.held_out.labels).float().mean().item()
    predictions = model.predict(features.test.features).cpu().numpy()
    drawn = probe.labels_per_class is not None
    scored = score(
        predictions,
        data.test.labels,
        data.class_names,
        feature_width=features.test.width,
        settings={**model.settings, "num_draws": len(predictions)} if drawn else model.settings,
        drawn=drawn,
    )
    return _Measured(scored, (predictions == data.test.labels).sum(0), held_out)


def _key(floor: Encoder, probe: Probe, data: RealData, shift: Shift, seed: int, dtype: str) -> str:
    """Of a floor's score."""
    settings = dataclasses.asdict(probe)
    of_draws = [] if probe.labels_per_class is None else [seed]  # all labels: any seed
    return key_of(floor.identity, data.sha256, shift, dtype, probe.name, settings, of_draws)
