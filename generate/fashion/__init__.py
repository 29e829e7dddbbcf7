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

        from genrep.generate.fashion.network import ClassGenerator, NullGenerator

        self.mode = mode
        self.spread = 1.0  # factor on the latents once; recipes know fashion-null by it (fingerprint)
        self.name = "fashion" if mode == "class" else "fashion-null"
        self.num_classes = len(CLASS_NAMES) if mode == "class" else 0
        self.class_names = CLASS_NAMES if mode == "class" else ()
        self.default_std = 0.5 if mode == "class" else 0.2
        self.default_walks = None if weights else HERE / f"walks-{self.name}.safetensors"
        self.network = ClassGenerator() if mode == "class" else NullGenerator()
        path = weights or HERE / f"{self.name}.safetensors"
        try:
            state = {name: value.float() for name, value in load_file(path).items()}
            missing, unexpected = self.network.load_state_dict(state, strict=False)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])  # of PyTorch's list the first
            raise DataError(f"{path} holds no weights of the {self.name} generator: {reason}") from error
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            raise DataError(
                f"{path} holds no weights of the {self.name} generator: missing {missing}, unknown {unexpected}"
            )
        self.network.eval().requires_grad_(False)

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """latents (B, 64), labels int64 (B,) or None -> images (B, 1, 28, 28) in [-1, 1]."""
        return self.network(latents, None if self.mode == "null" else labels)

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
