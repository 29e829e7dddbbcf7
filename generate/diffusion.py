"""Diffusion models, through the package diffusers: the latent is the noise that their sampling begins with.

A pipeline runs as it is, but some of torch's functions are answered differently while it does: its first random
tensor is the latents; a second one is refused, because an image must follow from its latent; and an image on its way
to numpy stays a tensor, so that a gradient reaches the latents.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from genrep.generate import imagenet
from genrep.generate.fingerprint import fingerprint
from genrep.generate.untrained import normal_tensors
from genrep.shards.errors import DataError

ABOUT = {
    "diffusers": {
        "name": "diffusers:PATH-or-ID",
        "needs": "pip install 'genrep[diffusers]'; a folder, or a download from the Hub",
        "licence": "of the model, on its page",
        "latent": "the initial noise, normal; classes or prompts of the model",
        "resolution": "of the model",
        "source": "any image pipeline of diffusers",
    }
}

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DRAWS = {
    *(torch.randn, torch.randn_like, torch.rand, torch.rand_like, torch.randint, torch.normal, torch.bernoulli),
    *(Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.random_),
}


class _Sampling(TorchFunctionMode):
    """While it is entered, the first random tensor (B, C, h, w) is ``latents``, or zeros if there are none yet."""

    def __init__(self, latents: Tensor | None, *, scheduler: str) -> None:
        super().__init__()
        self.latents = latents
        self.scheduler = scheduler
        self.shape: tuple[int, ...] = ()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.numpy and args[0].ndim == 4:
            return args[0]
        if function not in _DRAWS:
            return function(*args, **(kwargs or {}))
        if self.shape:
            raise DataError(
                f"generator diffusers: its scheduler {self.scheduler} draws noise while it samples, so that an image "
                "does not follow from its latent; --generator-arg scheduler=ddim takes a deterministic one"
            )
        shape = args[0] if args else (kwargs or {}).get("size")
        if function is not torch.randn or not isinstance(shape, tuple | list) or len(shape) != 4:
            raise DataError("generator diffusers: the pipeline does not begin with noise of shape (B, C, h, w)")
        self.shape = tuple(shape)
        return torch.zeros(self.shape) if self.latents is None else self.latents.view(self.shape)


class _EnoughError(Exception):
    """One step has been taken."""


class Diffusion:
    """Images in [-1, 1] from the initial noise of a pipeline, flattened; its prompts or classes are the labels."""

    name = "diffusers"
    prior = "normal"
    keeps_variance = True  # a network that was trained on noise of variance 1 knows no other
    default_std = 0.2

    def __init__(
        self,
        pipeline: Any,
        *,
        files: dict[str, str],
        steps: int,
        guidance: float | None,
        prompts: Sequence[str],
    ) -> None:
        """``files``: name -> sha256 of what decides the images beside the tensors."""
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        # a safety checker blackens images, a watermark changes them
        for part in ("safety_checker", "watermark"):
            if getattr(pipeline, part, None) is not None:
                setattr(pipeline, part, None)
        self.networks = nn.ModuleDict(
            {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
        )
        self.networks.eval().requires_grad_(False)
        self._call = inspect.unwrap(type(pipeline).__call__)  # without its no_grad
        self._parameters = dict(inspect.signature(self._call).parameters)
        self.class_names = self._classes(prompts)
        self.num_classes = len(self.class_names)
        if self.num_classes == 1000 and not prompts:
            self.class_groups = imagenet.class_groups()
        self._settings: dict[str, Any] = {"num_inference_steps": steps}
        self.recipe_arguments = {"steps": str(steps), "scheduler": type(pipeline.scheduler).__name__}
        scale = self._guidance(guidance)
        if scale is not None:
            self._settings["guidance_scale"] = scale
            self.recipe_arguments["guidance"] = str(scale)
        self._prompts = tuple(prompts)
        channels, height, width = self._noise_shape()
        self.latent_dim = channels * height * width
        self.image_shape = self._image_shape(channels, height, width)
        configuration = {"files": files, "arguments": self.recipe_arguments, "prompts": self._prompts}
        self._fingerprint = fingerprint(self.networks.state_dict(), configuration)

    def fingerprint(self) -> str:
        return self._fingerprint

    def to(self, device: str | torch.device) -> "Diffusion":
        self.networks.to(device)
        return self

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Latents (B, C * h * w), labels int64 (B,) or None -> float images (B, 3, H, W) in [-1, 1]."""
        if self.num_classes and labels is None:
            raise ValueError("this pipeline is conditional: it needs labels")
        chosen = labels.tolist() if labels is not None and self.num_classes else [0] * len(latents)
        with _Sampling(latents.clone(), scheduler=self.recipe_arguments["scheduler"]):
            images = torch.as_tensor(self._sample(chosen).images)
        return images.to(latents.device).permute(0, 3, 1, 2) * 2 - 1

    def _sample(self, labels: list[int]) -> Any:
        """The pipeline's output for these labels; its images are (B, H, W, C) in [0, 1]."""
        given: dict[str, Any] = {"output_type": "np", **self._settings}
        if "batch_size" in self._parameters:
            given["batch_size"] = len(labels)
        if self._prompts:
            given["prompt"] = [self._prompts[label] for label in labels]
        elif self.num_classes:
            given["class_labels"] = labels
        return self._call(self.pipeline, **given)

    def _classes(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """Names of the labels: the prompts, the classes of the pipeline, or none."""
        kind, parameters = type(self.pipeline).__name__, self._parameters
        foreign = [name for name in ("image", "mask_image", "control_image", "num_frames") if name in parameters]
        if foreign or not {"prompt", "class_labels", "batch_size"} & set(parameters):
            why = f"it takes {foreign[0]}" if foreign else "it takes no prompt, class_labels or batch_size"
            raise DataError(f"generator diffusers: {kind} does not make images from noise alone ({why})")
        if "prompt" in parameters and not prompts:
            raise DataError(
                f"generator diffusers: {kind} is steered by text; name a file with one prompt a line by "
                "--generator-arg prompts=FILE"
            )
        if prompts and "prompt" not in parameters:
            raise DataError(f"generator diffusers: {kind} takes no prompts; leave --generator-arg prompts out")
        if prompts:
            return tuple(prompts)
        count = self._num_classes() if "class_labels" in parameters else 0
        return imagenet.class_names() if count == 1000 else tuple(map(str, range(count)))

    def _num_classes(self) -> int:
        for network in self.networks.values():
            for field in ("num_embeds_ada_norm", "num_class_embeds"):
                count = getattr(getattr(network, "config", None), field, None)
                if count:
                    return int(count)
        return 0

    def _guidance(self, guidance: float | None) -> float | None:
        """The given scale, or the pipeline's default, which a later version may change: so it is recorded."""
        if "guidance_scale" in self._parameters:
            return float(self._parameters["guidance_scale"].default) if guidance is None else guidance
        if guidance is not None:
            kind = type(self.pipeline).__name__
            raise DataError(f"generator diffusers: {kind} takes no guidance; leave --generator-arg guidance out")
        return None

    def _noise_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the initial noise, from one step of one sample; refuses a scheduler that draws more noise."""
        with (
            torch.inference_mode(),
            _Sampling(None, scheduler=type(self.pipeline.scheduler).__name__) as sampling,
            contextlib.suppress(_EnoughError),
            _one_step(self.pipeline.scheduler),
        ):
            self._sample([0])
        if not sampling.shape:
            raise DataError("generator diffusers: the pipeline draws no noise to begin with")
        _, channels, height, width = sampling.shape
        return channels, height, width

    def _image_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        vae = getattr(self.pipeline, "vae", None) or getattr(self.pipeline, "vqvae", None)
        if vae is None:
            return channels, height, width
        factor = getattr(self.pipeline, "vae_scale_factor", None) or 2 ** (len(vae.config.block_out_channels) - 1)
        return int(vae.config.get("out_channels", 3)), factor * height, factor * width


@contextlib.contextmanager
def _one_step(scheduler: Any) -> Iterator[None]:
    """Ends sampling by :class:`_EnoughError` after its first step."""
    step = scheduler.step

    @functools.wraps(step)  # pipelines look at its signature
    def last_step(*args: Any, **kwargs: Any) -> None:
        step(*args, **kwargs)
        raise _EnoughError

    scheduler.step = last_step
    try:
        yield
    finally:
        del scheduler.step


# ------------------------------------------------------------------------------------------------- factory


def diffusion(
    weights: Path | None = None,
    *,
    model: str = "",
    revision: str = "main",
    steps: str = "50",
    guidance: str = "",
    scheduler: str = "own",
    prompts: str = "",
    config: str = "published",
) -> Diffusion:
    """A pipeline of diffusers: unconditional, class-conditional or conditional on text.

    Args:
        weights: Its folder, with ``model_index.json`` and weights as safetensors.
        model: Instead: its folder or its id on the Hub; what follows the colon of ``diffusers:PATH-or-ID``.
        revision: Of the model on the Hub.
        steps: Of sampling.
        guidance: Scale of classifier-free guidance; by default the pipeline's.
        scheduler: ``own``, which must draw no noise of its own, or ``ddim`` (eta 0).
        prompts: File with one prompt a line, which are the classes of a pipeline that is steered by text.
        config: ``published``, or ``tiny`` for a small unconditional network with random weights.
    """
    for name, value, known in (("scheduler", scheduler, ("own", "ddim")), ("config", config, ("published", "tiny"))):
        if value not in known:
            raise DataError(f"generator diffusers: {name}={value} is unknown; known: {', '.join(known)}")
    if not steps.isdecimal() or not 1 <= int(steps) <= 10_000:
        raise DataError(f"generator diffusers: steps={steps} must be a number from 1 to 10000")
    if (weights is not None) + bool(model) + (config == "tiny") != 1:
        raise DataError(
            "generator diffusers: name one pipeline, a folder or an id of the Hub, as --generator diffusers:PATH-or-ID "
            "(or try it without by --generator-arg config=tiny)"
        )
    lines = _read_prompts(Path(prompts)) if prompts else ()
    if config == "tiny":
        pipeline, files = _tiny(), {}
    else:
        folder = weights or _folder(model, revision)
        pipeline, files = _load(folder), _hashes(folder)
    if scheduler == "ddim":
        _take_ddim(pipeline)
    return Diffusion(pipeline, files=files, steps=int(steps), guidance=_parse_guidance(guidance), prompts=lines)


def _parse_guidance(text: str) -> float | None:
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1000:
        raise DataError(f"generator diffusers: guidance={text} must be a number from 0 to 1000")
    return value if text else None


def _read_prompts(path: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no prompts could be read from it ({error}); one prompt a line is expected") from error
    prompts = [line for line in lines if line]
    if not prompts:
        raise DataError(f"{path}: holds no prompts; one prompt a line is expected")
    twice = [prompt for place, prompt in enumerate(prompts) if prompt in prompts[:place]]
    if twice:
        raise DataError(f"{path}: {twice[0]!r:.80} stands there twice; a prompt is a class, each once")
    return tuple(prompts)


def _take_ddim(pipeline: Any) -> None:
    from diffusers import DDIMScheduler

    config = pipeline.scheduler.config
    if "beta_schedule" not in config:
        raise DataError(
            f"generator diffusers: scheduler=ddim does not fit a model that was trained for "
            f"{type(pipeline.scheduler).__name__}; leave it out"
        )
    pipeline.scheduler = DDIMScheduler.from_config(config)


# --------------------------------------------------------------------------------------- folders and the Hub


def _diffusers() -> ModuleType:
    try:
        import diffusers
    except ImportError as error:
        raise DataError(
            f"generator diffusers needs a package that is not here ({error}): pip install 'genrep[diffusers]'"
        ) from error
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    if diffusers.utils.is_transformers_available():
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return diffusers


def _folder(model: str, revision: str) -> Path:
    """The folder of a model; one on the Hub is downloaded into its cache, safetensors and texts only."""
    if Path(model).is_dir():
        return Path(model)
    if not _ID.fullmatch(model):
        raise DataError(
            f"generator diffusers: {model!r} is no folder here and no id of the Hub (owner/name); name one of the two"
        )
    try:
        return Path(_diffusers().DiffusionPipeline.download(model, revision=revision, use_safetensors=True))
    except Exception as error:  # of the network, the Hub and the library: whatever it is, there is no model
        raise DataError(
            f"generator diffusers: {model} (revision {revision}) is not in the cache and could not be downloaded "
            f"({type(error).__name__}); check its name, or download its folder and name that"
        ) from error


def _load(folder: Path) -> Any:
    library = _diffusers()
    _check_index(folder, library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # advice to whoever wrote the folder
        return library.DiffusionPipeline.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            low_cpu_mem_usage=False,
            local_files_only=True,
        )


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: no pipeline of diffusers: its model_index.json could not be read ({error})"
        ) from error
    if not isinstance(index, dict):
        raise DataError(f"{folder}: no pipeline of diffusers: model_index.json holds no object")
    return index


def _parts(index: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Component -> (library, class), those that are not there left out."""
    pairs = {name: value for name, value in index.items() if isinstance(value, list) and not name.startswith("_")}
    return {name: (str(pair[0]), str(pair[1])) for name, pair in pairs.items() if len(pair) == 2 and pair[0]}


def _check_index(folder: Path, library: ModuleType) -> None:
    """Refuses a model that brings code, or names code that is no part of diffusers or transformers."""
    index = _read_index(folder)
    kind = index.get("_class_name")
    if not isinstance(kind, str) or not hasattr(library, kind):
        raise DataError(f"{folder}: its pipeline {kind!s:.80} is none of diffusers {library.__version__}")
    for name, (home, part) in _parts(index).items():
        pipelines = getattr(library.pipelines, home, None)
        known = home in ("diffusers", "transformers") or (
            isinstance(pipelines, ModuleType) and pipelines.__name__ == f"diffusers.pipelines.{home}"
        )
        automatic = re.match(r"Auto[A-Z]" if home == "transformers" else "AutoModel", part)  # may load code by name
        if not known or automatic:
            raise DataError(
                f"{folder}: component {name} is {home:.40}.{part:.40}, no part of a model in diffusers or "
                "transformers; code that a model names is not run"
            )
    brought = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.py"))
    if brought:
        raise DataError(f"{folder}: the model brings code of its own ({brought[0]}), which is not run")


def _hashes(folder: Path) -> dict[str, str]:
    """Name -> sha256 of the index and of each configuration and vocabulary of its components."""
    names = [folder / "model_index.json"]
    for part in _parts(_read_index(folder)):
        names += [
            file
            for file in (folder / part).glob("*")
            if file.suffix in (".json", ".txt", ".model") and not file.name.endswith(".index.json")
        ]
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(names)
    }


# ------------------------------------------------------------------------------------- tiny configuration


def _tiny() -> Any:
    """16 px, a network of two resolutions with attention, random weights."""
    library = _diffusers()
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn only to be replaced
        network = library.UNet2DModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=8,
        )
    state = normal_tensors({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, seed=0)
    for name, tensor in state.items():
        if tensor.ndim > 1:
            tensor.div_(math.sqrt(tensor[0].numel()))
        else:
            tensor.mul_(0.1).add_(1 if name.endswith("weight") else 0)  # of a normalisation, or a bias
    state["conv_out.weight"].mul_(0.01)  # more, and fifty steps blow a rounding error up to another image
    network.load_state_dict(state)
    return library.DDIMPipeline(network, library.DDIMScheduler())
