import argparse
import math
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genrep.generate.generators import load_generator
from genrep.generate.latents import anchor_latents
from genrep.generate.stylegan2 import (
    Network,
    _doubled,
    _random_tensors,
    _StyledConv,
    _Tensors,
    seeded_noise,
    stylegan2,
)
from genrep.shards.errors import DataError

DIM, CHANNELS, SIDE = 8, 6, 16


def example(**options):
    """Tensors by NVIDIA's PyTorch names; small, with every part at work."""
    return _random_tensors(**{"num_classes": 0, "side": SIDE, "channels": CHANNELS, "dim": DIM, **options})


def resolutions(side):
    return [1 << power for power in range(2, side.bit_length())]


# ------------------------------------------------------------------------- the three layouts, written by hand


def as_port(tensors, side=SIDE):
    """The state dict of rosinality's Generator: names, leading ones, blur kernels with their gain."""
    state = {}
    layers = len({name for name in tensors if name.startswith("mapping.fc")}) // 2
    for layer in range(layers):
        for part in ("weight", "bias"):
            state[f"style.{layer + 1}.{part}"] = tensors[f"mapping.fc{layer}.{part}"]
    state["input.input"] = tensors["synthesis.b4.const"][None]
    kernel = torch.tensor([1.0, 3, 3, 1]).outer(torch.tensor([1.0, 3, 3, 1])) / 16
    places = [("synthesis.b4.conv1", "conv1")]
    for index, resolution in enumerate(resolutions(side)[1:]):
        places.append((f"synthesis.b{resolution}.conv0", f"convs.{2 * index}"))
        places.append((f"synthesis.b{resolution}.conv1", f"convs.{2 * index + 1}"))
    for number, (ours, theirs) in enumerate(places):
        state[f"{theirs}.conv.weight"] = tensors[f"{ours}.weight"][None]
        state[f"{theirs}.conv.modulation.weight"] = tensors[f"{ours}.affine.weight"]
        state[f"{theirs}.conv.modulation.bias"] = tensors[f"{ours}.affine.bias"]
        state[f"{theirs}.noise.weight"] = tensors[f"{ours}.noise_strength"].reshape(1)
        state[f"{theirs}.activate.bias"] = tensors[f"{ours}.bias"]
        if ours.endswith("conv0"):
            state[f"{theirs}.conv.blur.kernel"] = kernel
        state[f"noises.noise_{number}"] = tensors[f"{ours}.noise_const"][None, None]
    for index, resolution in enumerate(resolutions(side)):
        ours, theirs = f"synthesis.b{resolution}.torgb", "to_rgb1" if index == 0 else f"to_rgbs.{index - 1}"
        state[f"{theirs}.conv.weight"] = tensors[f"{ours}.weight"][None]
        state[f"{theirs}.conv.modulation.weight"] = tensors[f"{ours}.affine.weight"]
        state[f"{theirs}.conv.modulation.bias"] = tensors[f"{ours}.affine.bias"]
        state[f"{theirs}.bias"] = tensors[f"{ours}.bias"].reshape(1, 3, 1, 1)
        if index:
            state[f"{theirs}.upsample.kernel"] = kernel
    return state


def save_port(path, tensors, **more):
    content = {"g_ema": as_port(tensors, **more), "latent_avg": tensors["mapping.w_avg"], "args": argparse.Namespace()}
    torch.save(content, path)
    return path


class Pickled:
    """An object whose pickle names a class or function that need not exist here."""

    def __init__(self, module, name, *arguments, state=None):
        self.reduced = (make_global(module, name), arguments, state)

    def __reduce__(self):
        return self.reduced


def make_global(module, name):
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    holder = sys.modules[module]
    if not hasattr(holder, name):
        made = types.new_class(name)
        made.__module__, made.__qualname__ = module, name
        setattr(holder, name, made)
    return getattr(holder, name)


