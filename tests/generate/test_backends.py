import functools
import hashlib
from importlib.metadata import version

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from stub_generators import Stub

from genrep.generate import backends
from genrep.generate.command import main
from genrep.generate.defaults import make_recipe
from genrep.generate.generators import LoadedGenerator, load_generator
from genrep.generate.render import Renderer, render_environment
from genrep.shards.errors import DataError


def rendered(generator, *, count=10, first=0, **options):
    recipe = make_recipe(generator, num_samples=count, micro_batch=4, shard_size=8, **options)
    return np.concatenate([batch.images for batch in Renderer(generator, recipe).batches(first, count - first)])


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("fashion", {}, {"folding": True, "views": ("gauss", "gauss")}),
        ("biggan-deep-128", {"config": "tiny"}, {"folding": True, "truncation": 0.513}),
        ("stub_generators:unconditional", {}, {}),
        ("stub_generators:mapped", {}, {"latent_space": "w", "truncation": 0.5}),
        ("stub_generators:noisy", {}, {"fresh_noise": True}),
    ],
)
def test_onnxruntime_renders_what_torch_renders_to_one_grey_level(name, arguments, options):
    generator = load_generator(name, arguments=arguments)
    by_torch = rendered(generator, **{**options, "folding": False})
    by_onnx = rendered(generator, backend="onnxruntime", **options)
    assert by_onnx.shape == by_torch.shape
    assert np.abs(by_onnx.astype(int) - by_torch).max() <= 1
    assert by_torch.std() > 5  # there is something to compare


class IgnoresLabels(Stub):
    def render(self, latents, labels):
        return super().render(latents, torch.zeros(len(latents), dtype=torch.int64))


def test_onnxruntime_renders_a_generator_that_has_classes_and_does_not_use_them():
    generator = LoadedGenerator(IgnoresLabels(), spec="stub", arguments={})
    difference = rendered(generator, backend="onnxruntime").astype(int) - rendered(generator)
    assert np.abs(difference).max() <= 1


def hashes(folder):
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.tar"))]


def generated(folder, *arguments):
    result = CliRunner().invoke(main, [*arguments, "--quiet", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


def test_two_runs_by_onnxruntime_write_equal_bytes_and_a_part_is_that_of_the_whole(tmp_path):
    arguments = ["--generator", "stub_generators:wide", "--fold", "--backend", "onnxruntime", "--micro-batch", "4"]
    whole, again = (generated(tmp_path / n, *arguments, "--n", "18", "--shard-size", "8") for n in ("whole", "again"))
    assert hashes(whole) == hashes(again)
    assert len(hashes(whole)) == 3
    part = generated(tmp_path / "part", *arguments, "--n", "8", "--shard-size", "8")
    assert hashes(part) == hashes(whole)[:1]


def test_a_generator_that_cannot_be_exported_is_refused_in_one_line_and_no_folder_is_made(tmp_path):
    arguments = ["--generator", "stub_generators:by_numpy", "--backend", "onnxruntime", "--n", "4"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "d")])
    assert result.exit_code == 1
    assert result.output.startswith("Error: generator stub_generators:by_numpy cannot be exported to ONNX (")
    assert result.output.endswith("; take --backend torch\n")
    assert result.output.count("\n") == 1
    assert not (tmp_path / "d").exists()


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(backends, "_installed", lambda package: "none" if package == "onnxscript" else "1")
    with pytest.raises(DataError, match=r"needs onnxscript: pip install 'genrep\[onnx\]'"):
        rendered(load_generator("fashion"), backend="onnxruntime")


def test_onnxruntime_on_a_gpu_is_refused():
    generator = load_generator("fashion")
    recipe = make_recipe(generator, backend="onnxruntime")
    with pytest.raises(DataError, match="renders on the CPU, not on cuda:1; take --device cpu"):
        backends.rendering(generator, recipe, torch.device("cuda:1"))


# ------------------------------------------------------------------------------------------------------- compiled


@pytest.mark.parametrize("folding", [False, True])
def test_a_compiled_network_gets_what_the_plain_one_gets(monkeypatch, folding):
    """Traced, and run by PyTorch: what the compiler makes of it takes a minute; bench/render.py compares it."""
    calls = []

    def traced(render, **options):
        calls.append(options)
        return torch_compile(render, backend="eager", **options)

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    generator = load_generator("fashion")
    plain = rendered(generator, folding=folding)
    assert calls == []
    np.testing.assert_array_equal(rendered(generator, folding=folding, compile=True), plain)
    assert calls == [{"dynamic": False}]


def test_what_cannot_be_compiled_is_refused_in_one_line_and_no_folder_is_made(monkeypatch, tmp_path):
    def without_a_compiler(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nin config.cpp.cxx")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=without_a_compiler))
    result = CliRunner().invoke(main, ["--compile", "--n", "4", "--out", str(tmp_path / "d")])
    assert result.exit_code == 1
    assert result.output == (
        "Error: generator fashion could not be compiled (RuntimeError: No working C++ compiler found); "
        "install what is missing, or leave --compile out\n"
    )
    assert not (tmp_path / "d").exists()


# ---------------------------------------------------------------------------------------------------- environment


def test_the_environment_names_what_runs_the_network(monkeypatch):
    generator = load_generator("fashion")

    def environment(device="cpu", **options):
        return backends.backend_environment(make_recipe(generator, **options), torch.device(device))

    assert environment() == environment(folding=True) == {}
    assert environment(backend="onnxruntime") == {name: version(name) for name in ("onnxruntime", "onnxscript")}
    assert list(environment(compile=True)) == ["compiler"]
    assert list(environment("cuda", compile=True)) == ["triton"]
    recorded = render_environment("cpu", make_recipe(generator, backend="onnxruntime"))
    assert recorded["onnxruntime"] == version("onnxruntime")
