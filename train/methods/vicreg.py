"""VICReg: images of a sample agree, every dimension varies, no two say the same; no negatives."""

from itertools import combinations

import torch
import torch.nn.functional as F

from genrep.train.config import TrainConfig
from genrep.train.methods.method import Method, Outputs, Targets, mlp

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0  # lambda, mu, nu
GAMMA, EPSILON = 1.0, 1e-4


class VICReg(Method):
    """Bardes et al. 2022 (arXiv:2105.04906); the expander has three layers of one width."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        width = config.projection_dim
        self.expander = mlp(self.backbone.feature_dim, width, width, width)

    def forward(self, images: torch.Tensor) -> Outputs:
        return (self.expander(self.backbone(images)).float(),)

    def loss(self, outputs: Outputs, targets: Targets) -> torch.Tensor:
        return vicreg_loss(*outputs)


def vicreg_loss(embeddings: torch.Tensor) -> torch.Tensor:
    """Variance, invariance and covariance of embeddings (B, V, P), B >= 2, V >= 2.

    Returns:
        Scalar; for V = 2 equation 6, for more the same of an average pair.

    Source: equations 1 to 6; the invariance term is the mean over dimensions too, as in algorithm 1.
    """
    views = embeddings.unbind(1)
    pairs = list(combinations(views, 2))
    invariance = torch.stack([F.mse_loss(first, second) for first, second in pairs]).mean()  # equation 5
    spread = torch.stack([VARIANCE * _variance(view) + COVARIANCE * _covariance(view) for view in views]).mean()
    return INVARIANCE * invariance + 2 * spread  # equation 6


def _variance(rows: torch.Tensor) -> torch.Tensor:
    """How far the standard deviations of (B, P) fall short of gamma: equations 1 and 2."""
    return F.relu(GAMMA - (rows.var(0) + EPSILON).sqrt()).mean()


def _covariance(rows: torch.Tensor) -> torch.Tensor:
    """Squared covariances of different dimensions of (B, P): equations 3 and 4."""
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / (len(rows) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / rows.shape[1]
