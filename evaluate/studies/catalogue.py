"""The studies that come with genrep, each a function of how large it is to be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from genrep.evaluate.studies.cell import REAL, TRANSFORMATIONS, Setting, Source
from genrep.evaluate.studies.study import Contrast, Row, Study

T_X, T_Z, BOTH = TRANSFORMATIONS.values()
DEFAULT_STD = {"fashion-null": 0.2, "fashion": 0.5}
STDS = (0.1, 0.2, 0.5, 1.0, 2.0)
CLASS_STDS = (0.2, 0.5, 1.0)
SIZES = (256, 1024, 4096, 16384, 65536)
POOLS = (1, 5, 20)  # of the paper
SHARES = (0.0, 0.05, 0.25, 0.5)  # of real images; all real is a row of its own
# method, generator (without classes for what needs no label, as the paper pairs them), images of a sample, seeds
METHODS = (
    ("simclr", "fashion-null", 2, 3),
    ("byol", "fashion-null", 2, 1),
    ("vicreg", "fashion-null", 2, 1),
    ("inverter", "fashion-null", 1, 1),
    ("supcon", "fashion", 2, 3),
    ("multipos", "fashion", 4, 3),
    ("classifier", "fashion", 1, 1),
    ("inverter", "fashion", 1, 1),
)


@dataclass(frozen=True)
class Scale:
    """How large a study is.

    Attributes:
        steps: Updates of every encoder.
        images: Of an update.
        samples: Anchors of every set.
        seeds: At most so many a row; None for those of the study.
        stds: Strengths of Gaussian views of the unconditional generator.
        class_stds: Of the generator with classes.
        sizes: Numbers of samples that ``scaling`` compares.
    """

    steps: int = 400
    images: int = 512
    samples: int = 20_000
    seeds: int | None = None
    stds: Sequence[float] = STDS
    class_stds: Sequence[float] = CLASS_STDS
    sizes: Sequence[int] = SIZES

    def setting(self, source: Source, method: str, views: str) -> Setting:
        return Setting(source, method, views, source.samples, self.steps, self.images)

    def gauss(self, generator: str, method: str, views: str) -> tuple[Setting, ...]:
        """A candidate for each strength."""
        stds = self.stds if generator == "fashion-null" else self.class_stds
        return tuple(self.setting(Source(generator, "gauss", std, self.samples), method, views) for std in stds)

    def anchors(self, generator: str, method: str) -> tuple[Setting, ...]:
        """T_x needs anchors alone; it takes those of a set that others need as well."""
        source = Source(generator, "gauss", DEFAULT_STD[generator], self.samples)
        return (self.setting(source, method, "pixel"),)

    def num_seeds(self, wanted: int) -> int:
        return wanted if self.seeds is None else min(wanted, self.seeds)


def views(scale: Scale) -> Study:
    """Does T_z help, which view is best, is real data still ahead?"""
    null, classes = "fashion-null", "fashion"
    real = Source(REAL, "none", samples=scale.samples)
    steered = Source(null, "steer", samples=scale.samples)
    independent = Source(classes, "independent", samples=scale.samples)
    simclr_x, simclr_zx = f"SimCLR, {T_X}", f"SimCLR, {BOTH}"
    rows = [
        Row(simclr_x, scale.anchors(null, "simclr"), 5, primary=True),
        Row(simclr_zx, scale.gauss(null, "simclr", "both"), 5, primary=True),
        Row("SimCLR, T_z", scale.gauss(null, "simclr", "latent"), 3),
        Row("untrained", (scale.setting(real, "untrained", "pixel"),), 3),
        Row(f"SimCLR, real images, {T_X}", (scale.setting(real, "simclr", "pixel"),), 3),
        Row(f"SupCon, {T_X}", scale.anchors(classes, "supcon"), 3),
        Row(f"SupCon, {BOTH}", scale.gauss(classes, "supcon", "both"), 3),
        Row(f"SimCLR, steered + {T_X}", (scale.setting(steered, "simclr", "both"),), 3),
        Row(f"SimCLR, independent + {T_X}", (scale.setting(independent, "simclr", "both"),), 3),
        Row("SimCLR, steered", (scale.setting(steered, "simclr", "latent"),), 3),
        Row("SimCLR, independent", (scale.setting(independent, "simclr", "latent"),), 3),
    ]
    contrasts = (
        Contrast(simclr_zx, simclr_x, primary=True),
        Contrast("SimCLR, T_z", simclr_x),
        Contrast(f"SupCon, {BOTH}", f"SupCon, {T_X}"),
        Contrast(f"SupCon, {BOTH}", simclr_zx),
        Contrast(f"SimCLR, steered + {T_X}", simclr_x),
        Contrast(f"SimCLR, steered + {T_X}", simclr_zx),
        Contrast(f"SimCLR, independent + {T_X}", simclr_zx),
        Contrast("SimCLR, steered", "SimCLR, T_z"),
        Contrast("SimCLR, independent", "SimCLR, T_z"),
        Contrast(f"SimCLR, real images, {T_X}", simclr_x),
        Contrast(f"SimCLR, real images, {T_X}", simclr_zx),
    )
    return _study("views", "Views", views, scale, rows, contrasts)


def std(scale: Scale) -> Study:
    """How strong should a latent view be: is accuracy over its strength an inverse U?"""
    null = "fashion-null"
    rows = [
        Row(f"{TRANSFORMATIONS[kind]}, sigma {setting.source.std:g}", (setting,), 2, TRANSFORMATIONS[kind],
            setting.source.std)
        for kind in ("both", "latent")
        for setting in scale.gauss(null, "simclr", kind)
    ]  # fmt: skip
    rows.append(Row(T_X, scale.anchors(null, "simclr"), 2))
    contrasts = tuple(Contrast(row.name, T_X) for row in rows if row.group == BOTH)
    return _study("std", "Strength of latent views", std, scale, rows, contrasts, x="sigma")


def scaling(scale: Scale) -> Study:
    """How does accuracy grow with the number of generated samples, at equal updates?"""
    pairings = [("SimCLR", "fashion-null"), ("SupCon", "fashion")]
    rows = [
        Row(
            f"{method}, {TRANSFORMATIONS[kind]}, {samples:,} samples",
            scale.anchors(generator, method.lower())
            if kind == "pixel"
            else scale.gauss(generator, method.lower(), kind),
            1,
            group=f"{method}, {TRANSFORMATIONS[kind]}",
            x=samples,
            derive=partial(Setting.of, samples=samples, largest=max(scale.sizes)),
        )
        for method, generator in pairings
        for kind in ("latent", "both", "pixel")
        for samples in scale.sizes
    ]
    return _study("scaling", "Number of samples", scaling, scale, rows, (), x="samples")


def pool(scale: Scale) -> Study:
    """Do more views an anchor help, of which one is drawn in every epoch?"""
    classes, name = "fashion", "SupCon, {} + T_x, {} an anchor"
    steered = scale.setting(Source(classes, "steer", None, scale.samples, 2), "supcon", "both")
    independent = scale.setting(Source(classes, "independent", None, scale.samples), "supcon", "both")
    rows = [
        *(
            Row(
                name.format("Gaussian", views),
                scale.gauss(classes, "supcon", "both"),
                3,
                "Gaussian",
                views,
                derive=partial(Setting.with_views, num_views=views),
            )
            for views in POOLS
        ),
        Row(name.format("steered", 2), (steered,), 3),
        Row(name.format("independent", 1), (independent,), 3),
        Row(f"SupCon, {T_X}", scale.anchors(classes, "supcon"), 3),
    ]
    contrasts = tuple(Contrast(row.name, name.format("Gaussian", POOLS[0])) for row in rows[1:])
    return _study("pool", "Views an anchor", pool, scale, rows, contrasts, x="views an anchor")


def mix(scale: Scale) -> Study:
    """Do generated samples help beside real ones, or real ones beside generated?"""
    real = Source(REAL, "none", samples=scale.samples)
    name = "SimCLR, {:.0%} real images"
    rows = [
        Row(
            name.format(share),
            scale.gauss("fashion-null", "simclr", "both"),
            3,
            "share",
            share,
            derive=partial(Setting.mixed_with, source=real, share=share),
        )
        for share in SHARES
    ]
    rows.append(Row(name.format(1), (scale.setting(real, "simclr", "pixel"),), 3, "share", 1.0))
    contrasts = tuple(Contrast(row.name, rows[end].name) for end in (0, -1) for row in rows[1:-1])
    return _study("mix", "Real beside generated", mix, scale, rows, contrasts, x="share of real images")


def generators(scale: Scale) -> Study:
    """How much of the data must a generator have seen: some, classes too, or none?"""
    known = {
        "fashion-null": Source("fashion-null", "gauss"),
        "fashion": Source("fashion", "gauss"),
        "dead leaves": Source("procedural:dead-leaves", "gauss", arguments=("size=32",), resize=28),
        "oriented noise": Source("procedural:stylegan-oriented", "gauss", arguments=("size=32",), resize=28),
    }
    rows = [
        Row(
            f"{generator}, {TRANSFORMATIONS[kind]}",
            tuple(
                scale.setting(replace(source, std=std, samples=scale.samples), "simclr", kind)
                for std in (scale.stds[:1] if kind == "pixel" else scale.stds)
            ),
            3,
        )
        for generator, source in known.items()
        for kind in ("pixel", "both")
    ]
    real = Source(REAL, "none", samples=scale.samples)
    rows.append(Row(f"real images, {T_X}", (scale.setting(real, "simclr", "pixel"),), 3))
    contrasts = tuple(
        Contrast(f"{generator}, {T_X}", f"fashion-null, {T_X}") for generator in known if generator != "fashion-null"
    ) + tuple(Contrast(f"{generator}, {BOTH}", f"{generator}, {T_X}") for generator in known)
    return _study("generators", "Generators", generators, scale, rows, contrasts)


def methods(scale: Scale) -> Study:
    """Which method learns most, from which views?"""
    rows = []
    for method, generator, images, seeds in METHODS:
        source = Source(generator, "gauss", DEFAULT_STD[generator], scale.samples, 3)
        for kind, transformation in TRANSFORMATIONS.items():
            setting = replace(scale.setting(source, method, kind), images_per_sample=images)
            rows.append(Row(f"{method} on {generator}, {transformation}", (setting,), seeds))
    contrasts = tuple(
        Contrast(f"{method} on {generator}, {first}", f"{method} on {generator}, {T_X}")
        for method, generator, _, _ in METHODS
        for first in (T_Z, BOTH)
    )
    return _study("methods", "Methods and views", methods, scale, rows, contrasts)


STUDIES: dict[str, Callable[[Scale], Study]] = {
    study.__name__: study for study in (views, std, scaling, pool, mix, generators, methods)
}


def _study(
    name: str,
    title: str,
    made_by: Callable[[Scale], Study],
    scale: Scale,
    rows: Sequence[Row],
    contrasts: tuple[Contrast, ...],
    x: str = "",
) -> Study:
    """The question is the first line of what made the study."""
    question = (made_by.__doc__ or "").strip()
    return Study(
        name, title, question, tuple(replace(row, seeds=scale.num_seeds(row.seeds)) for row in rows), contrasts, x
    )
