"""Every method's loss against a closed form, a literal version of its paper's equations, or pytorch-metric-learning."""

import math

import pytest
import torch
import torch.nn.functional as F

import genrep.shards
from genrep.train.config import METHODS, resolve
from genrep.train.losses import multi_positive, nt_xent, positive_weights, sup_con
from genrep.train.methods import BY_NAME, build_method
from genrep.train.methods.byol import byol_loss, target_momentum
from genrep.train.methods.method import Targets
from genrep.train.methods.vicreg import vicreg_loss


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit_rows(*shape, seed=0):
    return F.normalize(random(*shape, seed=seed), dim=-1)


@pytest.fixture
def method_of(labelled_set):
    """Builds a method for the labelled set: four classes, latents of three dimensions, features of 128."""

    def build(method, **settings):
        return build_method(resolve(genrep.shards.open(labelled_set), method=method, batch_size=8, **settings))

    return build


def targets_of(num_samples, num_views, *, labels=None, latent_dim=3):
    labels = torch.arange(num_samples) % 4 if labels is None else torch.tensor(labels)
    return Targets(labels=labels, latents=random(num_samples, num_views, latent_dim, seed=9))


def test_every_name_that_the_command_takes_is_a_method():
    assert list(BY_NAME) == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_each_gives_a_row_an_image_and_a_finite_loss_whose_gradient_reaches_the_backbone(method_of, name):
    method = method_of(name)
    num_views = method.config.images_per_sample
    outputs = method(random(num_views * 8, 3, 28, 28))
    assert all(len(each) == num_views * 8 and each.dtype == torch.float32 for each in outputs)
    arranged = tuple(each.unflatten(0, (num_views, 8)).transpose(0, 1) for each in outputs)
    loss = method.loss(arranged, targets_of(8, num_views))
    loss.backward()
    assert loss.isfinite()
    assert all(each.grad.abs().max() > 0 for each in method.backbone.parameters())


# -- contrast


def literal_multi_positive(projections, weight, temperature):
    """Equations 1 to 3 of StableRep, image by image; ``weight(i, j)`` is how much image j is a positive of i."""
    rows = projections.flatten(0, 1)
    terms = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        exps = {j: math.exp(float(rows[i] @ rows[j]) / temperature) for j in others}
        q = {j: exps[j] / sum(exps.values()) for j in others}  # equation 1
        total = sum(weight(i, j) for j in others)
        p = {j: weight(i, j) / total for j in others}  # equation 2
        terms.append(-sum(p[j] * math.log(q[j]) for j in others))  # equation 3
    return sum(terms) / len(terms)


