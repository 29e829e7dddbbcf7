"""The identity of a generator: its weights as they were published and the configuration it was built with."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def fingerprint(tensors: Mapping[str, Tensor], configuration: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 over ``configuration`` (JSON values) and every tensor with its name, type and shape.

    Take the tensors of the file, not what was computed from them: sums differ in their last bit between processors.
    """
    digest = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
