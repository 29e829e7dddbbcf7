import math

import pytest
import torch

from genrep.train.backbones import build_backbone
from genrep.train.signals import alignment, collapse_signals, rankme, uniformity

EYE = torch.eye(8, dtype=torch.float64)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rankme_of_features_spread_equally_over_r_directions_is_r(rank):
    assert rankme(5 * EYE[:rank].repeat(20, 1)) == pytest.approx(rank, rel=1e-4)


def test_rankme_is_the_exponential_of_the_entropy_of_the_singular_values():
    shares = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)  # entropy 1.5 log 2
    assert rankme(torch.diag(shares * 40)) == pytest.approx(2**1.5, rel=1e-4)


def test_alignment_is_the_mean_squared_distance_of_images_of_one_sample_on_the_sphere():
    first = EYE[:4]
    assert alignment(torch.stack([first, 7 * first])) == pytest.approx(0)
    assert alignment(torch.stack([first, first.roll(1, 0)])) == pytest.approx(2)  # at right angles
    assert alignment(torch.stack([first, -first])) == pytest.approx(4)
    assert alignment(torch.stack([first, first, -first])) == pytest.approx(8 / 3)  # pairs of 0, 4 and 4


def test_uniformity_is_zero_at_a_point_and_the_log_of_the_mean_potential_elsewhere():
    point = EYE[0]
    assert uniformity(torch.stack([point, 2 * point, 3 * point])) == pytest.approx(0)
    assert uniformity(EYE) == pytest.approx(-4)  # every |x - y|^2 is 2
    pairs = [math.exp(-8), math.exp(-4), math.exp(-4)]  # opposite, and twice at right angles
    assert uniformity(torch.stack([point, -point, EYE[1]])) == pytest.approx(math.log(sum(pairs) / 3))


def test_signals_leave_the_backbone_as_it_is_and_do_without_pairs():
    backbone = build_backbone("resnet-tiny").train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    images = torch.randn(12, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    signals = collapse_signals(backbone, images, images_per_sample=2)
    assert backbone.training
    assert all(value.equal(before[name]) for name, value in backbone.state_dict().items())
    assert 1 <= signals["rankme"] <= 12
    assert signals["uniformity"] <= 0 <= signals["alignment"]
    assert collapse_signals(backbone, images, images_per_sample=1)["alignment"] is None


class Constant(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, images):
        return torch.full((len(images), 16), self.value)


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_a_collapsed_backbone_shows_in_every_signal(value):
    signals = collapse_signals(Constant(value), torch.zeros(12, 3, 4, 4), images_per_sample=2)
    assert signals == pytest.approx({"rankme": 1, "alignment": 0, "uniformity": 0}, abs=1e-4)


def test_features_that_are_no_numbers_have_no_signals():
    signals = collapse_signals(Constant(math.nan), torch.zeros(12, 3, 4, 4), images_per_sample=2)
    assert signals == {"rankme": None, "alignment": None, "uniformity": None}
