"""What is told of a run beside its loss: collapse signals every so many steps and, if asked for, TensorBoard."""

import io
from typing import Any

import numpy as np
from torch import nn

from genrep.shards.errors import DataError
from genrep.shards.reader import ShardDataset
from genrep.train.config import TrainConfig
from genrep.train.data import Batch
from genrep.train.sheet import batch_sheet
from genrep.train.signals import collapse_signals

TENSORBOARD = "tensorboard"  # folder in the run


class Watch:
    """Looks at a run; it changes nothing of it.

    Args:
        every: Steps between signals and pictures; the first step is looked at too.
        board: A ``SummaryWriter``.
    """

    def __init__(self, shards: ShardDataset, config: TrainConfig, *, every: int, board: Any | None = None) -> None:
        self._shards = shards
        self._config = config
        self._every = every
        self._board = board

    def told(self, line: dict[str, Any], batch: Batch, backbone: nn.Module) -> dict[str, Any]:
        """A line of metrics, with signals where they are due."""
        step = line["step"]
        is_due = step == 1 or step % self._every == 0
        if is_due:
            per_sample = self._config.images_per_sample
            line = line | collapse_signals(backbone, batch.images, images_per_sample=per_sample)
        if self._board is not None:
            for name, value in line.items():
                if name not in ("step", "batch_crc32") and value is not None:
                    self._board.add_scalar(name, value, step)
            if is_due:
                sheet = batch_sheet(batch, self._shards, self._config, stored=False)
                self._board.add_image("images", _pixels(sheet), step)
        return line


def summary_writer() -> type:
    """TensorBoard's ``SummaryWriter``.

    Raises:
        DataError: If it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DataError("--tensorboard needs a package that is missing: pip install 'genrep[tensorboard]'") from error
    return SummaryWriter


def _pixels(png: bytes) -> np.ndarray:
    """uint8 (3, H, W)."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).transpose(2, 0, 1)
