"""Generators: what one must offer, how one is found by name, and the defaults filled in for what it leaves out.

A plug-in is any object with ``latent_dim``, ``image_shape`` and ``render``; it imports nothing of genrep.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrep.generate.latents import PRIORS
from genrep.shards.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GROUP = "genrep.generators"
DEFAULT_STD = 0.2  # the paper's strength in its main setting, BigBiGAN


class LoadedGenerator:
    """A plug-in with the optional parts of the protocol filled in; frozen, in eval mode.

    Attributes:
        spec: What it was loaded by, a registered name or ``module:factory``; a recipe names it so.
        arguments: What a recipe records of the ``--generator-arg`` strings given to its factory: all of them,
            unless it has ``recipe_arguments``.
        name: Its own name, by default its class.
        latent_dim: Size D of a latent.
        image_shape: (C, H, W) of an image, C in {1, 3}.
        num_classes: 0 for an unconditional generator, whose ``render`` gets labels None.
        class_names: One a class; their numbers as text if it gives none.
        class_groups: What else ``--classes`` understands: name -> numbers of one or several classes.
        prior: ``"normal"`` or ``"truncated-normal"`` (cut at two standard deviations).
        default_std: Strength of Gaussian and similar views where none is asked for.
        latent_spaces: ``("z",)``; ``"w"`` too if it has ``map`` and ``render_mapped``, and ``"w+"``, a w for each
            layer, if it has ``num_layers``.
        keeps_variance: Whether Gaussian and uniform views shrink the anchor's latent by as much as they add.
        takes_noise: Whether ``render`` accepts ``noise_seeds``.
        num_bytes: Of its tensors, as loaded.
        left_in_training: Names of its modules that were not in eval mode; `check` looks whether that matters.
        thread_safe: Whether several threads may call ``render`` at once.
        licence: Of its weights, or None.
        default_walks: Path of walks shipped with it, or None.
        loaded_by: What :func:`load_generator` was called with, for another process to do the same.
    """

    def __init__(self, plug_in: Any, *, spec: str, arguments: Mapping[str, str]) -> None:
        self.plug_in = plug_in
        self.spec = spec
        self.arguments = dict(getattr(plug_in, "recipe_arguments", arguments))
        for attribute in ("latent_dim", "image_shape", "render"):
            if not hasattr(plug_in, attribute):
                raise DataError(
                    f"generator {spec}: {type(plug_in).__name__} has no {attribute}; "
                    "a generator needs latent_dim, image_shape (C, H, W) and render(latents, labels)"
                )
        self.name: str = getattr(plug_in, "name", type(plug_in).__name__)
        self.latent_dim = int(plug_in.latent_dim)
        self.image_shape: tuple[int, ...] = tuple(int(side) for side in plug_in.image_shape)
        self.num_classes = int(getattr(plug_in, "num_classes", 0))
        names = getattr(plug_in, "class_names", None) or range(self.num_classes)
        self.class_names: tuple[str, ...] = tuple(str(name) for name in names)
        self.class_groups: Mapping[str, Sequence[int]] = getattr(plug_in, "class_groups", {})
        self.prior: str = getattr(plug_in, "prior", "normal")
        self.default_std = float(getattr(plug_in, "default_std", DEFAULT_STD))
        self.latent_spaces: tuple[str, ...] = ("z",)
        if hasattr(plug_in, "map") and hasattr(plug_in, "render_mapped"):
            self.latent_spaces = ("z", "w", "w+") if hasattr(plug_in, "num_layers") else ("z", "w")
        self.keeps_variance = bool(getattr(plug_in, "keeps_variance", False))
        self.takes_noise = "noise_seeds" in inspect.signature(plug_in.render).parameters
        self.thread_safe = bool(getattr(plug_in, "thread_safe", False))
        self.licence: str | None = getattr(plug_in, "licence", None)
        walks = getattr(plug_in, "default_walks", None)
        self.default_walks = None if walks is None else Path(walks)
        self.loaded_by: dict[str, Any] = {}
        self._mapped_dim: int | None = None
        self._latent_blocks = tuple(int(size) for size in getattr(plug_in, "latent_blocks", (self.latent_dim,)))
        self._check()
        self.left_in_training = tuple(
            name for name, module in self.modules().items() if any(part.training for part in module.modules())
        )
        for module in self.modules().values():
            module.eval().requires_grad_(False)
        self.num_bytes = sum(tensor.nbytes for tensor in self.tensors().values())
        self._fingerprint = plug_in.fingerprint() if hasattr(plug_in, "fingerprint") else self._default_fingerprint()

    def fingerprint(self) -> str:
        """Identity of weights and configuration, as it was when loaded (hexadecimal sha256 by default)."""
        return self._fingerprint

    def dim(self, latent_space: str) -> int:
        """Coordinates of a latent in a space; for w a latent is mapped once, on the CPU."""
        if latent_space == "z":
            return self.latent_dim
        if self._mapped_dim is None:
            import torch

            labels = torch.zeros(1, dtype=torch.int64) if self.num_classes else None
            with torch.inference_mode():
                self._mapped_dim = self.map(torch.zeros(1, self.latent_dim), labels).shape[1]
        return self._mapped_dim * (self.plug_in.num_layers if latent_space == "w+" else 1)

    def blocks(self, latent_space: str) -> tuple[int, ...]:
        """Sizes of the blocks of a latent, one after another: of w+ the layers; a single one if there is no split."""
        if latent_space == "w+":
            return (self.dim("w"),) * self.plug_in.num_layers
        return self._latent_blocks if latent_space == "z" else (self.dim(latent_space),)

    def prior_scale(self, truncation: float) -> float:
        """Factor on the prior at this truncation: 1 where the generator truncates by itself."""
        return 1.0 if hasattr(self.plug_in, "set_truncation") else truncation

    def set_truncation(self, truncation: float) -> None:
        if hasattr(self.plug_in, "set_truncation"):
            self.plug_in.set_truncation(truncation)

    def render(self, latents: "Tensor", labels: "Tensor | None", noise_seeds: "Tensor | None" = None) -> "Tensor":
        """Latents (B, D), labels int64 (B,) or None -> float images (B, C, H, W) in [-1, 1]."""
        return self._call(self.plug_in.render, latents, labels, noise_seeds)

    def map(self, latents: "Tensor", labels: "Tensor | None", *, latent_space: str = "w") -> "Tensor":
        """Latents (B, D) of z -> (B, D') of w, or of w+: the same w for every layer, one after another."""
        mapped = self.plug_in.map(latents, labels)
        return mapped.repeat(1, self.plug_in.num_layers) if latent_space == "w+" else mapped

    def render_mapped(
        self, latents: "Tensor", labels: "Tensor | None", noise_seeds: "Tensor | None" = None
    ) -> "Tensor":
        """As :meth:`render`, from latents (B, D') of w or w+."""
        return self._call(self.plug_in.render_mapped, latents, labels, noise_seeds)

    def to(self, device: "str | torch.device") -> "LoadedGenerator":
        if hasattr(self.plug_in, "to"):
            self.plug_in.to(device)
        else:
            for module in self.modules().values():
                module.to(device)
        return self

    def modules(self) -> "dict[str, torch.nn.Module]":
        """The networks that the plug-in holds, by attribute; itself under no name if it is one."""
        return modules_of(self.plug_in)

    def tensors(self) -> "dict[str, Tensor]":
        """Every tensor and numeric array that the plug-in holds."""
        import torch

        tensors = {
            name: torch.as_tensor(value)
            for name, value in _attributes(self.plug_in)
            if isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
        }
        for prefix, module in self.modules().items():
            for key, tensor in module.state_dict().items():
                if isinstance(tensor, torch.Tensor):  # "extra state" may be anything
                    tensors[f"{prefix}.{key}"] = tensor
        return tensors

    def _call(
        self,
        render: Callable[..., "Tensor"],
        latents: "Tensor",
        labels: "Tensor | None",
        noise_seeds: "Tensor | None",
    ) -> "Tensor":
        if self.takes_noise:
            return render(latents, labels, noise_seeds=noise_seeds)
        return render(latents, labels)

    def _check(self) -> None:
        if self.latent_dim < 1:
            raise DataError(
                f"generator {self.spec}: latent_dim is {self.latent_dim}; it counts coordinates, at least 1"
            )
        if len(self.image_shape) != 3 or self.image_shape[0] not in (1, 3) or min(self.image_shape) < 1:
            raise DataError(f"generator {self.spec}: image_shape is {self.image_shape}; it must be (1 or 3, H, W)")
        if self.prior not in PRIORS:
            raise DataError(f"generator {self.spec}: prior is {self.prior!r}; known: {', '.join(PRIORS)}")
        if sum(self._latent_blocks) != self.latent_dim or min(self._latent_blocks) < 1:
            raise DataError(
                f"generator {self.spec}: latent_blocks is {self._latent_blocks}; sizes that add up to latent_dim "
                f"{self.latent_dim} are expected"
            )
        if len(self.class_names) != self.num_classes:
            raise DataError(
                f"generator {self.spec}: {len(self.class_names)} class_names for num_classes {self.num_classes}; "
                "name every class or none"
            )

    def _default_fingerprint(self) -> str:
        """sha256 over the configuration (protocol attributes, arguments, numbers it holds) and every tensor.

        It sees what hangs on the plug-in itself: one that keeps its weights elsewhere must bring its own.
        """
        from genrep.generate.fingerprint import fingerprint

        numbers = {
            name: value
            for name, value in _attributes(self.plug_in)
            if isinstance(value, int | float) and name != "training"  # no text: it may be a path of this machine
        }
        configuration = {
            "class": type(self.plug_in).__qualname__,
            "latent_dim": self.latent_dim,
            "image_shape": self.image_shape,
            "class_names": self.class_names,
            "prior": self.prior,
            "arguments": self.arguments,
            "numbers": numbers,
        }
        return fingerprint(self.tensors(), configuration)


def modules_of(plug_in: Any) -> "dict[str, torch.nn.Module]":
    from torch import nn

    if isinstance(plug_in, nn.Module):
        return {"": plug_in}
    return {name: value for name, value in _attributes(plug_in) if isinstance(value, nn.Module)}


def _attributes(plug_in: Any) -> list[tuple[str, Any]]:
    return sorted(getattr(plug_in, "__dict__", {}).items())


def known_generators() -> dict[str, EntryPoint]:
    """The registered generators by name, in alphabetical order; nothing is imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def is_registered(spec: str) -> bool:
    return spec in known_generators()


def is_model_of_registered(spec: str) -> bool:
    """Whether it is ``name:MODEL`` of a registered generator that takes a model, such as ``diffusers:PATH-or-ID``."""
    registered = known_generators()
    family, colon, _ = spec.partition(":")
    if spec in registered or not colon or family not in registered:
        return False
    return "model" in inspect.signature(registered[family].load()).parameters


def load_generator(
    spec: str, *, weights: Path | None = None, arguments: Mapping[str, str] | None = None
) -> LoadedGenerator:
    """Build a generator on the CPU.

    Args:
        spec: A registered name; one that takes a model, as ``name:MODEL``, a folder or what else it knows; or
            ``package.module:factory``, which is also looked for in the working directory.
        weights: Handed to the factory.
        arguments: Keyword arguments of the factory, strings.

    Raises:
        DataError: If there is no such generator, its factory refuses what it is given, or what it returns
            is not a generator.
    """
    arguments = arguments or {}
    if weights is not None and not weights.exists():
        raise DataError(f"generator {spec}: there are no weights at {weights}")
    factory = _factory(spec)
    given, name = dict(arguments), spec
    if is_model_of_registered(spec):
        family, _, model = spec.partition(":")
        given["model"] = model
        name = family if Path(model).is_dir() else spec  # a recipe holds no path of this machine
    try:
        inspect.signature(factory).bind(weights=weights, **given)
    except TypeError as error:
        raise DataError(f"generator {spec}: {error}; it takes {_parameters(factory)}") from error
    try:
        plug_in = factory(weights=weights, **given)
    except DataError:
        raise
    except Exception as error:  # a plug-in cannot know DataError, whatever it finds wrong with weights or arguments
        raise DataError(f"generator {spec} could not be built: {type(error).__name__}: {_first_line(error)}") from error
    generator = LoadedGenerator(plug_in, spec=name, arguments=arguments)
    generator.loaded_by = {"spec": spec, "weights": weights, "arguments": dict(arguments)}
    return generator


def load_recorded(
    recorded: str,
    *,
    where: str,
    chosen: str | None = None,
    weights: Path | None = None,
    arguments: Mapping[str, str] | None = None,
) -> LoadedGenerator:
    """Build the generator that a recipe names.

    A recipe may come from anywhere. So it may name a registered generator, but code to import only where the caller
    chose the same; weights and arguments are the caller's, and must give the recipe's fingerprint
    (:func:`genrep.generate.defaults.check_fit`).

    Args:
        recorded: Name in the recipe.
        where: The recipe, for messages.
        chosen: Registered name or ``package.module:factory`` to take in its place.

    Raises:
        DataError: As ``load_generator``, and for a name that is not registered and was not chosen.
    """
    if chosen is None and not is_registered(recorded):
        raise DataError(
            f"{where} names generator {recorded!r:.80}, which is not registered; a recipe cannot say what code to run: "
            "if you trust it, repeat it as --generator"
        )
    return load_generator(chosen or recorded, weights=weights, arguments=arguments)


def _factory(spec: str) -> Callable[..., Any]:
    registered = known_generators()
    module_name, _, factory_name = spec.partition(":")
    if is_model_of_registered(spec):
        return registered[module_name].load()
    if spec not in registered and not (factory_name and all(part.isidentifier() for part in module_name.split("."))):
        raise DataError(
            f"there is no generator {spec!r}; registered: {', '.join(registered)} (genrep-generators list); "
            "or name your own as package.module:factory"
        )
    try:
        if spec in registered:
            return registered[spec].load()
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last: a console script does not look there, and it may shadow nothing
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs a plug-in's code
        raise DataError(
            f"generator {spec} could not be imported: {type(error).__name__}: {_first_line(error)}"
        ) from error
    if not callable(getattr(module, factory_name, None)):
        raise DataError(f"generator {spec}: module {module_name} has no function {factory_name}")
    return getattr(module, factory_name)


def _parameters(factory: Callable[..., Any]) -> str:
    names = [name for name in inspect.signature(factory).parameters if name != "weights"]
    return f"--generator-arg {', '.join(names)}" if names else "no --generator-arg"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def parse_classes(
    text: str, class_names: Sequence[str], class_groups: Mapping[str, Sequence[int]] | None = None
) -> tuple[int, ...] | None:
    """Classes by number, range, name or group, joined by commas: ``"0-4,7,bag"`` -> (0, 1, 2, 3, 4, 7, 8).

    A name counts whatever its case, and so does each of its synonyms where a class is named by several, joined
    by commas. The result is in ascending order, each class once; None stands for all classes.
    """
    numbers: set[int] = set()
    for part in (part.strip() for part in text.split(",")):
        first, dash, last = part.partition("-")
        if class_groups and part in class_groups:
            numbers.update(class_groups[part])
        elif part.isdecimal():
            numbers.add(_in_range(int(part), part, class_names))
        elif dash and first.strip().isdecimal() and last.strip().isdecimal():
            span = range(int(first), int(last) + 1)
            if not span:
                raise DataError(f"--classes: the range {part} is empty; write the smaller number first")
            _in_range(span[-1], part, class_names)
            numbers.update(span)
        else:
            numbers.add(_by_name(part, class_names))
    return None if len(numbers) == len(class_names) else tuple(sorted(numbers))


def _in_range(number: int, part: str, class_names: Sequence[str]) -> int:
    if number >= len(class_names):
        raise DataError(f"--classes: there is no class {part}; the generator has 0-{len(class_names) - 1}")
    return number


def _by_name(name: str, class_names: Sequence[str]) -> int:
    wanted = name.casefold()
    matches = [number for number, full in enumerate(class_names) if full.casefold() == wanted] or [
        number
        for number, full in enumerate(class_names)
        if wanted in (synonym.strip() for synonym in full.casefold().split(","))
    ]
    if len(matches) != 1:
        found = f"names {len(matches)} classes ({', '.join(map(str, matches))})" if matches else "is no class"
        known = ", ".join(class_names[:12]) + (f", ... ({len(class_names)} in all)" if len(class_names) > 12 else "")
        raise DataError(f"--classes: {name!r} {found}; known: {known}")
    return matches[0]
