"""Real labelled images by name: ``fashion-mnist``, folders, torchvision's data sets, WebDataset tars, Hugging Face."""

from pathlib import Path

from genrep.evaluate.data.part import Images, Part, RealData, Rows, Source
from genrep.shards.errors import DataError

__all__ = ["FORMS", "Images", "Part", "RealData", "Rows", "Source", "open_data"]

FORMS = "fashion-mnist, imagefolder:PATH, torchvision:NAME:ROOT, wds:TRAIN,TEST or hf:ID"


def open_data(name: str) -> RealData:
    """Open real data to measure on.

    - ``fashion-mnist``: 54,000 images to fit on, 6,000 held out, 10,000 to test on.
    - ``imagefolder:PATH``: ``train/CLASS/*`` and ``test/CLASS/*``, or ``val/`` where there is no ``test/``.
    - ``torchvision:NAME:ROOT``: a data set of torchvision in its layout, such as ``torchvision:DTD:data``; also
      ``ImageNet`` and ``ImageNet-100``, as an image folder whose classes are WordNet ids.
    - ``wds:TRAIN,TEST``: tar files with an image and a ``.cls`` a sample; braces as in ``train-{000..146}.tar``.
    - ``hf:ID``: a data set of the Hugging Face hub, or a folder that `datasets` loads.

    Where a data set has no held-out (validation) part beside its test part, one training image in ten of each class is
    held out, the same on every machine.

    Raises:
        DataError: If it is not there (the message says where to put it), or not of this layout.
    """
    kind, _, place = name.partition(":")
    if name == "fashion-mnist":
        from genrep.evaluate.data.fashion import open_fashion_mnist

        return open_fashion_mnist()
    if kind == "imagefolder" and place:
        from genrep.evaluate.data.folder import open_folder

        return open_folder(name, Path(place).expanduser())
    if kind == "torchvision" and place:
        from genrep.evaluate.data.vision import open_vision

        return open_vision(name)
    if kind == "wds" and place:
        from genrep.evaluate.data.tars import open_tars

        return open_tars(name, place)
    if kind == "hf" and place:
        from genrep.evaluate.data.hub import open_hub

        return open_hub(name, place)
    raise DataError(f"unknown data {name!r}: use {FORMS}")
