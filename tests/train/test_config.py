import json
import math

import pytest
from wave_sets import write_set

import genrep.shards
from genrep.shards.errors import DataError
from genrep.train.config import METHODS, PRESETS, Optimiser, TrainConfig, preset_for, resolve, sizes_for


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
    assert (preset.backbone, preset.projection_dim, preset.batch_size, preset.temperature) == (
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


@pytest.mark.parametrize(
    ("preset", "method", "epochs", "lr"),
    [
        ("paper-imagenet", "simclr", 20, 0.03),
        ("paper-imagenet", "supcon", 20, 0.01),
        ("paper-imagenet", "classifier", 60, 0.03),
        ("paper-imagenet", "inverter", 200, 0.03),
        ("paper-imagenet100", "simclr", 200, 0.03),
        ("paper-cars", "simclr", 20, 0.03),
    ],
)
def test_the_papers_presets_are_its_settings(labelled_set, preset, method, epochs, lr):
    config = resolve(genrep.shards.open(labelled_set), preset=preset, method=method, batch_size=8)
    assert (config.backbone, config.projection_dim, config.temperature) == ("resnet50", 128, 0.1)
    assert config.loss_scale == pytest.approx(0.1 / 0.07, abs=1e-4)
    assert config.steps == epochs * 5
    assert config.optimiser == Optimiser("sgd", lr=lr, weight_decay=1e-4, momentum=0.9, warm_up=0, final=0.001)
    assert config.pixels == PRESETS["paper"].pixels


def test_the_preset_for_small_images_is_their_default(labelled_set):
    shards = genrep.shards.open(labelled_set)
    assert resolve(shards, preset="fashion", batch_size=8) == resolve(shards, batch_size=8)


def test_what_is_given_goes_before_the_preset(labelled_set):
    config = resolve(
        genrep.shards.open(labelled_set), preset="paper-imagenet", batch_size=8, steps=3, lr=0.5, loss_scale=1
    )
    assert (config.steps, config.optimiser.lr, config.loss_scale) == (3, 0.5, 1)


def test_multipos_takes_all_views_and_every_other_method_one(labelled_set):
    shards = genrep.shards.open(labelled_set)  # of two views
    shown = {method: resolve(shards, method=method, batch_size=8).images_per_sample for method in METHODS}
    assert shown == {
        "simclr": 2,
        "supcon": 2,
        "multipos": 3,
        "byol": 2,
        "vicreg": 2,
        "inverter": 1,
        "classifier": 1,
    }
    assert resolve(shards, method="supcon", num_views="all", batch_size=8).images_per_sample == 3
    assert resolve(shards, method="multipos", views="pixel", batch_size=8).images_per_sample == 2
    assert resolve(shards, method="multipos", views="pixel", num_views=5, batch_size=8).images_per_sample == 6


def test_heads_are_as_wide_as_the_set_has_classes_and_latent_dimensions(labelled_set, unlabelled_set):
    def widths(folder, method):
        config = resolve(genrep.shards.open(folder), method=method, batch_size=8)
        return config.num_classes, config.latent_dim

    assert widths(labelled_set, "inverter") == (4, 3)
    assert widths(unlabelled_set, "inverter") == (0, 3)
    assert widths(labelled_set, "classifier") == (4, 0)
    assert widths(labelled_set, "supcon") == (0, 0)


def test_linear_scaling_multiplies_the_rate_by_the_batch_over_256(labelled_set):
    shards = genrep.shards.open(labelled_set)
    scaled = resolve(shards, batch_size=32, lr_scaling="linear")
    assert scaled.optimiser.lr == pytest.approx(0.002 * 32 / 256)
    assert resolve(shards, batch_size=32, lr=0.4, lr_scaling="linear").optimiser.lr == pytest.approx(0.05)


def test_another_optimiser_brings_its_own_rate_and_keeps_the_schedule(labelled_set):
    shards = genrep.shards.open(labelled_set)
    assert resolve(shards, batch_size=8, optimiser="lars").optimiser == Optimiser(
        "lars", lr=0.3, weight_decay=1e-6, momentum=0.9, warm_up=0.1, final=0.001
    )
    changed = resolve(shards, batch_size=8, optimiser="sgd", lr=1.0, weight_decay=0.0, warm_up=0.5).optimiser
    assert changed == Optimiser("sgd", lr=1.0, weight_decay=0, momentum=0.9, warm_up=0.5, final=0.001)


def test_the_config_of_an_older_version_has_the_defaults_of_what_it_does_not_say(labelled_set):
    config = resolve(genrep.shards.open(labelled_set), batch_size=8)
    fields = json.loads(json.dumps(config.to_json()))
    for name in (
        "num_views",
        "latent_tau",
        "num_classes",
        "latent_dim",
        "target_momentum",
        "chunk",
        "sync_bn",
        "compile",
    ):
        del fields[name]
    assert TrainConfig.from_json(fields) == config


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
        ({"method": "classifier", "batch_size": 8}, "without a label, which classifier needs: use --method simclr"),
        ({"num_views": 3, "batch_size": 8}, "the set has 2 views of a sample, not 3: use --num-views 2 or less"),
        ({"num_views": 2, "batch_size": 8}, "simclr takes two images of a sample: use --num-views 1, or --method mult"),
        (
            {"num_views": "all", "views": "pixel", "batch_size": 8},
            "--num-views all means latent views, and --views pix",
        ),
        ({"latent_tau": 0.5, "batch_size": 8}, "simclr has one positive at most: use --positives with supcon or multi"),
    ],
)
def test_what_the_set_cannot_give_is_refused(unlabelled_set, settings, message):
    with pytest.raises(DataError, match=message):
        resolve(genrep.shards.open(unlabelled_set), **settings)


@pytest.mark.parametrize("views", ["both", "latent"])
def test_latent_views_asked_of_a_set_without_any_are_refused(anchors_only_set, views):
    with pytest.raises(DataError, match=f"no latent views, which --views {views} needs: use --views pixel"):
        resolve(genrep.shards.open(anchors_only_set), views=views, batch_size=8)


def test_latents_asked_of_imported_images_are_refused(tmp_path):
    shards = genrep.shards.open(write_set(tmp_path / "set", num_samples=8, latent_dim=0))
    with pytest.raises(DataError, match="the set has no latents, which the inverter needs: use one that genrep-gen"):
        resolve(shards, method="inverter", batch_size=8)
    with pytest.raises(DataError, match="the set has no latents, which --positives latent needs"):
        resolve(shards, latent_tau=1.0, batch_size=8)
