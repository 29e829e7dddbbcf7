"""A tiny set in VOC's layout, drawn: coloured shapes on noise, one or two an image."""

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disc", "square", "triangle")
COLOURS = {"disc": (220, 60, 40), "square": (50, 190, 60), "triangle": (60, 80, 230)}


def draw_voc(folder, *, images=60, side=64):
    """Write ``folder``/JPEGImages, Annotations and ImageSets; half of the images are trainval, half of each half train.

    Every tenth image has a disc that is called difficult, and no other disc.
    """
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    held = {}
    for number in range(images):
        rng = np.random.Generator(np.random.PCG64([7, number]))
        difficult = number % 10 == 9
        names = ["disc"] if difficult else list(rng.permutation(CLASSES)[: 1 + number % 2])
        image = Image.fromarray(rng.integers(90, 150, (side, side, 3), dtype=np.uint8))
        boxes = [draw(image, name, rng, half=place) for place, name in enumerate(names)]
        image.save(folder / "JPEGImages" / f"{number:06}.jpg", quality=95)
        objects = "".join(
            f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{box[0] + 1}</xmin>"
            f"<ymin>{box[1] + 1}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for name, box in zip(names, boxes, strict=True)
        )
        (folder / "Annotations" / f"{number:06}.xml").write_text(f"<annotation>{objects}</annotation>")
        held[f"{number:06}"] = {name: 0 if difficult else 1 for name in names}
    halves = {"trainval": range(images // 2), "test": range(images // 2, images)}
    parts = {"train": range(images // 4), "val": range(images // 4, images // 2), **halves}
    for split, rows in parts.items():
        keys = [f"{row:06}" for row in rows]
        for name in CLASSES:
            lines = [f"{key} {held[key].get(name, -1):2}\n" for key in keys]
            (folder / "ImageSets" / "Main" / f"{name}_{split}.txt").write_text("".join(lines))
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(keys))
    return folder


def draw(image, name, rng, *, half):
    """Draw one shape in the left (0) or right (1) half; its corners, counted from 0, the last ones outside."""
    width, height = image.size
    size = int(rng.integers(width // 4, width // 2 - 2))
    left = half * width // 2 + int(rng.integers(0, width // 2 - size))
    top = int(rng.integers(0, height - size))
    right, bottom = left + size, top + size
    pen, colour = ImageDraw.Draw(image), COLOURS[name]
    inside = (left, top, right - 1, bottom - 1)
    if name == "disc":
        pen.ellipse(inside, fill=colour)
    elif name == "square":
        pen.rectangle(inside, fill=colour)
    else:
        pen.polygon([(left, bottom - 1), (right - 1, bottom - 1), ((left + right) // 2, top)], fill=colour)
    return left, top, right, bottom
