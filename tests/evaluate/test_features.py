import dataclasses
import os

import numpy as np
import pytest
import torch
from torch import nn

from genrep.evaluate.data import Part, RealData
from genrep.evaluate.features import Encoder, backbone_encoder, extract, features_of, prepare
from genrep.evaluate.shift import draw_affine_maps
from genrep.shards.errors import DataError
from genrep.train.checkpoint import LoadedBackbone, load_backbone


def silent(what, done, total):
    pass


def grey_images(num_images, *, seed=0, side=28):
    return np.random.Generator(np.random.PCG64(seed)).integers(256, size=(num_images, side, side, 1), dtype=np.uint8)


def part_of(images, source="train"):
    rows = np.arange(len(images))
    return Part(source, rows, rows % 2, lambda some: list(images[some.start : some.stop]))


@pytest.fixture
def data():
    parts = [part_of(grey_images(count, seed=count)) for count in (30, 10)]
    return RealData("noise", ("even", "odd"), 28, "0" * 64, *parts, part_of(grey_images(20), "test"))


def encoder_of(apply, *, worth_keeping=True, batch=8):
    return Encoder("stub", {"stub": 1}, 28, 28, apply, lambda device: None, batch, worth_keeping)


def test_images_of_the_right_size_are_only_scaled_to_one():
    images = grey_images(3)
    prepared = prepare(list(images), None, resize=28, crop=28)
    assert torch.equal(prepared[:, 0], torch.from_numpy(images[..., 0]) / 255)


def test_the_centre_is_cropped():
    images = grey_images(2)
    prepared = prepare(list(images), None, resize=28, crop=20)
    assert torch.equal(prepared[:, 0], torch.from_numpy(images[:, 4:24, 4:24, 0]) / 255)


def test_the_short_side_is_resized_without_changing_the_shape_of_things():
    image = np.zeros((56, 84, 3), np.uint8)
    image[:, 28:56] = 200  # the middle third of the width
    prepared = prepare([image], None, resize=28, crop=28)
    assert prepared.shape == (1, 3, 28, 28)
    columns = prepared[0, 0].mean(0)
    assert torch.allclose(columns[8:20], torch.tensor(200 / 255))  # it fills columns 7..20 of the crop
    assert columns[:6].abs().max() == columns[22:].abs().max() == 0


def test_photographs_of_several_sizes_are_prepared_each_at_its_own():
    images = [grey_images(1, side=side)[0] for side in (30, 40, 30)]
    maps = draw_affine_maps("test", np.arange(3))
    together = prepare(images, maps, resize=28, crop=24)
    for i, image in enumerate(images):
        assert torch.equal(together[i], prepare([image], maps[i : i + 1], resize=28, crop=24)[0])


def test_a_backbone_sees_three_normalised_channels():
    loaded = LoadedBackbone(torch.nn.Flatten(), "", 28, 28, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0), "", {})
    images = grey_images(4)
    features = extract(
        backbone_encoder("b", loaded, loaded.module, {}), part_of(images), shift="none", device="cpu", progress=silent
    )
    grey = torch.from_numpy(images[..., 0]) / 255
    wanted = torch.stack([grey - 0.1, (grey - 0.2) / 2, (grey - 0.3) / 4], 1).flatten(1)
    assert torch.allclose(features, wanted)


def test_a_trained_backbone_gives_what_its_network_gives(run):
    loaded = load_backbone(run)
    images = grey_images(5)
    encoder = backbone_encoder("backbone", loaded, loaded.module, {})
    features = extract(encoder, part_of(images), shift="none", device="cpu", progress=silent)
    pixels = torch.from_numpy(np.repeat(images, 3, axis=3)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        wanted = load_backbone(run).module(pixels)
    assert features.shape == (5, 128)
    assert torch.allclose(features, wanted, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_features_do_not_depend_on_the_batch(batch):
    part = part_of(grey_images(20))
    features = extract(
        encoder_of(lambda images: images.flatten(1), batch=batch), part, shift="affine", device="cpu", progress=silent
    )
    maps = draw_affine_maps("train", np.arange(20))
    assert torch.equal(features, prepare(part.read(range(20)), maps, resize=28, crop=28).flatten(1))


def test_features_are_computed_once_and_then_read(data, tmp_path):
    calls = []

    def apply(images):
        calls.append(len(images))
        return images.mean((2, 3))

    first, second = (
        features_of(encoder_of(apply), data, shift="none", cache=tmp_path, device="cpu", progress=silent)
        for _ in range(2)
    )
    assert sum(calls) == 60
    for part in ("fit", "held_out", "test"):
        assert torch.equal(getattr(first, part).features, getattr(second, part).features)
        assert torch.equal(getattr(second, part).labels, torch.from_numpy(getattr(data, part).labels))


@pytest.mark.parametrize("change", ["encoder", "data", "shift"])
def test_kept_features_serve_no_other_encoder_data_or_shift(data, tmp_path, change):
    calls = []

    def apply(images):
        calls.append(len(images))
        return images.mean((2, 3))

    encoder = encoder_of(apply)
    features_of(encoder, data, shift="none", cache=tmp_path, device="cpu", progress=silent)
    if change == "encoder":
        encoder = dataclasses.replace(encoder, identity={"stub": 2})
    if change == "data":
        data = dataclasses.replace(data, sha256="1" * 64)
    shift = "affine" if change == "shift" else "none"
    features_of(encoder, data, shift=shift, cache=tmp_path, device="cpu", progress=silent)
    assert sum(calls) == 120


def test_what_is_not_worth_keeping_is_not_written(data, tmp_path):
    encoder = encoder_of(lambda images: images.mean((2, 3)), worth_keeping=False)
    features_of(encoder, data, shift="none", cache=tmp_path, device="cpu", progress=silent)
    assert not any(tmp_path.iterdir())


def test_features_that_are_not_finite_are_refused_and_not_kept(data, tmp_path):
    encoder = encoder_of(lambda images: images.mean((2, 3)) / 0)
    with pytest.raises(DataError, match="stub: its features of train images are not finite"):
        features_of(encoder, data, shift="none", cache=tmp_path, device="cpu", progress=silent)
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: data[:-12]])
def test_damaged_kept_features_are_refused_by_name(data, tmp_path, damage):
    encoder = encoder_of(lambda images: images.mean((2, 3)))
    features_of(encoder, data, shift="none", cache=tmp_path, device="cpu", progress=silent)
    [kept] = tmp_path.rglob("*-test-00000.npy")
    kept.write_bytes(damage(kept.read_bytes()))
    with pytest.raises(DataError, match=rf"{kept.name}.*remove it"):
        features_of(encoder, data, shift="none", cache=tmp_path, device="cpu", progress=silent)


