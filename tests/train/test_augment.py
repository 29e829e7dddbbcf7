import dataclasses

import numpy as np
import pytest
import torch

from genrep.train import batched
from genrep.train.augment import centre_parameters, draw_parameters, transform_into
from genrep.train.config import PRESETS, sizes_for

PAPER, FASHION = PRESETS["paper"], PRESETS["fashion"]


def pictures(count, shape, seed=0):
    """Half noise, half slopes: the hardest and the usual case of interpolation; one image is flat."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *shape))
    y, x = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    for image in images[::2]:
        image[...] = np.clip(rng.uniform(0, 255, shape[2]) + (y * rng.normal() + x * rng.normal())[..., None], 0, 255)
    images[0] = 77
    return images.astype(np.uint8)


def draw(preset, samples, shape, *, seed=0, epoch=0, view=0):
    crop, _ = sizes_for(shape[:2])
    return draw_parameters(
        preset.pixels, np.asarray(samples), seed=seed, epoch=epoch, view=view, source=shape[:2], crop=crop
    )


def by_torch(images, parameters, preset):
    """The pass for GPUs, on the CPU."""
    crop, _ = sizes_for(images.shape[1:3])
    pixels = batched.transformed(torch.from_numpy(images), parameters, crop=crop, mean=preset.mean, std=preset.std)
    return pixels.permute(0, 2, 3, 1).numpy()


def transformed(images, parameters, preset):
    crop, _ = sizes_for(images.shape[1:3])
    out = np.empty((len(images), crop, crop, 3), np.float32)
    transform_into(out, images, parameters, mean=preset.mean, std=preset.std)
    return out


def literal(image, parameters, i, preset):
    """The same with torchvision's functions, one image at a time, in float64."""
    from torchvision.transforms.v2 import functional

    top, left, height, width = parameters.boxes[i].tolist()
    pixels = torch.from_numpy(image).permute(2, 0, 1).double() / 255
    size = list(parameters.resized)
    pixels = functional.resized_crop(pixels, top, left, height, width, size, antialias=True)
    if parameters.flips[i]:
        pixels = functional.horizontal_flip(pixels)
    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    if parameters.colour[i]:
        for step in parameters.orders[i]:
            pixels = adjust[step](pixels, float(parameters.factors[i, step]))
    if parameters.greys[i]:
        pixels = functional.rgb_to_grayscale(pixels, num_output_channels=len(pixels))
    pixels = functional.normalize(pixels.expand(3, -1, -1), list(preset.mean), list(preset.std)).clone()
    top, left, height, width = parameters.erased[i].tolist()
    pixels[:, top : top + height, left : left + width] = 0
    return pixels.permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fashion", (28, 28, 1)),
        ("fashion", (40, 33, 3)),
        ("paper", (128, 128, 3)),
        ("paper", (150, 230, 3)),
        ("paper", (128, 128, 1)),
    ],
)
@pytest.mark.parametrize("apply", [transformed, by_torch])
def test_both_passes_equal_torchvision_on_the_same_draws(name, shape, apply):
    preset, images = PRESETS[name], pictures(60, shape)
    pixels = dataclasses.replace(preset.pixels, erase_p=0.5, grey_p=0.3)
    parameters = draw(dataclasses.replace(preset, pixels=pixels), np.arange(60), shape)
    ours = apply(images, parameters, preset)
    theirs = np.stack([literal(image, parameters, i, preset) for i, image in enumerate(images)])
    error = np.abs(ours - theirs).max() * min(preset.std)  # of pixels in [0, 1]
    assert error < 1e-5


@pytest.mark.parametrize("shape", [(128, 128, 3), (150, 230, 3), (28, 28, 1), (90, 70, 3)])
@pytest.mark.parametrize("apply", [transformed, by_torch])
def test_without_augmentation_the_centre_is_cropped_as_torchvision_does(shape, apply):
    from torchvision.transforms.v2 import functional

    images, (crop, resize) = pictures(4, shape), sizes_for(shape[:2])
    parameters = centre_parameters(4, source=shape[:2], resize=resize, crop=crop)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    theirs = functional.center_crop(functional.resize(pixels, [resize], antialias=True), [crop, crop])
    theirs = functional.normalize(theirs.expand(-1, 3, -1, -1), list(PAPER.mean), list(PAPER.std))
    np.testing.assert_allclose(apply(images, parameters, PAPER), theirs.permute(0, 2, 3, 1), atol=1e-5)


def test_small_images_come_out_of_the_centre_crop_as_they_are():
    images = pictures(3, (28, 28, 3))
    parameters = centre_parameters(3, source=(28, 28), resize=28, crop=28)
    np.testing.assert_allclose(transformed(images, parameters, FASHION), (images / 255 - 0.5) / 0.5, atol=1e-6)


