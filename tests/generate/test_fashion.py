import json

import pytest
import torch
from click.testing import CliRunner

from genrep.generate.fashion import FashionGenerator, conditional, unconditional
from genrep.generate.fashion.jitter import Jitter, jitter_images
from genrep.generate.fashion.network import ConditionalNorm, Generator, without_bias
from genrep.generate.fashion.training import Run, main
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
    conv = Generator().convs[place]
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(3, conv.in_channels, 5, 8)
    torch.testing.assert_close(without_bias(conv, x) + conv.bias[:, None, None], conv(x), atol=1e-5, rtol=1e-5)


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


def test_training_stopped_and_resumed_equals_training_never_stopped():
    whole = Run(steps=4, batch_size=8, seed=3)
    for _ in range(4):
        whole.train_step()
    first = Run(steps=4, batch_size=8, seed=3)
    for _ in range(2):
        first.train_step()
    resumed = Run(steps=4, batch_size=8, seed=3)
    resumed.load_state_dict(first.state_dict())
    for _ in range(2):
        resumed.train_step()
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(resumed.generator.state_dict()[name], value), name


def test_the_training_command_leaves_weights_the_generator_loads(tmp_path):
    arguments = ["--out", str(tmp_path / "run"), "--steps", "2", "--batch-size", "4"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    generator = FashionGenerator("null", tmp_path / "run" / "fashion.safetensors")
    assert generator.render(torch.zeros(1, 64), None).isfinite().all()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 2
    refused = CliRunner().invoke(main, [*arguments, "--seed", "1"])
    assert refused.exit_code == 1
    assert "another configuration" in refused.output
