"""The paper's own linear evaluation: SGD on features of random crops, for so many epochs."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from genrep.evaluate.data import Images, Part, RealData
from genrep.evaluate.draws import words
from genrep.evaluate.encoders import load_encoder, run_folder
from genrep.evaluate.evaluation import result_of
from genrep.evaluate.features import Encoder, Labelled, Progress, backbone_encoder, key_of, part_features, precision
from genrep.evaluate.floors import floors
from genrep.evaluate.result import Result, Score, read_score, score, write_score
from genrep.train.augment import draw_parameters, transform_into
from genrep.train.config import PixelTransform

CROPS = PixelTransform(
    scale=(0.2, 1.0), flip_p=0.5, brightness=0, contrast=0, saturation=0, hue=0, colour_p=0, grey_p=0, erase_p=0
)
MILESTONES, DECAY = (0.6, 0.75, 0.9), 0.2  # of the epochs; what the learning rate is multiplied by
MOMENTUM = 0.9


@dataclass(frozen=True)
class Protocol:
    """Linear layers on a frozen encoder, trained by SGD as the authors of the paper did.

    Random crops of 0.2 to 1 of the image's area and flips, momentum 0.9, no weight decay, batches of 256, the learning
    rate times 0.2 after 60, 75 and 90 % of the epochs; features as they are. Source: ali-design/GenRep, main_linear.py.

    Its sources name several learning rates (0.06, 0.3, 1.0) and do not say which one made the tables: all are trained,
    on the same batches, and the one with the best top-1 on the held-out part after the last epoch is taken. The authors
    report the best epoch **on the images they test on**; that number is beside the last epoch's, under its name.

    Attributes:
        learning_rates: Of a batch of 256.
        num_seeds: Layers with first weights of their own, at each rate.
    """

    epochs: int = 100
    batch_size: int = 256
    learning_rates: tuple[float, ...] = (0.06, 0.3, 1.0)
    num_seeds: int = 3

    name = "genrep"


def evaluate_by_protocol(
    checkpoint: Path | str,
    data: RealData,
    protocol: Protocol,
    *,
    seed: int = 0,
    cache: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress = lambda what, done, total: None,
    command: str | None = None,
) -> Result:
    """Measure a frozen encoder, and the floors, by the paper's protocol; arguments as for ``evaluate``.

    Returns:
        A result whose ``top1`` is the mean over seeds after the last epoch, with the test images' interval. Its
        settings hold that of each seed, and ``best_epoch`` with its ``best_epoch_top1``, chosen on the test images.

    Raises:
        DataError: If the checkpoint, the data or the cache cannot be read, or features are not finite.
    """
    loaded = load_encoder(checkpoint)
    cache = cache or run_folder(checkpoint) / "evaluation" / "cache"

    def trained(encoder: Encoder) -> "_Trained":
        return _train(encoder, data, protocol, seed=seed, device=device, dtype=dtype, progress=progress)

    own = trained(backbone_encoder("backbone", loaded, loaded.module, {"checkpoint": loaded.sha256}))
    floor_scores: dict[str, Score] = {}
    for floor in floors(loaded, side=data.side):
        key = key_of(floor.identity, data.sha256, dtype, protocol.name, dataclasses.asdict(protocol), seed)
        file = cache / "floors" / f"{key}.json"
        if not file.exists():
            write_score(trained(floor).score, file)
        floor_scores[floor.name] = read_score(file)
    return result_of(
        loaded,
        data,
        measure="linear-genrep",
        score=own.score,
        floors=floor_scores,
        right=own.right,
        held_out_top1=own.held_out_top1,
        labels_per_class=None,
        shift="none",
        seed=seed,
        checkpoint_path=str(checkpoint),
        command=command,
        dtype=dtype,
    )


def rate_factor(epoch: int, epochs: int) -> float:
    """What the learning rate is multiplied by in an epoch, counted from 0."""
    return DECAY ** sum(epoch >= math.floor(share * epochs) for share in MILESTONES)


class _Trained(NamedTuple):
    score: Score
    right: NDArray[np.int64]
    held_out_top1: float


def _train(
    encoder: Encoder, data: RealData, protocol: Protocol, *, seed: int, device: str, dtype: str, progress: Progress
) -> _Trained:
    """Train all layers side by side; the features of a batch serve every one of them."""

    def centre(part: Part) -> Labelled:
        rows = part_features(encoder, part, shift="none", kept=None, device=device, progress=progress, dtype=dtype)
        return Labelled(rows.to(device), torch.from_numpy(part.labels).to(device))

    held_out, test = centre(data.held_out), centre(data.test)
    layers = Layers(protocol, held_out.width, len(data.class_names), seed=seed, device=device)
    held_out_top1s, test_top1s = [], []
    for epoch in range(protocol.epochs):
        layers.set_rate(rate_factor(epoch, protocol.epochs))
        for images, labels in _batches(encoder, data.fit, protocol.batch_size, seed=seed, epoch=epoch):
            with torch.no_grad(), precision(device, dtype):
                features = encoder.apply(images.to(device, non_blocking=True)).float()
            layers.step(features, labels.to(device))
        held_out_top1s.append(layers.top1(held_out))
        test_top1s.append(layers.top1(test))
        progress(f"{encoder.name}: epochs", epoch + 1, protocol.epochs)
    chosen = int(held_out_top1s[-1].mean(1).argmax())  # of the learning rates
    predictions = layers.predict(test.features)[chosen].cpu().numpy()
    over_epochs = torch.stack(test_top1s)[:, chosen].mean(1)
    best = int(over_epochs.argmax())
    settings = {
        **dataclasses.asdict(protocol),
        "learning_rate": protocol.learning_rates[chosen],
        "held_out_top1": held_out_top1s[-1].mean(1).tolist(),
        "last_epoch_top1_by_seed": test_top1s[-1][chosen].tolist(),
        "test_top1_by_epoch": over_epochs.tolist(),
        "best_epoch": best + 1,
        "best_epoch_top1": over_epochs[best].item(),
        "best_epoch_chosen_on": "test images, as the authors did",
    }
    measured = score(
        predictions, data.test.labels, data.class_names, feature_width=test.width, settings=settings, drawn=True
    )
    measured = dataclasses.replace(measured, interval=measured.test_interval, interval_kind="sampling")
    right = (predictions == data.test.labels).sum(0)
    return _Trained(measured, right, held_out_top1s[-1][chosen].mean().item())


class Layers:
    """Linear layers at L learning rates, S seeds each, trained at once."""

    def __init__(self, protocol: Protocol, width: int, num_classes: int, *, seed: int, device: str) -> None:
        generator = torch.Generator().manual_seed(seed)
        bound = width**-0.5  # as torch.nn.Linear draws its first weights
        first = torch.empty(protocol.num_seeds, num_classes, width + 1).uniform_(-bound, bound, generator=generator)
        self._rates = protocol.learning_rates
        self._layers = [first.clone().to(device).requires_grad_() for _ in self._rates]  # the bias is the last column
        groups = [{"params": [layer], "lr": rate} for layer, rate in zip(self._layers, self._rates, strict=True)]
        self._optimiser = torch.optim.SGD(groups, momentum=MOMENTUM)

    def set_rate(self, factor: float) -> None:
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def step(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """One update by features (B, F) and labels (B,)."""
        logits = self._logits(features)  # (L, S, B, C)
        targets = labels.expand(logits.shape[:3]).reshape(-1)
        loss = F.cross_entropy(logits.flatten(0, 2), targets, reduction="sum") / len(labels)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()

    @torch.no_grad()
    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Classes (L, S, N)."""
        return torch.cat([self._logits(some).argmax(3) for some in features.split(4096)], 2)

    def top1(self, part: Labelled) -> torch.Tensor:
        """(L, S), on the CPU."""
        return (self.predict(part.features) == part.labels).float().mean(2).cpu()

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        layers = torch.stack(list(self._layers))  # (L, S, C, F + 1)
        return features @ layers[..., :-1].mT + layers[..., None, :, -1]


