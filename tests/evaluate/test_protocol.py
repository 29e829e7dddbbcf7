import dataclasses
import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from genrep.evaluate import protocol
from genrep.evaluate.command import main
from genrep.evaluate.data import open_data
from genrep.evaluate.protocol import Layers, Protocol, cropped, evaluate_by_protocol, rate_factor

SHORT = Protocol(epochs=4, batch_size=16, learning_rates=(0.06, 1.0), num_seeds=2)


@pytest.fixture
def data(photographs):
    return open_data(f"imagefolder:{photographs}")


def test_the_rate_falls_to_a_fifth_after_60_75_and_90_of_100_epochs():
    factors = [rate_factor(epoch, 100) for epoch in range(100)]
    assert factors[:60] == [1] * 60
    assert np.allclose(factors[60:75], 0.2)
    assert np.allclose(factors[75:90], 0.04)
    assert np.allclose(factors[90:], 0.008)


def test_layers_side_by_side_are_trained_as_each_would_be_alone():
    torch.manual_seed(0)
    two_rates = Protocol(learning_rates=(0.1, 1.0), num_seeds=2)
    layers = Layers(two_rates, 5, 3, seed=0, device="cpu")
    alone = []
    for layer, rate in zip(layers._layers, two_rates.learning_rates, strict=True):
        for weights in layer.detach():
            linear = torch.nn.Linear(5, 3)
            with torch.no_grad():
                linear.weight.copy_(weights[:, :-1])
                linear.bias.copy_(weights[:, -1])
            alone.append((linear, torch.optim.SGD(linear.parameters(), lr=rate, momentum=0.9)))
    for _ in range(5):
        features, labels = torch.randn(8, 5), torch.randint(3, (8,))
        layers.step(features, labels)
        for linear, optimiser in alone:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(linear(features), labels).backward()
            optimiser.step()
    together = torch.cat([layer.detach() for layer in layers._layers])
    for weights, (linear, _) in zip(together, alone, strict=True):
        assert torch.allclose(weights[:, :-1], linear.weight, atol=1e-6)
        assert torch.allclose(weights[:, -1], linear.bias, atol=1e-6)


def test_the_crop_of_an_image_depends_on_its_position_and_the_epoch_alone():
    rng = np.random.Generator(np.random.PCG64(0))
    images = [rng.integers(256, size=(40, 30 + 2 * (i % 2), 3), dtype=np.uint8) for i in range(4)]
    positions = np.array([7, 3, 11, 5])
    together = cropped(images, positions, crop=28, seed=0, epoch=1)
    assert together.shape == (4, 3, 28, 28)
    assert 0 <= together.min() < together.max() <= 1
    for row in range(4):
        alone = cropped(images[row : row + 1], positions[row : row + 1], crop=28, seed=0, epoch=1)
        assert torch.equal(alone[0], together[row])
    assert not torch.equal(cropped(images, positions, crop=28, seed=0, epoch=2), together)


def test_grey_images_keep_their_one_channel():
    images = [np.full((28, 28, 1), 51, np.uint8)]
    assert torch.allclose(cropped(images, np.array([0]), crop=28, seed=0, epoch=0), torch.full((1, 1, 28, 28), 0.2))


class Scripted(Layers):
    """Layers that tell what they are trained on, and whose top-1 is a script of rates (L,) by epoch."""

    HELD_OUT = ((0.1, 0.9), (0.1, 0.9), (0.1, 0.9), (0.6, 0.5))  # the first rate is best in the end, and only then
    TEST = ((0.1, 0.2), (0.4, 0.2), (0.3, 0.2), (0.2, 0.9))
    made: ClassVar[list["Scripted"]] = []

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.steps, self.looked = [], {6: 0, 24: 0}  # images held out, and to test on
        self.made.append(self)

    def step(self, features, labels):
        self.steps.append((features, labels, [group["lr"] for group in self._optimiser.param_groups]))
        super().step(features, labels)

    def top1(self, part):
        epoch = self.looked[len(part.labels)]
        self.looked[len(part.labels)] += 1
        script = self.HELD_OUT if len(part.labels) == 6 else self.TEST
        return torch.tensor(script[epoch])[:, None].expand(2, 2)


@pytest.fixture
def scripted(data, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Scripted, "made", [])
    monkeypatch.setattr(protocol, "Layers", Scripted)
    result = evaluate_by_protocol(run, data, SHORT, cache=tmp_path)
    return result.score.settings, Scripted.made[0]


def test_the_learning_rate_is_chosen_on_held_out_images_after_the_last_epoch(scripted):
    settings, _ = scripted
    assert settings["learning_rate"] == 0.06
    assert settings["held_out_top1"] == pytest.approx([0.6, 0.5])


