import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from genrep.evaluate.draws import label_draws
from genrep.evaluate.features import Labelled
from genrep.evaluate.knn import KnnProbe


def blobs(num_images, *, seed, num_classes=4, width=6):
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = rng.integers(num_classes, size=num_images)
    centres = np.random.Generator(np.random.PCG64(99)).normal(size=(num_classes, width))
    features = centres[labels] + rng.normal(0, 1.2, (num_images, width))
    return Labelled(torch.from_numpy(features).float(), torch.from_numpy(labels))


@pytest.fixture
def parts():
    return blobs(300, seed=0), blobs(40, seed=1), blobs(200, seed=2)


def test_it_votes_as_scikit_learn_does(parts):
    fit, held_out, test = parts
    model = KnnProbe().fit(fit, held_out, num_classes=4, seed=0)
    reference = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    reference.fit(fit.features.double().numpy(), fit.labels.numpy())
    assert model.predict(test.features).tolist() == [reference.predict(test.features.double().numpy()).tolist()]
    assert model.settings == {"k": 20, "metric": "cosine", "temperature": 0.07}


def test_near_neighbours_outvote_more_distant_ones():
    angles = torch.tensor([0.0, 0.1, *[0.8] * 5])
    bank = Labelled(torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([1, 1, 0, 0, 0, 0, 0]))
    model = KnnProbe().fit(bank, bank, num_classes=2, seed=0)
    # cosines to (1, 0): 1, 0.995 and five times 0.697, so weights of about 2 against 5 exp(-4.3) = 0.07
    assert model.predict(torch.tensor([[1.0, 0.0]])).item() == 1
    assert model.settings["k"] == 7


def test_the_length_of_features_does_not_matter(parts):
    fit, held_out, test = parts
    lengths = torch.rand(300, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    longer = Labelled(fit.features * lengths, fit.labels)
    predictions = [KnnProbe().fit(f, held_out, num_classes=4, seed=0).predict(test.features) for f in (fit, longer)]
    assert torch.equal(*predictions)


def test_with_few_labels_each_draw_is_a_bank_of_its_own(parts):
    fit, held_out, test = parts
    model = KnnProbe(labels_per_class=3).fit(fit, held_out, num_classes=4, seed=0)
    predictions = model.predict(test.features)
    assert predictions.shape == (50, 200)
    assert model.settings["k"] == 12
    for draw, rows in enumerate(label_draws(fit.labels.numpy(), 3, seed=0)):
        alone = KnnProbe().fit(Labelled(fit.features[rows], fit.labels[rows]), held_out, num_classes=4, seed=0)
        assert torch.equal(alone.predict(test.features)[0], predictions[draw])


def test_held_out_images_have_no_say(parts):
    fit, held_out, test = parts
    other = Labelled(held_out.features * -3, held_out.labels.flip(0))
    predictions = [KnnProbe().fit(fit, h, num_classes=4, seed=0).predict(test.features) for h in (held_out, other)]
    assert torch.equal(*predictions)
