import numpy as np
import pytest
import torch

from genrep.evaluate.floors import _convolution, floors, raw_pixels, untrained_backbone, untrained_convolution
from genrep.train.checkpoint import load_backbone


def pixels(channels, side=28):
    return torch.rand(3, channels, side, side, generator=torch.Generator().manual_seed(0))


def test_a_trained_backbone_has_three_floors(run):
    names = [floor.name for floor in floors(load_backbone(run), side=28)]
    assert names == ["raw pixels", "untrained backbone", "untrained convolution"]


@pytest.mark.parametrize("channels", [1, 3])
def test_raw_pixels_are_the_image(channels):
    images = pixels(channels)
    assert torch.equal(raw_pixels(28).apply(images).view_as(images), images)


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 28), (3, 32)])
def test_the_untrained_convolution_is_128_filters_relu_and_3x3_averages(channels, side):
    images = pixels(channels, side)
    features = untrained_convolution(side).apply(images)
    twin = torch.nn.Conv2d(channels, 128, 5)
    weights, bias = _convolution(channels)
    for ours, default in ((weights, twin.weight), (bias, twin.bias)):  # same shape, uniform in the same range
        assert ours.shape == default.shape
        assert ours.abs().max() <= (25 * channels) ** -0.5
        assert ours.std() == pytest.approx((3 * 25 * channels) ** -0.5, rel=0.15)
    maps = torch.nn.functional.conv2d(images, weights, bias).clamp(min=0)
    assert torch.allclose(features, torch.nn.functional.adaptive_avg_pool2d(maps, 3).flatten(1), atol=1e-5)


def test_an_average_of_the_untrained_convolution_covers_a_ninth_of_the_image():
    images = torch.zeros(1, 1, 28, 28)
    black = untrained_convolution(28).apply(images).view(128, 3, 3)
    images[0, 0, :8, :8] = 1  # reaches filters at rows and columns 0..7: the first average alone
    lit = untrained_convolution(28).apply(images).view(128, 3, 3)
    changed = (lit != black).any(0)
    assert changed.tolist() == [[True, False, False], [False] * 3, [False] * 3]


def test_the_untrained_backbone_is_the_same_network_with_other_weights(run):
    loaded = load_backbone(run)
    floor = untrained_backbone(loaded)
    assert (floor.resize, floor.crop) == (loaded.resize_size, loaded.image_size)
    features = floor.apply(pixels(1))
    assert features.shape == (3, 128)
    torch.rand(1)  # another state of torch's random numbers
    assert torch.equal(features, untrained_backbone(loaded).apply(pixels(1)))
    assert not torch.allclose(features, loaded.module((pixels(1) - 0.5).expand(-1, 3, -1, -1) / 0.5), atol=1e-3)


def test_floors_leave_the_random_state_of_the_program_alone(run):
    loaded = load_backbone(run)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for floor in floors(loaded, side=28):
        floor.apply(pixels(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_floors_differ_in_what_they_are_kept_under(run):
    identities = [str(floor.identity) for side in (28, 32) for floor in floors(load_backbone(run), side=side)]
    assert len(set(identities)) == 5  # the backbone does not see the side
