import dataclasses
import threading

import numpy as np
import pytest
import torch
from stub_generators import Stub

from genrep.generate.defaults import make_recipe
from genrep.generate.generators import LoadedGenerator, load_generator
from genrep.generate.latents import anchor_latents, noise_seeds
from genrep.generate.pixels import to_pixels
from genrep.generate.render import Renderer, render_environment, render_settings, render_workers
from genrep.shards.errors import DataError


def rendered(generator, recipe, first, count):
    batches = list(Renderer(generator, recipe).batches(first, count))
    return batches, np.concatenate([batch.images for batch in batches])


@pytest.mark.parametrize("name", ["conditional", "wide", "mapped"])
def test_images_are_those_of_the_generator_called_on_the_latents(name):
    generator = load_generator(f"stub_generators:{name}")
    recipe = make_recipe(generator, views=("gauss", "independent"), num_samples=10, micro_batch=4, shard_size=8)
    (batch, *_), _ = rendered(generator, recipe, 0, 4)
    labels = torch.from_numpy(batch.labels)
    for view in range(3):
        images = generator.render(torch.from_numpy(batch.latents[:, view]), labels)
        expected = ((images + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(batch.images[:, view], expected)


def test_in_w_the_stored_latents_are_those_that_render_mapped_gets():
    generator = load_generator("stub_generators:mapped")
    recipe = make_recipe(generator, latent_space="w", num_samples=6, micro_batch=4, shard_size=4, truncation=0.5)
    batches, images = rendered(generator, recipe, 0, 6)
    latents = np.concatenate([batch.latents for batch in batches])
    assert latents.shape == (6, 2, 5)
    labels = torch.from_numpy(np.concatenate([batch.labels for batch in batches]))
    expected = to_pixels(generator.render_mapped(torch.from_numpy(latents[:, 1]), labels)).numpy()
    np.testing.assert_array_equal(images[:, 1], expected)
    z = anchor_latents(0, range(6), dim=4)
    by_hand = 0.5 * np.concatenate([z, z.sum(1, keepdims=True)], axis=1)  # truncated in w, so z is whole
    np.testing.assert_allclose(latents[:, 0], by_hand, atol=1e-6)
    in_z = make_recipe(generator, num_samples=6, micro_batch=4, shard_size=4, truncation=0.5)
    np.testing.assert_array_equal(rendered(generator, in_z, 0, 6)[1][:, 0], images[:, 0])


class Convolutional:
    """Large enough that sums differ between batch shapes on most processors."""

    latent_dim = 16
    image_shape = (3, 16, 16)

    def __init__(self):
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(
            torch.nn.Linear(16, 64 * 16),
            torch.nn.Unflatten(1, (64, 4, 4)),
            torch.nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1),
            torch.nn.Tanh(),
        )
        self.shapes = set()

    def render(self, latents, labels):
        self.shapes.add(tuple(latents.shape))
        return self.network(latents)


@pytest.fixture
def convolutional():
    from genrep.generate.generators import LoadedGenerator

    return LoadedGenerator(Convolutional(), spec="convolutional", arguments={})


def test_pixels_do_not_depend_on_how_the_samples_are_grouped(convolutional):
    """Shards of 8, 16 and 40 samples, a short last one, and another number of samples."""
    recipe = make_recipe(convolutional, num_samples=40, micro_batch=8, shard_size=40)
    _, whole = rendered(convolutional, recipe, 0, 40)
    for size in (8, 16):
        parts = [rendered(convolutional, recipe, first, min(size, 40 - first))[1] for first in range(0, 40, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    shorter = dataclasses.replace(recipe, num_samples=21)
    np.testing.assert_array_equal(rendered(convolutional, shorter, 16, 5)[1], whole[16:21])


def test_drawing_in_pieces_changes_nothing(monkeypatch):
    generator = load_generator("stub_generators:wide")
    recipe = make_recipe(generator, num_samples=40, micro_batch=8, shard_size=40)
    batches, whole = rendered(generator, recipe, 0, 40)
    monkeypatch.setattr("genrep.generate.render._DRAWN_AT_ONCE", 20)  # two micro-batches
    pieces, images = rendered(generator, recipe, 0, 40)
    np.testing.assert_array_equal(images, whole)
    assert [batch.first for batch in pieces] == [batch.first for batch in batches] == [0, 8, 16, 24, 32]
    assert [batch.meta for batch in pieces] == [batch.meta for batch in batches]


def test_the_network_sees_full_micro_batches_only(convolutional):
    recipe = make_recipe(convolutional, num_samples=21, micro_batch=8, shard_size=16)
    rendered(convolutional, recipe, 16, 5)
    assert convolutional.plug_in.shapes == {(8, 16)}


@pytest.mark.parametrize("first", [1, 4, 7, 13])
def test_samples_from_inside_a_micro_batch_on_are_those_of_the_whole(convolutional, first):
    recipe = make_recipe(convolutional, num_samples=40, micro_batch=8, shard_size=40)
    _, whole = rendered(convolutional, recipe, 0, 21)
    convolutional.plug_in.shapes.clear()
    batches, images = rendered(convolutional, recipe, first, 21 - first)
    np.testing.assert_array_equal(images, whole[first:])
    assert [index for batch in batches for index in range(batch.first, batch.first + len(batch))] == list(
        range(first, 21)
    )
    assert convolutional.plug_in.shapes == {(8, 16)}


def test_noise_is_shared_by_anchor_and_views_unless_fresh():
    generator = load_generator("stub_generators:noisy")
    options = {"num_samples": 4, "micro_batch": 4, "shard_size": 4}
    _, shared = rendered(generator, make_recipe(generator, **options), 0, 4)
    (batch, *_), fresh = rendered(generator, make_recipe(generator, fresh_noise=True, **options), 0, 4)
    assert (shared[:, 0] == shared[:, 1]).all()
    assert (fresh[:, 0] != fresh[:, 1]).any()
    assert batch.images[:, 0, 0, 0, 0].tolist() == (noise_seeds(0, range(4)) % 256).tolist()


def test_resizing_is_the_average_over_areas(convolutional):
    recipe = make_recipe(convolutional, micro_batch=8, shard_size=8, resize=4, views=())
    (batch, *_), images = rendered(convolutional, recipe, 0, 8)
    full = convolutional.render(torch.from_numpy(batch.latents[:, 0]), None).numpy()
    expected = full.reshape(8, 3, 4, 4, 4, 4).mean(axis=(3, 5)).transpose(0, 2, 3, 1)
    assert images.shape == (8, 1, 4, 4, 3)
    assert np.abs(images[:, 0] - np.round((expected + 1) * 127.5)).max() <= 1


def test_a_lower_precision_stays_close_to_the_full_one(convolutional):
    full, low = (
        rendered(convolutional, make_recipe(convolutional, micro_batch=8, shard_size=8, dtype=dtype), 0, 8)[1]
        for dtype in ("float32", "bfloat16")
    )
    difference = np.abs(full.astype(int) - low)
    assert 0 < difference.max() < 20


def test_values_that_are_no_numbers_are_refused():
    generator = load_generator("stub_generators:not_a_number")
    with pytest.raises(DataError, match="rendered values that are no numbers, at or after sample 8"):
        rendered(generator, make_recipe(generator, micro_batch=8, shard_size=8), 8, 8)


def test_images_of_another_shape_than_announced_are_refused(convolutional):
    convolutional.image_shape = (3, 8, 8)
    with pytest.raises(
        DataError, match=r"rendered shape \(8, 3, 16, 16\) for 8 latents; its image_shape is \(3, 8, 8\)"
    ):
        rendered(convolutional, make_recipe(convolutional, micro_batch=8, shard_size=8), 0, 8)


def test_rendering_threads_are_set_for_the_time_of_rendering(convolutional):
    recipe = make_recipe(convolutional)
    before = torch.get_num_threads()
    with render_settings(dataclasses.replace(recipe, render=dataclasses.replace(recipe.render, threads=2))):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_the_environment_says_what_pixels_depend_on(convolutional):
    environment = render_environment("cpu", make_recipe(convolutional))
    assert environment["torch"] == torch.__version__
    assert environment["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert environment["tf32"] is False
    assert "pillow" in environment["codec"]


class Meeting(Stub):
    """Renders only once as many threads as ``parties`` are about to."""

    thread_safe = True

    def __init__(self, parties):
        super().__init__()
        self.barrier, self.threads = threading.Barrier(parties, timeout=20), set()

    def render(self, latents, labels):
        self.threads.add(threading.current_thread())
        self.barrier.wait()
        return super().render(latents, labels)


def meeting(parties, **attributes):
    plug_in = type("Meeting", (Meeting,), attributes)(parties)
    generator = LoadedGenerator(plug_in, spec="stub", arguments={})
    return generator, make_recipe(generator, num_samples=16, micro_batch=4, shard_size=8)


def test_micro_batches_of_a_thread_safe_generator_are_rendered_at_once_and_come_in_order():
    generator, recipe = meeting(2)
    batches = list(Renderer(generator, recipe, workers=2).batches(4, 8))
    assert len(generator.plug_in.threads) == 2
    assert threading.current_thread() not in generator.plug_in.threads
    assert [batch.first for batch in batches] == [4, 8]
    alone, recipe = meeting(1)
    for found, expected in zip(batches, Renderer(alone, recipe).batches(4, 8), strict=True):
        np.testing.assert_array_equal(found.images, expected.images)


@pytest.mark.parametrize("attributes", [{"thread_safe": False}, {}])
def test_without_workers_or_of_a_generator_that_is_not_thread_safe_the_callers_thread_renders(attributes):
    generator, recipe = meeting(1, **attributes)
    list(Renderer(generator, recipe, workers=2 if attributes else 0).batches(0, 16))
    assert generator.plug_in.threads == {threading.current_thread()}


@pytest.mark.parametrize(("cores", "threads", "workers"), [(4, 1, 4), (4, 2, 2), (1, 2, 1)])
def test_so_many_workers_render_as_the_cores_carry_with_the_threads_of_the_recipe(cores, threads, workers):
    recipe = make_recipe(load_generator("fashion"), num_samples=8)
    recipe = dataclasses.replace(recipe, render=dataclasses.replace(recipe.render, threads=threads))
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        assert render_workers(recipe) == workers
    finally:
        torch.set_num_threads(before)
