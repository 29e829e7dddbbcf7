"""The embedded generator: Fashion-MNIST garments, ten classes (`fashion`) or one null mode (`fashion-null`).

Licence of the weights: MIT, as of Fashion-MNIST. How they were made: `training.py`; how good they
are: `MODEL_CARD.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genrep.shards.errors import DataError
from genrep.shards.fashion_mnist import CLASS_NAMES

if TYPE_CHECKING:
    from torch import Tensor

HERE = Path(__file__).parent
# Factor on the latents (the truncation trick), chosen on held-out images: at 0.95 the class mode keeps its Frechet
# distance, and its images are recognised as often as real ones. The null mode has no class to miss.
SPREAD = {"class": 0.95, "null": 1.0}

ABOUT = {
    name: {
        "needs": "nothing",
        "licence": "MIT",
        "latent": latent,
        "resolution": "28 x 28, grey",
        "source": "trained by genrep on Fashion-MNIST",
    }
    for name, latent in (("fashion", "64, normal, 10 classes"), ("fashion-null", "64, normal"))
}  # for `genrep-generators list`


class FashionGenerator:
    """28 x 28 grey garments behind the generator protocol; see `docs/generators.md`."""

    latent_dim = 64
    image_shape = (1, 28, 28)
    prior = "normal"
    licence = "MIT"
    thread_safe = True

    def __init__(self, mode: Literal["class", "null"], weights: Path | None = None) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from genrep.generate.fashion.network import Generator

        path = weights or HERE / "fashion.safetensors"
        self.mode = mode
        self.spread = SPREAD[mode]
        self.name = "fashion" if mode == "class" else "fashion-null"
        self.num_classes = len(CLASS_NAMES) if mode == "class" else 0
        self.class_names = CLASS_NAMES if mode == "class" else ()
        self.default_std = 0.5 if mode == "class" else 0.2
        self.default_walks = None if weights else HERE / f"walks-{self.name}.safetensors"
        self.network = Generator()
        try:
            state = {name: value.float() for name, value in load_file(path).items()}
            missing, unexpected = self.network.load_state_dict(state, strict=False)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise DataError(f"{path} holds no weights of the fashion generator: {error}") from error
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            raise DataError(
                f"{path} holds no weights of the fashion generator: missing {missing}, unknown {unexpected}"
            )
        self.network.eval().requires_grad_(False)

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """latents (B, 64), labels int64 (B,) or None -> images (B, 1, 28, 28) in [-1, 1]."""
        import torch

        from genrep.generate.fashion.network import NULL

        if self.mode == "null" or labels is None:
            labels = torch.full((len(latents),), NULL, device=latents.device)
        return self.network(self.spread * latents, labels)

    def state_dict(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def to(self, device: str) -> FashionGenerator:
        self.network.to(device)
        return self


def conditional(weights: Path | None = None) -> FashionGenerator:
    """The class-conditional mode; goes with SupCon."""
    return FashionGenerator("class", weights)


def unconditional(weights: Path | None = None) -> FashionGenerator:
    """The null mode, which gets no class; goes with SimCLR."""
    return FashionGenerator("null", weights)
