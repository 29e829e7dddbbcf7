"""The training methods by name, each in a file of its own."""

from genrep.train.config import TrainConfig
from genrep.train.methods.byol import BYOL
from genrep.train.methods.classifier import Classifier
from genrep.train.methods.inverter import Inverter
from genrep.train.methods.method import Method
from genrep.train.methods.multipos import MultiPositive
from genrep.train.methods.simclr import SimCLR
from genrep.train.methods.supcon import SupCon
from genrep.train.methods.vicreg import VICReg

BY_NAME: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "supcon": SupCon,
    "multipos": MultiPositive,
    "byol": BYOL,
    "vicreg": VICReg,
    "inverter": Inverter,
    "classifier": Classifier,
}


def build_method(config: TrainConfig) -> Method:
    """The method of a config with fresh weights from torch's random state."""
    return BY_NAME[config.method](config)
