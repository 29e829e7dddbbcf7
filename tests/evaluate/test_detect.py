import builtins
import json
import os
import signal
import warnings

import pytest
import torch
from click.testing import CliRunner
from drawn_voc import CLASSES, draw_voc

pytest.importorskip("pycocotools", reason="extra detect")

from torchvision.ops import FrozenBatchNorm2d

from genrep.evaluate import detect
from genrep.evaluate.command import main
from genrep.evaluate.detect import DetectSettings, _mirrored, _order, build_detector
from genrep.evaluate.encoders import build
from genrep.evaluate.voc import Box, open_voc
from genrep.train.checkpoint import LoadedBackbone, load_backbone

SMALL = ("--min-size", 32, "--batch-size", 2, "--steps", 2, "--threads", 1, "--device", "cpu")


@pytest.fixture
def small(tmp_path):
    return draw_voc(tmp_path / "small" / "VOC2007", images=12, side=40).parent


@pytest.fixture(autouse=True)
def few_regions(monkeypatch):
    """The detector learns from 32 regions an image in place of 512, for speed."""

    def small_detector(*args):
        detector = build_detector(*args)
        detector.roi_heads.fg_bg_sampler.batch_size_per_image = 32
        return detector

    monkeypatch.setattr(detect, "build_detector", small_detector)


def invoke(*arguments):
    return CliRunner().invoke(main, ["detect", *map(str, arguments)])


def refused(*arguments, status=1):
    outcome = invoke(*arguments)
    assert outcome.exit_code == status, outcome.output
    assert "Traceback" not in outcome.output
    assert len(outcome.stderr.strip().splitlines()) == 1
    return outcome.stderr.strip()


def test_the_command_ends_with_a_table_and_a_result(run, small):
    outcome = invoke("--checkpoint", run, "--data", f"voc:{small}", *SMALL)
    assert outcome.exit_code == 0, outcome.output
    out = run / "evaluation" / "detect-voc-small-steps2-batch-size2-min-size32.json"
    result = json.loads(out.read_text())
    assert (result["format"], result["measure"], result["seed"]) == ("genrep-result/1", "detect", 0)
    assert result["num_images"] == {"fit": 6, "test": 6}
    assert set(result["per_class"]) == set(CLASSES)
    assert list(result["floors"]) == ["untrained backbone"]
    for score in (result, result["floors"]["untrained backbone"]):
        assert all(0 <= score[name] <= 1 for name in ("ap50", "ap", "ap75", "ap50_11_point"))
        assert score["settings"]["steps"] == 2
        assert score["feature_width"] == 128
    assert len(result["checkpoint"]) == 64
    lines = outcome.stdout.splitlines()
    assert lines[2].split()[:3] == ["this", "encoder", f"{100 * result['ap50']:.1f}"]
    assert lines[3].startswith("floor: untrained backbone")
    assert lines[-1] == f"written to {out}"
    assert outcome.stderr == ""


def test_the_same_seed_trains_the_same_detector(run, small):
    backbone, (fit, _) = load_backbone(run), open_voc(small, "trainval,test")
    boxes = [fit.boxes(row) for row in range(len(fit.files))]

    def losses(seed):
        settings = DetectSettings(steps=2, batch_size=2, min_size=32, seed=seed)
        with_heads = detect.build_detector(backbone.module, backbone, 3, settings)
        return detect.train_detector(with_heads, fit, boxes, settings)

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_the_loss_falls(run, small):
    backbone, (fit, _) = load_backbone(run), open_voc(small, "trainval,test")
    settings = DetectSettings(steps=12, batch_size=2, min_size=32)
    detector = detect.build_detector(backbone.module, backbone, 3, settings)
    losses = detect.train_detector(detector, fit, [fit.boxes(row) for row in range(len(fit.files))], settings)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def loaded(name):
    module = build(name)
    return LoadedBackbone(module, name, 64, 64, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "0" * 64, {})


def weights_of(detector):
    return {name: value for name, value in detector.state_dict().items() if "num_batches" not in name}


def test_every_weight_of_the_backbone_is_in_the_detector(run):
    backbone = load_backbone(run)
    detector = build_detector(backbone.module, backbone, 3, DetectSettings())
    inside = [value for value in weights_of(detector).values()]
    for value in weights_of(backbone.module).values():
        assert any(value.shape == other.shape and torch.equal(value, other) for other in inside)
    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())


def test_two_backbones_get_the_same_heads():
    def weights():  # the backbone's own draws move torch's random state
        backbone = loaded("resnet-tiny")
        return weights_of(build_detector(backbone.module, backbone, 3, DetectSettings()))

    first, second = weights(), weights()
    differ = {name for name in first if not torch.equal(first[name], second[name])}
    assert differ
    assert all(name.startswith(("backbone.", "roi_heads.box_head.0.")) for name in differ)


