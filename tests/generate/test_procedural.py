import math
from pathlib import Path

import pytest
import torch

from genrep.generate.check import check
from genrep.generate.generators import LoadedGenerator
from genrep.generate.procedural import (
    _filter_bank,
    _OrientedLayer,
    _pink_basis,
    _radius,
    _uniform,
    dead_leaves,
    stylegan_oriented,
)
from genrep.generate.untrained import normal_tensors
from genrep.shards.errors import DataError

FACTORIES = [dead_leaves, stylegan_oriented]


def latents(count, seed=0):
    return torch.randn(count, 512, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("factory", FACTORIES)
def test_both_keep_the_protocol(factory):
    generator = LoadedGenerator(factory(), spec="procedural", arguments={})
    assert [finding.claim for finding in check(generator) if finding.passed is False] == []
    assert (generator.latent_dim, generator.image_shape, generator.default_std) == (512, (3, 64, 64), 0.2)


@pytest.mark.parametrize("factory", FACTORIES)
def test_an_image_is_a_function_of_its_latent_and_built_the_same_every_time(factory):
    z = latents(3)
    together = factory(size="32").render(z, None)
    alone = torch.cat([factory(size="32").render(row[None], None) for row in z])
    assert torch.allclose(together, alone, atol=1e-5)
    assert together.flatten(1).std(dim=1).min() > 0.1


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_near_latent_gives_a_view_and_a_far_one_another_image(factory):
    generator = factory(size="32")
    z, w = latents(8), latents(8, seed=1)
    anchors = generator.render(z, None)
    near = (generator.render(z + 0.05 * w, None) - anchors).abs().mean()
    far = (generator.render(w, None) - anchors).abs().mean()
    assert near < far / 3


@pytest.mark.parametrize("factory", FACTORIES)
def test_another_size_is_another_fingerprint(factory):
    assert factory(size="32").fingerprint() != factory(size="64").fingerprint() == factory().fingerprint()


# ------------------------------------------------------------------------------------------------- dead leaves


def leaf(x, y, radius_quantile, colour, angle=0.5, aspect=0.5):
    """The eight latents of a leaf, from uniforms."""
    uniforms = torch.tensor([x, y, radius_quantile, aspect, angle, *colour], dtype=torch.float64)
    return torch.special.ndtri(uniforms).float()


NOWHERE = leaf(1e-6, 1e-6, 1e-6, (0.5, 0.5, 0.5))  # tiny, in a corner


def picture(*front, background=(0.5, 0.5, 0.5)):
    """An image of the leaves given before the background; the other leaves are nowhere."""
    last = leaf(1e-6, 1e-6, 1e-6, background)
    z = torch.cat([*front, *[NOWHERE] * (63 - len(front)), last])
    return dead_leaves(size="64").render(z[None], None)[0]


RED, BLUE = (0.999, 0.001, 0.001), (0.001, 0.001, 0.999)


def test_the_first_leaf_hides_the_second_and_both_the_background():
    quantile = 0.97  # radius 0.33
    red, blue = leaf(0.3, 0.5, quantile, RED), leaf(0.7, 0.5, quantile, BLUE)
    image = picture(red, NOWHERE, blue, background=(0.25, 0.75, 0.5))
    expected = torch.tensor([0.998, -0.998, -0.998])
    assert torch.allclose(image[:, 32, 32], expected, atol=0.02)  # in both leaves
    assert torch.allclose(image[:, 32, 50], expected.flip(0), atol=0.02)  # in the second alone
    assert torch.allclose(image[:, 63, 63], torch.tensor([-0.5, 0.5, 0]), atol=0.02)


def test_a_leaf_has_the_area_of_its_shape():
    quantile = 0.95
    radius = 64 * _radius(torch.tensor(quantile)).item()
    covered = (picture(leaf(0.5, 0.5, quantile, RED))[0] / 0.998).sum().item()
    assert covered == pytest.approx(math.pi * radius**2, rel=0.03)
    covered = (picture(NOWHERE, leaf(0.5, 0.5, quantile, RED))[0] / 0.998).sum().item()
    power = 8  # |u|^p + |v|^p = 1
    area = 4 * math.gamma(1 + 1 / power) ** 2 / math.gamma(1 + 2 / power) * radius**2
    assert covered == pytest.approx(area, rel=0.03)


def test_radii_follow_the_law_of_the_inverse_cube():
    radii = _radius((torch.arange(100_000) + 0.5) / 100_000)
    assert radii.min() >= 0.06
    assert radii.max() <= 1.0
    # the share between r and 2 r falls by four with every doubling
    shares = [((radii >= r) & (radii < 2 * r)).float().mean().item() for r in (0.06, 0.12, 0.24)]
    assert shares[0] / shares[1] == pytest.approx(4, rel=0.02)
    assert shares[1] / shares[2] == pytest.approx(4, rel=0.02)


def test_uniforms_are_the_normal_distribution_function():
    points = torch.tensor([-1.959964, 0.0, 1.0, 1.959964])
    assert torch.allclose(_uniform(points), torch.tensor([0.025, 0.5, 0.8413447, 0.975]), atol=1e-6)


# ------------------------------------------------------------------------------------------- oriented StyleGAN


def test_filters_are_edges_and_lines_of_mean_zero_and_a_pixel():
    bank = _filter_bank()
    assert bank.shape == (17, 3, 3)
    assert bank[:16].mean(dim=(1, 2)).abs().max() < 1e-6
    assert torch.allclose(bank[0], torch.tensor([[-1.0, 0, 1]] * 3), atol=1e-6)  # a vertical edge
    assert torch.allclose(bank[9], bank[1].T, atol=1e-6)  # a quarter turn makes a line across of a line down
    assert bank[16].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_noise_maps_have_unit_variance_no_mean_and_power_that_falls_with_frequency():
    basis = _pink_basis(32)
    maps = torch.randn(4000, 256, generator=torch.Generator().manual_seed(0)) @ basis
    assert maps.var(dim=0).mean() == pytest.approx(1, rel=0.05)
    assert maps.mean(dim=1).abs().max() < 1e-4
    power = basis.square().sum(dim=1).view(16, 16)
    assert power[0, 1] / power[0, 4] == pytest.approx(16, rel=1e-4)


def test_a_layer_equals_a_convolution_with_all_its_kernels_written_out():
    """Kernel (o, i) is the filter of input i, with the sign of output o, modulated and demodulated."""
    shapes = {f"l.{part}": (32,) for part in ("choice", "signs", "bias")} | {"l.affine": (33, 250)}
    layer = _OrientedLayer(normal_tensors(shapes, seed=3), "l")
    source = torch.Generator().manual_seed(0)
    x, style = torch.randn(1, 32, 6, 6, generator=source), torch.randn(1, 250, generator=source)
    noise = torch.randn(1, 1, 6, 6, generator=source)

    parameters = (layer.affine @ style[0]).double()
    kernels = layer.signs[:, :, :, None].double() * layer.filters.double() * (1 + parameters[:32])[None, :, None, None]
    kernels = kernels / kernels.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    padded = torch.nn.functional.pad(x.double(), (1, 1, 1, 1), mode="replicate")
    y = torch.nn.functional.conv2d(padded, kernels)
    y = y + 0.3 / (1 + math.exp(-parameters[32])) * noise + layer.bias
    expected = math.sqrt(2) * y.clamp(min=0)

    assert torch.allclose(layer(x, style, noise).double(), expected, atol=1e-5)
    assert layer.bias.abs().max() <= 0.2


def test_the_colours_are_those_of_the_last_six_latents():
    z = latents(1)
    z[:, -6:] = torch.tensor([0, 1, -1, -2, -2, -2.0])
    image = (stylegan_oriented().render(z, None)[0] + 1) / 2
    means = torch.tensor([0.483, 0.455 + 0.142, 0.401 - 0.161])
    assert torch.allclose(image.mean(dim=(1, 2)), means, atol=0.03)  # a little is clipped
    assert torch.allclose(image.std(dim=(1, 2)), torch.tensor([0.093, 0.089, 0.075]), atol=0.02)


# ------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("size", ["8", "big", "99999", "-3"])
def test_a_size_that_makes_no_sense_is_refused(factory, size):
    with pytest.raises(DataError, match=rf"size={size} must be a number of pixels from 16 to 1024"):
        factory(size=size)


def test_the_network_doubles_its_way_up_to_a_power_of_two():
    with pytest.raises(DataError, match="size=48 must be a power of two"):
        stylegan_oriented(size="48")
    assert dead_leaves(size="48").image_shape == (3, 48, 48)


@pytest.mark.parametrize("factory", FACTORIES)
def test_weights_are_refused_because_there_are_none(factory):
    with pytest.raises(DataError, match="has no weights; leave --weights out"):
        factory(weights=Path("w.pt"))
