"""Training of the class mode: held to what a classifier of real images, the teacher, makes of real images."""

from pathlib import Path

import torch
from torch import Tensor

from genrep.generate.fashion.classifier import Classifier, trained_classifier
from genrep.generate.fashion.jitter import jitter_images
from genrep.generate.fashion.network import (
    NUM_CLASSES,
    ClassGenerator,
    Discriminator,
    ProjectedDiscriminator,
)
from genrep.generate.fashion.run import Run, seed_of
from genrep.shards import fashion_mnist

TEACHER_EPOCHS = 12
TEACHER_SEED = 1  # not the one of the classifier that judges (quality.py)
LARGEST_MARGIN = 5.0  # beyond it an image is as sure as it need be


class ClassRun(Run):
    """Real images carry the label the teacher gives them as they come out of the jitter.

    A garment turned, shrunk and cut off can look like another class: a label that no image shows teaches the
    generator nothing but to draw one class as another.
    """

    def __init__(self, teacher: Classifier, *, steps: int, batch_size: int, seed: int) -> None:
        torch.manual_seed(seed_of(seed, 0, 0))
        self.teacher = teacher.eval().requires_grad_(False)
        discriminators = [Discriminator(), ProjectedDiscriminator(teacher.maps)]
        super().__init__(ClassGenerator, discriminators, steps=steps, batch_size=batch_size, seed=seed)

    def labels_of(self, real: Tensor, labels: Tensor) -> Tensor:
        return self.teacher(real).argmax(dim=1)

    def drawn_labels(self, count: int, draws: torch.Generator) -> Tensor:
        return torch.randint(NUM_CLASSES, (count,), generator=draws)

    def further_losses(self, fake: Tensor, labels: Tensor, real: Tensor) -> dict[str, Tensor]:
        real_logits, fake_logits = self.teacher(real), self.teacher(fake)
        distance = margin_distance(margins(fake_logits, labels), margins(real_logits, real_logits.argmax(dim=1)))
        return {"margin_distance": distance}


def trained_teacher(file: Path | None = None) -> Classifier:
    """The teacher, or what an earlier call kept in ``file``: each image under a new jitter every time."""
    data = fashion_mnist.load("learn")
    images, labels = torch.from_numpy(data.images.copy()), torch.from_numpy(data.labels.copy())
    return trained_classifier(images, labels, seed=TEACHER_SEED, epochs=TEACHER_EPOCHS, view=jitter_images, file=file)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (B, C) and labels (B,) -> by how much the label's logit exceeds the largest other one: (B,)."""
    others = logits.float().scatter(1, labels[:, None], -torch.inf)
    return logits.float().gather(1, labels[:, None])[:, 0] - others.amax(dim=1)


def margin_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Wasserstein-1 distance of two sets of margins (B,), each cut at `LARGEST_MARGIN`."""
    first, second = (values.clamp(max=LARGEST_MARGIN).sort().values for values in (fake, real))
    return (first - second).abs().mean()
