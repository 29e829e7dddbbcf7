"""Cheap directions that no pixel edit asks for: SeFa's closed form, principal components, random ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genrep.generate import philox
from genrep.generate.generators import LoadedGenerator
from genrep.generate.walk_training import Anchors, SteeredImages
from genrep.generate.walks import Walks
from genrep.shards.errors import DataError

UNIT = "latent"  # the full strength of these directions is their length
_RANDOM_STREAM = 1 << 17  # apart from the streams of samples
_RENDERED = 64  # samples by whose images directions are ordered


def random_walks(
    generator: LoadedGenerator, *, count: int, latent_space: str = "z", length: float = 1.0, seed: int = 0
) -> Walks:
    """``count`` orthogonal directions of the given length, uniform on the sphere."""
    dim = generator.dim(latent_space)
    _check_count(count, dim)
    normals = philox.draw(philox.normal, seed, _RANDOM_STREAM, np.arange(count), view=0, count=dim)
    return _walks(generator, "random", np.linalg.qr(normals.T)[0].T, latent_space=latent_space, length=length)


def sefa_walks(
    generator: LoadedGenerator,
    *,
    count: int,
    latent_space: str = "z",
    length: float = 1.0,
    layers: tuple[str, ...] = (),
    device: str = "cpu",
) -> Walks:
    """The directions that the weights acting on the latent stretch most, ordered by what they do to the images.

    The eigenvectors of ``A^T A`` with the largest eigenvalues, A the weights of all ``layers`` on top of each
    other; by default of every layer that sees the latent itself. Ordered by the mean squared pixel change at this
    length, the largest first.

    Source: Shen and Zhou 2021, closed-form factorization (arXiv:2007.06600).
    """
    images = SteeredImages(generator, latent_space=latent_space, truncation=1.0, device=device)
    weights = _latent_weights(images, layers)
    stacked = torch.cat([weight.double().cpu() for weight in weights.values()])
    _check_count(count, stacked.shape[1])
    directions = torch.linalg.eigh(stacked.T @ stacked).eigenvectors.flip(dims=[1]).T[:count].numpy()
    order = np.argsort(-_pixel_change(images, length * directions), kind="stable")
    return _walks(generator, "sefa", directions[order], latent_space=latent_space, length=length)


def pca_walks(
    generator: LoadedGenerator,
    *,
    count: int,
    latent_space: str = "z",
    length: float = 1.0,
    layer: str | None = None,
    num_samples: int = 2048,
    seed: int = 0,
    device: str = "cpu",
) -> Walks:
    """Principal components in descending order of variance, orthogonal.

    In w the components of the mapped latents. In z, which has no preferred directions, those of a layer's output as
    far as it is linear in the latent, by default of the first layer that sees it.

    Source: Harkonen et al. 2020, GANSpace (arXiv:2004.02546). They take the components of the output and regress
    the latents on them; regressed first, what the class does to the layer does not count, and they are orthogonal.
    """
    images = SteeredImages(generator, latent_space=latent_space, truncation=1.0, device=device)
    dim = generator.dim(latent_space)
    _check_count(count, dim)
    if num_samples < 2 * dim:
        raise DataError(f"{num_samples} samples are too few for {dim} coordinates; take at least {2 * dim}")
    if latent_space == "w" and layer is None:
        centred = _centred(torch.cat([anchors.latents.cpu() for anchors in _batches(images, seed, num_samples)]))
        directions = torch.linalg.svd(centred, full_matrices=False).Vh
    else:
        layer = layer or next(iter(_latent_weights(images, ())))
        latents, outputs = _layer_outputs(images, layer, seed, num_samples)
        predicted = torch.linalg.lstsq(_centred(latents), _centred(outputs)).solution  # (D, F)
        directions = torch.linalg.svd(predicted, full_matrices=False).U.T
    if len(directions) < count:
        raise DataError(f"layer {layer} has {len(directions)} components; ask for fewer with --count")
    return _walks(generator, "pca", directions[:count].numpy(), latent_space=latent_space, length=length)


def _walks(
    generator: LoadedGenerator, kind: str, directions: NDArray[np.float64], *, latent_space: str, length: float
) -> Walks:
    names = tuple(f"{kind}_{number}" for number in range(1, len(directions) + 1))
    return Walks(
        names=names,
        directions=(length * directions).astype(np.float32),
        latent_space=latent_space,
        generator=generator.fingerprint(),
        full=dict.fromkeys(names, length),
        units=dict.fromkeys(names, UNIT),
    )


def _check_count(count: int, dim: int) -> None:
    if count > dim:
        raise DataError(f"{count} directions cannot be orthogonal in {dim} coordinates; ask for fewer with --count")


def _centred(rows: Tensor) -> Tensor:
    rows = rows.double()
    return rows - rows.mean(dim=0)


def _modules(generator: LoadedGenerator) -> dict[str, nn.Module]:
    """Every module inside the plug-in by its dotted name."""
    plug_in = generator.plug_in
    roots = {"": plug_in} if isinstance(plug_in, nn.Module) else dict(vars(plug_in))
    return {
        ".".join(part for part in (root, name) if part): module
        for root, value in roots.items()
        if isinstance(value, nn.Module)
        for name, module in value.named_modules()
    }


@contextmanager
def _watched(modules: dict[str, nn.Module], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Calls ``see(name, input, output)`` for each module that runs on a tensor and makes one."""

    def watch(name: str) -> Callable[[nn.Module, tuple, object], None]:
        def hook(module: nn.Module, arguments: tuple, output: object) -> None:
            if arguments and isinstance(arguments[0], Tensor) and isinstance(output, Tensor):
                see(name, arguments[0], output)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _latent_weights(images: SteeredImages, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """What each layer's weights do to the latent, (outputs, D), in order of use: the weights times d input / d latent.

    Of the layers named, or of all whose input is affine in the latent: the latent itself, scaled, in chunks or
    beside a class embedding.
    """
    first = images.draw(0, range(1))
    drawn = images.draw(0, range(3)).latents
    # the fourth closes a parallelogram, which an affine function keeps
    probes = torch.cat([drawn, drawn[:1] + drawn[1:2] - drawn[2:]]).requires_grad_()
    found: dict[str, Tensor] = {}

    def see(name: str, given: Tensor, _output: Tensor) -> None:
        weight = getattr(modules[name], "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2 or name in found:
            return
        if given.shape != (len(probes), weight.shape[1]) or not given.requires_grad:
            return
        bend = given[0] + given[1] - given[2] - given[3]
        if bend.abs().max() < 1e-4 * given.abs().max():
            rows = [torch.autograd.grad(value, probes, retain_graph=True)[0][0] for value in given[0]]
            found[name] = weight.detach() @ torch.stack(rows)

    modules = _modules(images.generator)
    labels = None if first.labels is None else first.labels.expand(len(probes))
    with torch.enable_grad(), _watched(modules, see):
        images.render(Anchors(probes, labels, first.noise_seeds.expand(len(probes))))
    missing = [name for name in layers if name not in found]
    if missing or not found:
        which = missing[0] if missing else "with a weight matrix"
        raise DataError(
            f"generator {images.generator.spec} has no layer {which} that sees the latent itself; "
            f"those that do: {', '.join(found) or 'none'}"
        )
    return {name: weight for name, weight in found.items() if not layers or name in layers}


def _batches(images: SteeredImages, seed: int, num_samples: int) -> Iterator[Anchors]:
    for first in range(0, num_samples, 64):
        yield images.draw(seed, range(first, min(first + 64, num_samples)))


@torch.no_grad()
def _layer_outputs(images: SteeredImages, layer: str, seed: int, num_samples: int) -> tuple[Tensor, Tensor]:
    """Latents (N, D) and what the layer makes of them (N, ...), flattened; the first time it runs in a render."""
    modules = _modules(images.generator)
    if layer not in modules:
        raise DataError(
            f"generator {images.generator.spec} has no layer {layer!r}; it has {', '.join(filter(None, modules))}"
        )
    latents, outputs = [], []
    seen: list[Tensor] = []

    def see(_name: str, _given: Tensor, output: Tensor) -> None:
        seen.append(output)

    for anchors in _batches(images, seed, num_samples):
        seen.clear()
        with _watched({layer: modules[layer]}, see):
            images.render(anchors)
        if not seen or len(seen[0]) != len(anchors.latents):
            raise DataError(
                f"layer {layer} of {images.generator.spec} gives no output of one row a latent; name another"
            )
        latents.append(anchors.latents.cpu())
        outputs.append(seen[0].flatten(1).cpu())
    return torch.cat(latents), torch.cat(outputs)


@torch.no_grad()
def _pixel_change(images: SteeredImages, moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean squared change of a pixel by each move (W, D) and its opposite."""
    anchors = images.draw(0, range(_RENDERED))
    still = images.render(anchors)
    changes = []
    for move in torch.from_numpy(moves.astype(np.float32)).to(images.device):
        moved = torch.stack([images.render(anchors, sign * move) for sign in (-1, 1)])
        changes.append((moved - still).square().mean().item())
    return np.array(changes)