@pytest.mark.parametrize("num_views", [2, 3, 5])
def test_multi_positive_equals_its_equations_term_by_term(method_of, num_views):
    projections = unit_rows(4, num_views, 6)
    expected = literal_multi_positive(projections, lambda i, j: i // num_views == j // num_views, 0.1)
    ours = method_of("multipos").loss((projections,), targets_of(4, num_views))
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_multi_positive_of_pairs_is_nt_xent_and_of_classes_is_sup_con(method_of):
    pairs, labels = unit_rows(6, 2, 5), [0, 1, 0, 2, 2, 0]
    torch.testing.assert_close(
        method_of("multipos").loss((pairs,), targets_of(6, 2)), method_of("simclr").loss((pairs,), targets_of(6, 2))
    )
    views = unit_rows(6, 3, 5)
    one_class_each = targets_of(6, 3, labels=range(6))
    torch.testing.assert_close(
        method_of("multipos").loss((views,), one_class_each), method_of("supcon").loss((views,), one_class_each)
    )
    torch.testing.assert_close(
        method_of("supcon").loss((views,), targets_of(6, 3, labels=labels)), sup_con(views, torch.tensor(labels))
    )


def test_simclr_is_nt_xent_at_its_temperature(method_of):
    pairs = unit_rows(6, 2, 5)
    expected = nt_xent(pairs[:, 0], pairs[:, 1], temperature=0.3)
    assert torch.equal(method_of("simclr", temperature=0.3).loss((pairs,), targets_of(6, 2)), expected)


def test_equal_views_cost_the_log_of_the_number_of_others():
    rows = unit_rows(1, 1, 8).expand(5, 4, 8)
    weights = positive_weights(torch.arange(5), 4)
    assert float(multi_positive(rows, weights)) == pytest.approx(math.log(5 * 4 - 1), abs=1e-5)


def test_positives_weighted_by_latent_distance_equal_their_formula_term_by_term():
    projections, latents, tau = unit_rows(4, 3, 6), random(4, 3, 7, seed=1), 0.8
    labels = torch.tensor([0, 1, 0, 1])
    of_row, flat = labels.repeat_interleave(3), latents.flatten(0, 1)

    def weight(i, j):
        return float(of_row[i] == of_row[j]) * math.exp(-float((flat[i] - flat[j]).square().mean()) / (2 * tau**2))

    ours = multi_positive(projections, positive_weights(labels, 3, latents=latents, tau=tau))
    assert float(ours) == pytest.approx(literal_multi_positive(projections, weight, 0.1), rel=1e-5)


def test_a_wide_scale_weights_positives_equally_and_a_narrow_one_leaves_the_nearest():
    labels, latents = torch.tensor([0, 0, 0]), torch.tensor([[[0.0], [1.0]], [[5.0], [6.5]], [[50.0], [52.0]]])
    equal = positive_weights(labels, 2)
    torch.testing.assert_close(positive_weights(labels, 2, latents=latents, tau=1e4), equal, atol=1e-4, rtol=0)
    nearest = positive_weights(labels, 2, latents=latents, tau=1e-3)
    assert nearest.nonzero().tolist() == [[0, 1], [1, 0], [2, 3], [3, 2], [4, 5], [5, 4]]
    assert set(nearest.flatten().tolist()) == {0, 1}


def test_an_image_without_a_positive_weighs_nothing():
    weights = positive_weights(torch.tensor([0, 0, 1]), 1, latents=random(3, 1, 2), tau=0.5)
    assert weights.isfinite().all()
    assert not weights[2].any()
    assert not weights[:, 2].any()


def test_tau_chooses_the_weights_of_supcon_and_multipos(method_of):
    views, targets = unit_rows(8, 3, 5), targets_of(8, 3)
    for name, labels in (("supcon", targets.labels), ("multipos", torch.arange(8))):
        weights = positive_weights(labels, 3, latents=targets.latents, tau=0.5)
        expected = multi_positive(views, weights)
        assert torch.equal(method_of(name, latent_tau=0.5).loss((views,), targets), expected)
        assert not torch.allclose(method_of(name).loss((views,), targets), expected)


def test_gradients_of_weighted_positives_are_those_of_the_formula():
    weights = positive_weights(torch.tensor([0, 0, 1]), 2, latents=random(3, 2, 2), tau=0.5).double()
    rows = unit_rows(3, 2, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: multi_positive(each, weights, temperature=0.5), rows)


# -- byol


def test_byol_equals_equation_2_in_both_directions():
    predictions, targets = unit_rows(5, 2, 4), unit_rows(5, 2, 4, seed=1)
    expected = 0.0
    for q, z in zip(predictions, targets, strict=True):
        expected += float((q[0] - z[1]).square().sum()) + float((q[1] - z[0]).square().sum())
    assert float(byol_loss(predictions, targets)) == pytest.approx(expected / 5, rel=1e-5)


def test_byol_costs_nothing_where_views_agree_4_where_they_are_orthogonal_and_8_where_opposite():
    first, second = torch.eye(2)
    agree, orthogonal, opposite = (torch.stack([first, other]).expand(3, 2, 2) for other in (first, second, -first))
    assert [float(byol_loss(rows, rows)) for rows in (agree, orthogonal, opposite)] == [0, 4, 8]


def test_byol_of_more_views_is_that_of_an_average_pair():
    predictions, targets = unit_rows(5, 3, 4), unit_rows(5, 3, 4, seed=1)
    pairs = [byol_loss(predictions[:, pair], targets[:, pair]) for pair in ([0, 1], [0, 2], [1, 2])]
    torch.testing.assert_close(byol_loss(predictions, targets), torch.stack(pairs).mean())


def test_the_target_follows_by_equation_1_and_learns_from_no_gradient(method_of):
    method = method_of("byol")
    online = [*method.backbone.parameters(), *method.projection_head.parameters()]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(method.target.parameters(), online, strict=True))
    assert not any(each.requires_grad for each in method.target.parameters())
    with torch.no_grad():
        for each in online:
            each.add_(1)
    before = [each.clone() for each in method.target.parameters()]
    done = 0.25
    momentum = 1 - (1 - 0.99) * (math.cos(math.pi * done) + 1) / 2
    method.after_step(done)
    for ours, old, theirs in zip(method.target.parameters(), before, online, strict=True):
        torch.testing.assert_close(ours, momentum * old + (1 - momentum) * theirs)


