import pytest
import torch

from genrep.shards.errors import DataError
from genrep.train.backbones import build_backbone, projection_head


@pytest.mark.parametrize("side", [28, 33, 64])
def test_the_tiny_one_maps_small_images_to_128_features(side):
    backbone = build_backbone("resnet-tiny")
    assert backbone.feature_dim == 128
    assert backbone(torch.zeros(2, 3, side, side)).shape == (2, 128)


def test_the_tiny_one_has_290_thousand_parameters():
    stem, first, second = 3 * 32 * 25, 32 * 64 * 10 + 64 * 64 * 9, 64 * 128 * 10 + 128 * 128 * 9  # 3x3 and 1x1
    norms = 2 * (32 + 3 * 64 + 3 * 128)
    count = sum(parameter.numel() for parameter in build_backbone("resnet-tiny").parameters())
    assert count == stem + first + second + norms == 290_336


def test_torchvision_resnets_come_without_their_classifier():
    backbone = build_backbone("resnet18").eval()
    assert backbone.feature_dim == 512
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, 512)
    assert not any(name.startswith("fc.") for name in backbone.state_dict())


def test_an_unknown_backbone_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(DataError, match=r"unknown backbone 'resnet7': use one of resnet-tiny, .*resnet50"):
        build_backbone("resnet7")


def test_the_projection_head_has_one_hidden_layer_as_wide_as_the_features():
    head = projection_head(6, 3)
    assert [tuple(parameter.shape) for parameter in head.parameters()] == [(6, 6), (6,), (3, 6), (3,)]