def test_features_are_kept_file_by_file_and_an_interrupted_part_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr("genrep.evaluate.features.ROWS_PER_FILE", 8)
    calls = []

    def apply(images):
        calls.append(len(images))
        if len(calls) == 4 and not list(tmp_path.rglob("*-00003.npy")) and len(set(calls)) == 2:
            raise KeyboardInterrupt
        return images.mean((2, 3))

    def found():
        return features_of(encoder_of(apply), data, shift="none", cache=tmp_path, device="cpu", progress=silent)

    with pytest.raises(KeyboardInterrupt):  # in the last of the four files of the first part
        found()
    assert len(list(tmp_path.rglob("*-fit-*.npy"))) == 3
    calls.clear()
    features = found()
    assert sum(calls) == 6 + 10 + 20
    images = torch.from_numpy(np.stack(data.fit.read(range(30)))).permute(0, 3, 1, 2) / 255
    assert torch.allclose(features.fit.features, images.mean((2, 3)))


def test_kept_features_stay_within_their_bound_and_the_oldest_go(data, tmp_path, monkeypatch):
    encoders = [
        dataclasses.replace(encoder_of(lambda images: images.mean((2, 3))), identity={"stub": n}) for n in range(3)
    ]

    def keep(encoder):
        features_of(encoder, data, shift="none", cache=tmp_path, device="cpu", progress=silent)
        return {file.name for file in tmp_path.rglob("*.npy")}

    first = keep(encoders[0])
    one = sum(file.stat().st_size for file in tmp_path.rglob("*.npy"))
    for file in tmp_path.rglob("*.npy"):
        os.utime(file, (1, 1))
    monkeypatch.setenv("GENREP_CACHE_GB", str(2.5 * one / 1e9))
    both = keep(encoders[1])
    assert first < both
    keep(encoders[0])  # used again: now the other is the one not used for the longest time
    for file in tmp_path.rglob("*.npy"):
        if file.name not in first:
            os.utime(file, (1, 1))
    assert first <= keep(encoders[2])
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.npy")) <= 2.5 * one


def test_mixed_precision_is_another_cell_of_the_cache_and_close_by(data, run, tmp_path):
    loaded = load_backbone(run)
    encoder = backbone_encoder("backbone", loaded, loaded.module, {})
    plain, mixed = (
        features_of(
            encoder, data, shift="none", cache=tmp_path, device="cpu", progress=silent, dtype=dtype
        ).test.features
        for dtype in ("float32", "bfloat16")
    )
    assert plain.dtype == mixed.dtype == torch.float32
    assert not torch.equal(plain, mixed)
    assert (plain - mixed).norm() < 0.05 * plain.norm()


def test_poolings_are_the_average_and_the_maximum_of_the_last_map(run):
    loaded = load_backbone(run)
    images = grey_images(3)
    encoder = backbone_encoder("backbone", loaded, loaded.module, {}, pooled=True)
    features = extract(encoder, part_of(images), shift="none", device="cpu", progress=silent)
    assert encoder.poolings == ("average", "maximum")
    module = load_backbone(run).module
    pixels = torch.from_numpy(np.repeat(images, 3, axis=3)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        maps = module.blocks(torch.relu(module.stem(pixels)))
    assert torch.allclose(features, torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1), atol=1e-4)


@pytest.mark.parametrize("blocks", [nn.Flatten(2), nn.Identity()])
def test_a_network_whose_blocks_are_no_maps_that_it_averages_has_its_own_features_alone(run, blocks):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = blocks  # tokens, as of a transformer; or maps that are averaged only after a nonlinearity

        def forward(self, images):
            return self.blocks(images).flatten(2).square().mean(2)

    encoder = backbone_encoder("other", load_backbone(run), Other(), {}, pooled=True)
    assert encoder.poolings == ("own",)
    assert extract(encoder, part_of(grey_images(3)), shift="none", device="cpu", progress=silent).shape == (3, 3)


def test_progress_ends_at_the_number_of_images(data):
    seen = []
    extract(
        encoder_of(lambda images: images.mean((2, 3))),
        data.fit,
        shift="none",
        device="cpu",
        progress=lambda what, done, total: seen.append((done, total)),
    )
    assert seen == [(8, 30), (16, 30), (24, 30), (30, 30)]
