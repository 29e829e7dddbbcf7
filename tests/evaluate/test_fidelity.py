import json
import sys
import types

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from planted_sets import patches, real_patches, write_planted

from genrep.evaluate.command import main
from genrep.evaluate.extractors import open_extractor
from genrep.evaluate.fidelity import distances, frechet_distance, measure_fidelity, real_reference, set_reference
from genrep.shards.errors import DataError
from genrep.shards.reader import ShardDataset


def gaussian(mean, scale, *, seed, count=4000, width=4):
    return torch.tensor(mean) + scale * torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    first = gaussian([3.0, 0, 0, 0], 1.0, seed=0)
    second = gaussian([0.0, 0, 0, 0], 2.0, seed=1)
    wanted = 3**2 + 4 * (2 - 1) ** 2  # |difference of means|^2 + sum of (difference of scales)^2
    found = distances(first, second)["frechet_distance"]
    assert found.value == pytest.approx(wanted, rel=0.03)
    assert found.interval[0] < wanted < found.interval[1]
    assert found.interval[1] - found.interval[0] < 1.5


def test_a_set_of_features_is_at_distance_0_from_itself():
    features = gaussian([1.0, 2, 3, 4], 1.0, seed=0, count=300)
    found = distances(features, features)
    assert found["frechet_distance"].value == pytest.approx(0, abs=1e-6)
    assert (found["precision"].value, found["recall"].value) == (1, 1)


def test_features_that_never_meet_have_no_precision_and_no_recall():
    found = distances(gaussian([0.0] * 4, 1.0, seed=0, count=200), gaussian([100.0] * 4, 1.0, seed=1, count=200))
    assert (found["precision"].value, found["recall"].value) == (0, 0)
    assert found["precision"].interval[1] < 0.03


def test_a_sample_of_one_mode_of_two_is_precise_and_lacks_recall():
    one, other = (gaussian([10.0 * mode] * 4, 1.0, seed=mode, count=200) for mode in (0, 1))
    found = distances(gaussian([0.0] * 4, 1.0, seed=5, count=400), torch.cat([one, other]))
    assert found["precision"].value > 0.85
    assert 0.4 < found["recall"].value <= 0.5


def test_the_kernel_distance_of_equal_distributions_has_0_in_its_interval():
    found = distances(gaussian([0.0] * 4, 1.0, seed=0), gaussian([0.0] * 4, 1.0, seed=1))["kernel_distance"]
    assert found.interval[0] < 0 < found.interval[1]


@pytest.fixture
def planted(tmp_path):
    labels = np.arange(60) % 2
    images = patches(np.random.default_rng(0), labels)[:, None]
    images = np.concatenate([images, 255 - images], 1)  # a view has the other class
    return write_planted(tmp_path / "planted", images, labels=labels)


def untrained(side=12):
    return open_extractor(side=side, device="cpu")


def test_class_fidelity_is_the_share_of_labels_that_a_probe_of_real_images_finds(planted):
    data = real_patches()
    reference = real_reference(data, data.fit, name="fit part")
    anchors, views = (
        measure_fidelity(ShardDataset(planted), "planted", reference, untrained(), image=image) for image in (0, 1)
    )
    assert (anchors.num_images, anchors.class_fidelity.num_images) == (40, 40)  # half of 80 real images
    assert (anchors.class_fidelity.set.value, anchors.class_fidelity.real.value) == (1, 1)
    assert views.class_fidelity.set.value == 0
    assert views.class_fidelity.per_class == {"dark": 0, "light": 0}
    assert anchors.measures["frechet_distance"].value < 3 * anchors.floors["frechet_distance"].value


def test_images_of_another_kind_are_farther_than_the_floor(tmp_path):
    flat = np.full((60, 1, 12, 12, 1), 128, np.uint8)
    write_planted(tmp_path / "flat", flat)
    data = real_patches()
    reference = real_reference(data, data.fit, name="fit part")
    found = measure_fidelity(ShardDataset(tmp_path / "flat"), "flat", reference, untrained())
    assert found.measures["frechet_distance"].value > 10 * found.floors["frechet_distance"].value
    assert found.measures["precision"].value == 0
    assert found.class_fidelity is None  # no labels


def test_a_set_is_at_distance_0_from_itself(planted):
    dataset = ShardDataset(planted)
    found = measure_fidelity(dataset, "planted", set_reference(dataset, "planted", seed=0), untrained())
    assert found.measures["frechet_distance"].value == pytest.approx(0, abs=1e-4)
    assert found.num_images == 30


def test_too_few_images_are_refused(tmp_path):
    write_planted(tmp_path / "few", np.zeros((3, 1, 12, 12, 1), np.uint8))
    data = real_patches()
    with pytest.raises(DataError, match=r"has 3 samples .* at least 4 and 8"):
        measure_fidelity(
            ShardDataset(tmp_path / "few"), "few", real_reference(data, data.fit, name="fit part"), untrained()
        )


def invoke(*arguments):
    return CliRunner().invoke(main, ["fidelity", *map(str, arguments)])


def refused(*arguments, status=1):
    outcome = invoke(*arguments)
    assert outcome.exit_code == status, outcome.output
    lines = outcome.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    return lines[0]