def _batches(
    encoder: Encoder, part: Part, batch_size: int, *, seed: int, epoch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """An epoch in random order, images (B, C, crop, crop) in [0, 1] and labels (B,); one batch is made ahead."""
    drawn = words("order", np.arange(len(part.labels)), seed=seed, source=epoch, count=1)
    order = np.argsort(drawn[:, 0], kind="stable")

    def batch(rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        images = cropped(part.read(rows), part.positions[rows], crop=encoder.crop, seed=seed, epoch=epoch)
        return images, torch.from_numpy(part.labels[rows])

    chunks: Sequence[NDArray[np.int64]] = np.array_split(order, range(batch_size, len(order), batch_size))
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(batch, chunks[0])
        for chunk in chunks[1:]:
            ready, ahead = ahead.result(), pool.submit(batch, chunk)
            yield ready
        yield ahead.result()


def cropped(images: Images, positions: NDArray[np.int64], *, crop: int, seed: int, epoch: int) -> torch.Tensor:
    """Random crop and flip of each image, keyed by its position; (B, C, crop, crop) in [0, 1]."""
    out = np.empty((len(images), crop, crop, 3), np.float32)
    sizes = [image.shape for image in images]
    for size in dict.fromkeys(sizes):
        rows = [row for row, other in enumerate(sizes) if other == size]
        parameters = draw_parameters(CROPS, positions[rows], seed=seed, epoch=epoch, view=0, source=size[:2], crop=crop)
        part = np.empty((len(rows), crop, crop, 3), np.float32)
        stacked = np.stack([images[row] for row in rows])
        transform_into(part, stacked, parameters, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        out[rows] = part
    return torch.from_numpy(out).permute(0, 3, 1, 2)[:, : sizes[0][2]]
