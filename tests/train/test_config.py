import json
import math

import pytest

import genrep.shards
from genrep.shards.errors import DataError
from genrep.train.config import PRESETS, Optimiser, TrainConfig, preset_for, resolve, sizes_for


def test_labels_and_views_of_the_set_decide_what_is_left_out(labelled_set, unlabelled_set, anchors_only_set):
    def chosen(folder):
        config = resolve(genrep.shards.open(folder), batch_size=8)
        return config.method, config.views

    assert chosen(labelled_set) == ("supcon", "both")
    assert chosen(unlabelled_set) == ("simclr", "both")
    assert chosen(anchors_only_set) == ("supcon", "pixel")


def test_the_defaults_for_large_images_are_the_papers():
    preset = preset_for((128, 128))
    assert sizes_for((128, 128)) == (112, 128)
    assert (preset.backbone, preset.projection_dims[""], preset.batch_size, preset.temperature) == (
        "resnet50",
        128,
        256,
        0.1,
    )
    assert preset.optimiser == Optimiser("sgd", lr=0.03, weight_decay=1e-4, momentum=0.9, warm_up=0, final=0.001)
    pixels = preset.pixels
    assert (pixels.scale, pixels.flip_p, pixels.colour_p, pixels.grey_p) == ((0.2, 1), 0.5, 0.8, 0.2)
    assert (pixels.brightness, pixels.contrast, pixels.saturation, pixels.hue) == (0.4, 0.4, 0.4, 0.1)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((28, 28), (28, 28)),
        ((64, 48), (48, 48)),
        ((256, 256), (112, 128)),
        ((384, 512), (112, 128)),
        ((96, 96), (84, 96)),
    ],
)
def test_small_images_are_used_at_their_size_and_large_ones_at_112_px(shape, sizes):
    assert sizes_for(shape) == sizes


def test_the_learning_rate_warms_up_and_ends_at_its_floor():
    optimiser = Optimiser("sgd", lr=2.0, weight_decay=0, momentum=0, warm_up=0.1, final=0.001)
    rates = [optimiser.lr_at(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[54] == pytest.approx(0.002 + (2 - 0.002) / 2)  # half-way down the cosine
    assert rates[99] == pytest.approx(0.002)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_warm_up_the_rate_follows_the_papers_cosine():
    rate = PRESETS["paper"].optimiser.lr_at(4, 20)  # the fifth of twenty
    assert rate == pytest.approx(3e-5 + (0.03 - 3e-5) * (1 + math.cos(math.pi * 5 / 20)) / 2)


def test_epochs_are_counted_in_whole_batches(labelled_set):
    assert resolve(genrep.shards.open(labelled_set), batch_size=16, epochs=3).steps == 6  # 40 samples


def test_a_config_survives_json(labelled_set):
    config = resolve(genrep.shards.open(labelled_set), batch_size=8, lr=0.5)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 41}, "a batch of 41 is larger than the 40 samples: use --batch-size 40 or less"),
        ({"limit": 5, "batch_size": 8}, "a batch of 8 is larger than the 5 samples"),
        ({"limit": 41, "batch_size": 8}, "the set has 40 samples, not 41: use --limit 40 or less"),
        ({"method": "supcon", "batch_size": 8}, "without a label, which supcon needs: use --method simclr"),
    ],
)
def test_what_the_set_cannot_give_is_refused(unlabelled_set, settings, message):
    with pytest.raises(DataError, match=message):
        resolve(genrep.shards.open(unlabelled_set), **settings)


@pytest.mark.parametrize("views", ["both", "latent"])
def test_latent_views_asked_of_a_set_without_any_are_refused(anchors_only_set, views):
    with pytest.raises(DataError, match=f"no latent views, which --views {views} needs: use --views pixel"):
        resolve(genrep.shards.open(anchors_only_set), views=views, batch_size=8)
