"""SupCon: all images of the same class are positives of each other."""

import torch

from genrep.train.losses import multi_positive, positive_weights
from genrep.train.methods.method import Outputs, Targets
from genrep.train.methods.simclr import SimCLR


class SupCon(SimCLR):
    """Khosla et al. 2020 (arXiv:2004.11362), with SimCLR's networks."""

    def loss(self, outputs: Outputs, targets: Targets) -> torch.Tensor:
        (projections,) = outputs
        weights = positive_weights(
            targets.labels, projections.shape[1], latents=targets.latents, tau=self.config.latent_tau
        )
        return multi_positive(projections, weights, temperature=self.config.temperature)  # equation 2, if uniform
