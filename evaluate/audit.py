"""An audit of views before they are trained on: how far they move, whether the class survives, copies, balance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from genrep.evaluate.audit_record import AnchorAudit, Audit, RealAudit, SetAudit, Spread, ViewAudit
from genrep.evaluate.data import RealData
from genrep.evaluate.extractors import Extractor
from genrep.evaluate.features import Labelled, Progress
from genrep.evaluate.fidelity import Estimate, names_of, share
from genrep.evaluate.linear import LinearModel, LinearProbe
from genrep.evaluate.neighbours import Nearest, nearest
from genrep.evaluate.sources import channels_of, drawn, features, rows_of, set_part
from genrep.shards.distance import distances
from genrep.shards.errors import DataError
from genrep.shards.manifest import manifest_sha256
from genrep.shards.reader import ShardDataset

LEAST = 10  # samples
CUT = 0.25  # of the median distance to the nearest real image: nearer ones are near duplicates, or copies
PROBE_IMAGES = 10_000


@dataclass(frozen=True)
class Evidence:
    """What a page shows beside the numbers, for each of the sets or of the anchors, in their order.

    Attributes:
        positions: Of the samples, (n,), by set.
        predictions: Classes of anchor and views, int64 (1 + K, n), by set; None without real data.
        latent: Distances, float64 (n, K), by set; None without latents.
        own: Nearest other anchor, by anchors.
        training: Nearest training image, by anchors; None without real data.
        held_out: Nearest training image of held-out real images.
        training_rows: Rows of the real data's part to fit on that were looked at.
    """

    positions: list[NDArray[np.int64]]
    predictions: list[NDArray[np.int64] | None]
    latent: list[NDArray[np.float64] | None]
    own: list[Nearest]
    training: list[Nearest | None]
    held_out: Nearest | None
    training_rows: NDArray[np.int64] | None


@dataclass(frozen=True)
class _Real:
    """Features of real images, of unit length, and the probe of them."""

    data: RealData
    rows: NDArray[np.int64]
    training: torch.Tensor
    held_out: torch.Tensor
    model: LinearModel
    probe: Estimate


def audit(
    sets: Mapping[str, ShardDataset],
    data: RealData | None,
    extractor: Extractor,
    *,
    most: int = 1000,
    most_real: int = 60_000,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> tuple[Audit, Evidence]:
    """Measure the views of sets, all in the same features.

    Args:
        sets: By name; of each the same number of samples is drawn.
        data: Real images; without them classes and copies are left out.
        most: Samples of a set, at most.
        most_real: Training images among which copies are looked for, at most.
        seed: Of all draws.

    Raises:
        DataError: If a set has no anchors or too few samples, an image is damaged, or a feature is not finite.
    """
    for name, dataset in sets.items():
        if not dataset.has_anchors:
            raise DataError(f"{name} holds views that were added to another set: name a set with anchors")
        if len(dataset) < LEAST:
            raise DataError(f"{name} has {len(dataset)} samples: at least {LEAST} are needed")
    num_images = min(most, *(len(dataset) for dataset in sets.values()))
    positions = [drawn(len(dataset), num_images, seed=seed) for dataset in sets.values()]
    parts = [
        [set_part(dataset, image, rows) for image in range(dataset.num_images)]
        for dataset, rows in zip(sets.values(), positions, strict=True)
    ]
    channels = max(channels_of(part[0]) for part in parts)
    if data is not None:
        channels = max(channels, channels_of(data.fit))

    def seen(part: Any) -> torch.Tensor:
        return features(extractor.encoder, part, channels=channels, device=device, progress=progress)

    real = None if data is None else _real(data, seen, most=most_real, seed=seed)
    groups = _same_anchors(list(sets.values()), positions)
    first_of = {group: groups.index(group) for group in groups}
    anchor_features = {group: seen(parts[first][0]) for group, first in first_of.items()}
    own = [nearest(F.normalize(rows), F.normalize(rows), is_itself=True) for rows in anchor_features.values()]
    floor = _floor(real, num_images, seed=seed) if real is not None else None
    duplicate_cut = CUT * (floor.own if floor is not None else own[0]).distances.median().item()
    copy_cut = None if floor is None else CUT * floor.held_out.distances.median().item()
    audited_sets, predictions, moves = [], [], []
    for (name, dataset), rows, images, group in zip(sets.items(), positions, parts, groups, strict=True):
        anchors = anchor_features[group]
        views = [seen(image) for image in images[1:]]
        classes = None if real is None else np.stack([_predict(real.model, each) for each in [anchors, *views]])
        latents = _Latents.of(dataset, rows)
        audited_sets.append(
            SetAudit(
                name=name,
                manifest_sha256=manifest_sha256(dataset.folder),
                std=dataset.recipe.get("std"),
                anchors=group,
                views=[
                    _view(number, str(dataset.recipe["views"][number]), anchors, view, latents, classes)
                    for number, view in enumerate(views)
                ],
            )
        )
        predictions.append(classes)
        moves.append(None if latents is None else latents.distance)
    audited_anchors, training = [], []
    for group, first in first_of.items():
        dataset = list(sets.values())[first]
        names = tuple(name for name, other in zip(sets, groups, strict=True) if other == group)
        unit = F.normalize(anchor_features[group])
        copies = None if real is None else nearest(unit, real.training)
        audited_anchors.append(
            _anchors(names, dataset, positions[first], unit, own[group], copies, predictions[first], real,
                     duplicate_cut=duplicate_cut, copy_cut=copy_cut, seed=seed)
        )  # fmt: skip
        training.append(copies)
    found = Audit(
        num_images=num_images,
        features=extractor.title,
        width=anchor_features[0].shape[1],
        seed=seed,
        duplicate_cut=duplicate_cut,
        copy_cut=copy_cut,
        real=None if real is None or floor is None else _real_audit(real, floor, duplicate_cut, copy_cut or 0.0),
        anchors=audited_anchors,
        sets=audited_sets,
    )
    return found, Evidence(
        positions,
        predictions,
        moves,
        own,
        training,
        held_out=None if floor is None else floor.held_out,
        training_rows=None if real is None else real.rows,
    )


@dataclass(frozen=True)
class _Floor:
    own: Nearest  # among as many training images as there are anchors
    held_out: Nearest  # from held-out images to training images


def _real(data: RealData, seen: Callable[[Any], torch.Tensor], *, most: int, seed: int) -> _Real:
    rows = drawn(len(data.fit.labels), most, seed=seed)
    held_out = rows_of(data.held_out, drawn(len(data.held_out.labels), most, seed=seed))
    training_features, held_out_features = seen(rows_of(data.fit, rows)), seen(held_out)
    fit = torch.from_numpy(drawn(len(rows), PROBE_IMAGES, seed=seed))
    examples = Labelled(training_features[fit], torch.from_numpy(data.fit.labels[rows])[fit])
    choices = Labelled(held_out_features, torch.from_numpy(held_out.labels))
    model = LinearProbe().fit(examples, choices, num_classes=len(data.class_names), seed=seed)
    right = int((_predict(model, held_out_features) == held_out.labels).sum())
    return _Real(
        data,
        rows,
        F.normalize(training_features),
        F.normalize(held_out_features),
        model,
        share(right, len(held_out.labels)),
    )


def _floor(real: _Real, num_images: int, *, seed: int) -> _Floor:
    some = real.training[torch.from_numpy(drawn(len(real.training), max(2, num_images), seed=seed))]
    return _Floor(nearest(some, some, is_itself=True), nearest(real.held_out, real.training))


def _real_audit(real: _Real, floor: _Floor, duplicate_cut: float, copy_cut: float) -> RealAudit:
    labels = real.data.fit.labels[real.rows]
    return RealAudit(
        name=real.data.name,
        sha256=real.data.sha256,
        num_training=len(real.rows),
        num_held_out=len(real.held_out),
        num_compared=_num_compared(real),
        probe=real.probe,
        nearest=_spread(floor.own.distances),
        duplicates=_share_below(floor.own, duplicate_cut),
        nearest_real=_spread(floor.held_out.distances),
        copies=_share_below(floor.held_out, copy_cut),
        classes=_shares(labels, real.data.class_names),
    )


def _view(
    number: int,
    kind: str,
    anchors: torch.Tensor,
    view: torch.Tensor,
    latents: "_Latents | None",
    classes: NDArray[np.int64] | None,
) -> ViewAudit:
    unit = F.normalize(anchors)
    moved = (F.normalize(view) - unit).norm(dim=1)
    unrelated = (unit - unit.roll(len(unit) // 2, 0)).norm(dim=1).median().item()
    survival = None
    if classes is not None:
        survival = share(int((classes[1 + number] == classes[0]).sum()), classes.shape[1])
    return ViewAudit(
        image=1 + number,
        kind=kind,
        latent=None if latents is None else _spread(latents.distance[:, number]),
        latent_relative=None if latents is None else float(np.median(latents.relative[:, number])),
        latent_cosine=None if latents is None else _spread(latents.cosine[:, number]),
        feature=_spread(moved),
        feature_move=moved.median().item() / max(unrelated, 1e-12),
        survival=survival,
    )


@dataclass(frozen=True)
class _Latents:
    """Of views against anchors, float64 (n, K)."""

    distance: NDArray[np.float64]
    relative: NDArray[np.float64]
    cosine: NDArray[np.float64]

    @classmethod
    def of(cls, dataset: ShardDataset, positions: NDArray[np.int64]) -> "_Latents | None":
        found = distances(dataset, positions.tolist())
        if found is None:
            return None
        latents = np.stack([dataset.latents(position) for position in positions.tolist()]).astype(np.float64)
        lengths = np.maximum(np.linalg.norm(latents, axis=2), 1e-12)
        cosine = (latents[:, 1:] * latents[:, :1]).sum(2) / (lengths[:, 1:] * lengths[:, :1])
        return cls(found.views, found.views / lengths[:, :1], cosine)


def _anchors(
    names: tuple[str, ...],
    dataset: ShardDataset,
    positions: NDArray[np.int64],
    unit: torch.Tensor,
    own: Nearest,
    copies: Nearest | None,
    predictions: NDArray[np.int64] | None,
    real: _Real | None,
    *,
    duplicate_cut: float,
    copy_cut: float | None,
    seed: int,
) -> AnchorAudit:
    own_names = names_of(dataset)
    labels = dataset.labels
    given = None
    if (labels >= 0).all():
        given = _shares(labels, own_names or tuple(str(number) for number in range(labels.max() + 1)))
    predicted = nearer = chance = agreement = None
    if real is not None and predictions is not None:
        class_names = real.data.class_names
        predicted = _shares(predictions[0], class_names)
        chance = sum(part**2 for part in predicted.values())
        count = _num_compared(real)
        some = real.training[torch.from_numpy(drawn(len(real.training), count, seed=seed))]
        other = real.held_out[torch.from_numpy(drawn(len(real.held_out), count, seed=seed))]
        is_nearer = nearest(unit, some).distances < nearest(unit, other).distances
        nearer = share(int(is_nearer.sum()), len(unit))
        if given is not None and own_names == class_names:
            agreement = share(int((predictions[0] == labels[positions]).sum()), len(positions))
    return AnchorAudit(
        sets=names,
        nearest=_spread(own.distances),
        duplicates=_share_below(own, duplicate_cut),
        nearest_real=None if copies is None else _spread(copies.distances),
        copies=None if copies is None or copy_cut is None else _share_below(copies, copy_cut),
        nearer_to_training=nearer,
        chance=chance,
        predicted=predicted,
        given=given,
        agreement=agreement,
    )


def _same_anchors(datasets: Sequence[ShardDataset], positions: Sequence[NDArray[np.int64]]) -> list[int]:
    """Of each set, the number of its group of sets with the same anchors."""
    known: dict[bytes, int] = {}
    groups = []
    for dataset, rows in zip(datasets, positions, strict=True):
        part = set_part(dataset, 0, rows)
        content = b"".join(image.tobytes() for image in part.read(range(len(rows)))) + part.labels.tobytes()
        groups.append(known.setdefault(content, len(known)))
    return groups


def _num_compared(real: _Real) -> int:
    return min(len(real.training), len(real.held_out))


def _predict(model: LinearModel, rows: torch.Tensor) -> NDArray[np.int64]:
    predictions: NDArray[np.int64] = model.predict(rows)[0].numpy()
    return predictions


def _share_below(found: Nearest, cut: float) -> Estimate:
    """Equal images have distance 0, which is below any cut."""
    return share(int(((found.distances < cut) | (found.distances == 0)).sum()), len(found.distances))


def _shares(labels: NDArray[np.int64], names: Sequence[str]) -> dict[str, float]:
    counts = np.bincount(labels, minlength=len(names))
    return {name: float(count / len(labels)) for name, count in zip(names, counts, strict=False)}


def _spread(values: torch.Tensor | NDArray[np.float64]) -> Spread:
    low, median, high = np.quantile(np.asarray(values, np.float64), [0.1, 0.5, 0.9])
    return Spread(float(low), float(median), float(high))
