"""Limits of an audit, and a line for each that is crossed."""

from dataclasses import dataclass

from genrep.evaluate.audit_record import AnchorAudit, Audit, RealAudit


@dataclass(frozen=True)
class Thresholds:
    """What is crossed is told, and sets the exit status; shares are fractions.

    Attributes:
        min_survival: Of views that keep the class of their anchor.
        min_move: Of each view's median distance from its anchor, in distances between unrelated anchors.
        max_duplicates: Of anchors with a near duplicate, more than among real images.
        max_copies: Of anchors that are near a training image, more than of held-out real images.
        min_class: Of every class among the anchors, in shares of that class among real images.
    """

    min_survival: float = 0.5
    min_move: float = 0.05
    max_duplicates: float = 0.01
    max_copies: float = 0.01
    min_class: float = 0.2


def crossed(found: Audit, thresholds: Thresholds) -> list[str]:
    """A line for each threshold that is crossed, with both values."""
    lines = []
    for each in found.sets:
        for view in each.views:
            name = f"{each.name}, view {view.image} ({view.kind})"
            if view.survival is not None and view.survival.value < thresholds.min_survival:
                lines.append(
                    f"{name}: the class survives in {view.survival.value:.1%} of samples, less than "
                    f"{thresholds.min_survival:.1%}: take a smaller sigma"
                )
            if view.feature_move < thresholds.min_move:
                lines.append(
                    f"{name}: views lie {view.feature_move:.3f} of the distance between unrelated anchors from their "
                    f"anchor, less than {thresholds.min_move:g}: take a larger sigma"
                )
    for anchors in found.anchors:
        name = f"anchors of {', '.join(anchors.sets)}"
        lines += _crossed_by_anchors(name, anchors, found.real, thresholds)
    return lines


def _crossed_by_anchors(name: str, anchors: AnchorAudit, real: RealAudit | None, thresholds: Thresholds) -> list[str]:
    lines = []
    floor, beside = 0.0, ""
    if real is not None:
        floor, beside = real.duplicates.value, f" ({real.duplicates.value:.1%} of real images)"
    if anchors.duplicates.value - floor > thresholds.max_duplicates:
        lines.append(
            f"{name}: {anchors.duplicates.value:.1%} have a near duplicate{beside}, more than "
            f"{thresholds.max_duplicates:.1%} above that: the generator repeats itself"
        )
    if real is None or anchors.copies is None or anchors.predicted is None:
        return lines
    if anchors.copies.value - real.copies.value > thresholds.max_copies:
        lines.append(
            f"{name}: {anchors.copies.value:.1%} are near a training image ({real.copies.value:.1%} of held-out "
            f"images), more than {thresholds.max_copies:.1%} above that: the generator copies"
        )
    for label, part in anchors.predicted.items():
        if part < thresholds.min_class * real.classes[label]:
            lines.append(
                f"{name}: class {label!r} is {part:.1%} of them and {real.classes[label]:.1%} of real images, less "
                f"than {thresholds.min_class:g} of its share"
            )
    return lines
