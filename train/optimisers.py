"""Optimisers: AdamW and SGD as torch has them, and LARS."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from genrep.train.config import Optimiser


def build_optimiser(settings: Optimiser, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of a config; weight decay is on all parameters, with LARS on those of two dimensions or more."""
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    kind = {"sgd": torch.optim.SGD, "lars": LARS}[settings.name]
    return kind(parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)


class LARS(torch.optim.Optimizer):
    """Momentum SGD that moves each weight tensor in proportion to its size, whatever the size of its gradient.

    Biases and the gains of norms (tensors of one dimension) take plain momentum steps without decay, as in SimCLR and
    BYOL.

    Source: You et al. 2017 (arXiv:1708.03888), equation 6 and algorithm 1.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure else None
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is None:
                    continue
                update = weights.grad
                if weights.ndim > 1:
                    size, slope = weights.norm(), weights.grad.norm()
                    rate = group["trust"] * size / (slope + group["weight_decay"] * size)  # equation 6
                    update = torch.where((size > 0) & (slope > 0), rate, 1) * (update + group["weight_decay"] * weights)
                state = self.state[weights]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(weights)
                state["velocity"].mul_(group["momentum"]).add_(update, alpha=group["lr"])
                weights.sub_(state["velocity"])
        return loss
