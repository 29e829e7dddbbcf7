import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from genrep.generate import fashion
from genrep.generate.fashion import FashionGenerator, class_run, conditional, unconditional
from genrep.generate.fashion.class_run import ClassRun, margin_distance, margins
from genrep.generate.fashion.classifier import Classifier
from genrep.generate.fashion.jitter import Jitter, jitter_images
from genrep.generate.fashion.network import (
    ClassGenerator,
    ConditionalNorm,
    NullGenerator,
    ProjectedDiscriminator,
    without_bias,
)
from genrep.generate.fashion.null_run import NullRun
from genrep.generate.fashion.training import main
from genrep.shards import fashion_mnist
from genrep.shards.errors import DataError

STILL = {"shift": 0.0, "scale": (1.0, 1.0), "rotation": 0.0, "brightness": (1.0, 1.0)}


def dot(row, column):
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, row, column] = 255
    return image


def drawn(images, **ranges):
    return jitter_images(images, torch.Generator().manual_seed(0), Jitter(**{**STILL, **ranges}))


def test_a_jitter_of_no_range_leaves_the_image():
    images = torch.arange(28 * 28).view(1, 28, 28).remainder(256).to(torch.uint8)
    assert torch.allclose(drawn(images), images[:, None].float() / 127.5 - 1, atol=1e-4)


def test_brightness_is_a_factor_clipped_at_white():
    half, twice = (drawn(dot(3, 4), brightness=(factor, factor))[0, 0, 3, 4].item() for factor in (0.5, 2.0))
    assert half == pytest.approx(0.0, abs=1e-4)
    assert twice == 1.0


def test_a_quarter_turn_moves_a_dot_to_where_the_rotation_matrix_says():
    draws = torch.Generator().manual_seed(0)
    angle = (2 * torch.rand(1, generator=draws) - 1) * 90 * torch.pi / 180  # the jitter's first draw
    moved = drawn(dot(13, 23), rotation=90.0)[0, 0] + 1
    centre = 13.5
    row, column = 13 - centre, 23 - centre
    seen = (torch.nonzero(moved).float().T * moved[moved > 0]).sum(dim=1) / moved.sum()
    expected = [column * torch.sin(angle) + row * torch.cos(angle), column * torch.cos(angle) - row * torch.sin(angle)]
    assert seen.tolist() == pytest.approx([float(value) + centre for value in expected], abs=0.3)


def test_scale_draws_the_dot_towards_the_centre():
    moved = drawn(dot(13, 23), scale=(0.5, 0.5))[0, 0]
    assert divmod(int(moved.argmax()), 28)[1] == 18  # 13.5 + (23 - 13.5) / 2 = 18.25


