"""A small classifier of 28 x 28 garments: it judges the embedded generator, and teaches its class mode."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrep.generate.fashion.network import NUM_CLASSES

BATCH_SIZE = 128


class Classifier(nn.Module):
    """Images (B, 1, 28, 28) in [-1, 1] -> logits (B, 10), through 128 features."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(1, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 1)]  # in, out, stride
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, stride=s, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
                for i, o, s in widths
            ),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(128, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        """What each of the four blocks makes of the images: (B, 32, 28, 28), (B, 64, 14, 14), 2 x (B, 128, 7, 7)."""
        found = [images]
        for block in self.body[:4]:
            found.append(block(found[-1]))
        return found[1:]

    @torch.no_grad()
    def features_of(self, images: Tensor) -> Tensor:
        return torch.cat([self.body(batch) for batch in images.split(500)])

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        return self.head(self.features_of(images)).argmax(dim=1)


def trained_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    epochs: int = 8,
    view: Callable[[Tensor, torch.Generator], Tensor] = lambda images, draws: images,
    file: Path | None = None,
) -> Classifier:
    """Train for a fixed budget (AdamW, one cycle), or read what an earlier call kept in ``file``.

    Args:
        images: (N, ...), what ``view`` turns into (B, 1, 28, 28) in [-1, 1].
        labels: int64 (N,).
        view: Called on each batch with the source of its draws, so that an image may look new every time.
    """
    torch.manual_seed(seed)
    classifier = Classifier().to(memory_format=torch.channels_last)
    if file is not None and file.exists():
        classifier.load_state_dict(torch.load(file, weights_only=True))
        return classifier.eval()
    steps = epochs * (len(images) // BATCH_SIZE)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    draws = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=draws)
        for chosen in order[: len(order) // BATCH_SIZE * BATCH_SIZE].split(BATCH_SIZE):
            batch = view(images[chosen], draws)
            with torch.autocast("cpu", torch.bfloat16):
                logits = classifier(batch.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    if file is not None:
        temporary = file.with_suffix(".tmp")
        torch.save(classifier.state_dict(), temporary)
        os.replace(temporary, file)
    return classifier.eval()