@pytest.fixture
def outside_modules():
    """Forget the modules that :func:`make_global` invented."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("torch_utils", "dnnlib"):
            del sys.modules[name]


def persistent(class_name, source, *, parameters=None, buffers=None, modules=None, **attributes):
    state = {"_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": modules or {}, **attributes}
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}
    return Pickled("torch_utils.persistence", "_reconstruct_persistent_obj", meta)


def save_ada(path, tensors, *, source="", **arguments):
    """NVIDIA's PyTorch pickle: modules inside modules, each with the source code of its class."""

    def module(prefix):
        own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        children = {name.split(".")[0] for name in own if "." in name}
        buffers = {
            name: own[name] for name in own if name in ("noise_const", "w_avg", "resample_filter") and "." not in name
        }
        parameters = {
            name: torch.nn.Parameter(tensor) for name, tensor in own.items() if "." not in name and name not in buffers
        }
        return persistent(
            prefix or "Generator",
            source,
            parameters=parameters,
            buffers=buffers,
            modules={name: module(f"{prefix}{name}.") for name in sorted(children)},
            **({"_init_kwargs": arguments} if not prefix else {}),
        )

    path.write_bytes(pickle.dumps({"G": None, "D": None, "G_ema": module(""), "augment_pipe": None}))
    return path


def save_tensorflow(path, tensors, *, source="", **static):
    """NVIDIA's TensorFlow pickle: (G, D, Gs), variables as arrays in TensorFlow's orders."""
    synthesis, mapping, own = [], [], []
    for name, tensor in tensors.items():
        array = tensor.numpy()
        parts = name.split(".")
        if name == "mapping.w_avg":
            own.append(("dlatent_avg", array))
        elif parts[0] == "mapping":
            place = parts[1].replace("fc", "Dense").replace("embed", "LabelEmbed")
            mapping.append((f"{place}/{parts[2]}", array.T))
        elif parts[-1] == "const":
            synthesis.append(("4x4/Const/const", array[None]))
        else:
            resolution, layer, part = int(parts[1][1:]), parts[2], ".".join(parts[3:])
            if part == "noise_const":
                number = 0 if resolution == 4 else 2 * int(math.log2(resolution)) - (5 if layer == "conv0" else 4)
                synthesis.append((f"noise{number}", array[None, None]))
                continue
            scope = {"conv0": "Conv0_up", "conv1": "Conv1" if resolution > 4 else "Conv", "torgb": "ToRGB"}[layer]
            if part == "weight":
                array = array[:, :, ::-1, ::-1] if layer == "conv0" else array
                array = array.transpose(2, 3, 1, 0)
            elif part == "affine.weight":
                part, array = "mod_weight", array.T
            elif part == "affine.bias":
                part, array = "mod_bias", array - 1
            elif part == "noise_strength":
                array = np.float32(array)  # a scalar, as a session returns it
            synthesis.append((f"{resolution}x{resolution}/{scope}/{part}", array))

    def network(variables, components=None, **static):
        state = {
            "version": 4,
            "static_kwargs": static,
            "build_module_src": source,
            "variables": variables,
            "components": components or {},
        }
        return Pickled("dnnlib.tflib.network", "Network", state=state)

    parts = {"synthesis": network(synthesis), "mapping": network(mapping)}
    averaged = network([*own, ("lod", np.float32(0))], parts, **static)
    path.write_bytes(pickle.dumps((network([]), network([]), averaged), protocol=4))
    return path


SAVERS = {"port.pt": save_port, "ada.pkl": save_ada, "tensorflow.pkl": save_tensorflow}


@pytest.mark.usefixtures("outside_modules")
@pytest.mark.parametrize("layout", SAVERS)
def test_every_layout_gives_the_same_generator(tmp_path, layout):
    tensors = example()
    expected = Network(tensors, source="")
    generator = stylegan2(SAVERS[layout](tmp_path / layout, tensors))
    latents = torch.randn(3, DIM, generator=torch.Generator().manual_seed(0))

    w = generator.map(latents, None)

    assert torch.allclose(w, expected.mapping(latents, None))
    images = expected(w, expected.noises())
    assert torch.allclose(generator.network(w, generator.network.noises()), images, atol=1e-5)
    assert torch.equal(generator.render(latents, None), generator.render_mapped(w, None))
    assert images.std() > 0.1


@pytest.mark.usefixtures("outside_modules")
@pytest.mark.parametrize("saver", [save_ada, save_tensorflow])
def test_a_file_with_labels_gives_a_conditional_generator(tmp_path, saver):
    tensors = example(num_classes=5)
    generator = stylegan2(saver(tmp_path / "w.pkl", tensors))
    assert generator.num_classes == 5
    latents = torch.zeros(2, DIM)
    one, other = generator.render(latents, torch.tensor([0, 4]))
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="needs labels"):
        generator.render(latents, None)


@pytest.mark.usefixtures("outside_modules")
@pytest.mark.parametrize("saver", [save_ada, save_tensorflow])
def test_source_code_in_a_pickle_is_passed_over(tmp_path, saver):
    created = tmp_path / "created"
    stylegan2(saver(tmp_path / "w.pkl", example(), source=f"open({str(created)!r}, 'w')"))
    assert not created.exists()


