import functools
import http.server
import json
import threading

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from pytorch_pretrained_biggan import file_utils as package_files
from pytorch_pretrained_biggan import model as package_model
from safetensors.torch import save_file

import genrep.shards
from genrep.generate import biggan, imagenet
from genrep.generate.biggan import deep_128, deep_256, interpolate
from genrep.generate.command import main
from genrep.generate.generators import load_generator
from genrep.shards.errors import DataError

KNOT = 0.02


def package_network():
    """The package's own network, small, at random, brought to finite outputs as its users must."""
    config = BigGANConfig(
        output_dim=16,
        z_dim=8,
        channel_width=4,
        num_classes=5,
        layers=[[True, 16, 8], [True, 8, 4], [False, 4, 2], [False, 2, 1]],
        attention_layer_position=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = BigGAN(config)
        with torch.no_grad():
            network.generator.bn.weight.fill_(1)  # these two are memory as it was found
            network.generator.bn.bias.fill_(0)
            for module in network.modules():
                if hasattr(module, "running_means"):
                    steps = torch.linspace(0, 1, 51)[:, None]
                    module.running_means.copy_(0.3 * steps * torch.randn(1, module.num_features))
                    module.running_vars.copy_(0.02 + steps.square() * torch.rand(1, module.num_features))
                if hasattr(module, "gamma"):
                    module.gamma.fill_(0.5)
            for _ in range(30):
                network(torch.randn(4, 8), torch.eye(5)[[0, 1, 2, 3]], 1.0)
    return network


@pytest.fixture(scope="module")
def network():
    return package_network()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("biggan")
    (folder / "config.json").write_text(network.config.to_json_string())
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    return folder


def latents_and_labels(count=6):
    source = torch.Generator().manual_seed(1)
    return torch.randn(count, 8, generator=source).clamp(-2, 2), torch.arange(count) % 5


def direct_call(network, latents, labels, truncation):
    network.eval()
    with torch.no_grad():
        return network(truncation * latents, torch.eye(5)[labels], truncation)


@pytest.mark.parametrize("truncation", [0.02, 0.5, 0.52, 1.0])
def test_images_equal_a_direct_call_of_the_package_in_eval_mode(network, folder, truncation):
    generator = deep_128(folder)
    generator.set_truncation(truncation)
    latents, labels = latents_and_labels()
    expected = direct_call(network, latents, labels, truncation)
    assert (generator.render(latents, labels) - expected).abs().max() < 1 / 255
    assert expected.std() > 0.05  # there is something to compare


@pytest.mark.parametrize("truncation", [0.131, 0.14, 0.28, 0.56, 0.58, 0.94, 0.999])
def test_published_statistics_are_what_the_package_computes(network, folder, truncation):
    generator = deep_128(folder, bn="published")
    generator.set_truncation(truncation)
    latents, labels = latents_and_labels()
    assert (generator.render(latents, labels) - direct_call(network, latents, labels, truncation)).abs().max() < 1e-5


def test_statistics_between_two_knots_are_weighted_by_closeness():
    table = torch.arange(51.0)[:, None].square()
    assert interpolate(table, 0.5 + KNOT / 4).item() == pytest.approx(0.75 * 25**2 + 0.25 * 26**2)


@pytest.mark.parametrize("row", range(1, 51))
def test_a_truncation_on_a_knot_gets_the_row_of_the_knot(row):
    assert interpolate(torch.arange(51.0)[:, None], round(KNOT * row, 2)).item() == row


@pytest.mark.parametrize("knot", [0.14, 0.28, 0.5, 0.58, 0.94])
def test_the_image_moves_little_near_a_knot_and_jumps_with_published_statistics(folder, knot):
    latents, labels = latents_and_labels()

    def jump(generator):
        images = []
        for truncation in (knot - KNOT / 100, knot + KNOT / 100):
            generator.set_truncation(truncation)
            images.append(generator.render(latents, labels))
        return (images[0] - images[1]).abs().mean().item()

    assert jump(deep_128(folder, bn="published")) > 20 * jump(deep_128(folder))


def test_an_image_does_not_depend_on_what_was_rendered_before(folder):
    generator = deep_128(folder)
    latents, labels = latents_and_labels()
    first = generator.render(latents, labels)
    for _ in range(3):
        generator.render(-latents, labels)
    generator.set_truncation(0.3)
    generator.set_truncation(1.0)
    assert torch.equal(generator.render(latents, labels), first)


def test_no_spectral_norm_is_left_to_compute_and_the_mode_is_eval(folder):
    network = deep_128(folder).model
    assert not network.training
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_gradient_reaches_the_latents(folder):
    latents, labels = latents_and_labels()
    latents.requires_grad_()
    deep_128(folder).render(latents, labels).sum().backward()
    assert latents.grad.abs().sum(dim=1).min() > 0


def test_the_fingerprint_follows_weights_and_statistics_but_not_the_truncation(folder, tmp_path):
    generator = deep_128(folder)
    before = generator.fingerprint()
    generator.set_truncation(0.4)
    assert generator.fingerprint() == before == deep_128(folder).fingerprint()
    assert deep_128(folder, bn="published").fingerprint() != before
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["generator.conv_to_rgb.bias"][0] += 1e-6
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert deep_128(tmp_path).fingerprint() != before


def test_weights_may_be_safetensors(folder, tmp_path):
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert deep_128(tmp_path).fingerprint() == deep_128(folder).fingerprint()


def test_building_and_rendering_leave_the_global_random_state_alone(folder):
    before = torch.get_rng_state()
    deep_128(folder).render(*latents_and_labels())
    deep_128(config="tiny")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_tiny_configuration_is_a_thousand_class_generator_without_a_file():
    generator = load_generator("genrep.generate.biggan:deep_256", arguments={"config": "tiny"})
    assert (generator.latent_dim, generator.image_shape, generator.num_classes) == (16, (3, 32, 32), 1000)
    assert (generator.prior, generator.default_std) == ("truncated-normal", 1.0)
    images = generator.render(torch.ones(2, 16), torch.tensor([0, 999]))
    assert images.shape == (2, 3, 32, 32)
    assert 0.1 < images.std() < 0.9
    assert not torch.equal(images[0], images[1])


def test_truncation_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"truncation must lie in \(0, 1\], got 0"):
        deep_128(config="tiny").set_truncation(0)