@torch.no_grad()
def test_a_conditional_norm_adds_the_bias_left_out_in_front_of_it_and_normalises_by_batch_or_running_statistics():
    torch.manual_seed(0)
    norm, x, condition, before = ConditionalNorm(3, 7), torch.randn(4, 3, 5, 6), torch.randn(4, 7), torch.randn(3)
    seen = x + before[:, None, None]
    mean, var = seen.mean(dim=(0, 2, 3)), seen.var(dim=(0, 2, 3), unbiased=False)
    gain, bias = norm.gain(condition)[:, :, None, None], norm.bias(condition)[:, :, None, None]

    def expected(mean, var):
        return (seen - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * (1 + gain) + bias

    torch.testing.assert_close(norm(x, condition, before), expected(mean, var))
    torch.testing.assert_close(norm.norm.running_mean, 0.1 * mean)
    norm.eval()
    torch.testing.assert_close(
        norm(x, condition, before), expected(norm.norm.running_mean, norm.norm.running_var), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(norm(x, condition, 0 * before), norm(x, condition))


@pytest.mark.parametrize("place", range(4))
@torch.no_grad()
def test_convolutions_of_the_generator_without_their_bias_are_what_torch_computes_with_it_but_for_it(place):
    torch.manual_seed(0)
    conv = NullGenerator().convs[place]
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(3, conv.in_channels, 5, 8)
    torch.testing.assert_close(without_bias(conv, x) + conv.bias[:, None, None], conv(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_first_latents_of_the_class_mode_place_the_garment_over_the_whole_range_of_the_jitter():
    torch.manual_seed(0)
    generator = ClassGenerator().eval()
    latents = torch.zeros(4, 64)
    latents[:, 5:] = torch.randn(59)
    latents[0, 2], latents[1, 2] = -20.0, 20.0  # shift x, by -3 and by 3 px
    latents[2, 4], latents[3, 4] = -20.0, 20.0  # brightness, 0.7 and 1.2
    left, right, dim, bright = (generator(latents, torch.full((4,), 7)) + 1) / 2
    assert right[:, :, 6:].std() > 0.1
    torch.testing.assert_close(right[:, :, 6:], left[:, :, :-6], atol=1e-4, rtol=0)
    torch.testing.assert_close(bright, (dim * 1.2 / 0.7).clamp(max=1), atol=1e-4, rtol=0)


def test_an_image_is_a_function_of_its_latent_and_class_alone():
    generator = conditional()
    latents, labels = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    images = generator.render(latents, labels)
    assert images.shape == (6, 1, 28, 28)
    assert images.abs().max() <= 1
    assert torch.allclose(generator.render(latents[2:3], labels[2:3]), images[2:3], atol=1e-5)
    assert (generator.render(latents, labels.flip(0))[0] - images[0]).abs().max() > 0.5


def test_the_null_mode_has_no_classes():
    generator = unconditional()
    assert (generator.num_classes, generator.class_names) == (0, ())
    assert generator.render(torch.zeros(2, 64), None).shape == (2, 1, 28, 28)


def test_foreign_weights_are_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    for name, content in {"other.safetensors": {"weight": torch.zeros(2)}, "empty.safetensors": {}}.items():
        save_file(content, tmp_path / name)
        with pytest.raises(DataError, match=name):
            FashionGenerator("class", tmp_path / name)
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(DataError, match=r"text\.safetensors"):
        FashionGenerator("class", tmp_path / "text.safetensors")


def test_weights_of_the_other_mode_are_refused():
    folder = Path(fashion.__file__).parent
    for mode, name in (("class", "fashion-null"), ("null", "fashion")):
        with pytest.raises(DataError, match=rf"{name}\.safetensors holds no weights"):
            FashionGenerator(mode, folder / f"{name}.safetensors")


def test_a_margin_is_the_labels_logit_minus_the_largest_other_one():
    logits = torch.tensor([[1.0, 3.0, 2.5], [1.0, 3.0, 2.5], [-3.0, -1.0, -2.5]])
    assert margins(logits, torch.tensor([1, 0, 1])).tolist() == [0.5, -2.0, 1.5]


def test_the_distance_of_margins_pairs_them_by_rank_and_sees_nothing_above_five():
    first = torch.tensor([2.0, 0.0])
    assert margin_distance(first, torch.tensor([0.0, 2.0])).item() == 0
    assert margin_distance(first, torch.tensor([1.0, 5.0])).item() == 2.0  # (|0 - 1| + |2 - 5|) / 2
    assert margin_distance(torch.tensor([9.0, 0.0]), torch.tensor([0.0, 6.0])).item() == 0


def test_the_class_run_tells_its_discriminators_what_the_teacher_sees():
    teacher = Classifier()
    torch.nn.init.zeros_(teacher.head.weight)
    teacher.head.bias.data = (torch.arange(10) == 3).float()
    run = ClassRun(teacher, steps=2, batch_size=4, seed=0)
    assert run.labels_of(torch.zeros(2, 1, 28, 28), torch.tensor([0, 1])).tolist() == [3, 3]


def test_the_null_run_forgets_the_second_half_of_the_labels():
    run = NullRun(steps=2, batch_size=4, seed=0)
    assert run.labels_of(torch.zeros(4, 1, 28, 28), torch.tensor([5, 6, 7, 8])).tolist() == [5, 6, 10, 10]


def test_a_projected_discriminator_learns_heads_alone_and_tells_classes_apart():
    torch.manual_seed(0)
    discriminator = ProjectedDiscriminator(Classifier().eval().maps).eval()
    assert {name.split(".")[0] for name in discriminator.state_dict()} == {"heads"}
    assert {name.split(".")[0] for name, _ in discriminator.named_parameters()} == {"heads"}
    image = torch.rand(1, 1, 28, 28).expand(2, -1, -1, -1)
    same, other = (discriminator(image, torch.tensor(labels)) for labels in ([4, 4], [4, 5]))
    torch.testing.assert_close(same, other[[0, 0]])
    assert (other[0] - other[1]).abs() > 0.1


def some_run(mode):
    settings = {"steps": 4, "batch_size": 8, "seed": 3}
    torch.manual_seed(0)
    return ClassRun(Classifier(), **settings) if mode == "class" else NullRun(**settings)


def test_the_distance_of_margins_moves_the_generator_of_the_class_run(monkeypatch):
    held, free = some_run("class"), some_run("class")
    assert held.train_step()["margin_distance"] > 0
    monkeypatch.setattr(free, "further_losses", lambda *_: {})
    free.train_step()
    assert not torch.equal(held.generator.stem.weight, free.generator.stem.weight)
    first, second = (run.discriminators.state_dict() for run in (held, free))
    assert all(torch.equal(first[name], second[name]) for name in first)  # the same, but for the term


@pytest.mark.parametrize("mode", ["class", "null"])
def test_training_stopped_and_resumed_equals_training_never_stopped(mode):
    whole, first, resumed = (some_run(mode) for _ in range(3))
    for _ in range(4):
        whole.train_step()
    for _ in range(2):
        first.train_step()
    resumed.load_state_dict(first.state_dict())
    for _ in range(2):
        resumed.train_step()
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(resumed.generator.state_dict()[name], value), name


@pytest.mark.parametrize(("mode", "name"), [("class", "fashion"), ("null", "fashion-null")])
def test_the_training_command_leaves_weights_the_generator_loads(tmp_path, monkeypatch, mode, name):
    data = fashion_mnist.load("learn")
    few = type(data)(data.images[:128], data.labels[:128])
    monkeypatch.setattr(fashion_mnist, "load", lambda part: few)
    monkeypatch.setattr(class_run, "TEACHER_EPOCHS", 1)
    arguments = ["--mode", mode, "--out", str(tmp_path / "run"), "--steps", "2", "--batch-size", "4"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    generator = FashionGenerator(mode, tmp_path / "run" / f"{name}.safetensors")
    labels = torch.zeros(1, dtype=torch.int64) if mode == "class" else None
    assert generator.render(torch.zeros(1, 64), labels).isfinite().all()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 2
    refused = CliRunner().invoke(main, [*arguments, "--seed", "1"])
    assert refused.exit_code == 1
    assert "another configuration" in refused.output
