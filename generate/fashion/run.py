"""The adversarial training that both modes of the embedded generator share."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrep.generate.fashion.jitter import jitter_images
from genrep.generate.fashion.network import LATENT_DIM
from genrep.shards import fashion_mnist

RATE_G, RATE_D = 3e-4, 4e-4
EMA_DECAY = 0.999
STATISTICS_BATCHES = 50  # batches of 256 for the batch-norm statistics of the averaged weights
PARTS = ("generator", "discriminators", "average", "optimiser_g", "optimiser_d")


class Run:
    """The networks, their optimisers and the step count: all that a checkpoint holds.

    Hinge loss, one discriminator step a generator step, Adam (0, 0.99), rates constant for half the run and then
    linear to zero, averaged weights. A mode says which labels images get, and what else its generator is held to.
    """

    def __init__(
        self, generator: type[nn.Module], discriminators: Sequence[nn.Module], *, steps: int, batch_size: int, seed: int
    ) -> None:
        self.steps, self.batch_size, self.seed, self.step = steps, batch_size, seed, 0
        self.generator = generator().to(memory_format=torch.channels_last)
        self.discriminators = nn.ModuleList(discriminators).to(memory_format=torch.channels_last)
        self.average = generator()
        self.average.load_state_dict(self.generator.state_dict())
        self.optimiser_g = torch.optim.Adam(self.generator.parameters(), lr=RATE_G, betas=(0.0, 0.99), fused=True)
        self.optimiser_d = torch.optim.Adam(self.discriminators.parameters(), lr=RATE_D, betas=(0.0, 0.99), fused=True)
        data = fashion_mnist.load("learn")
        self.images, self.labels = torch.from_numpy(data.images.copy()), torch.from_numpy(data.labels.copy())

    def labels_of(self, real: Tensor, labels: Tensor) -> Tensor:
        """What the discriminators are told of real images (B, 1, H, W) whose data says ``labels`` (B,)."""
        raise NotImplementedError

    def drawn_labels(self, count: int, draws: torch.Generator) -> Tensor:
        """Labels (count,) to generate."""
        raise NotImplementedError

    def further_losses(self, fake: Tensor, labels: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Scalars that are added to the generator's loss, by name."""
        return {}

    def train_step(self) -> dict[str, float]:
        """One discriminator and one generator update; returns the losses."""
        draws = torch.Generator().manual_seed(seed_of(self.seed, 1, self.step))
        rate = min(1.0, 2 * (1 - self.step / self.steps))
        for optimiser, base in ((self.optimiser_g, RATE_G), (self.optimiser_d, RATE_D)):
            optimiser.param_groups[0]["lr"] = base * rate
        chosen = torch.randint(len(self.images), (self.batch_size,), generator=draws)
        real = jitter_images(self.images[chosen], draws).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            real_labels = self.labels_of(real, self.labels[chosen])
            with torch.no_grad():
                fake, fake_labels = self._fake(draws)
            images, labels = torch.cat([real, fake]), torch.cat([real_labels, fake_labels])
            losses = [hinge(discriminator(images, labels).float()) for discriminator in self.discriminators]
            loss_d = torch.stack(losses).sum()
        _update(self.optimiser_d, loss_d)
        self.discriminators.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16):
            fake, fake_labels = self._fake(draws)
            losses = [-discriminator(fake, fake_labels).float().mean() for discriminator in self.discriminators]
            loss_g = torch.stack(losses).sum()
            further = self.further_losses(fake, fake_labels, real)
        _update(self.optimiser_g, torch.stack([loss_g, *further.values()]).sum())
        self.discriminators.requires_grad_(True)
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)
        found = {"loss_d": loss_d, "loss_g": loss_g, **further}
        return {name: round(loss.item(), 4) for name, loss in found.items()}

    def deployed(self) -> dict[str, Tensor]:
        """Averaged weights with batch-norm statistics estimated anew, as float16 for the package."""
        norms = [module for module in self.average.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative mean over the batches below
        draws = torch.Generator().manual_seed(seed_of(self.seed, 2, 0))
        self.average.train()
        with torch.no_grad():
            for _ in range(STATISTICS_BATCHES):
                labels = self.drawn_labels(256, draws)
                self.average(torch.randn(256, LATENT_DIM, generator=draws), labels)
        self.average.eval()
        state = self.average.state_dict()
        return {name: value.half().contiguous() for name, value in state.items() if value.is_floating_point()}

    def state_dict(self) -> dict:
        return {"step": self.step, **{part: getattr(self, part).state_dict() for part in PARTS}}

    def load_state_dict(self, state: dict) -> None:
        for part in PARTS:
            getattr(self, part).load_state_dict(state[part])
        self.step = state["step"]

    def _fake(self, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = self.drawn_labels(self.batch_size, draws)
        return self.generator(torch.randn(self.batch_size, LATENT_DIM, generator=draws), labels), labels


def hinge(logits: Tensor) -> Tensor:
    """The discriminator's loss on logits (2 B,), of B real images and of B generated ones."""
    real, fake = logits.chunk(2)
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def seed_of(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
