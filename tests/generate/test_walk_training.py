import dataclasses
import json

import pytest
import torch
from blob_generators import DEGREES, LN_SCALE, PIXELS, RELATIVE

from genrep.generate.generators import load_generator
from genrep.generate.walk_training import WalkSettings, masked_error, train_walks
from genrep.generate.walks import load_walks
from genrep.shards.errors import DataError

SHIFT = WalkSettings(full={"shift_x": 2.0}, steps=20, batch_size=8, learning_rate=0.1)


@pytest.fixture
def generator():
    return load_generator("blob_generators:blob")


def test_each_walk_is_the_coordinate_that_does_its_edit(tmp_path, generator):
    full = {"shift_x": 1.0, "shift_y": 1.0, "brightness": 0.1, "rotation": 8.0, "zoom": 0.1}
    settings = WalkSettings(full=full, steps=120, batch_size=32, learning_rate=0.1)
    walks = train_walks(generator, settings, tmp_path / "run")

    exact = torch.diag(torch.tensor([1 / PIXELS, 1 / PIXELS, 0.1 / RELATIVE, 8 / DEGREES, 0.1 / LN_SCALE]))
    found = torch.tensor(walks.directions)
    # the coordinates' order is x, y, size, angle, brightness; exact for the anchor in the middle, the others turn,
    # enlarge and brighten about it by a little more or less
    torch.testing.assert_close(found[:, [0, 1, 4, 3, 2]], exact, atol=0.2, rtol=0)
    assert found[:, 5].abs().max() == 0
    assert (walks.names, walks.full, walks.latent_space) == (tuple(full), full, "z")
    assert walks.generator == generator.fingerprint()
    assert walks.units == {
        "shift_x": "px",
        "shift_y": "px",
        "brightness": "relative",
        "rotation": "degrees",
        "zoom": "ln scale",
    }


def test_masked_values_do_not_count():
    images, target = torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 3.0)
    target[..., 0, 0] = 100
    mask = torch.ones(1, 1, 2, 2)
    mask[..., 0, 0] = 0
    assert masked_error(images, target, mask).item() == 9


def curve(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, generator):
    def stop(step, loss):
        if step == 13:
            raise KeyboardInterrupt

    whole = train_walks(generator, SHIFT, tmp_path / "whole", checkpoint_every=5)
    with pytest.raises(KeyboardInterrupt):
        train_walks(generator, SHIFT, tmp_path / "stopped", checkpoint_every=5, progress=stop)
    assert not (tmp_path / "stopped" / "walks.safetensors").exists()
    with open(tmp_path / "stopped" / "metrics.jsonl", "a") as metrics:
        print('{"step": 11, "loss": 0}', file=metrics)  # as if killed between the curve and its checkpoint
    continued: list[int] = []
    resumed = train_walks(
        generator, SHIFT, tmp_path / "stopped", checkpoint_every=5, progress=lambda step, loss: continued.append(step)
    )

    assert continued[0] == 11  # after the checkpoint of step 10
    assert resumed == whole
    whole_curve, stopped_curve = (curve(tmp_path / run) for run in ("whole", "stopped"))
    assert [step for step, _ in whole_curve] == list(range(1, 21))
    assert whole_curve == stopped_curve


def test_a_finished_run_is_not_trained_again(tmp_path, generator):
    walks = train_walks(generator, SHIFT, tmp_path / "run")
    again = train_walks(generator, SHIFT, tmp_path / "run", progress=lambda step, loss: pytest.fail("trained again"))
    assert again == walks == load_walks(tmp_path / "run" / "walks.safetensors")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"seed": 1}, "seed 0, not 1"), ({"full": {"zoom": 0.1}}, r"full \{'shift_x': 2.0\}, not \{'zoom': 0.1\}")],
)
def test_a_folder_with_another_configuration_is_refused_by_field(tmp_path, generator, change, complaint):
    train_walks(generator, SHIFT, tmp_path / "run")
    with pytest.raises(DataError, match=f"holds walks trained with {complaint}; name another --out"):
        train_walks(generator, dataclasses.replace(SHIFT, **change), tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("checkpoint.pt", b"PK\x03\x04 cut short", "is damaged .*; remove it to train from the start"),
        ("config.json", b"{", "cannot be read"),
        ("config.json", b"[]", "is no configuration of a run"),
    ],
)
def test_a_damaged_run_says_which_file(tmp_path, generator, name, content, complaint):
    train_walks(generator, SHIFT, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} {complaint}"):
        train_walks(generator, SHIFT, tmp_path / "run")


def test_a_generator_without_gradient_is_refused_in_one_line(tmp_path):
    ungraded = load_generator("blob_generators:ungraded")
    with pytest.raises(DataError, match="blob_generators:ungraded gives no gradient to its latents"):
        train_walks(ungraded, SHIFT, tmp_path / "run")


def test_the_generator_stays_frozen(tmp_path):
    generator = load_generator("stub_generators:conditional")
    network = generator.plug_in.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train_walks(generator, WalkSettings(full={"zoom": 0.2}, steps=3, batch_size=4), tmp_path / "run")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_walks_of_w_have_its_coordinates_and_say_so(tmp_path):
    mapped = load_generator("stub_generators:mapped")
    settings = WalkSettings(full={"zoom": 0.2}, latent_space="w", steps=3, batch_size=4)
    walks = train_walks(mapped, settings, tmp_path / "run")
    assert (walks.latent_space, walks.directions.shape) == ("w", (1, 5))
    assert abs(walks.directions[0, :4]).min() > 0
    assert walks.directions[0, 4] == 0  # the stub does not look at it


def test_a_space_that_the_generator_lacks_is_refused(tmp_path, generator):
    settings = dataclasses.replace(SHIFT, latent_space="w")
    with pytest.raises(DataError, match="can be steered in z, not in 'w'"):
        train_walks(generator, settings, tmp_path / "run")


def test_a_diverging_run_says_what_to_do(tmp_path, generator):
    settings = dataclasses.replace(SHIFT, learning_rate=1e30)
    with pytest.raises(DataError, match=r"the loss is no number at step \d+; train with a smaller --lr"):
        train_walks(generator, settings, tmp_path / "run")
