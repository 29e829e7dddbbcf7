import pickle

import pytest
import torch
from torch.nn import functional as F

from genrep.generate.bigbigan import _Attention, _random_state, _without_spectral_norm, bigbigan
from genrep.generate.generators import load_generator
from genrep.shards.errors import DataError


def published_layout(width=4):
    """Names and shapes of BigBiGAN_x1.pth, with ``width`` for its 96 channels."""
    condition = 128 + 20
    shapes = {"shared.weight": (1000, 128)}

    def normed(prefix, shape, *, bias=True):
        shapes[f"{prefix}.weight"] = shape
        if bias:
            shapes[f"{prefix}.bias"] = shape[:1]
        shapes[f"{prefix}.u0"], shapes[f"{prefix}.sv0"] = (1, shape[0]), (1,)

    normed("linear", (16 * 16 * width, 20))
    channels = [16, 16, 8, 4, 2, 1]
    for block in range(5):
        before, after = channels[block] * width, channels[block + 1] * width
        prefix = f"blocks.{block}.0"
        normed(f"{prefix}.conv1", (after, before, 3, 3))
        normed(f"{prefix}.conv2", (after, after, 3, 3))
        normed(f"{prefix}.conv_sc", (after, before, 1, 1))
        for name, size in (("bn1", before), ("bn2", after)):
            normed(f"{prefix}.{name}.gain", (size, condition), bias=False)
            normed(f"{prefix}.{name}.bias", (size, condition), bias=False)
            shapes[f"{prefix}.{name}.stored_mean"] = shapes[f"{prefix}.{name}.stored_var"] = (size,)
    size = 2 * width  # at 64 px
    shapes["blocks.3.1.gamma"] = ()
    for name, (out, into) in {
        "theta": (size // 8, size),
        "phi": (size // 8, size),
        "g": (size // 2, size),
        "o": (size, size // 2),
    }.items():
        normed(f"blocks.3.1.{name}", (out, into, 1, 1), bias=False)
    for name in ("gain", "bias", "stored_mean", "stored_var"):
        shapes[f"output_layer.0.{name}"] = (width,)
    normed("output_layer.2", (3, width, 3, 3))
    source = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=source) for name, shape in shapes.items()}
    return {name: tensor.abs() + 0.1 if name.endswith("stored_var") else tensor for name, tensor in state.items()}


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "BigBiGAN_x1.pth"
    torch.save(published_layout(), path, _use_new_zipfile_serialization=False)
    return path


def test_the_published_layout_loads_strictly(published):
    generator = bigbigan(published)
    assert len(published_layout()) == 166  # of the port's module
    assert generator.latent_dim == 120
    assert generator.image_shape == (3, 128, 128)
    images = generator.render(torch.randn(2, 120, generator=torch.Generator().manual_seed(0)), None)
    assert images.shape == (2, 3, 128, 128)
    assert images.abs().max() <= 1
    assert not torch.equal(images[0], images[1])


def test_the_prior_is_the_papers_unless_asked():
    assert bigbigan(config="tiny").prior == "truncated-normal"
    assert bigbigan(config="tiny", prior="normal").prior == "normal"
    assert bigbigan(config="tiny", prior="normal").fingerprint() != bigbigan(config="tiny").fingerprint()
    generator = load_generator("genrep.generate.bigbigan:bigbigan", arguments={"config": "tiny"})
    assert (generator.default_std, generator.num_classes) == (0.2, 0)


def test_a_stage_is_conditioned_on_class_0_and_its_latent_block_and_the_first_block_begins():
    network, inputs = bigbigan(config="tiny").network, []
    for block in network.blocks:
        block[0].register_forward_pre_hook(lambda module, arguments: inputs.append(arguments))
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    network(z)
    weight, bias = network.linear.weight, network.linear.bias
    assert torch.allclose(inputs[0][0], (z[:, :4] @ weight.T + bias).view(2, 16, 4, 4), atol=1e-6)
    for stage, (_, condition) in enumerate(inputs):
        assert torch.equal(condition[:, :8], _random_state()["shared.weight"][0].expand(2, 8))
        assert torch.equal(condition[:, 8:], z[:, 4 * (stage + 1) : 4 * (stage + 2)])


def test_the_last_norm_has_the_ports_default_epsilon():
    norm = bigbigan(config="tiny").network.output_layer[0]
    norm.stored_var.fill_(1e-5)
    x = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = (x - norm.stored_mean[:, None, None]) / (2e-5) ** 0.5 * norm.gain[:, None, None]
    assert torch.allclose(norm(x), expected + norm.bias[:, None, None], rtol=1e-4)


@pytest.mark.parametrize("stage", range(3))
def test_each_latent_block_enters_at_its_own_stage(stage):
    """Moving block k of z moves the output of stage k, of no stage before it."""
    network = bigbigan(config="tiny").network
    outputs = []
    for block in network.blocks:
        block[0].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    z = torch.ones(1, 16)
    moved = z.clone()
    moved[:, 4 * (stage + 1) : 4 * (stage + 2)] += 1
    network(z)
    network(moved)
    equal = [torch.equal(before, after) for before, after in zip(outputs[:3], outputs[3:], strict=True)]
    assert equal == [True] * stage + [False] * (3 - stage)


def test_spectral_norm_divides_by_the_singular_value_that_one_iteration_estimates():
    state = _random_state()
    weight, u = state["blocks.1.0.conv2.weight"], state["blocks.1.0.conv2.u0"]
    matrix = weight.flatten(1)
    v = matrix.T @ u[0]
    v = v / v.norm()
    u = matrix @ v
    expected = weight / (u / u.norm() @ matrix @ v)
    result = _without_spectral_norm(state, source="")
    assert torch.allclose(result["blocks.1.0.conv2.weight"], expected, atol=1e-6)
    assert torch.equal(result["shared.weight"], state["shared.weight"])
    assert not any(name.endswith(("u0", "sv0")) for name in result)


def test_a_block_is_what_its_formula_says():
    """Doubling first, as the port does it, and statistics, gains and biases written out."""
    generator = bigbigan(config="tiny")
    state = _without_spectral_norm(_random_state(), source="")
    block = generator.network.blocks[0][0]
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 16, 4, 4, generator=source), torch.randn(2, 12, generator=source)

    def norm(x, name):
        mean, var = state[f"blocks.0.0.{name}.stored_mean"], state[f"blocks.0.0.{name}.stored_var"]
        gain, bias = y @ state[f"blocks.0.0.{name}.gain.weight"].T, y @ state[f"blocks.0.0.{name}.bias.weight"].T
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-4).sqrt()
        return x * (1 + gain)[:, :, None, None] + bias[:, :, None, None]

    def conv(x, name, **options):
        return F.conv2d(x, state[f"blocks.0.0.{name}.weight"], state[f"blocks.0.0.{name}.bias"], **options)

    def double(x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    h = conv(double(norm(x, "bn1").relu()), "conv1", padding=1)
    expected = conv(norm(h, "bn2").relu(), "conv2", padding=1) + conv(double(x), "conv_sc")
    assert torch.allclose(block(x, y), expected, atol=1e-5)


def test_attention_is_a_weighted_mean_of_pooled_values_added_to_the_input():
    source = torch.Generator().manual_seed(0)
    layer = _Attention(8)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source))
    x = torch.randn(1, 8, 4, 4, generator=source)
    theta, phi, g, o = (getattr(layer, name).weight[:, :, 0, 0] for name in ("theta", "phi", "g", "o"))

    def pooled(matrix):
        maps = torch.einsum("oc,chw->ohw", matrix, x[0])
        return torch.stack([maps[:, i : i + 2, j : j + 2].amax((1, 2)) for i in (0, 2) for j in (0, 2)], dim=1)

    expected = x.clone()
    keys, values = pooled(phi), pooled(g)
    for i in range(4):
        for j in range(4):
            weights = torch.softmax((theta @ x[0, :, i, j]) @ keys, dim=0)
            expected[0, :, i, j] += layer.gamma * (o @ (values @ weights))
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_the_fingerprint_follows_the_weights(tmp_path):
    state = _random_state()
    torch.save(state, tmp_path / "a.pth")
    state["linear.bias"][0] += 1e-6
    torch.save(state, tmp_path / "b.pth")
    assert bigbigan(tmp_path / "a.pth").fingerprint() == bigbigan(config="tiny").fingerprint()
    assert bigbigan(tmp_path / "a.pth").fingerprint() != bigbigan(tmp_path / "b.pth").fingerprint()


