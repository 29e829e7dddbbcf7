"""Probing: the linear probe with its wide grid of 42 points beside one fit of scikit-learn at one regularisation.

    python -m bench.probe --width 256
    python -m bench.probe --width 1152

On Fashion-MNIST as genrep-evaluate parts it: 54,000 images to fit on, 6,000 to choose by, 10,000 to test on.
"""

import time
from pathlib import Path

import click
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from bench.report import Report, Target, Way, out_option, rates, ratio, rounds_option, summary
from genrep.evaluate import LinearProbe, open_data
from genrep.evaluate.data import Part
from genrep.evaluate.features import Labelled

NETWORKS = {
    "256": (64, 2),
    "1152": (128, 3),
}  # width of features -> filters of 5x5, side of the grid they are averaged on
GRID, SKLEARN = "genrep's probe, 42 points", "scikit-learn, one point"


@click.command()
@click.option("--width", default="256", show_default=True, type=click.Choice(list(NETWORKS)), help="Of the features.")
@click.option("--n", "num_images", default=54_000, show_default=True, type=click.IntRange(100, 54_000))
@rounds_option(1)
@out_option
def main(width: str, num_images: int, rounds: int, out: Path | None) -> None:
    """Fits a second of both, and their top-1 on the test images."""
    torch.set_num_threads(1)
    data = open_data("fashion-mnist")
    fit, held_out, test = (features(part, *NETWORKS[width]) for part in (data.fit, data.held_out, data.test))
    fit = Labelled(fit.features[:num_images], fit.labels[:num_images])
    mean, std = fit.features.mean(0), fit.features.std(0)
    standardised, test_standardised = (((each.features - mean) / std).numpy() for each in (fit, test))
    top1: dict[str, float] = {}

    def by_genrep() -> int:
        model = LinearProbe(grid="wide").fit(fit, held_out, num_classes=10, seed=0)
        top1[GRID] = (model.predict(test.features)[0] == test.labels).float().mean().item()
        return 1

    def by_sklearn() -> int:
        model = LogisticRegression(max_iter=1000).fit(standardised, fit.labels.numpy())
        top1[SKLEARN] = model.score(test_standardised, test.labels.numpy())
        return 1

    ways: dict[str, Way] = {GRID: by_genrep, SKLEARN: by_sklearn}
    with threadpool_limits(1):
        found = rates(ways, rounds=rounds, clock=time.process_time, warm=False)
    Report(
        name=f"probe-{width}",
        about=f"Fit a linear probe on {num_images:,} features of width {width}; medians of {rounds} rounds",
        tables=[
            [
                {**row, "top-1 on test images": f"{top1[row['way']]:.2%}"}
                for row in summary(found, "fits a CPU-second", to=SKLEARN)
            ]
        ],
        targets=[Target(f"linear probe, 42 points, width {width}", SKLEARN, 1.0, ratio(found, GRID, SKLEARN))],
    ).show(out)


def features(part: Part, filters: int, side: int) -> Labelled:
    """Of an untrained convolution: rectified maps, averaged on a grid of side x side."""
    weights = torch.randn(filters, 1, 5, 5, generator=torch.Generator().manual_seed(0)) / 5
    rows = []
    for first in range(0, len(part.labels), 500):
        images = torch.from_numpy(np.stack(part.read(range(first, first + 500)))[..., 0])
        maps = F.conv2d(images[:, None] / 255, weights)
        rows.append(F.adaptive_avg_pool2d(maps.relu_(), side).flatten(1))
    return Labelled(torch.cat(rows), torch.from_numpy(part.labels))


if __name__ == "__main__":
    main()
