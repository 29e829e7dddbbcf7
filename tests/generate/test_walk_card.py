import dataclasses
import json

import numpy as np
import pytest
import torch
from blob_generators import left_or_right

from genrep.generate.generators import load_generator
from genrep.generate.walk_card import STRENGTHS, filmstrip, load_classifier, measure_walks
from genrep.generate.walks import Walks
from genrep.shards.errors import DataError


@pytest.fixture
def generator():
    return load_generator("blob_generators:blob")


def walks_of(**directions):
    """Walks of the blob: name -> (full strength, unit, direction); what is exact follows from the generator."""
    return Walks(
        names=tuple(directions),
        directions=np.array([direction for _, _, direction in directions.values()], np.float32),
        latent_space="z",
        generator="",
        full={name: full for name, (full, _, _) in directions.items()},
        units={name: unit for name, (_, unit, _) in directions.items()},
    )


EXACT = walks_of(
    shift_x=(2.0, "px", [2, 0, 0, 0, 0, 0]),
    shift_y=(2.0, "px", [0, 1, 0, 0, 0, 0]),  # half as far as its name promises
    brightness=(0.1, "relative", [0, 0, 0, 0, 0, 3]),  # does nothing
    sefa_1=(3.0, "latent", [0, 0, 0, 1.5, 0, 0]),  # a rotation by 15 degrees
)


@pytest.fixture(scope="module")
def card():
    return measure_walks(load_generator("blob_generators:blob"), EXACT, num_samples=80, classifier=left_or_right())


def direction(card, name):
    return next(direction for direction in card.directions if direction.name == name)


def test_the_effect_of_an_exact_walk_is_its_strength(card):
    shift = direction(card, "shift_x")
    assert shift.effects["shift_x"] == pytest.approx([2 * c for c in STRENGTHS], abs=0.1)
    assert shift.reached == pytest.approx(1, abs=0.05)
    assert shift.reached_each == pytest.approx([1, 1], abs=0.05)
    assert shift.monotone == [-1, 1]
    assert shift.explained > 0.95


def test_a_walk_that_does_half_reaches_half_and_one_that_does_nothing_reaches_nothing(card):
    assert direction(card, "shift_y").reached == pytest.approx(0.5, abs=0.05)
    nothing = direction(card, "brightness")
    assert nothing.reached == 0
    assert nothing.change == 0
    assert nothing.monotone == [0, 0]
    assert nothing.deserves_name is False


def test_an_edit_leaves_the_others_alone_and_an_unnamed_direction_is_measured_too(card):
    shift, unnamed = direction(card, "shift_x"), direction(card, "sefa_1")
    assert abs(shift.effects["shift_y"][-1]) < 0.1
    assert abs(shift.effects["rotation"][-1]) < 3
    assert unnamed.edit is None
    assert unnamed.reached is None
    # about the spot, not about the middle of the image: the median sample is near it
    assert unnamed.effects["rotation"][-1] == pytest.approx(15, abs=4)


def test_the_class_survives_as_often_as_theory_says(card):
    # the side of the middle where a spot at x ~ N(0, 1) lies, moved by 2: P(x > 0) + P(x < -2)
    assert direction(card, "shift_x").class_survives == pytest.approx(0.523, abs=0.06)
    assert direction(card, "shift_x").class_survives_edit == pytest.approx(0.523, abs=0.06)
    assert direction(card, "shift_x").deserves_name is False
    assert direction(card, "shift_y").class_survives == 1
    assert direction(card, "shift_y").deserves_name is (direction(card, "shift_y").reached >= 0.5)


def test_without_a_classifier_nothing_is_said_about_classes(generator):
    card = measure_walks(generator, EXACT, num_samples=3)
    assert card.class_survives_together is None
    assert {(d.class_survives, d.deserves_name) for d in card.directions} == {(None, None)}
    assert "class" not in card.to_markdown()


def test_the_relative_length_is_the_walk_s_over_a_latent_s(card):
    # E|z| in six dimensions is sqrt(2) gamma(3.5) / gamma(3) = 2.35
    assert direction(card, "shift_x").relative_length == pytest.approx(2 / 2.35, rel=0.06)


def test_each_sample_is_measured_alone_whatever_the_chunks(generator, monkeypatch):
    whole = measure_walks(generator, EXACT, num_samples=20)
    monkeypatch.setattr("genrep.generate.walk_card._CHUNK_VALUES", 1)
    alone = measure_walks(generator, EXACT, num_samples=20)
    assert direction(alone, "shift_x").reached == pytest.approx(direction(whole, "shift_x").reached, abs=1e-3)


def test_the_card_is_json_and_its_markdown_marks_what_does_not_deserve_its_name(card):
    plain = json.loads(json.dumps(card.to_json(), allow_nan=False))
    assert plain["directions"][0]["effects"]["shift_x"][-1] == pytest.approx(2, abs=0.1)
    assert plain["walks_sha256"] == EXACT.sha256
    markdown = card.to_markdown()
    assert "| brightness * | 0.1 relative |" in markdown
    assert "do not trust the name" in markdown


def test_walks_of_another_generator_are_refused(generator):
    for change, complaint in (
        ({"generator": "0" * 64}, r"of another generator \(fingerprint 000000000000\)"),
        ({"directions": np.ones((4, 5))}, "the walks have 5 coordinates, a latent of blob_generators:blob has 6"),
        ({"latent_space": "w"}, "the walks move in w, where blob_generators:blob cannot be steered"),
    ):
        with pytest.raises(DataError, match=complaint):
            measure_walks(generator, dataclasses.replace(EXACT, **change))


def test_the_filmstrip_has_a_row_a_sample_and_a_column_a_strength(generator):
    one = walks_of(shift_x=(2.0, "px", [2, 0, 0, 0, 0, 0]))
    picture = filmstrip(generator, one, num_rows=2)
    scale, gap, margin, header = 4, 2, 8 * len("shift_x") + 8, 20  # 16 px shown as 64
    assert picture.shape == (header + 2 * (64 + gap) + 10, margin + 9 * (64 + gap), 3)

    def tile(row, column):
        top, left = header + row * (64 + gap), margin + column * (64 + gap)
        return picture[top : top + 64, left : left + 64][::scale, ::scale, 0].astype(float)

    moved = np.roll(tile(0, 4), 2, axis=1)  # coefficient 1 is 2 px to the right of coefficient 0
    np.testing.assert_allclose(tile(0, 8)[:, 2:], moved[:, 2:], atol=1)
    assert np.abs(tile(0, 4) - tile(1, 4)).max() > 20


def test_a_classifier_is_named_by_factory_or_file(tmp_path):
    assert load_classifier("blob_generators:left_or_right")(torch.zeros(2, 1, 16, 16)).shape == (2, 2)

    from genrep.generate.fashion.classifier import Classifier

    torch.save(Classifier().state_dict(), tmp_path / "classifier.pt")
    assert load_classifier(str(tmp_path / "classifier.pt"))(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_what_is_no_classifier_is_refused_in_one_line(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    for spec, complaint in {
        str(tmp_path / "absent.pt"): "there is no such file",
        str(tmp_path / "other.pt"): "holds no classifier of genrep.generate.fashion.quality",
        "blob_generators:nothing": "classifier blob_generators:nothing could not be built",
        "no_such_module:factory": "could not be built: ModuleNotFoundError",
    }.items():
        with pytest.raises(DataError, match=complaint) as caught:
            load_classifier(spec)
        assert "\n" not in str(caught.value)
