import json

import numpy as np
import pytest
import torch

from genrep.shards.errors import DataError
from genrep.train import export as export_module
from genrep.train.backbones import build_backbone
from genrep.train.checkpoint import LoadedBackbone
from genrep.train.export import detectron2_state_dict, export
from genrep.train.export_command import FORMATS


def loaded(name):
    """A backbone with weights of its own in every layer, statistics of the norms included."""
    torch.manual_seed(0)
    module = build_backbone(name)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) * 0.2 + 0.05)
    return LoadedBackbone(
        module=module.eval().requires_grad_(False),
        name=name,
        image_size=32,
        resize_size=36,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        sha256="c0ffee",
        config={},
    )


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_command_offers_every_format_there_is():
    assert tuple(export_module.FORMATS) == FORMATS


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_timm_builds_the_model_from_the_file_and_gives_the_same_features(tmp_path, images, name):
    import timm

    backbone, path = loaded(name), tmp_path / "backbone.pth"
    export(backbone, path, format="timm")
    model = timm.create_model(name, num_classes=0, checkpoint_path=str(path)).eval()
    torch.testing.assert_close(model(images), backbone.module(images))


def test_onnx_takes_images_of_any_number_and_gives_the_features_of_normalised_ones(tmp_path, images):
    import onnxruntime

    for name in ("resnet-tiny", "resnet18"):
        backbone, path = loaded(name), tmp_path / f"{name}.onnx"
        export(backbone, path, format="onnx")
        session = onnxruntime.InferenceSession(path)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
        for batch in (images, images[:1]):
            (features,) = session.run(["features"], {"images": batch.numpy()})
            expected = backbone.module((batch - mean) / std).numpy()
            np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
        facts = json.loads(session.get_modelmeta().custom_metadata_map["genrep"])
        assert facts == {"backbone": name, "image_size": 32, "resize_size": 36, "checkpoint": "c0ffee"}
        assert [file.name for file in tmp_path.glob(f"{name}*")] == [f"{name}.onnx"]


def test_detectron2_finds_its_own_names_and_a_sign_to_match_them(tmp_path):
    backbone, path = loaded("resnet50"), tmp_path / "backbone.pth"
    export(backbone, path, format="detectron2")
    content = torch.load(path, weights_only=True)
    assert content["matching_heuristics"] is True
    ours = backbone.module.state_dict()
    expected = {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.weight": "bn1.weight",
        "stem.conv1.norm.running_var": "bn1.running_var",
        "res2.0.conv1.weight": "layer1.0.conv1.weight",
        "res2.0.conv3.norm.bias": "layer1.0.bn3.bias",
        "res2.0.shortcut.weight": "layer1.0.downsample.0.weight",
        "res2.0.shortcut.norm.running_mean": "layer1.0.downsample.1.running_mean",
        "res3.3.conv2.norm.weight": "layer2.3.bn2.weight",
        "res4.5.conv2.weight": "layer3.5.conv2.weight",
        "res5.2.conv3.norm.running_var": "layer4.2.bn3.running_var",
    }
    for theirs, name in expected.items():
        assert torch.equal(content["model"][theirs], ours[name]), theirs
    assert len(content["model"]) == len(ours)
    assert not any("layer" in name or "bn" in name or "downsample" in name for name in content["model"])


def test_no_two_weights_get_one_name_in_detectron2():
    assert len(detectron2_state_dict(loaded("resnet18"))) == len(loaded("resnet18").module.state_dict())


@pytest.mark.parametrize("format", ["torchvision", "timm", "detectron2"])
def test_the_tiny_backbone_is_refused_where_there_is_none(tmp_path, format):
    with pytest.raises(DataError, match=f"{format} has no resnet-tiny: train with --backbone resnet18 to export to"):
        export(loaded("resnet-tiny"), tmp_path / "tiny.pth", format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("format", "package"), [("timm", "timm"), ("onnx", "onnxscript")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, format, package):
    def without(name):
        if name == package:
            raise ImportError(name)
        return __import__(name)

    monkeypatch.setattr(export_module, "import_module", without)
    with pytest.raises(DataError, match=rf"{package} is not installed: pip install 'genrep\[{format}\]'"):
        export(loaded("resnet18"), tmp_path / "backbone", format=format)
    assert list(tmp_path.iterdir()) == []


def test_a_timm_model_of_other_weights_is_refused_by_what_does_not_fit(tmp_path):
    import dataclasses

    claimed = dataclasses.replace(loaded("resnet18"), name="resnet34")
    with pytest.raises(
        DataError, match=r"the model resnet34 has other weights: no layer1.2.conv1.weight, .*and \d+ more"
    ):
        export(claimed, tmp_path / "backbone.pth", format="timm")
