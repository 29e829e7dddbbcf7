import pytest
import torch
from torch import nn

import genrep.shards
from genrep.shards.errors import DataError
from genrep.train.backbones import Backbone
from genrep.train.config import METHODS, resolve
from genrep.train.data import Loader
from genrep.train.learner import Learner
from genrep.train.ranks import Ranks


@pytest.fixture
def without_batch_norm(monkeypatch):
    """Statistics of a part are not those of the batch."""
    for name in ("BatchNorm1d", "BatchNorm2d"):
        monkeypatch.setattr(nn, name, lambda channels: nn.Identity())


def updated(folder, **settings):
    """Loss, gradients and weights of one update on eight samples."""
    shards = genrep.shards.open(folder)
    config = resolve(shards, batch_size=8, steps=1, **settings)
    learner = Learner(config, device="cpu", ranks=Ranks())
    (batch,) = Loader(shards, config).batches(0)
    loss = learner.update(batch, lr=1e-3, done=1)
    parameters = dict(learner.method.named_parameters())
    gradients = {name: each.grad for name, each in parameters.items() if each.requires_grad}
    return loss, gradients, {name: each.detach() for name, each in parameters.items()}


def assert_near(ours, theirs, *, tolerance):
    assert ours.keys() == theirs.keys()
    for name in ours:
        scale = max(1.0, float(theirs[name].abs().max()))
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=tolerance * scale, msg=name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [1, 3])  # three parts of 3, 3 and 2 samples
def test_a_batch_in_parts_has_the_loss_and_gradient_of_the_whole(labelled_set, without_batch_norm, method, chunk):
    whole_loss, whole, _ = updated(labelled_set, method=method)
    loss, parts, _ = updated(labelled_set, method=method, chunk=chunk)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert_near(parts, whole, tolerance=1e-6)


def test_weighted_positives_keep_their_latents_in_parts(labelled_set, without_batch_norm):
    _, whole, _ = updated(labelled_set, method="multipos", latent_tau=0.1)
    _, parts, _ = updated(labelled_set, method="multipos", latent_tau=0.1, chunk=3)
    _, equal, _ = updated(labelled_set, method="multipos")
    assert_near(parts, whole, tolerance=1e-6)
    assert any(not torch.allclose(whole[name], equal[name], rtol=1e-3) for name in whole)


def test_a_batch_in_parts_keeps_the_graph_of_one_part_at_a_time(labelled_set, without_batch_norm):
    sizes = []
    shards = genrep.shards.open(labelled_set)
    config = resolve(shards, method="simclr", batch_size=8, steps=1, chunk=2)
    learner = Learner(config, device="cpu", ranks=Ranks())
    learner.method.backbone.register_forward_hook(
        lambda module, images, out: sizes.append((len(out), out.requires_grad))
    )
    (batch,) = Loader(shards, config).batches(0)
    learner.update(batch, lr=1e-3, done=1)
    assert sizes == [(4, False)] * 4 + [(4, True)] * 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_full_and_float16_scales_its_gradients_back(labelled_set, dtype):
    full_loss, full, _ = updated(labelled_set, method="supcon")
    loss, half, _ = updated(labelled_set, method="supcon", dtype=dtype)
    assert loss == pytest.approx(full_loss, rel=0.02)
    assert loss != full_loss
    name = "projection_head.2.weight"
    assert nn.functional.cosine_similarity(half[name].flatten(), full[name].flatten(), dim=0) > 0.95
    assert float(half[name].norm() / full[name].norm()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd", "lars"])
def test_each_optimiser_moves_the_weights_against_the_gradient(labelled_set, optimiser):
    shards = genrep.shards.open(labelled_set)
    config = resolve(shards, batch_size=8, steps=1, optimiser=optimiser, weight_decay=0)
    before = {
        name: each.clone() for name, each in Learner(config, device="cpu", ranks=Ranks()).method.named_parameters()
    }
    _, gradients, after = updated(labelled_set, optimiser=optimiser, weight_decay=0.0)
    for name, gradient in gradients.items():
        assert float(((after[name] - before[name].detach()) * gradient).sum()) < 0, name


def test_synchronised_batch_norm_is_refused_on_the_cpu(labelled_set):
    config = resolve(genrep.shards.open(labelled_set), batch_size=8, steps=1, sync_bn=True)
    with pytest.raises(DataError, match=r"--sync-bn needs GPUs, torch's .* has no CPU form: leave it out"):
        Learner(config, device="cpu", ranks=Ranks())


class _Small(Backbone):
    """One convolution, to be compiled in little time."""

    feature_dim = 8

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 5, stride=4)

    def forward(self, images):
        return torch.relu(self.convolution(images)).mean((2, 3))


def test_a_compiled_network_equals_the_literal_one(labelled_set, monkeypatch):
    monkeypatch.setattr("genrep.train.methods.method.build_backbone", lambda name: _Small())
    literal_loss, literal, _ = updated(labelled_set, method="simclr")
    loss, compiled, _ = updated(labelled_set, method="simclr", compile=True)
    assert loss == pytest.approx(literal_loss, rel=1e-5)
    assert_near(compiled, literal, tolerance=1e-5)


def test_images_reach_the_network_as_they_lie_in_memory(labelled_set):
    shards = genrep.shards.open(labelled_set)
    config = resolve(shards, batch_size=8, steps=1)
    learner = Learner(config, device="cpu", ranks=Ranks())
    seen = []
    learner.method.backbone.register_forward_pre_hook(lambda module, images: seen.append(images[0]))
    (batch,) = Loader(shards, config).batches(0)
    learner.update(batch, lr=1e-3, done=1)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[0].data_ptr() == batch.images.data_ptr()
