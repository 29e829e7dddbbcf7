import math

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from genrep.generate.edits import EDITS, apply_edits, default_edits, parse_edits
from genrep.shards.errors import DataError


def images(channels=3, height=12, width=12, count=2):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_strength_zero_changes_nothing_and_masks_nothing(edit):
    edited = edit.apply(images(height=9, width=14), 0.0)
    torch.testing.assert_close(edited.images, images(height=9, width=14), atol=1e-5, rtol=0)
    assert edited.mask.shape == (2, 1, 9, 14)
    assert edited.mask.min() == 1


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_values_stay_in_range_at_full_strength(edit, sign):
    extremes = images().sign()
    assert edit.apply(extremes, sign * edit.full_strength(256, 256)).images.abs().max() <= 1


def test_a_shift_moves_whole_pixels_right_and_down_and_masks_what_came_in():
    source = images(height=9, width=14)
    right, down = EDITS["shift_x"].apply(source, 3.0), EDITS["shift_y"].apply(source, 2.0)
    torch.testing.assert_close(right.images[..., 3:], source[..., :-3], atol=1e-5, rtol=0)
    assert right.mask[..., :3].max() == 0
    assert right.mask[..., 3:].min() == 1
    torch.testing.assert_close(down.images[..., 2:, :], source[..., :-2, :], atol=1e-5, rtol=0)
    assert down.mask.sum(dim=(1, 2, 3)).tolist() == [7 * 14] * 2


def test_a_positive_rotation_turns_counter_clockwise():
    torch.testing.assert_close(
        EDITS["rotation"].apply(images(), 90.0).images, images().rot90(1, dims=(2, 3)), atol=1e-4, rtol=0
    )


def test_a_positive_zoom_enlarges_about_the_centre():
    ramp = torch.linspace(-1, 1, 11).expand(1, 1, 11, 11)
    torch.testing.assert_close(EDITS["zoom"].apply(ramp, math.log(2)).images, ramp / 2)
    shrunk = EDITS["zoom"].apply(ramp, -math.log(2))
    torch.testing.assert_close(shrunk.images[..., 3:8, 3:8], 2 * ramp[..., 3:8, 3:8])
    assert shrunk.mask[0, 0].sum() == 25  # of 11 x 11, the pixels up to 2.5 from the middle


def test_a_3d_rotation_follows_the_pinhole_formula():
    ramp = torch.linspace(-10, 10, 21).div(20).expand(1, 1, 21, 21)  # a value tells where it comes from
    angle, viewer = math.radians(30), math.hypot(21, 21)
    turned = EDITS["rotation_3d"].apply(ramp, 30.0)
    for x_source in (-6.0, 0.0, 6.0):
        x_seen = viewer * x_source * math.cos(angle) / (viewer + x_source * math.sin(angle))
        low = math.floor(x_seen)
        left, right = turned.images[0, 0, 10, [10 + low, 10 + low + 1]].tolist()
        assert 20 * (left + (x_seen - low) * (right - left)) == pytest.approx(x_source, abs=0.05)


def test_what_a_turned_plane_shows_behind_the_viewer_is_masked():
    assert EDITS["rotation_3d"].apply(images(), 89.0).mask.mean() < 0.2
    from_behind = EDITS["rotation_3d"].apply(images(height=13, width=13), 150.0)
    assert from_behind.mask.max() == 0
    assert torch.isfinite(from_behind.images).all()


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("strength", [-0.4, 0.3])
def test_jitter_equals_torchvision(name, strength):
    expected = getattr(reference, f"adjust_{name}")((images() + 1) / 2, 1 + strength) * 2 - 1
    torch.testing.assert_close(EDITS[name].apply(images(), strength).images, expected, atol=1e-6, rtol=0)


def test_a_third_of_a_turn_of_hue_passes_red_on_to_green():
    torch.testing.assert_close(EDITS["hue"].apply(images(), 1 / 3).images, images()[:, [2, 0, 1]], atol=1e-5, rtol=0)


def test_colour_adds_to_one_channel_and_is_clipped():
    edited = EDITS["green"].apply(images(), 0.5).images
    assert torch.equal(edited[:, [0, 2]], images()[:, [0, 2]])
    assert torch.equal(edited[:, 1], (images()[:, 1] + 0.5).clamp(-1, 1))


def test_masks_of_composed_edits_are_kept():
    together = apply_edits(images(), {"shift_x": 2.0, "shift_y": -3.0, "brightness": 0.1})
    assert together.mask[..., :2].max() == 0  # by the shift to the right
    assert together.mask[..., -3:, :].max() == 0  # by the shift up
    assert together.mask.sum(dim=(1, 2, 3)).tolist() == [10 * 9] * 2


def test_edits_are_composed_in_one_order_however_they_are_named():
    # turned first, then shifted: what was rotated moves to the right, not along the turned axis
    strengths = {"shift_x": 3.0, "rotation": 90.0}
    expected = EDITS["shift_x"].apply(EDITS["rotation"].apply(images(), 90.0).images, 3.0)
    for order in (strengths, dict(reversed(strengths.items()))):
        together = apply_edits(images(), order)
        torch.testing.assert_close(together.images * expected.mask, expected.images * expected.mask, atol=1e-4, rtol=0)


def test_what_an_edit_pushes_out_and_a_later_one_brings_back_is_not_lost():
    ramp = torch.linspace(-1, 1, 11).expand(1, 1, 11, 11)  # 0.2 a pixel
    together = apply_edits(ramp, {"zoom": math.log(2), "shift_x": 4.0})
    assert together.mask.min() == 1
    torch.testing.assert_close(together.images, ramp / 2 - 0.4)


def test_each_image_gets_its_own_strength():
    edited = EDITS["shift_x"].apply(images(), torch.tensor([0.0, 4.0]))
    torch.testing.assert_close(edited.images[0], images()[0], atol=1e-5, rtol=0)
    assert edited.mask.sum(dim=(1, 2, 3)).tolist() == [144, 96]


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_are_differentiable_in_images_and_strength(edit):
    source = (0.5 * images()).requires_grad_()
    strength = torch.full((2,), 0.07, requires_grad=True)
    edit.apply(source, strength).images.square().sum().backward()
    assert source.grad.abs().max() > 0
    assert strength.grad.abs().min() > 0


def test_full_strengths_are_the_data_s_up_to_64_px_and_the_papers_above():
    small = {name: EDITS[name].full_strength(28, 28) for name in default_edits(1)}
    assert small == pytest.approx({"zoom": 0.2, "shift_x": 4, "shift_y": 4, "rotation": 15, "brightness": 0.3})
    large = {name: EDITS[name].full_strength(256, 256) for name in default_edits(3)}
    paper = {"zoom": math.log(4), "shift_x": 100, "shift_y": 100, "rotation": 30, "rotation_3d": 60}
    assert large == pytest.approx({**paper, "red": 0.5, "green": 0.5, "blue": 0.5})
    assert EDITS["shift_x"].full_strength(384, 512) == 200  # a shift follows its own side
    assert EDITS["shift_y"].full_strength(384, 512) == 150


def test_edits_are_named_singly_or_in_groups():
    assert parse_edits("zoom, colour,red") == ("zoom", "red", "green", "blue")
    with pytest.raises(DataError, match=r"'tilt' is no edit; known: brightness, .*; groups: shift, colour"):
        parse_edits("zoom,tilt")


def test_colour_edits_of_grey_images_are_refused_by_name():
    with pytest.raises(DataError, match="edit hue needs 3 channels, the images have 1"):
        EDITS["hue"].apply(images(channels=1), 0.1)
