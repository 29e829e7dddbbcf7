import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from genrep.evaluate.draws import label_draws
from genrep.evaluate.features import Labelled
from genrep.evaluate.linear import GRIDS, Grid, LinearProbe

NUM_CLASSES = 5


def blobs(num_images, *, seed, width=40, decades=2.0):
    """Classes that overlap, in features that depend on each other, of very different scales and means."""
    rng = np.random.Generator(np.random.PCG64(seed))
    fixed = np.random.Generator(np.random.PCG64(99))
    centres = fixed.normal(size=(NUM_CLASSES, width))
    mixing = fixed.normal(size=(width, width)) / width**0.5
    scales = 10 ** fixed.uniform(-decades, decades, width)
    labels = rng.integers(NUM_CLASSES, size=num_images)
    features = ((centres[labels] + rng.normal(0, 3, (num_images, width))) @ mixing + 5) * scales
    return Labelled(torch.from_numpy(features).float(), torch.from_numpy(labels))


@pytest.fixture(scope="module")
def parts():
    return blobs(3000, seed=0), blobs(1000, seed=1), blobs(5000, seed=2)


def scikit_learn(fit, rows, test, *, weight_decay):
    """Predictions of scikit-learn fitted on some rows of standardised features."""
    scaler = StandardScaler().fit(fit.features.double().numpy())
    chosen = scaler.transform(fit.features[rows].double().numpy())
    model = LogisticRegression(C=1 / (weight_decay * len(chosen)), max_iter=5000, tol=1e-8)
    model.fit(chosen, fit.labels[rows].numpy())
    return model.predict(scaler.transform(test.features.double().numpy()))


def scaled_as(name, fit, features):
    """Features as scikit-learn should see them for one weight decay to mean the same."""
    from sklearn.preprocessing import normalize

    one, other = (part.features.double().numpy() for part in (fit, features))
    if name == "l2":
        one, other = normalize(one), normalize(other)
    return (other - one.mean(0)) / np.sqrt(one.var(0, ddof=1).mean())


@pytest.mark.parametrize("normalisation", ["none", "l2"])
def test_each_normalisation_of_the_wide_grid_agrees_with_scikit_learn(normalisation, monkeypatch):
    grid = Grid((normalisation,), GRIDS["wide"].variances)
    monkeypatch.setitem(GRIDS, "wide", grid)
    fit, held_out, test = (blobs(count, seed=seed, decades=0.3) for seed, count in enumerate((3000, 1000, 5000)))
    model = LinearProbe(grid="wide").fit(fit, held_out, num_classes=NUM_CLASSES, seed=0)
    [ours] = model.predict(test.features).numpy()
    reference = LogisticRegression(C=1 / (model.settings["weight_decay"] * 3000), max_iter=5000, tol=1e-8)
    reference.fit(scaled_as(normalisation, fit, fit), fit.labels.numpy())
    theirs = reference.predict(scaled_as(normalisation, fit, test))
    labels = test.labels.numpy()
    assert abs((ours == labels).mean() - (theirs == labels).mean()) < 0.003
    assert (ours == theirs).mean() > 0.99


def test_the_wide_grid_finds_the_view_that_carries_the_classes():
    fit, held_out, test = blobs(600, seed=0), blobs(300, seed=1), blobs(300, seed=2)
    rng = torch.Generator().manual_seed(0)

    def poolings(part):
        noise = torch.randn(part.features.shape, generator=rng)
        return Labelled(torch.cat([noise, part.features], 1), part.labels, ("noise", "blobs"))

    both = [poolings(part) for part in (fit, held_out, test)]
    model = LinearProbe(grid="wide").fit(*both[:2], num_classes=NUM_CLASSES, seed=0)
    assert model.settings["pooling"] == "blobs"
    alone = LinearProbe(grid="wide").fit(fit, held_out, num_classes=NUM_CLASSES, seed=0)
    assert torch.equal(model.predict(both[2].features), alone.predict(test.features))
    by_draw = LinearProbe(20, "wide").fit(*both[:2], num_classes=NUM_CLASSES, seed=0)
    assert by_draw.settings["pooling"].count("blobs") > 45
    assert by_draw.predict(both[2].features).shape == (50, 300)


