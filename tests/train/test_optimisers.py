import dataclasses

import pytest
import torch
from torch import nn

from genrep.train.config import Optimiser
from genrep.train.optimisers import build_optimiser

SETTINGS = Optimiser("lars", lr=0.5, weight_decay=0.1, momentum=0.9, warm_up=0, final=0)


def problem():
    """A weight matrix and a bias, and the gradients they get in each step."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(4, 3)
    for each in layer.parameters():
        nn.init.normal_(each, generator=generator)
    steps = [(torch.randn(3, 4, generator=generator), torch.randn(3, generator=generator)) for _ in range(5)]
    return layer, steps


def taken(optimiser, layer, steps):
    for weight, bias in steps:
        layer.weight.grad, layer.bias.grad = weight.clone(), bias.clone()
        optimiser.step()


def test_lars_equals_its_algorithm_number_by_number():
    layer, steps = problem()
    weights, bias = layer.weight.detach().double(), layer.bias.detach().double()
    velocity, bias_velocity = torch.zeros(3, 4).double(), torch.zeros(3).double()
    for gradient, bias_gradient in steps:
        size = sum(float(w) ** 2 for w in weights.flatten()) ** 0.5
        slope = sum(float(g) ** 2 for g in gradient.flatten()) ** 0.5
        rate = 0.5 * 0.001 * size / (slope + 0.1 * size)  # global rate times equation 6
        velocity = 0.9 * velocity + rate * (gradient + 0.1 * weights)
        weights = weights - velocity
        bias_velocity = 0.9 * bias_velocity + 0.5 * bias_gradient  # neither adapted nor decayed
        bias = bias - bias_velocity
    taken(build_optimiser(SETTINGS, layer.parameters()), layer, steps)
    torch.testing.assert_close(layer.weight.detach().double(), weights, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.bias.detach().double(), bias, rtol=1e-5, atol=1e-6)


def test_lars_moves_a_weight_as_far_however_steep_the_loss_is():
    moved = []
    for steepness in (1, 1000):
        layer, steps = problem()
        before = layer.weight.detach().clone()
        optimiser = build_optimiser(dataclasses.replace(SETTINGS, weight_decay=0), layer.parameters())
        taken(optimiser, layer, [(steepness * weight, bias) for weight, bias in steps])
        moved.append(layer.weight.detach() - before)
    torch.testing.assert_close(moved[0], moved[1])


def test_lars_leaves_weights_of_zero_their_gradient():
    layer, steps = problem()
    nn.init.zeros_(layer.weight)
    taken(build_optimiser(SETTINGS, layer.parameters()), layer, steps[:1])
    torch.testing.assert_close(layer.weight.detach(), -0.5 * steps[0][0])


def test_lars_continues_from_its_state():
    whole, steps = problem()
    taken(build_optimiser(SETTINGS, whole.parameters()), whole, steps)
    stopped, _ = problem()
    first, second = (build_optimiser(SETTINGS, stopped.parameters()) for _ in range(2))
    taken(first, stopped, steps[:2])
    second.load_state_dict(first.state_dict())
    taken(second, stopped, steps[2:])
    assert torch.equal(stopped.weight, whole.weight)
    assert torch.equal(stopped.bias, whole.bias)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_others_are_torchs_own(name, kind):
    layer, _ = problem()
    optimiser = build_optimiser(dataclasses.replace(SETTINGS, name=name), layer.parameters())
    assert type(optimiser) is kind
    assert (optimiser.defaults["lr"], optimiser.defaults["weight_decay"]) == (0.5, 0.1)
    assert optimiser.defaults.get("momentum", 0.9) == 0.9
