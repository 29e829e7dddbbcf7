"""Fixed set or fresh samples? Fixed sets for several epochs against samples that are each seen once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from genrep.evaluate.studies.bootstrap import Estimate
from genrep.evaluate.studies.catalogue import Scale
from genrep.evaluate.studies.cell import TRANSFORMATIONS, Setting
from genrep.evaluate.studies.cost import Rates
from genrep.evaluate.studies.study import Contrast, Row, Study

SIZES = (1024, 4096, 16384)
KINDS = ("both", "latent")
SEEDS = 3


@dataclass(frozen=True)
class Budget:
    """What fresh samples cost, and what a fixed set can do in the same time, on one core that renders, then trains.

    Attributes:
        steps: Updates on fresh samples.
        samples: That these see, each once.
        sample_s: To render a sample, anchor and view.
        update_s: To train on a batch.
    """

    steps: int
    samples: int
    sample_s: float
    update_s: float

    @classmethod
    def of(cls, scale: Scale, rates: Rates) -> "Budget":
        batch = scale.images // 2
        return cls(scale.steps, scale.steps * batch, 2 * rates.image_s, rates.update_image_s * scale.images)

    @property
    def slowdown(self) -> float:
        """Time with fresh samples over time of the updates alone."""
        return 1 + self.samples * self.sample_s / (self.steps * self.update_s)

    def steps_in_equal_time(self, size: int) -> int:
        """Updates on a fixed set of ``size`` samples in the time of the fresh ones, in tens."""
        saved = (self.samples - size) * self.sample_s
        return self.steps + round(saved / self.update_s / 10) * 10


def online(scale: Scale, rates: Rates) -> Study:
    """Is a fixed set, seen several times, as good as samples rendered afresh for every update?"""
    budget = Budget.of(scale, rates)
    sizes = [size for size in scale.sizes if size < budget.samples]
    rows: list[Row] = []
    contrasts: list[Contrast] = []
    for kind in KINDS:
        row = partial(Row, candidates=scale.gauss("fashion-null", "simclr", kind), seeds=scale.num_seeds(SEEDS))
        fresh = f"SimCLR, {TRANSFORMATIONS[kind]}, fresh"
        rows.append(
            row(name=fresh, derive=partial(_on, size=budget.samples, largest=budget.samples, steps=budget.steps))
        )
        for size in sizes:
            for told, steps in (("updates", budget.steps), ("time", budget.steps_in_equal_time(size))):
                name = _fixed(kind, size, told)
                rows.append(row(name=name, derive=partial(_on, size=size, largest=budget.samples, steps=steps)))
                contrasts.append(Contrast(fresh, name))
    notes = (
        f"Rendering a sample takes {1000 * budget.sample_s:.2f} ms and an update {1000 * budget.update_s:.0f} ms on "
        f"one core of this machine: fresh samples make {budget.steps} updates {budget.slowdown:.1f} times as long.",
        *(
            f"In the time of {budget.steps} updates on fresh samples, {size:,} fixed ones get "
            f"{budget.steps_in_equal_time(size)} updates."
            for size in sizes
        ),
    )
    return Study(
        "online",
        "Fixed set or fresh samples",
        (online.__doc__ or "").strip(),
        tuple(rows),
        tuple(contrasts),
        notes=notes,
        conclude=partial(break_even, sizes=tuple(sizes)),
    )


def break_even(differences: Mapping[tuple[str, str], Estimate], *, sizes: tuple[int, ...]) -> list[str]:
    """For each kind of view and comparison, the smallest fixed set from which on fresh samples are not better."""
    lines = []
    for kind in KINDS:
        fresh = f"SimCLR, {TRANSFORMATIONS[kind]}, fresh"
        for told in ("updates", "time"):
            found = {size: differences.get((fresh, _fixed(kind, size, told))) for size in sizes}
            if any(each is None for each in found.values()):
                continue
            behind = [size for size, each in found.items() if each is not None and each.interval[0] > 0]
            enough = [size for size in sizes if size > max(behind, default=0)]
            where = f"at {enough[0]:,} fixed samples" if enough else f"above {sizes[-1]:,} fixed samples"
            lines.append(
                f"Break-even, {TRANSFORMATIONS[kind]}, equal {told}: {where}; from there on fresh samples are not told "
                "apart from fixed ones, or are worse."
            )
    return lines


def _on(setting: Setting, *, size: int, largest: int, steps: int) -> Setting:
    return replace(setting.of(size, largest=largest), steps=steps)


def _fixed(kind: str, size: int, told: str) -> str:
    return f"SimCLR, {TRANSFORMATIONS[kind]}, {size:,} fixed, equal {told}"