@pytest.mark.usefixtures("outside_modules")
def test_a_hostile_pickle_is_refused_and_creates_nothing(tmp_path):
    created, path = tmp_path / "created", tmp_path / "w.pkl"
    hostile = Pickled("builtins", "exec", f"open({str(created)!r}, 'w')")
    path.write_bytes(pickle.dumps({"G_ema": hostile}))
    with pytest.raises(DataError, match=r"w\.pkl: it asks for builtins\.exec"):
        stylegan2(path)
    assert not created.exists()


def test_the_car_layout_at_512_px_loads_strictly_and_is_cropped_to_384_rows(tmp_path):
    path = save_port(tmp_path / "stylegan2_car.pt", example(side=512, channels=2), side=512)
    state = torch.load(path, weights_only=False)["g_ema"]
    assert {"convs.13.conv.weight", "to_rgbs.6.bias", "noises.noise_14"} <= set(state)
    generator = stylegan2(path, rows="64-447")
    assert generator.image_shape == (3, 384, 512)
    whole = stylegan2(path).render(torch.ones(1, DIM), None)
    assert torch.equal(generator.render(torch.ones(1, DIM), None), whole[:, :, 64:448])


# ----------------------------------------------------------------------------------------- against the formulas


def literal_filter(x, *, up, pad):
    """Zeros between the pixels, padding, then the normalised filter 1-3-3-1 in both directions, times up squared."""
    spread = x.new_zeros(x.shape[0], x.shape[1], x.shape[2] * up, x.shape[3] * up)
    spread[:, :, ::up, ::up] = x
    kernel = torch.tensor([1.0, 3, 3, 1]).outer(torch.tensor([1.0, 3, 3, 1])) / 64 * 4
    planes = F.pad(spread, (*pad, *pad)).flatten(0, 1)[:, None]
    return F.conv2d(planes, kernel[None, None])[:, 0].unflatten(0, x.shape[:2])


def test_doubling_is_interpolation_by_the_filter():
    image = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(_doubled(image), literal_filter(image, up=2, pad=(2, 1)), atol=1e-6)
    assert torch.allclose(_doubled(torch.ones(1, 1, 6, 6))[..., 2:-2, 2:-2], torch.ones(8, 8))


@pytest.mark.parametrize("name", ["synthesis.b8.conv0", "synthesis.b8.conv1"])
def test_a_styled_convolution_equals_one_with_weights_modulated_and_demodulated_for_every_sample(name):
    tensors = example()
    up = name.endswith("conv0")
    conv = _StyledConv(_Tensors(tensors, source=""), name, channels=CHANNELS, w_dim=DIM, side=8, clamp=None)
    source = torch.Generator().manual_seed(1)
    x = torch.randn(3, CHANNELS, 4 if up else 8, 4 if up else 8, generator=source)
    w, noise = torch.randn(3, DIM, generator=source), torch.randn(3, 1, 8, 8, generator=source)

    expected = []
    for row in range(3):
        style = tensors[f"{name}.affine.weight"] @ w[row] / math.sqrt(DIM) + tensors[f"{name}.affine.bias"]
        weight = tensors[f"{name}.weight"] * style[None, :, None, None]  # equation 1
        weight = weight / weight.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()  # equation 3
        if up:
            raised = F.conv_transpose2d(x[row : row + 1], weight.transpose(0, 1), stride=2)
            y = literal_filter(raised, up=1, pad=(1, 1))
        else:
            y = F.conv2d(x[row : row + 1], weight, padding=1)
        y = y + tensors[f"{name}.noise_strength"] * noise[row] + tensors[f"{name}.bias"][:, None, None]
        expected.append(F.leaky_relu(y, 0.2) * math.sqrt(2))

    assert torch.allclose(conv(x, w, noise), torch.cat(expected), atol=1e-5)


def test_the_mapping_normalises_the_latent_and_applies_the_learning_rate_gain():
    tensors = example(layers=1)
    z = torch.tensor([[3.0] + [0.0] * (DIM - 1)])
    x = z / math.sqrt(9 / DIM)
    y = x @ tensors["mapping.fc0.weight"].T * (0.01 / math.sqrt(DIM)) + 0.01 * tensors["mapping.fc0.bias"]
    expected = F.leaky_relu(y, 0.2) * math.sqrt(2)
    assert torch.allclose(Network(tensors, source="").mapping(z, None), expected, atol=1e-6)


