import sys

import pytest
import torch

from genrep.generate.generators import known_generators, load_generator, parse_classes
from genrep.shards.errors import DataError

NAMES = ("ant", "bee", "Sea cat", "tench, Tinca tinca", "crane", "crane")


def test_what_a_plug_in_leaves_out_is_filled_in(tmp_path, monkeypatch):
    (tmp_path / "bare.py").write_text(
        "class Bare:\n"
        "    latent_dim = 2\n"
        "    image_shape = (1, 2, 2)\n"
        "    def render(self, latents, labels):\n"
        "        return latents[:, :1, None, None].expand(-1, 1, 2, 2)\n"
        "def load(weights=None):\n"
        "    return Bare()\n"
    )
    monkeypatch.chdir(tmp_path)  # a module in the working directory is found
    generator = load_generator("bare:load")
    assert (generator.name, generator.spec, generator.num_classes, generator.class_names) == (
        "Bare",
        "bare:load",
        0,
        (),
    )
    assert (generator.prior, generator.latent_spaces, generator.takes_noise) == ("normal", ("z",), False)
    assert (generator.licence, generator.default_walks) == (None, None)
    assert generator.prior_scale(0.5) == 0.5
    assert generator.to("cpu").render(torch.ones(3, 2), None, torch.zeros(3)).shape == (3, 1, 2, 2)


def test_a_generator_that_truncates_by_itself_keeps_the_whole_prior():
    generator = load_generator("stub_generators:mapped")
    generator.set_truncation(0.5)
    assert generator.prior_scale(0.5) == 1.0
    assert generator.plug_in.truncation == 0.5
    assert generator.latent_spaces == ("z", "w")


def test_arguments_reach_the_factory_as_strings():
    assert load_generator("stub_generators:conditional", arguments={"gain": "2.5"}).plug_in.gain == 2.5


def test_a_loaded_generator_is_frozen_and_in_eval_mode():
    network = load_generator("stub_generators:conditional").plug_in.network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_fingerprint_follows_weights_and_configuration():
    def fingerprint(**arguments):
        return load_generator("stub_generators:conditional", arguments=arguments).fingerprint()

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(salt="1"), fingerprint(gain="2")}) == 3
    assert fingerprint() != load_generator("stub_generators:unconditional").fingerprint()


def test_one_changed_weight_changes_the_fingerprint(monkeypatch):
    import stub_generators

    before = load_generator("stub_generators:conditional").fingerprint()
    changed = stub_generators.Stub()
    with torch.no_grad():
        changed.network.weight[3, 2] += 1e-3
    monkeypatch.setattr(stub_generators, "conditional", lambda weights=None: changed)
    assert load_generator("stub_generators:conditional").fingerprint() != before


def test_the_embedded_generators_are_registered():
    assert {"fashion", "fashion-null"} <= set(known_generators())


@pytest.mark.parametrize(
    ("spec", "options", "complaint"),
    [
        ("fashon", {}, "no generator 'fashon'; registered: "),
        ("fashon", {}, "fashion, fashion-null"),
        ("a b:c", {}, "no generator 'a b:c'"),
        (".os:mkdir", {}, "no generator '.os:mkdir'"),
        ("no_such_module:load", {}, "No module named 'no_such_module'"),
        ("stub_generators:absent", {}, "module stub_generators has no function absent"),
        ("stub_generators:CLASS_NAMES", {}, "has no function CLASS_NAMES"),
        ("stub_generators:without_a_render", {}, "object has no latent_dim"),
        ("stub_generators:conditional", {"arguments": {"gian": "2"}}, "'gian'; it takes --generator-arg gain, salt"),
        ("stub_generators:unconditional", {"arguments": {"gain": "2"}}, "it takes no --generator-arg"),
        ("stub_generators:conditional", {"arguments": {"gain": "two"}}, "ValueError: could not convert"),
        ("stub_generators:conditional", {"weights": "nowhere.pt"}, "no weights at nowhere.pt"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(spec, options, complaint, tmp_path):
    from pathlib import Path

    if "weights" in options:
        options = {"weights": Path(options["weights"])}
    with pytest.raises(DataError) as caught:
        load_generator(spec, **options)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "value", "complaint"),
    [
        ("latent_dim", 0, "latent_dim is 0"),
        ("image_shape", (2, 8, 8), r"image_shape is \(2, 8, 8\)"),
        ("prior", "cauchy", "prior is 'cauchy'; known: normal, truncated-normal"),
        ("class_names", ("ant",), "1 class_names for num_classes 3"),
        ("latent_blocks", (2, 1), r"latent_blocks is \(2, 1\); sizes that add up to latent_dim 4"),
        ("latent_blocks", (5, -1), r"latent_blocks is \(5, -1\)"),
    ],
)
def test_a_plug_in_that_breaks_the_protocol_is_named(attribute, value, complaint, monkeypatch):
    import stub_generators

    broken = stub_generators.Stub()
    setattr(broken, attribute, value)
    monkeypatch.setattr(stub_generators, "conditional", lambda weights=None: broken)
    with pytest.raises(DataError, match=complaint):
        load_generator("stub_generators:conditional")


def test_a_refused_name_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        load_generator("trap")
    assert "trap" not in sys.modules


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", (1,)),
        ("0-2", (0, 1, 2)),
        ("3,0-1,1", (0, 1, 3)),
        ("bee, SEA CAT", (1, 2)),
        ("tinca tinca", (3,)),
        ("0-5", None),
    ],
)
def test_classes_are_chosen_by_number_range_and_name(text, expected):
    assert parse_classes(text, NAMES) == expected


def test_classes_are_chosen_by_groups_that_the_generator_names():
    groups = {"n01440764": (3,), "imagenet-100": (0, 5)}
    assert parse_classes("n01440764,1", NAMES, groups) == (1, 3)
    assert parse_classes("imagenet-100", NAMES, groups) == (0, 5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("6", "no class 6; the generator has 0-5"),
        ("4-9", "no class 4-9; the generator has 0-5"),
        ("3-1", "range 3-1 is empty"),
        ("wasp", "'wasp' is no class; known: ant, bee, Sea cat"),
        ("crane", r"'crane' names 2 classes \(4, 5\)"),
        ("", "'' is no class"),
    ],
)
def test_a_class_that_does_not_exist_is_refused_with_the_known_ones(text, complaint):
    with pytest.raises(DataError, match=complaint):
        parse_classes(text, NAMES)