def test_a_data_set_holds_what_a_direct_call_of_the_package_renders(network, folder, tmp_path):
    command = ["--generator", "genrep.generate.biggan:deep_128", "--weights", str(folder), "--out", str(tmp_path / "d")]
    result = CliRunner().invoke(main, [*command, "--n", "10", "--views", "gauss", "--truncation", "0.5", "--quiet"])
    assert result.exit_code == 0, result.output
    for sample in genrep.shards.read(tmp_path / "d"):
        images = direct_call(network, torch.from_numpy(sample.latents), torch.full((2,), sample.label), 0.5)
        pixels = ((images + 1) * 127.5).permute(0, 2, 3, 1).numpy()
        assert np.abs(pixels - sample.images).max() <= 1
    assert sample.index == 9


def test_classes_may_be_named_by_wordnet_id_and_list(tmp_path):
    command = ["--generator", "genrep.generate.biggan:deep_128", "--generator-arg", "config=tiny", "--quiet"]
    chosen = ["--classes", "imagenet-100,n01440764,Siamese cat", "--n", "102", "--views", "none"]
    result = CliRunner().invoke(main, [*command, *chosen, "--out", str(tmp_path / "d")])
    assert result.exit_code == 0, result.output
    expected = {*imagenet.class_groups()["imagenet-100"], 0, 284}
    assert {sample.label for sample in genrep.shards.read(tmp_path / "d")} == expected


# ------------------------------------------------------------------------------------------------- wrong input