@pytest.mark.usefixtures("outside_modules")
def test_the_clamp_of_ada_bounds_every_layer(tmp_path):
    path = save_ada(tmp_path / "w.pkl", example(), synthesis_kwargs={"conv_clamp": 0.01, "num_fp16_res": 4})
    network = stylegan2(path).network
    image = network(torch.ones(1, DIM), network.noises())
    assert image.abs().max() <= 0.01 * len(resolutions(SIDE)) * 1.3  # one clamped layer a resolution, summed


# -------------------------------------------------------------------------------------------------- behaviour


def test_truncation_moves_w_towards_its_mean():
    generator = stylegan2(config="tiny")
    latents = torch.ones(2, generator.latent_dim)
    full, mean = generator.map(latents, None), generator.network.w_mean
    generator.set_truncation(0.3)
    assert torch.allclose(generator.map(latents, None), mean + 0.3 * (full - mean), atol=1e-6)


def test_a_file_without_a_mean_gets_one_from_the_mapping(tmp_path):
    tensors = example()
    torch.save({"g_ema": as_port(tensors)}, tmp_path / "w.pt")
    generator = stylegan2(tmp_path / "w.pt")
    generator.set_truncation(0.5)
    latents = torch.randn(20_000, DIM, generator=torch.Generator().manual_seed(0))
    mean = generator.network.mapping(latents, None).mean(dim=0)
    assert torch.allclose(generator.network.w_mean, mean, atol=0.05)


@pytest.mark.parametrize("truncation", [0, 1.5])
def test_truncation_outside_its_range_is_refused(truncation):
    with pytest.raises(ValueError, match=r"truncation must lie in \(0, 1\]"):
        stylegan2(config="tiny").set_truncation(truncation)


def test_images_outside_the_range_are_clipped():
    images = stylegan2(config="tiny").render(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), None)
    assert images.abs().max() == 1


def test_without_noise_the_stored_maps_have_no_effect():
    latents = torch.ones(1, 32)
    fixed, none = stylegan2(config="tiny"), stylegan2(config="tiny", noise="none")
    before = none.render(latents, None)
    assert not torch.equal(fixed.render(latents, None), before)
    for conv in none.network.convs:
        conv.noise.zero_()
    assert torch.equal(none.render(latents, None), before)


def test_seeded_noise_belongs_to_the_seed_and_not_to_the_place_in_the_batch():
    generator = load_generator("genrep.generate.stylegan2:stylegan2", arguments={"config": "tiny", "noise": "seeded"})
    assert generator.takes_noise
    latents = torch.ones(3, 32)
    images = generator.render(latents, None, torch.tensor([7, 7 + 2**32, 7]))
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    mapped = generator.render_mapped(generator.map(latents, None), None, torch.tensor([7 + 2**32, 7, 1]))
    assert torch.equal(mapped[0], images[1])


def test_seeded_noise_is_standard_normal_and_independent_between_layers_and_seeds():
    maps = [seeded_noise(torch.tensor([0, 1]), layer=layer, side=64).flatten(1) for layer in (0, 1)]
    rows = torch.cat(maps)
    assert rows.mean(dim=1).abs().max() < 5 / 64
    assert (rows.std(dim=1) - 1).abs().max() < 0.05
    assert (torch.corrcoef(rows) - torch.eye(4)).abs().max() < 5 / 64


def test_every_layer_gets_seeded_noise_of_its_own(monkeypatch):
    generator, seen = stylegan2(config="tiny", noise="seeded"), []

    def spy(seeds, *, layer, side):
        seen.append((layer, side))
        return seeded_noise(seeds, layer=layer, side=side)

    monkeypatch.setattr("genrep.generate.stylegan2.seeded_noise", spy)
    generator.render(torch.ones(1, 32), None, torch.tensor([3]))
    assert seen == [(0, 4), (1, 8), (2, 8), (3, 16), (4, 16), (5, 32), (6, 32)]


def test_fixed_noise_takes_no_seeds():
    generator = load_generator("genrep.generate.stylegan2:stylegan2", arguments={"config": "tiny"})
    assert not generator.takes_noise
    assert (generator.prior, generator.default_std) == ("normal", 0.25)