def test_building_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    bigbigan(config="tiny")
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("linear.bias"), r"linear\.bias is missing"),
        (lambda s: s.pop("linear.u0"), r"linear\.weight has no fitting vector u0"),
        (lambda s: s.update({"optimizer": torch.ones(1)}), "optimizer is unknown"),
        (lambda s: s.update({"blocks.1.0.conv2.bias": torch.ones(3)}), r"conv2\.bias has shape \(3,\) instead of"),
        (lambda s: s.pop("shared.weight"), r"not a BigBiGAN generator; expected is .* BigBiGAN_x1\.pth"),
        (lambda s: s.update({"step": 3}), "not a BigBiGAN generator"),
    ],
)
def test_a_file_that_is_not_this_network_is_refused(tmp_path, change, message):
    state = _random_state()
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(DataError, match=rf"w\.pth: .*{message}") as info:
        bigbigan(tmp_path / "w.pth")
    assert "\n" not in str(info.value)


def test_a_hostile_file_is_refused_and_creates_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "created"), "w")

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DataError, match=r"w\.pth: it asks for io\.open"):
        bigbigan(tmp_path / "w.pth")
    assert not (tmp_path / "created").exists()


def test_no_weights_is_one_line_that_says_what_to_name():
    with pytest.raises(DataError, match=r"name BigBiGAN_x1\.pth of pytorch-pretrained-gans by --weights FILE"):
        bigbigan()


@pytest.mark.parametrize("arguments", [{"prior": "uniform"}, {"config": "huge"}])
def test_an_unknown_argument_value_is_refused_with_the_known_ones(arguments):
    with pytest.raises(DataError, match="is unknown; known: "):
        bigbigan(**{"config": "tiny", **arguments})