def test_a_hostile_weights_file_is_refused_and_creates_nothing(folder, tmp_path):
    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "created"), "w")

    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save({"embeddings.weight": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin: it asks for io\.open") as info:
        deep_128(tmp_path)
    assert "\n" not in str(info.value)
    assert not (tmp_path / "created").exists()


def test_a_file_with_a_tensor_missing_is_refused_where_the_package_accepts_it(folder, tmp_path):
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del state["generator.conv_to_rgb.bias"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    BigGAN.from_pretrained(str(tmp_path))
    with pytest.raises(DataError, match=r"pytorch_model\.bin: .* generator\.conv_to_rgb\.bias is missing$"):
        deep_128(tmp_path)


def test_weights_of_another_configuration_are_refused_with_their_shapes(folder, tmp_path):
    fields = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "num_classes": 6}))
    (tmp_path / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes())
    with pytest.raises(DataError, match=r"embeddings\.weight has shape \(8, 5\) instead of \(8, 6\)"):
        deep_128(tmp_path)


def test_a_folder_of_another_resolution_is_refused_naming_the_right_generator(tmp_path):
    (tmp_path / "config.json").write_text(BigGANConfig().to_json_string())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(DataError, match="describes 128 px, biggan-deep-256 renders 256: use biggan-deep-128"):
        deep_256(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"layers": 3}', '{"layers": [[true, 16, 5]]}', '{"z_dim": "many"}', '{"num_classes": -1}'],
)
def test_a_broken_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"config\.json: no configuration of a BigGAN"):
        deep_128(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"config\.json is missing; --weights takes a folder"):
        deep_128(tmp_path)


@pytest.mark.parametrize("arguments", [{"bn": "swapped"}, {"config": "huge"}])
def test_an_unknown_argument_value_is_refused_with_the_known_ones(arguments):
    with pytest.raises(DataError, match="is unknown; known: "):
        deep_128(**{"config": "tiny", **arguments})


# ---------------------------------------------------------------------------------------------------- download


@pytest.fixture
def server(folder, tmp_path, monkeypatch):
    """The package's own download, from this machine."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(package_model.PRETRAINED_MODEL_ARCHIVE_MAP, "biggan-deep-128", f"{url}/pytorch_model.bin")
    monkeypatch.setitem(package_model.PRETRAINED_CONFIG_ARCHIVE_MAP, "biggan-deep-128", f"{url}/config.json")
    monkeypatch.setattr(package_files, "PYTORCH_PRETRAINED_BIGGAN_CACHE", tmp_path / "cache")
    yield server
    server.shutdown()
    server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def end_headers(self):
        self.send_header("ETag", '"1"')
        super().end_headers()


def test_downloaded_weights_serve_again_without_a_network(server, folder):
    expected = deep_128(folder).fingerprint()
    assert deep_128().fingerprint() == expected
    server.shutdown()
    server.server_close()
    assert deep_128().fingerprint() == expected


def test_a_download_that_was_interrupted_is_fetched_again(server, folder, tmp_path):
    deep_128()
    for description in (tmp_path / "cache").glob("*.json"):
        description.unlink()  # it is written last
    for half in (tmp_path / "cache").iterdir():
        half.write_bytes(half.read_bytes()[:100])
    assert deep_128().fingerprint() == deep_128(folder).fingerprint()


def test_no_network_is_one_line_that_says_what_to_do(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=r"could not be downloaded \(ConnectionError\); put config\.json and") as info:
        deep_128()
    assert "\n" not in str(info.value)


# ---------------------------------------------------------------------------------------------------- ImageNet


def test_classes_of_imagenet_have_names_and_wordnet_ids():
    names, groups = imagenet.class_names(), imagenet.class_groups()
    assert len(set(names)) == 1000
    for number, name, wordnet_id in [
        (0, "tench", "n01440764"),
        (207, "golden retriever", "n02099601"),
        (999, "toilet tissue", "n15075141"),
    ]:
        assert names[number] == name
        assert groups[wordnet_id] == (number,)


def test_imagenet_100_is_a_hundred_classes():
    subset = imagenet.class_groups()["imagenet-100"]
    assert len(set(subset)) == 100
    assert list(subset) == sorted(subset)
    assert {imagenet.class_names()[number] for number in subset} >= {"robin", "coyote", "rotisserie", "bottlecap"}


def test_the_names_are_those_of_the_package():
    assert set(biggan.ABOUT) == set(package_model.PRETRAINED_MODEL_ARCHIVE_MAP)
