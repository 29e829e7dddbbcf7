import numpy as np
import pytest
import torch

from genrep.generate.directions import pca_walks, random_walks, sefa_walks
from genrep.generate.generators import LoadedGenerator, load_generator
from genrep.generate.walk_training import SteeredImages
from genrep.shards.errors import DataError


@pytest.fixture
def stub():
    """One linear layer on (latent, class) and tanh."""
    return load_generator("stub_generators:conditional")


def acting_on_the_latent(stub):
    return stub.plug_in.network.weight[:, :4].double().numpy()


def same_up_to_sign(found, expected):
    return np.abs((found * expected).sum(axis=1))


@pytest.mark.parametrize("make", [random_walks, sefa_walks, pca_walks])
def test_directions_are_orthogonal_of_the_length_asked_for_and_of_this_generator(stub, make):
    walks = make(stub, count=4, length=2.0)
    np.testing.assert_allclose(walks.directions @ walks.directions.T, 4 * np.eye(4), atol=1e-5)
    assert walks.generator == stub.fingerprint()
    assert set(walks.full.values()) == {2.0}
    assert [name.rpartition("_")[2] for name in walks.names] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("make", [random_walks, sefa_walks, pca_walks])
def test_more_directions_than_coordinates_are_refused(stub, make):
    with pytest.raises(DataError, match="5 directions cannot be orthogonal in 4 coordinates; ask for fewer"):
        make(stub, count=5)


def test_random_directions_follow_the_seed(stub):
    assert random_walks(stub, count=3, seed=5) == random_walks(stub, count=3, seed=5)
    assert random_walks(stub, count=3, seed=5) != random_walks(stub, count=3, seed=6)


def test_sefa_finds_the_singular_vectors_of_the_weights_on_the_latent(stub):
    expected = np.linalg.svd(acting_on_the_latent(stub)).Vh[:2]
    found = sefa_walks(stub, count=2).directions
    # in one order or the other: they are sorted by what they do to images
    np.testing.assert_allclose(np.abs(found @ expected.T).max(axis=0), 1, atol=1e-5)


def test_sefa_sees_through_scaling_and_chunks_but_not_through_a_nonlinearity():
    class Chunked(torch.nn.Module):
        latent_dim, image_shape = 4, (1, 2, 2)

        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(2, 4), torch.nn.Linear(3, 4)
            self.deep = torch.nn.Linear(4, 4)

        def render(self, latents, labels):
            scaled = 0.5 * latents
            second = torch.cat([torch.ones(len(latents), 1), scaled[:, 2:]], dim=1)
            return self.deep(torch.tanh(self.first(scaled[:, :2]) + self.second(second))).view(-1, 1, 2, 2)

    torch.manual_seed(0)
    chunked = LoadedGenerator(Chunked(), spec="chunked", arguments={})
    first, second = (layer.weight.double().numpy() for layer in (chunked.plug_in.first, chunked.plug_in.second))
    on_the_latent = np.zeros((8, 4))
    on_the_latent[:4, :2], on_the_latent[4:, 2:] = first, second[:, 1:]
    expected = np.linalg.svd(on_the_latent).Vh[:2]
    found = sefa_walks(chunked, count=2).directions
    np.testing.assert_allclose(np.abs(found @ expected.T).max(axis=0), 1, atol=1e-5)
    with pytest.raises(DataError, match="no layer deep that sees the latent itself; those that do: first, second"):
        sefa_walks(chunked, count=2, layers=("deep",))


def test_sefa_directions_come_in_the_order_of_their_measured_effect(stub):
    walks = sefa_walks(stub, count=4, length=0.5)
    images = SteeredImages(stub, latent_space="z", truncation=1.0, device="cpu")
    anchors = images.draw(0, range(64))
    with torch.no_grad():
        still = images.render(anchors)
        moves = [torch.tensor(direction) for direction in walks.directions]
        changes = [
            sum((images.render(anchors, sign * move) - still).square().sum() for sign in (-1, 1)) for move in moves
        ]
    assert changes == sorted(changes, reverse=True)


def test_sefa_takes_the_weights_of_the_layers_named():
    mapped = load_generator("stub_generators:mapped")
    with pytest.raises(DataError, match=r"no layer body that sees the latent itself; those that do: network"):
        sefa_walks(mapped, count=2, layers=("body",))
    assert sefa_walks(mapped, count=2, layers=("network",)) == sefa_walks(mapped, count=2)


def test_a_generator_without_weights_on_its_latent_has_no_closed_form():
    with pytest.raises(DataError, match="no layer with a weight matrix that sees the latent itself"):
        sefa_walks(load_generator("blob_generators:blob"), count=2)


def test_principal_components_of_a_linear_layer_are_its_singular_vectors(stub):
    with torch.no_grad():
        stub.plug_in.network.weight[:, 4:] *= 5  # what the class does to the layer is no direction of the latent
    expected = np.linalg.svd(acting_on_the_latent(stub)).Vh
    found = pca_walks(stub, count=4, num_samples=4096).directions
    assert same_up_to_sign(found, expected).min() > 0.95


def test_principal_components_of_w_are_those_of_the_mapped_latents():
    # w = (z, sum of z): covariance [[I, 1], [1, 4]], largest eigenvalue 5 at (1, 1, 1, 1, 4), then 1 and 0
    walks = pca_walks(load_generator("stub_generators:mapped"), count=5, latent_space="w", num_samples=4096)
    assert walks.latent_space == "w"
    expected = np.array([[1, 1, 1, 1, 4]]) / 20**0.5
    assert same_up_to_sign(walks.directions[:1], expected)[0] > 0.999
    assert same_up_to_sign(walks.directions[4:], np.array([[1, 1, 1, 1, -1]]) / 5**0.5)[0] > 0.999


def test_principal_components_need_samples_and_a_layer_that_exists(stub):
    with pytest.raises(DataError, match="7 samples are too few for 4 coordinates; take at least 8"):
        pca_walks(stub, count=2, num_samples=7)
    with pytest.raises(DataError, match="has no layer 'body'; it has network"):
        pca_walks(stub, count=2, layer="body")
