import numpy as np
import pytest
from planted_sets import patches, real_patches, write_planted

from genrep.evaluate.audit import audit
from genrep.evaluate.audit_page import audit_page, audit_table
from genrep.evaluate.audit_thresholds import Thresholds, crossed
from genrep.evaluate.extractors import open_extractor
from genrep.shards.errors import DataError
from genrep.shards.reader import ShardDataset

COUNT = 60


def planted(folder, *, change=lambda images, labels: images, **settings):
    """A set of two classes whose view is its anchor with a little noise, after ``change``."""
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % 2
    anchors = patches(rng, labels).astype(np.int64)
    views = anchors + rng.integers(-30, 31, anchors.shape)
    images = np.clip(np.stack([anchors, views], 1), 0, 255).astype(np.uint8)
    settings = {"labels": labels} | settings
    return ShardDataset(write_planted(folder, change(images, labels), **settings))


def audited(*datasets, data=None, **settings):
    sets = {f"set {number}": dataset for number, dataset in enumerate(datasets)}
    return audit(sets, data, open_extractor(side=12, device="cpu"), **settings)


def test_planted_near_duplicates_are_found_and_counted(tmp_path):
    def repeat(images, labels):
        images[1:6, 0] = images[0, 0]  # six equal anchors
        images[7, 0] = images[6, 0] + (images[6, 0] < 128)  # and two that differ by one grey level
        return images

    found, evidence = audited(planted(tmp_path / "set", change=repeat), data=real_patches())
    assert found.anchors[0].duplicates.value == 8 / COUNT
    assert found.real.duplicates.value == 0
    twin = int(evidence.own[0].rows[6])
    assert (twin, evidence.own[0].distances[6] < found.duplicate_cut) == (7, True)
    [line] = crossed(found, Thresholds())
    assert line == (
        "anchors of set 0: 13.3% have a near duplicate (0.0% of real images), more than 1.0% above that: "
        "the generator repeats itself"
    )


def test_views_of_another_class_lower_survival_by_their_share(tmp_path):
    def flip(images, labels):
        images[:15, 1] = 255 - images[:15, 1]
        return images

    found, evidence = audited(planted(tmp_path / "set", change=flip), data=real_patches())
    [view] = found.sets[0].views
    assert found.real.probe.value == 1
    assert view.survival.value == 1 - 15 / COUNT
    assert view.survival.interval[0] < 0.75 < view.survival.interval[1]
    assert found.anchors[0].chance == 0.5
    assert (evidence.predictions[0][0] == np.arange(COUNT) % 2).all()
    assert [line for line in crossed(found, Thresholds(min_survival=0.76)) if "survives in 75.0%" in line]
    assert not crossed(found, Thresholds(min_survival=0.75))


def test_a_copied_training_image_is_reported_at_distance_0(tmp_path):
    data = real_patches()

    def copy(images, labels):
        images[4, 0] = data.fit.read(range(17, 18))[0]
        return images

    found, evidence = audited(planted(tmp_path / "set", change=copy), data=data)
    assert found.anchors[0].copies.value == 1 / COUNT
    assert (evidence.training[0].distances[4], evidence.training_rows[evidence.training[0].rows[4]]) == (0, 17)
    assert found.real.copies.value == 0
    assert [line for line in crossed(found, Thresholds()) if line.endswith("the generator copies")]


def test_anchors_made_of_the_training_images_lie_nearer_to_them_than_to_held_out_ones(tmp_path):
    data = real_patches(num_fit=60, num_held_out=60)

    def remember(images, labels):
        images[:, 0] = np.clip(np.stack(data.fit.read(range(60))).astype(int) + 2, 0, 255)
        return images

    remembered, _ = audited(planted(tmp_path / "remembered", change=remember), data=data)
    fresh, _ = audited(planted(tmp_path / "fresh"), data=data)
    assert remembered.anchors[0].nearer_to_training.value == 1
    low, high = fresh.anchors[0].nearer_to_training.interval
    assert low < 0.5 < high


