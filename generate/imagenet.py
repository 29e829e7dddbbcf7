"""The 1000 classes of ImageNet: names and WordNet ids."""

from functools import cache

from genrep.shards.imagenet import IMAGENET_100


@cache
def class_names() -> tuple[str, ...]:
    """One name a class, each once, in the order of the labels."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])


@cache
def class_groups() -> dict[str, tuple[int, ...]]:
    """What else a class or several may be called: WordNet ids such as ``n01440764``, and ``imagenet-100``."""
    from pytorch_pretrained_biggan.utils import IMAGENET

    groups: dict[str, tuple[int, ...]] = {f"n{offset:08d}": (number,) for offset, number in IMAGENET.items()}
    groups["imagenet-100"] = tuple(sorted(groups[wordnet_id][0] for wordnet_id in IMAGENET_100))
    return groups