def test_the_command_says_loudly_that_these_are_not_the_fid_of_papers(planted, photographs, run, tmp_path):
    out = tmp_path / "result.json"
    outcome = invoke(
        "--shards", planted, "--data", f"imagefolder:{photographs}", "--checkpoint", run, "--out", out, "--threads", 1
    )
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("!! These are features of the encoder ")
    assert "NOT the FID" in lines[0]
    assert lines[3].startswith("Frechet distance ")
    result = json.loads(out.read_text())
    assert result["is_fid"] is False
    assert result["num_images"] == 27  # half of the 54 images to fit on
    assert "27 images of the set and 27 real ones" in result["unit"]
    assert set(result["floors"]) == set(result["measures"])
    assert result["class_fidelity"] is None  # other classes


def test_real_images_may_be_a_set(planted, tmp_path):
    real = write_planted(
        tmp_path / "real", patches(np.random.default_rng(3), np.arange(40) % 2)[:, None], labels=np.arange(40) % 2
    )
    out = tmp_path / "result.json"
    outcome = invoke("--shards", planted, "--real", real, "--image", "view1", "--out", out, "--threads", 1, "--quiet")
    assert (outcome.exit_code, outcome.output) == (0, "")
    result = json.loads(out.read_text())
    assert (result["num_images"], result["set"]["image"]) == (20, "view1")
    assert result["class_fidelity"]["set"]["value"] == 0  # the view has the other class


def test_faults_are_one_line(planted, run, tmp_path):
    assert "has no image 'view2': use --image anchor or view1" in refused("--shards", planted, "--image", "view2")
    assert "leave one out" in refused("--shards", planted, "--extractor", "x", "--checkpoint", run, status=2)
    assert "needs its weights" in refused("--shards", planted, "--extractor", "inception-v3-compat")
    assert "use inception-v3-compat or vgg16" in refused("--shards", planted, "--extractor", "clip-rn50")
    assert "cannot be loaded" in refused("--shards", planted, "--extractor", "nowhere:Class")
    assert str(tmp_path / "gone") in refused("--shards", tmp_path / "gone")
    (tmp_path / "weights").write_bytes(b"nothing")
    line = refused(
        "--shards", planted, "--extractor", "inception-v3-compat", "--extractor-weights", tmp_path / "weights"
    )
    assert "cannot be read as weights" in line
    assert not list(tmp_path.glob("fidelity-*.json"))


class Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_weights_that_hold_a_program_are_not_executed(planted, tmp_path, capfd):
    torch.save({"fc.bias": Payload()}, tmp_path / "weights.pth")
    line = refused(
        "--shards", planted, "--extractor", "inception-v3-compat", "--extractor-weights", tmp_path / "weights.pth"
    )
    assert "cannot be read as weights" in line
    assert "executed" not in capfd.readouterr().out


def test_inception_takes_its_weights_from_a_file_and_its_distance_is_called_fid(monkeypatch, tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    real_load, seen = torch.load, []

    def load(source, **options):  # what torch-fidelity would read with pickle
        if options.get("weights_only") is False:
            assert not isinstance(source, str | bytes)  # never the file itself
            seen.append(real_load(source, weights_only=True))
            return {}
        return real_load(source, **options)

    monkeypatch.setattr(torch, "load", load)
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    torch.save({"fc.bias": torch.arange(3.0)}, tmp_path / "weights.pth")
    looking = open_extractor(name="inception-v3-compat", weights=tmp_path / "weights.pth", side=12, device="cpu")
    assert seen[0]["fc.bias"].tolist() == [0, 1, 2]
    assert looking.warning is None
    assert looking.encoder.apply(torch.rand(2, 1, 12, 12)).shape == (2, 2048)


def test_an_extractor_of_ones_own_sees_the_pixels_as_they_are(monkeypatch):
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Corner(FeatureExtractorBase):
        def __init__(self, name, features_list, **options):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ("corner",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "corner"

        def forward(self, images):
            assert images.dtype == torch.uint8
            return (images[:, :, 0, 0].float(),)

    module = types.ModuleType("own_extractors")
    module.Corner, module.Other = Corner, dict
    monkeypatch.setitem(sys.modules, "own_extractors", module)
    looking = open_extractor(name="own_extractors:Corner", side=2, device="cpu")
    grey = torch.tensor([0, 7, 255.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2) / 255
    assert looking.encoder.apply(grey).tolist() == [[0] * 3, [7] * 3, [255] * 3]
    assert "NOT the FID" in looking.warning
    with pytest.raises(DataError, match="is no FeatureExtractorBase"):
        open_extractor(name="own_extractors:Other", side=2, device="cpu")


def test_half_of_the_drawn_rows_is_never_in_the_other_half():
    from genrep.evaluate.sources import drawn

    first, second = drawn(100, 50, seed=3), drawn(100, 50, seed=3, skip=50)
    assert sorted([*first, *second]) == list(range(100))
    assert not np.array_equal(first, drawn(100, 50, seed=4))


def test_the_floor_of_frechet_distance_falls_with_more_images():
    few, many = (
        frechet_distance(gaussian([0.0] * 4, 1.0, seed=0, count=count), gaussian([0.0] * 4, 1.0, seed=1, count=count))
        for count in (30, 3000)
    )
    assert many < few