def test_the_best_epoch_is_looked_for_on_the_test_images_at_the_chosen_rate(scripted):
    settings, _ = scripted
    assert (settings["best_epoch"], settings["best_epoch_top1"]) == (2, pytest.approx(0.4))
    assert settings["last_epoch_top1_by_seed"] == pytest.approx([0.2, 0.2])


def test_every_epoch_goes_once_over_the_images_to_fit_on_in_an_order_of_its_own(scripted, data):
    _, layers = scripted
    labels = torch.cat([each for _, each, _ in layers.steps]).reshape(4, -1)
    for of_epoch in labels:
        assert np.bincount(of_epoch).tolist() == np.bincount(data.fit.labels).tolist() == [18, 18, 18]
    assert len({tuple(each.tolist()) for each in labels}) == 4
    assert [len(each) for _, each, _ in layers.steps] == [16, 16, 16, 6] * 4


def test_every_rate_falls_with_the_epochs(scripted):
    _, layers = scripted
    first, _, third, fourth = (layers.steps[4 * epoch][2] for epoch in range(4))  # 60, 75 and 90 % of 4: 2, 3 and 3
    assert first == [0.06, 1.0]
    assert third == pytest.approx([0.06 / 5, 1 / 5])
    assert fourth == pytest.approx([0.06 / 125, 1 / 125])


def test_the_number_is_that_of_the_last_epoch(data, run, tmp_path):
    result = evaluate_by_protocol(run, data, SHORT, cache=tmp_path)
    for score in (result.score, *result.floors.values()):
        over_epochs = score.settings["test_top1_by_epoch"]
        assert len(over_epochs) == 4
        assert (
            score.top1
            == pytest.approx(over_epochs[-1])
            == pytest.approx(np.mean(score.settings["last_epoch_top1_by_seed"]))
        )
        assert score.settings["best_epoch_top1"] == max(over_epochs)
        assert over_epochs[score.settings["best_epoch"] - 1] == max(over_epochs)
    assert len(result.floors) == 3
    assert result.right.sum() / (2 * 24) == pytest.approx(result.score.top1)


def test_the_learning_rate_does_not_depend_on_the_test_part(data, run, tmp_path):
    wrong = dataclasses.replace(data.test, labels=(data.test.labels + 1) % 3)
    other = dataclasses.replace(data, test=wrong, sha256="1" * 64)
    one, two = (evaluate_by_protocol(run, each, SHORT, cache=tmp_path) for each in (data, other))
    for name in ("learning_rate", "held_out_top1"):
        assert one.score.settings[name] == two.score.settings[name]
    assert one.score.top1 + two.score.top1 <= 1
    assert one.held_out_top1 == two.held_out_top1


def test_a_floor_is_trained_once(data, run, save_run, tmp_path, monkeypatch):
    evaluate_by_protocol(run, data, SHORT, cache=tmp_path / "cache")
    trained, train = [], protocol._train

    def counted(encoder, *args, **kwargs):
        trained.append(encoder.name)
        return train(encoder, *args, **kwargs)

    monkeypatch.setattr(protocol, "_train", counted)
    evaluate_by_protocol(save_run(tmp_path / "other", seed=6), data, SHORT, cache=tmp_path / "cache")
    assert trained == ["backbone"]


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_names_last_and_best_epoch(photographs, run, tmp_path):
    out = tmp_path / "result.json"
    done = invoke(
        "linear", "--checkpoint", run, "--data", f"imagefolder:{photographs}", "--protocol", "genrep", "--epochs", 2,
        "--learning-rates", "0.1,0.3", "--probe-seeds", 2, "--out", out, "--threads", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "last epoch" in done.output
    assert "best epoch on test images" in done.output
    result = json.loads(out.read_text())
    assert result["measure"] == "linear-genrep"
    assert result["settings"]["learning_rates"] == [0.1, 0.3]
    assert result["settings"]["best_epoch_chosen_on"] == "test images, as the authors did"
    assert set(result["floors"]) == {"raw pixels", "untrained backbone", "untrained convolution"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "genrep", "--labels-per-class", "10"], "has no --labels-per-class"),
        (["--protocol", "genrep", "--grid", "wide"], "has no --labels-per-class, --shift or --grid"),
        (["--epochs", "3"], "belong to --protocol genrep"),
    ],
)
def test_options_of_the_other_protocol_are_refused(run, arguments, message):
    refused = invoke("linear", "--checkpoint", run, *arguments)
    assert refused.exit_code == 2
    assert message in refused.output
