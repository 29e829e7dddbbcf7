import numpy as np
import pytest
import torch

from genrep.evaluate.shift import AffineMaps, draw_affine_maps, move


def one_map(*, angle=0.0, scale=1.0, shift_x=0.0, shift_y=0.0, flip=False):
    return AffineMaps(*(np.array([value]) for value in (angle, scale, shift_x, shift_y, flip)))


@pytest.fixture
def image():
    return torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))


def centre_of(image):
    """Row and column of the centre of mass, from the centre of the image, in pixels."""
    weights = image.sum((0, 1))
    rows, columns = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in weights.shape), indexing="ij")
    return (float((weights * rows).sum() / weights.sum()), float((weights * columns).sum() / weights.sum()))


def test_the_map_that_does_nothing_changes_nothing(image):
    assert torch.allclose(move(image, one_map()), image, atol=1e-5)


def test_a_flip_mirrors_left_and_right(image):
    assert torch.allclose(move(image, one_map(flip=True)), image.flip(3), atol=1e-5)


def test_a_quarter_turn_is_clockwise(image):
    assert torch.allclose(move(image, one_map(angle=90.0)), image.rot90(-1, (2, 3)), atol=1e-5)


def test_a_shift_goes_right_and_down_and_leaves_black(image):
    moved = move(image, one_map(shift_x=0.2, shift_y=0.1))  # 4 and 2 of 20 pixels
    assert torch.allclose(moved[:, :, 2:, 4:], image[:, :, :-2, :-4], atol=1e-5)
    assert moved[:, :, :2].abs().max() < 1e-5
    assert moved[:, :, :, :4].abs().max() < 1e-5


def test_half_the_scale_leaves_a_quarter_of_the_area():
    moved = move(torch.ones(1, 1, 20, 20), one_map(scale=0.5))
    assert torch.allclose(moved[:, :, 6:14, 6:14], torch.ones(8, 8))
    assert moved.sum().item() == pytest.approx(100, rel=0.02)


def test_flip_comes_first_then_scale_and_rotation_then_shift():
    image = torch.zeros(1, 1, 41, 41)
    image[0, 0, 20, 30] = 1  # 10 px right of the centre
    moved = move(torch.nn.functional.avg_pool2d(image, 5, 1, 2), one_map(angle=90.0, scale=0.6, shift_x=0.1, flip=True))
    # flipped: 10 px left; scaled: 6 px left; turned clockwise: 6 px up; shifted: 4.1 px right
    assert centre_of(moved) == pytest.approx((-6, 4.1), abs=0.1)


def test_an_oblong_image_is_not_sheared():
    image = torch.zeros(1, 1, 41, 81)
    image[0, 0, 19:22, 49:52] = 1  # 10 px right of the centre
    moved = move(image, one_map(angle=30.0))
    assert centre_of(moved) == pytest.approx((5, 75**0.5), abs=0.1)


def test_the_map_of_an_image_depends_on_its_split_and_position_alone():
    train, test = (draw_affine_maps(source, np.arange(50)) for source in ("train", "test"))
    alone = draw_affine_maps("train", np.array([31]))
    assert (alone.angle[0], alone.scale[0], alone.flip[0]) == (train.angle[31], train.scale[31], train.flip[31])
    assert not np.isin(train.angle, test.angle).any()


def test_maps_fill_the_stated_ranges_evenly():
    maps = draw_affine_maps("train", np.arange(4000))
    for values, low, high in (
        (maps.angle, -30, 30),
        (maps.scale, 0.6, 1),
        (maps.shift_x, -0.1, 0.1),
        (maps.shift_y, -0.1, 0.1),
    ):
        assert low <= values.min() < values.max() <= high
        counts = np.histogram(values, 4, (low, high))[0]
        assert abs(counts - 1000).max() < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert abs(maps.flip.mean() - 0.5) < 5 * 0.5 / 4000**0.5
    assert abs(np.corrcoef(maps.shift_x, maps.shift_y)[0, 1]) < 5 / 4000**0.5