def test_the_targets_momentum_rises_to_one():
    assert target_momentum(0.9, 0) == pytest.approx(0.9)
    assert target_momentum(0.9, 0.5) == pytest.approx(0.95)
    assert target_momentum(0.9, 1) == 1


# -- vicreg


@pytest.mark.parametrize("seed", range(3))
def test_vicreg_agrees_with_pytorch_metric_learning(seed):
    from pytorch_metric_learning.losses import VICRegLoss

    embeddings = random(16, 2, 8, seed=seed) * torch.linspace(0.2, 2, 8)
    # its variance term is the mean of both views, where equation 6 has the sum
    of_pairs = VICRegLoss(invariance_lambda=25, variance_mu=2 * 25, covariance_v=1, eps=1e-4)
    theirs = of_pairs(embeddings[:, 0], ref_emb=embeddings[:, 1])
    assert float(vicreg_loss(embeddings)) == pytest.approx(float(theirs), rel=1e-5)


def test_vicreg_of_collapsed_embeddings_costs_their_missing_variance():
    collapsed = torch.ones(6, 2, 4)
    assert float(vicreg_loss(collapsed)) == pytest.approx(2 * 25 * (1 - 0.01), rel=1e-5)  # sqrt(epsilon) is left


def test_vicreg_of_wide_independent_dimensions_in_agreement_costs_nothing():
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])  # both dimensions vary, their product averages to 0
    assert float(vicreg_loss(2 * signs[:, None].expand(4, 2, 2))) == 0


def test_vicreg_of_more_views_is_that_of_an_average_pair():
    embeddings = random(9, 3, 4) * 0.5
    pairs = [vicreg_loss(embeddings[:, pair]) for pair in ([0, 1], [0, 2], [1, 2])]
    torch.testing.assert_close(vicreg_loss(embeddings), torch.stack(pairs).mean())


# -- inverter and classifier


def test_the_inverter_regresses_the_latent_and_tells_the_class(method_of):
    method, targets = method_of("inverter"), targets_of(8, 1)
    latents, logits = random(8, 1, 3), random(8, 1, 4, seed=1)
    squares = [(latents[b, 0, j] - targets.latents[b, 0, j]) ** 2 for b in range(8) for j in range(3)]
    entropies = [-F.log_softmax(logits[b, 0], dim=0)[targets.labels[b]] for b in range(8)]
    expected = sum(squares) / 24 + sum(entropies) / 8
    torch.testing.assert_close(method.loss((latents, logits), targets), expected)


def test_without_labels_the_inverter_regresses_the_latent_alone(unlabelled_set):
    config = resolve(genrep.shards.open(unlabelled_set), method="inverter", batch_size=8)
    method, targets = build_method(config), targets_of(8, 1)
    assert [name for name, _ in method.named_children()] == ["backbone", "latent_head"]
    (latents,) = method(random(8, 3, 28, 28))
    assert latents.shape == (8, 3)
    assert float(method.loss((targets.latents,), targets)) == 0
    assert float(method.loss((targets.latents + 2,), targets)) == pytest.approx(4)


def test_heads_of_inverter_and_classifier_are_linear_on_the_features(method_of):
    shapes = {
        name: [tuple(each.shape) for part, each in method_of(name).named_parameters() if "head" in part]
        for name in ("inverter", "classifier")
    }
    assert shapes == {"inverter": [(3, 128), (3,), (4, 128), (4,)], "classifier": [(4, 128), (4,)]}


def test_a_classifier_that_knows_nothing_pays_the_log_of_the_number_of_classes(method_of):
    assert float(method_of("classifier").loss((torch.zeros(8, 1, 4),), targets_of(8, 1))) == pytest.approx(math.log(4))


@pytest.mark.parametrize("name", METHODS)
def test_only_a_loss_that_is_a_mean_over_samples_says_so(method_of, name):
    method = method_of(name)
    num_views = method.config.images_per_sample
    shapes = {"inverter": (3,), "classifier": (4,)}
    outputs = tuple(unit_rows(8, num_views, *shapes.get(name, (6,)), seed=i) for i in range(2 if name == "byol" else 1))
    if name == "inverter":
        outputs = (*outputs, random(8, 1, 4))
    targets = targets_of(8, num_views)
    halves = [
        method.loss(
            tuple(each[half] for each in outputs), Targets(labels=targets.labels[half], latents=targets.latents[half])
        )
        for half in (slice(4), slice(4, 8))
    ]
    whole = method.loss(outputs, targets)
    assert method.additive == torch.allclose(sum(halves) / 2, whole)
