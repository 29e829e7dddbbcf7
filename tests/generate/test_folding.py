import copy

import numpy as np
import pytest
import torch
from stub_generators import Mapped, Stub
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from genrep.generate.defaults import make_recipe
from genrep.generate.folding import ConditionalAffine, doubling_conv, folded
from genrep.generate.generators import LoadedGenerator, load_generator
from genrep.generate.render import Renderer
from genrep.shards.errors import DataError

GREY_LEVEL = 1 / 127.5


def loaded(plug_in):
    return LoadedGenerator(plug_in, spec="stub", arguments={})


def inputs(generator, count=8):
    source = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % generator.num_classes if generator.num_classes else None
    return torch.randn(count, generator.latent_dim, generator=source), labels, torch.arange(count)


@torch.inference_mode()
def difference(generator):
    """Greatest between plain and folded images, in grey levels."""
    given = inputs(generator)
    return (folded(generator).render(*given) - generator.render(*given)).abs().max().item() / GREY_LEVEL


@pytest.mark.parametrize("biases", [False, True])
@torch.no_grad()
def test_a_conditional_norm_and_the_bias_before_it_are_one_multiply_add(biases):
    torch.manual_seed(0)
    x, condition, before = torch.randn(2, 3, 4, 5), torch.randn(2, 7), torch.randn(3)
    gain, bias = nn.Linear(7, 3, bias=biases), nn.Linear(7, 3, bias=biases)
    mean, var, eps = torch.randn(3), torch.rand(3), 1e-3
    shape = (-1, 1, 1)
    normed = (x + before.view(shape) - mean.view(shape)) / (var + eps).sqrt().view(shape)
    expected = normed * (1 + gain(condition))[:, :, None, None] + bias(condition)[:, :, None, None]
    affine = ConditionalAffine(gain, bias, mean=mean, var=var, eps=eps, before=before)
    torch.testing.assert_close(affine(x, condition), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_doubling_and_a_convolution_are_one_transposed_convolution():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 5, 3, padding=1, bias=False), torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(doubling_conv(conv)(x), conv(F.interpolate(x, scale_factor=2)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "truncation"),
    [
        ("fashion", {}, 1.0),
        ("fashion-null", {}, 1.0),
        ("biggan-deep-128", {"config": "tiny"}, 1.0),
        ("biggan-deep-128", {"config": "tiny"}, 0.513),
        ("biggan-deep-128", {"config": "tiny", "bn": "published"}, 0.513),
        ("bigbigan", {"config": "tiny"}, 1.0),
        ("stylegan2", {"config": "tiny-classes", "noise": "seeded"}, 0.7),
        ("procedural:dead-leaves", {"size": "32"}, 1.0),
    ],
)
def test_a_folded_built_in_renders_what_it_renders_plainly(name, arguments, truncation):
    generator = load_generator(name, arguments=arguments)
    generator.set_truncation(truncation)
    assert difference(generator) < 0.01


def test_of_the_last_convolution_of_a_biggan_only_the_three_channels_of_an_image_are_computed():
    generator = load_generator("biggan-deep-128", arguments={"config": "tiny"})
    assert generator.plug_in.model.generator.conv_to_rgb.out_channels == 4
    assert folded(generator).plug_in.last.out_channels == 3


class Normed:
    """What the generic pass folds, and beside it what only looks alike."""

    latent_dim, image_shape = 6, (3, 16, 16)

    def __init__(self):
        torch.manual_seed(1)
        shared = nn.Conv2d(4, 4, 1)
        self.network = nn.Sequential(
            nn.Linear(6, 6 * 16),
            nn.BatchNorm1d(6 * 16),
            nn.ReLU(),
            nn.Unflatten(1, (6, 4, 4)),
            nn.utils.spectral_norm(nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1, bias=False)),
            nn.BatchNorm2d(8),
            parametrizations.spectral_norm(nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)),
            nn.BatchNorm2d(4, affine=False),
            shared,
            nn.ReLU(),
            shared,
            nn.BatchNorm2d(4),
            nn.GroupNorm(2, 4),
            parametrizations.weight_norm(nn.Conv2d(4, 3, 3, padding=1)),
            nn.BatchNorm2d(3, track_running_stats=False),
            nn.Tanh(),
        )
        self.network(torch.randn(32, 6))  # statistics and singular vectors
        self.network.eval()

    def render(self, latents, labels):
        return self.network(latents)


def test_without_a_method_of_its_own_a_generator_is_folded_where_norms_follow_convolutions():
    generator = loaded(Normed())
    before = copy.deepcopy(generator.plug_in.network.state_dict())
    result = folded(generator).plug_in.network
    assert difference(generator) < 0.01
    kinds = [type(layer).__name__ for layer in result]
    assert [kind for kind in kinds if "Norm" in kind] == ["GroupNorm", "BatchNorm2d"]  # the last has no statistics
    assert kinds.count("Conv2d") == 3
    assert not any(module._forward_pre_hooks or hasattr(module, "parametrizations") for module in result.modules())
    assert result[6].weight.is_contiguous(memory_format=torch.channels_last)
    after = generator.plug_in.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_mapping_to_w_stays_with_a_folded_generator():
    generator = loaded(Mapped())
    latents, labels, _ = inputs(generator)
    result = folded(generator)
    assert torch.equal(result.render_mapped(result.map(latents, labels), labels), generator.render(latents, labels))


class Locked(Stub):
    def __deepcopy__(self, memo):
        raise TypeError("cannot\ncopy")


class FoldsToNothing(Stub):
    def folded(self):
        return object()


@pytest.mark.parametrize(
    ("plug_in", "complaint"),
    [
        (Locked, r"generator stub cannot be folded \(TypeError: cannot copy\); leave --fold out"),
        (FoldsToNothing, r"generator stub: what its folded\(\) returns has no render"),
    ],
)
def test_what_cannot_be_folded_is_refused_in_one_line(plug_in, complaint):
    with pytest.raises(DataError, match=complaint) as caught:
        folded(loaded(plug_in()))
    assert "\n" not in str(caught.value)


class Doubled(Stub):
    """Folds to something visibly else."""

    def folded(self):
        return Stub(gain=2)


def test_a_recipe_with_folding_renders_the_folded_generator_and_another_does_not():
    generator = loaded(Doubled())
    images = {}
    for folding in (False, True):
        recipe = make_recipe(generator, micro_batch=4, shard_size=4, folding=folding)
        (batch,) = Renderer(generator, recipe).batches(0, 4)
        images[folding] = batch.images
    latents = torch.from_numpy(batch.latents[:, 0])
    for folding, gain in ((False, 1), (True, 2)):
        expected = (Stub(gain=gain).render(latents, torch.from_numpy(batch.labels)) + 1) * 127.5
        assert np.abs(images[folding][:, 0, :, :, 0] - expected[:, 0].detach().numpy()).max() <= 0.51