def test_a_move_is_0_for_equal_views_and_1_for_other_anchors(tmp_path):
    def equal(images, labels):
        images[:, 1] = images[:, 0]
        return images

    def other(images, labels):
        images[:, 1] = np.roll(images[:, 0], COUNT // 2, 0)
        return images

    equal_views, _ = audited(planted(tmp_path / "equal", change=equal))
    other_views, _ = audited(planted(tmp_path / "other", change=other))
    assert equal_views.sets[0].views[0].feature_move == 0
    assert other_views.sets[0].views[0].feature_move == pytest.approx(1)
    assert [line for line in crossed(equal_views, Thresholds()) if line.endswith("take a larger sigma")]


def test_latent_distances_are_those_of_the_latents(tmp_path):
    latents = np.zeros((COUNT, 2, 2))
    latents[:, 0] = (3, 0)
    latents[:, 1] = (3, 4)
    found, _ = audited(planted(tmp_path / "set", latents=latents))
    [view] = found.sets[0].views
    assert (view.latent.low, view.latent.median, view.latent.high) == (4, 4, 4)
    assert view.latent_relative == pytest.approx(4 / 3)
    assert view.latent_cosine.median == pytest.approx(3 / 5)


def test_a_class_that_is_missing_crosses_its_threshold(tmp_path):
    rng = np.random.default_rng(3)
    anchors = patches(rng, np.arange(COUNT) < 2)[:, None]
    found, _ = audited(ShardDataset(write_planted(tmp_path / "set", np.repeat(anchors, 2, 1))), data=real_patches())
    assert found.anchors[0].predicted["light"] == 2 / COUNT
    assert [line for line in crossed(found, Thresholds(min_move=0)) if "class 'light' is 3.3% of them" in line]


def test_a_set_without_labels_is_audited_by_the_probe_alone(tmp_path):
    found, _evidence = audited(planted(tmp_path / "set", labels=None), data=real_patches())
    assert (found.anchors[0].given, found.anchors[0].agreement) == (None, None)
    assert found.anchors[0].predicted == {"dark": 0.5, "light": 0.5}
    labelled, _ = audited(planted(tmp_path / "labelled"), data=real_patches())
    assert labelled.anchors[0].given == {"dark": 0.5, "light": 0.5}
    assert labelled.anchors[0].agreement.value == 1


def test_sets_with_the_same_anchors_share_their_anchors_audit(tmp_path):
    def other_anchors(images, labels):
        return 255 - images

    found, _evidence = audited(
        planted(tmp_path / "a"), planted(tmp_path / "b"), planted(tmp_path / "c", change=other_anchors)
    )
    assert [each.anchors for each in found.sets] == [0, 0, 1]
    assert [each.sets for each in found.anchors] == [("set 0", "set 1"), ("set 2",)]


def test_nothing_is_crossed_without_real_images_where_views_move(tmp_path):
    found, _ = audited(planted(tmp_path / "set"))
    assert (found.real, found.copy_cut, found.anchors[0].copies) == (None, None, None)
    assert found.sets[0].views[0].survival is None
    assert not crossed(found, Thresholds())


def test_few_samples_are_refused(tmp_path):
    few = ShardDataset(write_planted(tmp_path / "few", np.zeros((9, 2, 12, 12, 1), np.uint8)))
    with pytest.raises(DataError, match="set 0 has 9 samples: at least 10 are needed"):
        audited(few)


def test_views_added_to_another_set_are_refused(tmp_path):
    dataset = planted(tmp_path / "set")
    dataset.has_anchors = False
    with pytest.raises(DataError, match="set 0 holds views that were added to another set: name a set with anchors"):
        audited(dataset)


def test_the_page_needs_nothing_else_and_names_are_text_in_it(tmp_path):
    evil = ("<script>alert(1)</script>", 'light"><img src=x>')
    dataset = planted(tmp_path / "set", class_names=evil)
    found, evidence = audited(dataset)
    sets = {"set 0": dataset}
    lines = ["<b>crossed</b>"]
    page = audit_page(found, evidence, sets, None, thresholds=Thresholds(), crossed=lines, command="a <i>").decode()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<img src=x>" not in page
    assert "&lt;b&gt;crossed" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<img") == page.count('src="data:image/png;base64,')
    assert "url(" not in page


def test_the_page_of_sets_with_real_images_shows_both(tmp_path):
    data = real_patches()
    dataset = planted(tmp_path / "set")
    found, evidence = audited(dataset, data=data)
    page = audit_page(found, evidence, {"set 0": dataset}, data, thresholds=Thresholds(), crossed=[]).decode()
    assert "No threshold is crossed." in page
    assert page.count("<figcaption>training image ") == 8  # one of each of the nearest pairs
    assert audit_table(found).splitlines()[-1] == "the probe is right on 100.0 % of held-out real images"
