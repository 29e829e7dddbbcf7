"""Who runs the network: PyTorch as it is, PyTorch compiled, or ONNX Runtime."""

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from genrep.generate.folding import folded
from genrep.generate.generators import LoadedGenerator
from genrep.generate.recipe import Recipe
from genrep.shards.errors import DataError

# latents (B, D), labels (B,) or None, noise seeds (B,) -> images (B, C, H, W)
Rendering = Callable[[Tensor, Tensor | None, Tensor], Tensor]

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def rendering(generator: LoadedGenerator, recipe: Recipe, device: torch.device) -> Rendering:
    """How a recipe renders, on micro-batches of its size; the generator is on the device, its truncation set.

    Raises:
        DataError: If the generator cannot be run so, or something that is needed for it is not installed. A compiled
            network may raise it at its first call.
    """
    render = recipe.render
    if render.folding:
        generator = folded(generator)
    in_w = recipe.generator.latent_space != "z"
    if render.backend == "onnxruntime":
        if device.type != "cpu":
            raise DataError(f"backend onnxruntime renders on the CPU, not on {device}; take --device cpu")
        return _exported(generator, recipe)
    way = generator.render_mapped if in_w else generator.render
    return _compiled(way, generator.spec) if render.compile else way


def backend_environment(recipe: Recipe, device: torch.device) -> dict[str, str]:
    """What pixels depend on beside PyTorch; recorded for every shard."""
    if recipe.render.backend == "onnxruntime":
        return {name: _installed(name) for name in ("onnxruntime", "onnxscript")}
    if recipe.render.compile:
        return {"triton": _installed("triton")} if device.type == "cuda" else {"compiler": _compiler()}
    return {}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


# ------------------------------------------------------------------------------------------------------- compiled


def _compiled(render: Rendering, spec: str) -> Rendering:
    from torch._dynamo.exc import TorchDynamoException

    compiled = torch.compile(render, dynamic=False)

    def call(latents: Tensor, labels: Tensor | None, noise_seeds: Tensor) -> Tensor:
        try:
            return compiled(latents, labels, noise_seeds)
        except TorchDynamoException as error:
            raise DataError(
                f"generator {spec} could not be compiled ({_reason(error)}); install what is missing, or leave "
                "--compile out"
            ) from error

    return call


def _compiler() -> str:
    """First line of what the C++ compiler says of itself."""
    import subprocess

    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        found = subprocess.run([get_cpp_compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    except (InvalidCxxCompiler, OSError):
        return "none"
    return found.partition("\n")[0]


# ----------------------------------------------------------------------------------------------- ONNX Runtime


class _Network(nn.Module):
    """A generator as one module, for the exporter: labels and noise seeds are inputs only where they are used."""

    def __init__(self, generator: LoadedGenerator, *, in_w: bool, has_labels: bool) -> None:
        super().__init__()
        self._render = generator.render_mapped if in_w else generator.render
        self._has_labels = has_labels
        for place, module in enumerate(generator.modules().values()):
            self.add_module(f"part{place}", module)  # else their weights would be no weights to the exporter

    def forward(self, latents: Tensor, *others: Tensor) -> Tensor:
        labels, *noise_seeds = others if self._has_labels else (None, *others)
        return self._render(latents, labels, *noise_seeds)


@torch.no_grad()
def _exported(generator: LoadedGenerator, recipe: Recipe) -> Rendering:
    """Exported for full micro-batches and run with the recipe's threads."""
    missing = [package for package in ONNX_PACKAGES if _installed(package) == "none"]
    if missing:
        raise DataError(f"backend onnxruntime needs {', '.join(missing)}: pip install 'genrep[onnx]'")
    import onnxruntime

    has_labels, takes_noise = bool(recipe.generator.num_classes), generator.takes_noise
    latent_space, size = recipe.generator.latent_space, recipe.render.micro_batch
    network = _Network(generator, in_w=latent_space != "z", has_labels=has_labels).eval()
    inputs: list[Tensor] = [torch.zeros(size, generator.dim(latent_space))]
    inputs += [torch.zeros(size, dtype=torch.int64)] * (has_labels + takes_noise)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = recipe.render.threads, 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # errors
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # an error repeats what matters
            program: Any = torch.onnx.export(network, tuple(inputs), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(
            program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the plug-in's code runs in the exporter, and what it uses may have no counterpart
        raise DataError(
            f"generator {generator.spec} cannot be exported to ONNX ({_reason(error)}); take --backend torch"
        ) from error
    names = [wanted.name for wanted in session.get_inputs()]

    def call(latents: Tensor, labels: Tensor | None, noise_seeds: Tensor) -> Tensor:
        given = [latents, *([labels] if has_labels else []), *([noise_seeds] if takes_noise else [])]
        feed = {name: value.numpy() for name, value in zip(names, given, strict=True) if value is not None}
        return torch.from_numpy(session.run(None, feed)[0])

    return call


def _reason(error: BaseException) -> str:
    """First line of the error at the bottom of it."""
    while inner := error.__cause__ or getattr(error, "inner_exception", None):
        error = inner
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:200]
