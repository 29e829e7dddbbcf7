import numpy as np
import pytest
import torch
from torch import nn

from genrep.evaluate import KnnProbe, LinearProbe, evaluate, open_data
from genrep.evaluate.encoders import file_of, load_encoder, run_folder
from genrep.evaluate.features import backbone_encoder, extract
from genrep.shards.errors import DataError
from genrep.train.backbones import build_backbone

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # people have such files nevertheless


class Means(nn.Module):
    """Maps of four channels, whose average is known: three means and their sum."""

    def forward(self, images):
        return torch.cat([images, images.sum(1, keepdim=True)], 1)


def save_program(path, program):
    torch.jit.save(torch.jit.script(program), str(path))
    return path


def seen_by(loaded, images, **kwargs):
    from genrep.evaluate.data import Part

    rows = np.arange(len(images))
    part = Part("test", rows, rows, lambda some: list(images[some.start : some.stop]))
    encoder = backbone_encoder("e", loaded, loaded.module, {}, **kwargs)
    return extract(encoder, part, shift="none", device="cpu", progress=lambda *a: None)


@pytest.fixture
def images():
    return np.random.Generator(np.random.PCG64(0)).integers(256, size=(5, 32, 32, 3), dtype=np.uint8)


def test_a_program_gives_its_features_on_images_prepared_as_asked(tmp_path, images):
    file = save_program(tmp_path / "means.ts", nn.Sequential(Means(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    loaded = load_encoder(f"torchscript:{file}?crop=32&resize=32&mean=0.5,0.5,0.5&std=0.5,0.5,0.5")
    means = images.mean((1, 2)) / 127.5 - 1
    wanted = np.concatenate([means, means.sum(1, keepdims=True)], 1)
    assert np.allclose(seen_by(loaded, images), wanted, atol=1e-5)


def test_a_program_that_gives_maps_has_them_averaged_and_for_the_wide_grid_their_maximum(tmp_path, images):
    file = save_program(tmp_path / "maps.ts", Means())
    loaded = load_encoder(f"torchscript:{file}?crop=32&resize=32&mean=0,0,0&std=1,1,1")
    pixels = images / 255
    assert np.allclose(seen_by(loaded, images)[:, :3], pixels.mean((1, 2)), atol=1e-5)
    both = seen_by(loaded, images, pooled=True)
    assert both.shape == (5, 8)
    assert np.allclose(both[:, 4:7], pixels.max((1, 2)), atol=1e-5)


def test_a_program_is_measured_beside_the_two_floors_that_can_be_made(tmp_path, photographs):
    file = save_program(tmp_path / "maps.ts", Means())
    data = open_data(f"imagefolder:{photographs}")
    result, _ = evaluate(f"torchscript:{file}?crop=28", data, [LinearProbe(grid="wide"), KnnProbe()])
    assert set(result.floors) == {"raw pixels", "untrained convolution"}
    assert result.score.feature_width == 4
    assert (tmp_path / "evaluation" / "cache" / "features").is_dir()


@pytest.mark.parametrize("kind", ["torchvision", "timm"])
def test_a_state_dict_of_others_gives_what_its_network_gives(tmp_path, images, kind):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "timm":
            import timm

            network = timm.create_model("resnet18", num_classes=7)
        else:
            import torchvision

            network = torchvision.models.resnet18(num_classes=7)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    loaded = load_encoder(f"{kind}:resnet18:{tmp_path / 'weights.pt'}?crop=32&resize=32&mean=0,0,0&std=1,1,1")
    network.fc = nn.Identity()
    with torch.no_grad():
        wanted = network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    assert torch.allclose(seen_by(loaded, images), wanted, atol=1e-4)


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    torch.save(build_backbone("resnet18").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(DataError, match=r"the backbone resnet50 has other weights: (no|unknown) "):
        load_encoder(f"torchvision:resnet50:{tmp_path / 'weights.pt'}")


def test_a_pickle_that_calls_something_is_not_loaded(tmp_path):
    torch.save({"conv1.weight": print}, tmp_path / "weights.pt")
    with pytest.raises(DataError, match="cannot be read as a state dict"):
        load_encoder(f"torchvision:resnet18:{tmp_path / 'weights.pt'}")


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("torchscript:{}/gone.ts", "gone.ts cannot be read"),
        ("torchscript:{}/text", "does not run as a TorchScript program"),
        ("torchscript:{}/text?crop=0", "0 < crop <= resize"),
        ("torchscript:{}/text?size=3", "is not understood"),
        ("torchscript:{}/text?mean=1,2", "are not three numbers"),
        ("torchvision:{}/text", "is not of a known form"),
        ("timm:no-such-network:{}/text", "unknown network 'no-such-network'"),
    ],
)
def test_what_is_no_encoder_is_refused_in_one_line(tmp_path, checkpoint, message):
    (tmp_path / "text").write_text("no program")
    with pytest.raises(DataError, match=message) as caught:
        load_encoder(checkpoint.format(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_program_that_gives_no_features_is_refused(tmp_path):
    file = save_program(tmp_path / "flat.ts", nn.Flatten(0))
    with pytest.raises(DataError, match="gives no features"):
        load_encoder(f"torchscript:{file}?crop=8")


def test_results_of_an_encoder_of_others_lie_beside_its_file(tmp_path):
    for checkpoint in (f"torchscript:{tmp_path}/a.ts?crop=9", f"timm:resnet18:{tmp_path}/a.ts"):
        assert file_of(checkpoint) == tmp_path / "a.ts"
        assert run_folder(checkpoint) == tmp_path