def test_a_sample_keeps_its_draws_however_the_batch_is_made_up():
    whole, picked = draw(PAPER, range(20), (128, 128, 3)), draw(PAPER, [13, 4], (128, 128, 3))
    for field in ("boxes", "flips", "colour", "orders", "factors", "greys", "erased"):
        np.testing.assert_array_equal(getattr(picked, field), getattr(whole, field)[[13, 4]])


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"view": 1}])
def test_seed_epoch_and_view_each_change_the_draws(other):
    base, changed = draw(PAPER, range(50), (128, 128, 3)), draw(PAPER, range(50), (128, 128, 3), **other)
    assert (base.factors != changed.factors).mean() > 0.9
    assert (base.boxes != changed.boxes).any(axis=1).mean() > 0.9


def test_draws_stay_in_their_ranges_and_fill_them():
    drawn = draw(PAPER, range(20_000), (128, 170, 3))
    top, left, height, width = drawn.boxes.T
    assert (drawn.boxes[:, :2].min(), drawn.boxes[:, 2:].min() > 0) == (0, True)
    assert (top + height).max() == 128
    assert (left + width).max() == 170
    shares = height * width / (128 * 170)
    assert 0.19 < shares.min() < 0.21
    assert 0.98 < shares.max() <= 1
    ratios = width / height
    assert 0.74 < ratios.min() < 0.76
    assert 1.32 < ratios.max() < 1.35
    np.testing.assert_allclose(drawn.factors.min(axis=0), [0.6, 0.6, 0.6, -0.1], atol=1e-3)
    np.testing.assert_allclose(drawn.factors.max(axis=0), [1.4, 1.4, 1.4, 0.1], atol=1e-3)
    for chosen, probability in ((drawn.flips, 0.5), (drawn.colour, 0.8), (drawn.greys, 0.2)):
        assert abs(chosen.mean() - probability) < 5 * np.sqrt(0.25 / 20_000)
    _, times = np.unique(drawn.orders, axis=0, return_counts=True)
    assert len(times) == 24
    assert abs(times - 20_000 / 24).max() < 5 * np.sqrt(20_000 / 24)
    assert not drawn.erased.any()  # the paper erases nothing


@pytest.mark.parametrize(("source", "box"), [((100, 400), [0, 133, 100, 133]), ((400, 100), [133, 0, 133, 100])])
def test_where_no_crop_of_an_allowed_shape_fits_the_largest_central_one_is_taken(source, box):
    whole = dataclasses.replace(PAPER.pixels, scale=(1, 1))  # as much area as the image, at most 4 : 3
    drawn = draw_parameters(whole, np.arange(5), seed=0, epoch=0, view=0, source=source, crop=84)
    assert drawn.boxes.tolist() == [box] * 5


def test_erased_boxes_lie_inside_and_hold_the_mean_colour():
    shape = (28, 28, 3)
    drawn = draw(FASHION, range(400), shape)
    assert abs((drawn.erased[:, 2] > 0).mean() - 0.5) < 5 * np.sqrt(0.25 / 400)
    assert (drawn.erased[:, :2] + drawn.erased[:, 2:]).max() <= 28
    white = transformed(np.full((400, *shape), 255, np.uint8), drawn, FASHION)
    i = int(drawn.erased[:, 2].argmax())
    top, left, height, width = drawn.erased[i]
    assert (white[i, top : top + height, left : left + width] == 0).all()
    assert (white[i] != 0).sum() == 3 * (28 * 28 - height * width)


def test_saturation_hue_and_grey_leave_grey_images_alone():
    images = pictures(30, (128, 128, 1))
    colours = dataclasses.replace(PAPER.pixels, brightness=0, contrast=0, grey_p=0.5)
    plain = dataclasses.replace(colours, saturation=0, hue=0, grey_p=0)
    with_colours, without = (
        transformed(images, draw(dataclasses.replace(PAPER, pixels=pixels), range(30), (128, 128, 1)), PAPER)
        for pixels in (colours, plain)
    )
    np.testing.assert_array_equal(with_colours, without)


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch):
    from numba.core import caching

    from genrep.train import kernel

    def refuse(self):
        raise PermissionError("read-only")

    for locator in vars(caching).values():
        if isinstance(locator, type) and issubclass(locator, caching._CacheLocator):
            monkeypatch.setattr(locator, "ensure_cache_path", refuse)
    assert kernel._compiled(_next)(1) == 2


def _next(number):
    return number + 1
