"""A contact sheet: a row a sample, its anchor and then its views, or the six panels of the paper's figure."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genrep.shards.errors import DataError
from genrep.shards.info import class_names, printable
from genrep.shards.reader import ShardDataset

if TYPE_CHECKING:
    from PIL import Image, ImageFont

Pixels = NDArray[np.uint8]

HEADS = {"gauss": "Gaussian", "steer": "steered"}  # kinds of view as the paper writes them

SMALLEST, LARGEST = 112, 256  # px of an image on the sheet: its short side at least, its long side at most
MARGIN, GAP = 24, 8
TEXT, SMALL_TEXT = 15, 12  # px
INK, FAINT_INK, PAPER = "#1a1a1a", "#6b6b6b", "#ffffff"
LONGEST_NAME = 24


@dataclass(frozen=True)
class Column:
    """Images uint8 (H, W, 3) of one kind, one a row, under a head."""

    head: str
    images: Sequence[Pixels]


def contact_sheet(dataset: ShardDataset, *, num_rows: int = 10, panels: bool = False) -> bytes:
    """Draw some samples of a set as a PNG file.

    Args:
        num_rows: Samples, at most; of a set with classes they are spread over the classes.
        panels: The panels of the paper's figure instead of the views in the order of the set.

    Raises:
        DataError: If panels need views that the set does not hold, or a sample is damaged.
    """
    positions = chosen(dataset.labels, num_rows)
    columns = panel_columns(dataset, positions) if panels else view_columns(dataset, positions)
    return draw_sheet(columns, row_titles(dataset, positions), [f"sample {position}" for position in positions])


def row_titles(dataset: ShardDataset, positions: Sequence[int]) -> list[str]:
    """Names of the samples' classes, empty where there is none."""
    names = class_names(dataset.recipe)
    labels = dataset.labels[positions].tolist()
    return [names[label] if 0 <= label < len(names) else "" if label < 0 else f"class {label}" for label in labels]


def chosen(labels: NDArray[np.int64], num_rows: int) -> list[int]:
    """Positions of the first sample of every class, then of the second ones, ordered by class.

    Where there are more classes than rows, the classes lie evenly apart.
    """
    by_class = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[by_class], return_index=True)
    turn = np.arange(len(labels)) - np.repeat(starts, np.diff(starts, append=len(labels)))
    in_turn = by_class[np.argsort(turn, kind="stable")]
    if num_rows < len(classes):
        picked = in_turn[np.linspace(0, len(classes) - 1, num_rows).astype(np.int64)]
    else:
        picked = in_turn[:num_rows]
    return picked[np.lexsort((picked, labels[picked]))].tolist()


def view_columns(dataset: ShardDataset, positions: Sequence[int]) -> list[Column]:
    """Anchor and views in the order of the set."""
    samples = [dataset[position] for position in positions]
    kinds = [" + ".join(HEADS.get(kind, kind) for kind in str(view).split("+")) for view in dataset.recipe["views"]]
    heads = [
        f"{kind} {kinds[: view + 1].count(kind)}" if kinds.count(kind) > 1 else kind for view, kind in enumerate(kinds)
    ]
    if dataset.has_anchors:
        heads.insert(0, "anchor")
    return [Column(head, [sample.images[row] for sample in samples]) for row, head in enumerate(heads)]


def panel_columns(dataset: ShardDataset, positions: Sequence[int]) -> list[Column]:
    """Anchor, T_z and T_x side by side; with classes a positive of SupCon is any other sample of the class.

    Such a sample is an independent view too, so that kind may be missing.
    """
    kinds = ["anchor", *dataset.recipe["views"]]
    labels = dataset.labels
    conditional = bool((labels[positions] >= 0).all())
    wanted = "gauss,steer,independent" if conditional else "gauss,steer"
    lone = conditional and min(np.count_nonzero(labels == label) for label in labels[positions]) < 2
    needed = ("gauss", "steer", "independent") if lone else ("gauss", "steer")
    lacking = [kind for kind in needed if kind not in kinds]
    if lacking:
        raise DataError(
            f"{dataset.folder} has no views of kind {' and '.join(lacking)}, which the panels show: "
            f"generate a set with genrep-generate --views {wanted}"
        )

    def image(position: int, kind: str) -> Pixels:
        return dataset[position].images[kinds.index(kind)]

    def peer(position: int, step: int) -> int:
        """The sample that comes so many places later among those of the same class."""
        same = np.flatnonzero(labels == labels[position])
        return int(same[(np.searchsorted(same, position) + step) % len(same)])

    def independent(position: int) -> Pixels:
        if "independent" in kinds:
            return image(position, "independent")
        return image(peer(position, 1), "anchor")

    def augmented(position: int, kind: str, panel: int, step: int = 0) -> Pixels:
        return pixel_view(image(peer(position, step), kind), np.random.default_rng([position, panel]))

    panels: dict[str, Callable[[int], Pixels]] = {
        "anchor": lambda position: image(position, "anchor"),
        "Gaussian": lambda position: image(position, "gauss"),
        "steered": lambda position: image(position, "steer"),
    }
    if conditional:
        panels |= {
            "independent": independent,
            "SupCon": lambda position: augmented(position, "anchor", 0, step=2),
            "Gaussian + SupCon": lambda position: augmented(position, "gauss", 1, step=2),
        }
    else:
        panels |= {
            "SimCLR": lambda position: augmented(position, "anchor", 0),
            "Gaussian + SimCLR": lambda position: augmented(position, "gauss", 1),
            "steer + SimCLR": lambda position: augmented(position, "steer", 2),
        }
    return [Column(head, [drawn(position) for position in positions]) for head, drawn in panels.items()]


