"""Detection on boxes in VOC's layout: a Faster R-CNN fine-tuned from a backbone, and from an untrained one."""

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from genrep.evaluate.data.part import file_split
from genrep.evaluate.detection_precision import Detections, detection_precision, require_pycocotools
from genrep.evaluate.draws import words
from genrep.evaluate.encoders import build, load_encoder, run_folder
from genrep.evaluate.features import Progress, key_of
from genrep.evaluate.floors import SEED
from genrep.evaluate.transfer import TransferResult, TransferScore, kept_score, provenance
from genrep.evaluate.voc import Box, VocSplit, open_voc
from genrep.shards.errors import DataError
from genrep.train.backbones import TinyResNet
from genrep.train.checkpoint import LoadedBackbone

ARCHITECTURE = "Faster R-CNN, C4, a batch normalisation after the last stage"
LONGEST_SIDE = 1333  # px
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
WARM_UP = 100  # updates, or a tenth of all where that is less
DECAYS = (3 / 4, 11 / 12)  # after these shares of the updates the learning rate falls to a tenth


@dataclass(frozen=True)
class DetectSettings:
    """The defaults are those of the paper's authors.

    Attributes:
        steps: Updates.
        batch_size: Images an update.
        lr: Learning rate after the warm-up.
        min_size: Short side of a test image, px; in training it is drawn from 60 % to 100 % of that.
        batch_norm: ``train``: statistics of the batch, all layers learn. ``frozen``: the backbone's stored ones.
        seed: Of the heads, the order, the flips and the sampled regions.
    """

    steps: int = 24_000
    batch_size: int = 8
    lr: float = 0.02
    min_size: int = 800
    batch_norm: Literal["train", "frozen"] = "train"
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """Linear over the warm-up from a thousandth, then in steps."""
        warm_up = min(WARM_UP, self.steps // 10)
        warmth = 1e-3 + (1 - 1e-3) * min(1.0, step / warm_up) if warm_up else 1.0
        return self.lr * warmth * 0.1 ** sum(step >= share * self.steps for share in DECAYS)


def evaluate_detect(
    checkpoint: Path | str,
    root: Path,
    settings: DetectSettings,
    *,
    splits: str = "trainval,test",
    floor: bool = True,
    cache: Path | None = None,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
    command: str | None = None,
) -> TransferResult:
    """Fine-tune a detector from a backbone on one split, count its average precision on another.

    Args:
        checkpoint: As :func:`~genrep.evaluate.encoders.load_encoder` takes it; resnet-tiny or a ResNet of torchvision.
        root, splits: As of :func:`~genrep.evaluate.voc.open_voc`.
        floor: Do the same from untrained weights.
        cache: Keeps the floor's score.  Left out: ``evaluation/cache`` in the run's folder.

    Raises:
        DataError: If something cannot be read, the backbone is of another kind, a class has no object to report on,
            or the training diverges.
    """
    require_pycocotools()
    loaded = load_encoder(checkpoint)
    _stages(loaded.module, loaded.name)
    fit, test = open_voc(root, splits)
    fit_boxes, test_boxes = ([split.boxes(row) for row in range(len(split.files))] for split in (fit, test))
    easy = {box.label for boxes in test_boxes for box in boxes if not box.difficult}
    if missing := [name for label, name in enumerate(test.class_names) if label not in easy]:
        raise DataError(f"{root}: {test.name} has no object of {missing[0]!r} that is not difficult: use another split")
    files = [file for split in (fit, test) for file in [*split.files, *split.annotations]]
    sha256 = file_split(files, root).hash().hex()

    def score_of(name: str, module: nn.Module) -> TransferScore:
        detector = build_detector(module, loaded, len(fit.class_names), settings)

        def told(what: str, done: int, total: int) -> None:
            progress(f"{name}: {what}", done, total)

        losses = train_detector(detector, fit, fit_boxes, settings, device=device, progress=told)
        found = detect(detector, test, device=device, progress=told)
        precision = detection_precision(found, test_boxes, test.class_names, seed=settings.seed)
        tenth = -(-len(losses) // 10)
        return TransferScore(
            precision.numbers,
            precision.interval,
            precision.per_class,
            loaded.module.feature_dim,
            {
                **dataclasses.asdict(settings),
                "architecture": ARCHITECTURE,
                "loss_first_tenth": float(np.mean(losses[:tenth])),
                "loss_last_tenth": float(np.mean(losses[-tenth:])),
            },
        )

    score = score_of("backbone", loaded.module)
    floors = {}
    if floor:
        facts = {"untrained": loaded.name, "mean": loaded.mean, "std": loaded.std, "torch": torch.__version__}
        key = key_of(facts, sha256, fit.class_names, "detect", ARCHITECTURE, dataclasses.asdict(settings))
        file = (cache or run_folder(checkpoint) / "evaluation" / "cache") / "floors" / f"{key}.json"
        floors["untrained backbone"] = kept_score(file, lambda: score_of("floor", _untrained(loaded.name)))
    return TransferResult(
        measure="detect",
        title=f"{ARCHITECTURE}, {settings.steps} updates of {settings.batch_size} images",
        unit="mean over classes of the average precision",
        score=score,
        floors=floors,
        data=f"voc:{root}",
        data_sha256=sha256,
        num_images={"fit": len(fit.files), "test": len(test.files)},
        seed=settings.seed,
        **provenance(loaded, checkpoint),
        command=command,
        dtype="float32",
    )


def build_detector(module: nn.Module, loaded: LoadedBackbone, num_classes: int, settings: DetectSettings) -> nn.Module:
    """A Faster R-CNN of torchvision on a copy of ``module``, its heads drawn by the seed.

    Regions are proposed on the map before the last stage; the last stage, with a batch normalisation after it, looks
    at each region (C4 of detectron2 with the authors' extra norm). Anchors go with ``min_size``: 32 to 512 px at 800.

    Raises:
        DataError: If ``module`` is not resnet-tiny or a ResNet of torchvision.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    module = copy.deepcopy(module)
    if settings.batch_norm == "frozen":
        _freeze_norms(module)
    stages = _stages(module, loaded.name)
    sizes = tuple(0.64 * settings.min_size / 2**halvings for halvings in range(4, -1, -1))
    with torch.random.fork_rng(devices=[]):  # initialisers of torch.nn know the global state only
        torch.manual_seed(settings.seed)
        width = loaded.module.feature_dim
        head = nn.Sequential(stages.last, nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        detector = FasterRCNN(
            stages.body,
            min_size=tuple(round(settings.min_size * part / 25) for part in range(15, 26)),
            max_size=LONGEST_SIDE,
            image_mean=list(loaded.mean),
            image_std=list(loaded.std),
            rpn_anchor_generator=AnchorGenerator((sizes,), ((0.5, 1.0, 2.0),)),
            rpn_pre_nms_top_n_train=12_000,
            rpn_pre_nms_top_n_test=6_000,
            box_roi_pool=MultiScaleRoIAlign(["0"], stages.region_side, sampling_ratio=2),
            box_head=head,
            box_predictor=FastRCNNPredictor(width, num_classes + 1),  # class 0 is no object
        )
    return detector.requires_grad_(True)


class _Stages(NamedTuple):
    body: nn.Module  # its ``out_channels`` are torchvision's wish
    last: nn.Module
    region_side: int  # of a region's map, before the last stage halves it


def _stages(module: nn.Module, name: str) -> _Stages:
    from torchvision.models import ResNet

    if isinstance(module, TinyResNet):
        body, last, side = nn.Sequential(module.stem, nn.ReLU(), module.blocks[0]), module.blocks[1], 7
    elif isinstance(module, ResNet):
        before = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
        body, last, side = nn.Sequential(*(getattr(module, part) for part in before)), module.layer4, 14
    else:
        raise DataError(f"detection needs a ResNet of torchvision or resnet-tiny, and this backbone is {name}")
    body.out_channels = next(layer.in_channels for layer in last.modules() if isinstance(layer, nn.Conv2d))  # type: ignore[assignment]
    return _Stages(body, last, side)


def _freeze_norms(module: nn.Module) -> None:
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            _freeze_norms(child)


def _untrained(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return build(name)


def train_detector(
    detector: nn.Module,
    split: VocSplit,
    boxes: list[list[Box]],
    settings: DetectSettings,
    *,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> list[float]:
    """Fine-tune in place by SGD; the loss of every update.

    Raises:
        DataError: If the loss is not finite, or an image cannot be read.
    """
    detector.to(device).train()
    optimiser = torch.optim.SGD(detector.parameters(), settings.lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    order = _order(len(split.files), seed=settings.seed)
    losses = []
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):  # torchvision samples regions by it
        torch.manual_seed(settings.seed)
        for step in range(settings.steps):
            optimiser.param_groups[0]["lr"] = settings.lr_at(step)
            some = list(itertools.islice(order, settings.batch_size))
            pixels = split.images.read(np.array([row for row, _ in some]))
            batch = [
                _mirrored(image, boxes[row], mirror, device=device)
                for image, (row, mirror) in zip(pixels, some, strict=True)
            ]
            loss = torch.stack(list(detector(*map(list, zip(*batch, strict=True))).values())).sum()
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                raise DataError(f"the detector's loss is {losses[-1]} at update {step}: use a smaller --lr")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            progress("training", step + 1, settings.steps)
    return losses


def _order(num_images: int, *, seed: int) -> Iterator[tuple[int, bool]]:
    """Rows without end, each once an epoch, and whether to mirror the image."""
    for epoch in itertools.count():
        drawn = words("order", np.arange(num_images), seed=seed, source=epoch, count=2)
        for row in np.argsort(drawn[:, 0], kind="stable").tolist():
            yield row, bool(drawn[row, 1] % 2)


def _mirrored(
    pixels: NDArray[np.uint8], boxes: list[Box], mirror: bool, *, device: str
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Image (3, H, W) in [0, 1] and its objects, difficult ones too."""
    image = _image(pixels)
    corners = torch.tensor([box.corners for box in boxes]).reshape(-1, 4)
    if mirror:
        image = image.flip(2)
        corners[:, [0, 2]] = image.shape[2] - corners[:, [2, 0]]
    labels = torch.tensor([box.label + 1 for box in boxes], dtype=torch.int64)
    return image.to(device), {"boxes": corners.to(device), "labels": labels.to(device)}


def _image(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def detect(
    detector: nn.Module,
    split: VocSplit,
    *,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> list[Detections]:
    """What the detector finds in each image: at most 100 boxes."""
    detector.to(device).eval()
    found = []
    with torch.inference_mode():
        for row in range(len(split.files)):
            image = _image(split.images.read(np.array([row]))[0]).to(device)
            one = {key: value.cpu().numpy() for key, value in detector([image])[0].items()}
            found.append(Detections(one["boxes"].astype(np.float64), one["labels"] - 1, one["scores"]))
            progress("detection", row + 1, len(split.files))
    return found
