"""What a study is made of: sets of images, settings of a training, and cells, a setting with a seed."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

REAL = "fashion-mnist"  # in place of a generator: its training images, as shards
SETS, RUNS = "sets", "runs"  # folders of a study

# views -> what the paper calls them
TRANSFORMATIONS = {"pixel": "T_x", "latent": "T_z", "both": "T_z + T_x"}


@dataclass(frozen=True)
class Source:
    """A set of images.

    Attributes:
        generator: Registered name, or ``REAL``.
        views: As in ``--views``; ``none`` for anchors alone, and for real images.
        std: As in ``--std``; None where the kind of view has none.
        samples: Anchors, drawn with seed 0, so that a smaller set is a prefix of a larger one.
        num_views: An anchor's.
        arguments: ``KEY=VALUE`` of the generator.
        resize: Short side that its images are shrunk to, px; None for as they are.
    """

    generator: str
    views: str
    std: float | None = None
    samples: int = 20_000
    num_views: int = 1
    arguments: tuple[str, ...] = ()
    resize: int | None = None

    @property
    def name(self) -> str:
        words = [self.generator.replace(":", "-"), *(each.replace("=", "") for each in self.arguments)]
        words += [f"{self.resize}px"] if self.resize else []
        if self.views != "none":
            words += [self.views, *([f"{self.std:g}"] if self.std is not None else [])]
            words += [f"k{self.num_views}"] if self.num_views > 1 else []
        return "-".join([*words, str(self.samples)])

    @property
    def num_images(self) -> int:
        return self.samples * (1 if self.views == "none" else 1 + self.num_views)

    def command(self, folder: Path) -> str:
        """What makes it, in the folder of the study."""
        out = shlex.quote(str(folder / SETS / self.name))
        if self.generator == REAL:
            return f"genrep-shards import {REAL} --n {self.samples} --out {out}"
        std = f" --std {self.std:g}" if self.std is not None else ""
        several = f" --num-views {self.num_views}" if self.num_views > 1 else ""
        arguments = "".join(f" --generator-arg {each}" for each in self.arguments)
        arguments += f" --resize {self.resize}" if self.resize else ""
        return (
            f"genrep-generate --generator {self.generator}{arguments} --views {self.views}{std}{several} "
            f"--n {self.samples} --out {out}"
        )


@dataclass(frozen=True)
class Setting:
    """How an encoder is trained.

    Attributes:
        method: As in ``--method``; ``untrained`` for the first weights of simclr.
        views: ``pixel``, ``latent`` or ``both``: T_x, T_z, T_z + T_x.
        samples: It sees the first so many of the set.
        steps: Updates.
        images: Of an update, so that methods that show more images of a sample see fewer samples.
        images_per_sample: In a batch.
        mixed: A set that a part of every batch comes from.
        share: How large a part, in (0, 1).
    """

    source: Source
    method: str
    views: str
    samples: int
    steps: int = 400
    images: int = 512
    images_per_sample: int = 2
    mixed: Source | None = None
    share: float = 0.0

    @property
    def batch_size(self) -> int:
        return self.images // self.images_per_sample

    @property
    def name(self) -> str:
        several = f"-{self.images_per_sample}-images" if self.images_per_sample != 2 else ""
        first = f"-first{self.samples}" if self.samples != self.source.samples else ""
        mixed = f"-mixed{self.share:g}-{self.mixed.name}" if self.mixed else ""
        return f"{self.method}-{self.views}{several}-{self.source.name}{first}{mixed}-{self.steps}x{self.batch_size}"

    @property
    def sources(self) -> tuple[Source, ...]:
        """All sets that it needs."""
        return (self.source, self.mixed) if self.mixed else (self.source,)

    @property
    def passes(self) -> float:
        """How often a sample is seen."""
        return self.steps * self.batch_size / self.samples

    def of(self, samples: int, *, largest: int) -> "Setting":
        """The same with the first ``samples`` of a set of ``largest``."""
        return replace(self, source=replace(self.source, samples=largest), samples=samples)

    def with_views(self, num_views: int) -> "Setting":
        """The same with so many views an anchor, of which one is drawn in every epoch."""
        return replace(self, source=replace(self.source, num_views=num_views))

    def mixed_with(self, source: Source, share: float) -> "Setting":
        """The same with a share of every batch from another set."""
        return replace(self, mixed=source, share=share) if share else self


@dataclass(frozen=True)
class Cell:
    """One training and its measurement; equal names are equal encoders, whichever study asks."""

    setting: Setting
    seed: int

    @property
    def name(self) -> str:
        return f"{self.setting.name}-seed{self.seed}"

    def command(self, folder: Path, *, device: str = "cpu") -> str:
        """What trains it, in the folder of the study."""
        setting = self.setting
        method = "simclr" if setting.method == "untrained" else setting.method
        limit = f" --limit {setting.samples}" if setting.samples != setting.source.samples else ""
        several = f" --num-views {setting.images_per_sample - 1}" if setting.images_per_sample > 2 else ""
        mixed = ""
        if setting.mixed:
            mixed = f" --mix {shlex.quote(f'{folder / SETS / setting.mixed.name}:{setting.share:g}')}"
        shards, out = (
            shlex.quote(str(folder / part)) for part in (f"{SETS}/{setting.source.name}", f"{RUNS}/{self.name}")
        )
        return (
            f"genrep-train --shards {shards} --method {method} --views {setting.views}"
            f"{several}{limit}{mixed} --batch-size {setting.batch_size} --steps {setting.steps} --seed {self.seed} "
            f"--checkpoint-every 100 --keep 1 --device {device} --threads 1 --out {out}"
        )