def test_it_agrees_with_scikit_learn_within_0_3_points_and_on_nearly_every_image(parts):
    fit, held_out, test = parts
    model = LinearProbe().fit(fit, held_out, num_classes=NUM_CLASSES, seed=0)
    [ours] = model.predict(test.features).numpy()
    theirs = scikit_learn(fit, slice(None), test, weight_decay=model.settings["weight_decay"])
    labels = test.labels.numpy()
    assert 0.4 < (theirs == labels).mean() < 0.9  # neither chance nor trivial
    assert abs((ours == labels).mean() - (theirs == labels).mean()) < 0.003
    assert (ours == theirs).mean() > 0.995


@pytest.mark.parametrize("labels_per_class", [3, 20])  # fewer and more images than features
def test_each_draw_agrees_with_scikit_learn_fitted_on_it_alone(parts, labels_per_class):
    fit, held_out, test = parts
    probe = LinearProbe(labels_per_class)
    model = probe.fit(fit, held_out, num_classes=NUM_CLASSES, seed=7)
    predictions = model.predict(test.features).numpy()
    draws = label_draws(fit.labels.numpy(), labels_per_class, seed=7)
    assert predictions.shape == (50, 5000)
    for draw in (0, 23, 49):
        weight_decay = model.settings["weight_decay"][draw]
        theirs = scikit_learn(fit, draws[draw], test, weight_decay=weight_decay)
        assert (predictions[draw] == theirs).mean() > 0.99


def test_draws_are_the_same_however_many_are_fitted_at_once(parts, monkeypatch):
    fit, held_out, test = parts
    together = LinearProbe(3).fit(fit, held_out, num_classes=NUM_CLASSES, seed=0)
    monkeypatch.setattr("genrep.evaluate.linear.DRAWN_AT_ONCE", 7 * 15 * 40)  # seven draws
    apart = LinearProbe(3).fit(fit, held_out, num_classes=NUM_CLASSES, seed=0)
    equal_choice = np.equal(together.settings["weight_decay"], apart.settings["weight_decay"])
    assert equal_choice.mean() > 0.8  # near ties on the held-out part may fall either way
    equal = (together.predict(test.features) == apart.predict(test.features)).float().mean(1).numpy()
    assert equal[equal_choice].min() > 0.98


def test_the_weight_decay_is_the_best_on_the_held_out_part(parts):
    fit, held_out, _ = parts
    settings = LinearProbe().fit(fit, held_out, num_classes=NUM_CLASSES, seed=0).settings
    grid, top1s = settings["weight_decay_grid"], settings["held_out_top1"]
    assert settings["weight_decay"] == grid[int(np.argmax(top1s))]
    assert grid == pytest.approx([1 / (c * 3000) for c in (1e-3, 1e-2, 1e-1, 1, 10)])


def test_other_held_out_labels_lead_to_another_choice(parts):
    fit, held_out, _ = parts
    wide = LinearProbe(20)
    opposite = Labelled(held_out.features, (held_out.labels + 1) % NUM_CLASSES)
    choices = [wide.fit(fit, h, num_classes=NUM_CLASSES, seed=0).settings["weight_decay"] for h in (held_out, opposite)]
    assert np.mean(choices[0]) != np.mean(choices[1])


def test_the_scale_and_mean_of_a_feature_do_not_matter(parts):
    fit, held_out, test = parts
    factors = torch.logspace(-3, 3, 40)
    one = LinearProbe().fit(fit, held_out, num_classes=NUM_CLASSES, seed=0).predict(test.features)
    scaled = [Labelled(part.features * factors, part.labels) for part in (fit, held_out)]
    other = LinearProbe().fit(*scaled, num_classes=NUM_CLASSES, seed=0).predict(test.features * factors)
    assert (one == other).float().mean() > 0.999


def test_a_feature_that_never_varies_is_left_out_of_the_decision(parts):
    fit, held_out, test = parts
    padded = [Labelled(torch.cat([part.features, torch.ones(len(part.labels), 1)], 1), part.labels) for part in parts]
    one = LinearProbe().fit(fit, held_out, num_classes=NUM_CLASSES, seed=0).predict(test.features)
    model = LinearProbe().fit(*padded[:2], num_classes=NUM_CLASSES, seed=0)
    padded[2].features[:, -1] = 1e6
    assert (one == model.predict(padded[2].features)).float().mean() > 0.999


def test_features_that_never_vary_give_one_class_and_no_nan():
    constant = Labelled(torch.full((60, 8), 3.0), torch.arange(60) % 3)
    model = LinearProbe().fit(constant, constant, num_classes=3, seed=0)
    assert model.weights.isfinite().all()
    assert len(model.predict(constant.features).unique()) == 1
