"""Multi-positive contrast: all views of a sample are positives of each other, and no label is needed."""

import torch

from genrep.train.losses import multi_positive, positive_weights
from genrep.train.methods.method import Outputs, Targets
from genrep.train.methods.simclr import SimCLR


class MultiPositive(SimCLR):
    """Tian et al. 2023 (StableRep, arXiv:2306.00984), with SimCLR's networks.

    There the images of one caption match, here those of one anchor latent. With one view beside the anchor it is
    SimCLR; if every sample were a class of its own it would be SupCon.
    """

    def loss(self, outputs: Outputs, targets: Targets) -> torch.Tensor:
        (projections,) = outputs
        samples = torch.arange(len(projections), device=projections.device)
        weights = positive_weights(samples, projections.shape[1], latents=targets.latents, tau=self.config.latent_tau)
        return multi_positive(projections, weights, temperature=self.config.temperature)  # equations 1 to 3
