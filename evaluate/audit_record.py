"""What an audit found: the content of audit.json."""

from dataclasses import asdict, dataclass
from typing import Any

from genrep.evaluate.fidelity import Estimate

FORMAT = "genrep-audit/1"


@dataclass(frozen=True)
class Spread:
    """The 10 %, 50 % and 90 % points of some values."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class ViewAudit:
    """One view column of a set. Feature distances are Euclidean, of features scaled to unit length: 0 to 2.

    Attributes:
        image: k of view k.
        kind: As the recipe names it.
        latent: Euclidean distance from the view's latent to the anchor's; None without latents.
        latent_relative: The same in lengths of the anchor's latent, the median.
        latent_cosine: Of the two latents.
        feature: Distance from the view to its anchor.
        feature_move: Its median over the median distance between unrelated anchors: 1 is another sample.
        survival: Share of views whose predicted class is that of their anchor; None without real data.
    """

    image: int
    kind: str
    latent: Spread | None
    latent_relative: float | None
    latent_cosine: Spread | None
    feature: Spread
    feature_move: float
    survival: Estimate | None


@dataclass(frozen=True)
class AnchorAudit:
    """Anchors, which several sets may share.

    Attributes:
        sets: Names of the sets that have them.
        nearest: Distance from an anchor to the nearest other one.
        duplicates: Share with another anchor nearer than the cut.
        nearest_real: Distance to the nearest real training image; this and the next three None without real data.
        copies: Share with a training image nearer than the cut.
        nearer_to_training: Share that is nearer to m training images than to m held-out ones: half, unless the
            generator was trained on the ones and remembers them.
        chance: Share of views that would keep the class if they were other anchors.
        predicted: Share of each class by the probe.
        given: Share of each class by the labels of the whole set; None without labels.
        agreement: Share whose prediction is the label, where the classes are those of the real data.
    """

    sets: tuple[str, ...]
    nearest: Spread
    duplicates: Estimate
    nearest_real: Spread | None
    copies: Estimate | None
    nearer_to_training: Estimate | None
    chance: float | None
    predicted: dict[str, float] | None
    given: dict[str, float] | None
    agreement: Estimate | None


@dataclass(frozen=True)
class RealAudit:
    """The same of real images, as floors.

    Attributes:
        num_training: Training images among which copies are looked for.
        num_compared: m of ``nearer_to_training``.
        probe: Share of held-out images that the probe gets right; its weight decay was chosen on them.
        nearest: Distance to the nearest other one among as many training images as there are anchors.
        nearest_real: Distance from a held-out image to the nearest training image.
        classes: Share of each class among the training images.
    """

    name: str
    sha256: str
    num_training: int
    num_held_out: int
    num_compared: int
    probe: Estimate
    nearest: Spread
    duplicates: Estimate
    nearest_real: Spread
    copies: Estimate
    classes: dict[str, float]


@dataclass(frozen=True)
class SetAudit:
    """One set; ``anchors`` is the place of its anchors among those of the audit."""

    name: str
    manifest_sha256: str
    std: float | None
    anchors: int
    views: list[ViewAudit]


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        num_images: n, samples of each set.
        duplicate_cut, copy_cut: Feature distances below which two anchors are near duplicates, an anchor a copy.
    """

    num_images: int
    features: str
    width: int
    seed: int
    duplicate_cut: float
    copy_cut: float | None
    real: RealAudit | None
    anchors: list[AnchorAudit]
    sets: list[SetAudit]

    def to_json(self) -> dict[str, Any]:
        unit = f"shares: fractions of {self.num_images} samples of a set; feature distances: of unit features, 0 to 2"
        return {"format": FORMAT, "measure": "views", "unit": unit, **asdict(self)}
