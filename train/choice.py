"""Which images of a sample a step shows: its anchor and some of its views, drawn anew every epoch."""

import numpy as np
from numpy.typing import NDArray

from genrep.train.config import TrainConfig
from genrep.train.philox import words


def shown_images(config: TrainConfig, samples: NDArray[np.int64], *, epoch: int, num_views: int) -> NDArray[np.int64]:
    """The image that each of V places shows of each of B samples, int64 (V, B): 0 is the anchor, k its view k.

    With ``pixel`` views every place shows the anchor. Else the first place shows the anchor, the others views drawn
    without replacement. A method that takes one image a sample is shown a view.

    Args:
        num_views: K, how many views the set has of each sample.
    """
    places = config.images_per_sample
    if config.views == "pixel":
        return np.zeros((places, len(samples)), np.int64)
    num_drawn = max(places - 1, 1)
    random_words = words(config.seed, "view", samples, epoch=epoch, count=num_drawn)
    pool = np.tile(np.arange(1, num_views + 1), (len(samples), 1))
    rows = np.arange(len(samples))
    for i in range(num_drawn):  # Fisher and Yates's shuffle, as far as it is needed
        j = i + (random_words[:, i] * np.uint64(num_views - i) >> np.uint64(32)).astype(np.int64)
        pool[rows, i], pool[rows, j] = pool[rows, j], pool[rows, i]
    drawn = pool[:, :num_drawn].T
    return drawn if places == 1 else np.concatenate([np.zeros_like(drawn[:1]), drawn])
