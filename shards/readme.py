"""The README.md of a dataset folder: for people who have the folder and not this program."""

import re

from genrep.shards.layout import layout_of
from genrep.shards.manifest import Manifest

# of the Hub: without it datasets.load_dataset would take other files of the folder for the data
DATA_FILES = """configs:
- config_name: default
  data_files: shard-*.tar
"""


def readme_bytes(manifest: Manifest) -> bytes:
    """Markdown under a Hub header that points ``datasets.load_dataset`` to the tars."""
    return f"""---
{DATA_FILES}---

# {title(manifest)}

{origin(manifest)}
Licence: {plain(manifest.licence or "not stated; ask whoever made the generator or the images")}.

{how_to_read(manifest)}
`recipe.json` says how the set was made. `manifest.json` lists the sha256 of every archive; it is written last, so a
folder without it is not finished. `genrep-shards verify FOLDER` compares the archives with it,
`--deep` every sample.
""".encode()


def title(manifest: Manifest) -> str:
    layout = layout_of(manifest.recipe)
    height, width, _ = layout.image_shape
    return f"{layout.num_samples:,} samples of {layout.num_images} x {height} x {width} px"


def how_to_read(manifest: Manifest) -> str:
    """Members of a sample, and the lines of Python that read them."""
    layout, totals = layout_of(manifest.recipe), manifest.totals
    colours = "grey" if layout.image_shape[2] == 1 else "RGB"
    images = ", ".join(f"`{member}`" for member in layout.members[: layout.num_images])
    size = f"{totals['shards']:,} tar archives in WebDataset convention, {totals['bytes']:,} bytes"
    return f"""{size}. A sample's key is its index in
nine digits; its members are

- {images}: {colours} images{", the anchor first" if layout.image_numbers.start == 0 else ""};
- `latents.npy`: float32, one row an image, the generator's input that gave it (no columns if there was none);
- `cls`: {label_meaning(manifest)}, -1 without classes;
- `json`: index, class name, kind and parameters of each view.

Nothing of genrep is needed to read them:

```python
import datasets

folder = "path/to/this/folder"
sample = next(iter(datasets.load_dataset(folder, split="train", streaming=True)))
image, latents, label = sample["{layout.members[0]}"], sample["latents.npy"], int(sample["cls"])
```

or, as arrays,

```python
import webdataset

urls = folder + "/{_urls(manifest)}"
for sample in webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"):
    image, latents, label = sample["{layout.members[0]}"], sample["latents.npy"], sample["cls"]
```
"""


def _urls(manifest: Manifest) -> str:
    """All archives as one brace pattern."""
    first, last = (shard.name.removesuffix(".tar") for shard in (manifest.shards[0], manifest.shards[-1]))
    return f"{first}.tar" if first == last else f"shard-{{{first[6:]}..{last[6:]}}}.tar"


def origin(manifest: Manifest) -> str:
    """Where the images come from, in a sentence."""
    recipe = manifest.recipe
    if recipe.get("kind") == "imported":
        return "The images were imported from an existing collection, named in `recipe.json`; they were not generated."
    name = plain(str(recipe.get("generator", {}).get("name", "named in recipe.json")))
    if parent := recipe.get("parent"):
        return (
            f"Views rendered by the generator `{name}` for the anchors of another set, whose `manifest.json` has the\n"
            f"sha256 `{parent['manifest_sha256']}`. To use both: `genrep-train --shards THAT --join THIS`."
        )
    return (
        f"No photographs: every image was rendered by the generator `{name}`, whose faults and biases it carries, and\n"
        "what its views share is what that generator keeps fixed."
    )


def label_meaning(manifest: Manifest) -> str:
    """What the label of a sample is."""
    imported = manifest.recipe.get("kind") == "imported"
    return "the image's class" if imported else "the class that the generator was asked for, which nobody has checked"


def plain(text: str) -> str:
    """One line without Markdown or HTML of its own; the recipe may come from elsewhere."""
    return re.sub(r"[^\w .,;:/@()+-]", "_", text)[:200]