def test_each_layer_of_w_plus_styles_its_own_convolution():
    """Eight at 32 px, as in NVIDIA's release: seven convolutions, and the last colours."""
    generator = load_generator("genrep.generate.stylegan2:stylegan2", arguments={"config": "tiny"})
    assert generator.latent_spaces == ("z", "w", "w+")
    assert generator.blocks("w+") == (32,) * 8
    assert generator.dim("w+") == 8 * 32
    network, outputs = generator.plug_in.network, []
    for conv in network.convs:
        conv.register_forward_hook(lambda module, given, output: outputs.append(output))
    latents = torch.from_numpy(anchor_latents(0, range(2), dim=32))
    layered = generator.map(latents, None, latent_space="w+")
    image = generator.render_mapped(layered, None)
    assert torch.equal(image, generator.render(latents, None))
    plain = outputs[:7]
    for layer in range(8):
        outputs.clear()
        moved = layered.clone()
        moved[:, 32 * layer : 32 * (layer + 1)] += 1
        assert not torch.equal(generator.render_mapped(moved, None), image)
        changed = [not torch.equal(before, after) for before, after in zip(plain, outputs, strict=True)]
        assert changed == [number >= layer for number in range(7)]


def test_the_fingerprint_follows_the_weights_and_what_changes_the_image(tmp_path):
    tensors = example()
    path = save_port(tmp_path / "a.pt", tensors)
    first = stylegan2(path).fingerprint()
    assert stylegan2(path).fingerprint() == first
    assert len({first, stylegan2(path, rows="2-9").fingerprint(), stylegan2(path, noise="none").fingerprint()}) == 3
    tensors["synthesis.b4.const"][0, 0, 0] += 1e-6
    assert stylegan2(save_port(tmp_path / "b.pt", tensors)).fingerprint() != first


# ------------------------------------------------------------------------------------------------- wrong input


def test_no_weights_is_one_line_that_says_what_to_name():
    with pytest.raises(DataError, match=r"name a \.pkl of NVIDIA or a \.pt with g_ema by --weights FILE"):
        stylegan2()


@pytest.mark.parametrize("rows", ["64", "9-3", "0-32", "a-b", "-"])
def test_rows_outside_the_image_are_refused(rows):
    with pytest.raises(DataError, match=r"must be FIRST-LAST within 0-31, such as 64-447"):
        stylegan2(config="tiny", rows=rows)


@pytest.mark.parametrize("arguments", [{"noise": "loud"}, {"config": "huge"}])
def test_an_unknown_argument_value_is_refused_with_the_known_ones(arguments):
    with pytest.raises(DataError, match="is unknown; known: "):
        stylegan2(**{"config": "tiny", **arguments})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("synthesis.b8.conv0.bias"), r"synthesis\.b8\.conv0\.bias is missing"),
        (lambda t: t.update({"synthesis.b8.conv0.bias": torch.ones(2)}), r"conv0\.bias has shape \(2,\), \(6,\) is"),
        (lambda t: t.update({"synthesis.L0.weight": torch.ones(2)}), r"1 unknown tensors \(synthesis\.L0\.weight"),
        (lambda t: t.update({"synthesis.b8.resample_filter": torch.ones(4, 4) / 16}), r"is not the filter 1-3-3-1"),
        (lambda t: [t.pop(name) for name in list(t) if "fc" in name], r"it has no mapping"),
    ],
)
@pytest.mark.usefixtures("outside_modules")
def test_a_file_that_is_not_this_network_is_refused_naming_the_tensor(tmp_path, change, message):
    tensors = example()
    change(tensors)
    with pytest.raises(DataError, match=rf"w\.pkl: .*{message}"):
        stylegan2(save_ada(tmp_path / "w.pkl", tensors))


@pytest.mark.usefixtures("outside_modules")
@pytest.mark.parametrize(
    ("saver", "arguments"),
    [
        (save_ada, {"synthesis_kwargs": {"architecture": "resnet"}}),
        (save_ada, {"mapping_kwargs": {"activation": "relu"}}),
        (save_tensorflow, {"architecture": "orig"}),
        (save_tensorflow, {"resample_kernel": [1, 2, 1]}),
    ],
)
def test_variants_of_the_architecture_are_refused(tmp_path, saver, arguments):
    with pytest.raises(DataError, match="such variants of StyleGAN2 are not supported"):
        stylegan2(saver(tmp_path / "w.pkl", example(), **arguments))


@pytest.mark.parametrize("content", [{"model": torch.ones(2)}, [1], {"g_ema": {"input.input": 3}}])
def test_another_kind_of_file_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"w\.pt: no StyleGAN2 generator could be read from it; expected are NVIDIA's"):
        stylegan2(tmp_path / "w.pt")