def test_a_resnet_of_torchvision_gives_features_of_stride_16_and_its_last_stage_to_the_regions():
    backbone = loaded("resnet18")
    detector = build_detector(backbone.module, backbone, 3, DetectSettings(min_size=64)).eval()
    with torch.inference_mode():
        assert detector.backbone(torch.zeros(1, 3, 64, 96)).shape == (1, 256, 4, 6)
        assert detector.roi_heads.box_head(torch.zeros(2, 256, 14, 14)).shape == (2, 512)
        detector.rpn._post_nms_top_n["testing"] = 5  # for speed
        found = detector([torch.rand(3, 64, 96)])[0]
    assert set(found) == {"boxes", "labels", "scores"}
    assert (detector.transform.image_mean, detector.transform.min_size[-1]) == ([0.5, 0.4, 0.3], 64)


def test_frozen_norms_keep_their_statistics_in_training():
    backbone = loaded("resnet-tiny")
    backbone.module.stem[1].running_mean += 3
    detector = build_detector(backbone.module, backbone, 3, DetectSettings(batch_norm="frozen")).train()
    frozen = [m for m in detector.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(frozen) == sum(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.module.modules())
    assert torch.equal(frozen[0].running_mean, backbone.module.stem[1].running_mean)


def test_the_defaults_are_the_schedule_of_the_authors():
    usual = DetectSettings()
    assert (usual.steps, usual.batch_size, usual.min_size, usual.batch_norm) == (24_000, 8, 800, "train")
    rates = [usual.lr_at(step) for step in (0, 50, 100, 17_999, 18_000, 21_999, 22_000, 23_999)]
    assert rates == pytest.approx([2e-5, 0.01001, 0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002])
    detector = build_detector(loaded("resnet-tiny").module, loaded("resnet-tiny"), 20, usual)
    assert detector.transform.min_size == tuple(range(480, 801, 32))
    assert detector.rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)


def test_each_image_comes_once_an_epoch():
    order = _order(7, seed=0)
    epochs = [[next(order) for _ in range(7)] for _ in range(40)]
    assert all(sorted(row for row, _ in epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(row for row, _ in epoch) for epoch in epochs}) > 30
    assert 0.35 < sum(mirror for epoch in epochs for _, mirror in epoch) / 280 < 0.65


def test_a_mirrored_image_has_mirrored_boxes():
    pixels = torch.zeros(6, 10, 3, dtype=torch.uint8)
    pixels[1:3, 2:5] = 255
    image, target = _mirrored(pixels.numpy(), [Box(1, (2, 1, 5, 3), True)], True, device="cpu")
    left, top, right, bottom = target["boxes"][0].int().tolist()
    assert (left, top, right, bottom) == (5, 1, 8, 3)
    assert (image[:, top:bottom, left:right] == 1).all()
    assert image.sum() == 3 * 6
    assert target["labels"].tolist() == [2]
    assert _mirrored(pixels.numpy(), [], True, device="cpu")[1]["boxes"].shape == (0, 4)


def test_what_cannot_be_is_one_line_and_leaves_nothing(run, small, tmp_path):
    before = set(tmp_path.rglob("*"))
    assert "has no boxes" in refused("--checkpoint", run, "--data", "fashion-mnist", status=2)
    assert "holds no VOC2007: unpack" in refused("--checkpoint", run, "--data", f"voc:{tmp_path}/none")
    assert "use a smaller --lr" in refused("--checkpoint", run, "--data", f"voc:{small}", *SMALL, "--lr", 1e20)
    (small / "VOC2007" / "Annotations" / "000011.xml").write_text("<annotation>")
    assert "000011.xml is no annotation" in refused("--checkpoint", run, "--data", f"voc:{small}", *SMALL)
    assert set(tmp_path.rglob("*")) == before


def test_a_backbone_of_another_kind_is_refused(small, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that people should save otherwise
        torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))), tmp_path / "encoder.pt")
    line = refused("--checkpoint", f"torchscript:{tmp_path}/encoder.pt?crop=32", "--data", f"voc:{small}", *SMALL)
    assert "detection needs a ResNet of torchvision or resnet-tiny" in line


def test_without_pycocotools_the_extra_is_named_before_the_work(run, small, monkeypatch):
    present = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return present(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert "pip install 'genrep[detect]'" in refused("--checkpoint", run, "--data", f"voc:{small}", *SMALL)


def test_ctrl_c_is_one_line(run, small, monkeypatch):
    def stop(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    monkeypatch.setattr("genrep.evaluate.detect.train_detector", stop)
    assert refused("--checkpoint", run, "--data", f"voc:{small}").startswith("Error: interrupted")


def test_the_examples_of_the_help_are_understood():
    text = CliRunner().invoke(main, ["detect", "--help"]).output
    examples = [line.split() for line in text.splitlines() if line.strip().startswith("genrep-evaluate ")]
    assert len(examples) == 2
    for _, measure, *options in examples:
        main.commands[measure].make_context(measure, options)
