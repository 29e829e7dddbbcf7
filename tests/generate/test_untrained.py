import torch

from genrep.generate.fingerprint import fingerprint
from genrep.generate.untrained import normal_tensors


def test_random_weights_are_standard_normals_that_follow_seed_and_place():
    shapes = {"a": (40, 50), "b": (40, 50), "scalar": (), "none": (0, 3)}
    first, again, other = (normal_tensors(shapes, seed=seed) for seed in (0, 0, 1))
    assert {name: tuple(tensor.shape) for name, tensor in first.items()} == shapes
    assert all(torch.equal(first[name], again[name]) for name in shapes)
    rows = torch.stack([first["a"], first["b"], other["a"]]).flatten(1)
    assert rows.mean(dim=1).abs().max() < 0.1
    assert (rows.std(dim=1) - 1).abs().max() < 0.1
    assert (torch.corrcoef(rows) - torch.eye(3)).abs().max() < 0.1


def test_a_fingerprint_follows_names_values_types_shapes_and_configuration_but_not_the_order():
    a, b = torch.arange(4.0), torch.arange(4.0) + 1
    base = fingerprint({"a": a, "b": b}, {"x": 1, "y": 2})
    assert fingerprint({"b": b, "a": a}, {"y": 2, "x": 1}) == base
    others = [
        fingerprint({"a": a, "c": b}, {"x": 1, "y": 2}),
        fingerprint({"a": a, "b": b + 1}, {"x": 1, "y": 2}),
        fingerprint({"a": a, "b": b.view(2, 2)}, {"x": 1, "y": 2}),
        fingerprint({"a": a, "b": b.view(torch.int32)}, {"x": 1, "y": 2}),
        fingerprint({"a": a, "b": b}, {"x": 1, "y": 3}),
    ]
    assert len({base, *others}) == 6


def test_a_fingerprint_does_not_depend_on_how_a_tensor_lies_in_memory():
    matrix = torch.arange(6.0).view(2, 3)
    turned = matrix.T.contiguous().T
    assert not turned.is_contiguous()
    assert fingerprint({"a": matrix}, {}) == fingerprint({"a": turned}, {})
    assert fingerprint({"a": matrix.to(torch.bfloat16)}, {}) != fingerprint({"a": matrix}, {})