def pixel_view(image: Pixels, random: np.random.Generator) -> Pixels:
    """One draw of the paper's T_x: crop, flip, colour jitter, grey.

    Args:
        image: uint8 (H, W, 3); the crop is resized to the same size.
        random: The one source of what is drawn.

    Source: the authors' settings of SimCLR's augmentations (scale 0.2 to 1; jitter 0.4, 0.4, 0.4, 0.1 with
    probability 0.8; grey with 0.2; no blur).
    """
    from PIL import Image, ImageEnhance, ImageOps

    height, width = image.shape[:2]
    area, ratio = height * width * random.uniform(0.2, 1), math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
    crop_width, crop_height = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    left, top = random.uniform(0, width - crop_width), random.uniform(0, height - crop_height)
    picture = Image.fromarray(image).resize(
        (width, height), Image.Resampling.BILINEAR, box=(left, top, left + crop_width, top + crop_height)
    )
    if random.random() < 0.5:
        picture = ImageOps.mirror(picture)
    if random.random() < 0.8:
        factors, hue = random.uniform(0.6, 1.4, size=3), random.uniform(-0.1, 0.1)
        for step in random.permutation(4):
            if step == 3:
                colours = np.array(picture.convert("HSV"))
                colours[..., 0] += np.uint8(round(hue * 256) % 256)  # a circle of 256 steps
                picture = Image.fromarray(colours, "HSV").convert("RGB")
            else:
                enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
                picture = enhance(picture).enhance(factors[step])
    if random.random() < 0.2:
        picture = ImageOps.grayscale(picture).convert("RGB")
    return np.asarray(picture)


def draw_sheet(columns: Sequence[Column], titles: Sequence[str], subtitles: Sequence[str]) -> bytes:
    """The sheet as PNG; title and subtitle stand left of each row."""
    from PIL import Image, ImageDraw

    font, small_font = _font(TEXT), _font(SMALL_TEXT)
    cells = [[_fitted(image) for image in column.images] for column in columns]
    cell_width, cell_height = cells[0][0].size
    heads = [_broken(column.head, font, cell_width) for column in columns]
    titles = [_shortened(title) for title in titles]
    names_width = max(
        *(font.getlength(title) for title in titles), *(small_font.getlength(subtitle) for subtitle in subtitles)
    )
    left = MARGIN + math.ceil(names_width) + 2 * GAP
    top = MARGIN + math.ceil(1.25 * TEXT * max(head.count("\n") + 1 for head in heads)) + GAP
    sheet = Image.new(
        "RGB",
        (
            left + len(columns) * (cell_width + GAP) - GAP + MARGIN,
            top + len(titles) * (cell_height + GAP) - GAP + MARGIN,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for number, (head, column_cells) in enumerate(zip(heads, cells, strict=True)):
        x = left + number * (cell_width + GAP)
        draw.text((x + cell_width / 2, top - GAP), head, INK, font, anchor="md", align="center")
        for row, cell in enumerate(column_cells):
            sheet.paste(cell, (x, top + row * (cell_height + GAP)))
    for row, (title, subtitle) in enumerate(zip(titles, subtitles, strict=True)):
        middle = top + row * (cell_height + GAP) + cell_height / 2
        right = left - 2 * GAP
        if title:
            draw.text((right, middle - 2), title, INK, font, anchor="rd")
            draw.text((right, middle + 3), subtitle, FAINT_INK, small_font, anchor="ra")
        else:
            draw.text((right, middle), subtitle, INK, small_font, anchor="rm")
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    return content.getvalue()


def _fitted(image: Pixels) -> "Image.Image":
    """An image large enough to be seen: small ones by whole pixels, large ones by averages."""
    from PIL import Image

    height, width = image.shape[:2]
    factor = -(-SMALLEST // min(height, width))
    picture = Image.fromarray(image)
    if factor > 1:
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    return picture.reduce(-(-max(height, width) // LARGEST))


def _font(size: int) -> "ImageFont.FreeTypeFont":
    """DejaVu Sans: unlike Pillow's own font it has letters for most class names."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def _broken(head: str, font: "ImageFont.FreeTypeFont", width: int) -> str:
    """A head in two lines if it is wider than its column."""
    return head if font.getlength(head) <= width else head.replace(" + ", "\n+ ")


def _shortened(name: str) -> str:
    return printable(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…")
