"""The nearest-neighbour probe: nothing is fitted, so nothing but the features speaks."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from genrep.evaluate.draws import Labels, label_draws
from genrep.evaluate.features import Labelled

K, TEMPERATURE = 20, 0.07
SIMILARITIES_AT_ONCE = 2**25


@dataclass(frozen=True)
class KnnProbe:
    """20 nearest neighbours by cosine, each voting with exp(cosine / 0.07).

    Over all labelled images of the part to fit on, or over each of several draws of ``labels_per_class`` of each class:
    a number (50 draws) or a share such as ``10%`` (5). Of several poolings the first is used.
    Source: Wu et al. 2018 (arXiv:1805.01978, section 3.4), who take k = 200 on ImageNet.
    """

    labels_per_class: Labels = None

    name, wants_poolings = "knn", False

    def fit(self, fit: Labelled, held_out: Labelled, *, num_classes: int, seed: int) -> "KnnModel":
        """Make the bank; neither the held-out part nor the test part has a say.

        Args:
            seed: Of the label draws.
        """
        bank, labels = F.normalize(fit.features[:, : fit.width])[None], fit.labels[None]
        if self.labels_per_class is not None:
            draws = torch.from_numpy(label_draws(fit.labels.cpu().numpy(), self.labels_per_class, seed=seed))
            rows = draws.to(fit.labels.device)
            bank, labels = bank[0, rows], labels[0, rows]
        k = min(K, labels.shape[1])
        return KnnModel(bank, labels, num_classes, {"k": k, "metric": "cosine", "temperature": TEMPERATURE})


@dataclass(frozen=True)
class KnnModel:
    """D banks of unit features (D, n, F) with labels (D, n)."""

    bank: torch.Tensor
    labels: torch.Tensor
    num_classes: int
    settings: dict[str, Any]

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Classes with the most votes, int64 (D, N), of features (N, P * F)."""
        unit = F.normalize(features[:, : self.bank.shape[2]])
        return torch.stack(
            [self._vote(bank, labels, unit) for bank, labels in zip(self.bank, self.labels, strict=True)]
        )

    def _vote(self, bank: torch.Tensor, labels: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        predictions = []
        for some in unit.split(max(1, SIMILARITIES_AT_ONCE // len(bank))):
            cosines, rows = (some @ bank.mT).topk(self.settings["k"], 1)
            votes = cosines.new_zeros(len(some), self.num_classes)
            votes.scatter_add_(1, labels[rows], ((cosines - 1) / TEMPERATURE).exp())  # - 1: so that nothing overflows
            predictions.append(votes.argmax(1))
        return torch.cat(predictions)
