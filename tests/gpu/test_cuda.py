"""What only a GPU can show; `make test-gpu` runs it, `make test` leaves it out."""

import numpy as np
import pytest
import torch

from genrep.generate.check import check
from genrep.generate.defaults import make_recipe
from genrep.generate.generation import generate
from genrep.generate.generators import load_generator
from genrep.generate.render import Renderer, render_environment, render_settings
from genrep.generate.streams import CudaDevice, to_device, to_host

pytestmark = pytest.mark.gpu

GENERATORS = [
    ("fashion", {}),
    ("biggan-deep-128", {"config": "tiny"}),
    ("bigbigan", {"config": "tiny"}),
    ("stylegan2", {"config": "tiny", "noise": "seeded"}),
]


def rendered(name, arguments, *, device="cuda", first=0, count=40, **options):
    generator = load_generator(name, arguments=arguments)
    recipe = make_recipe(generator, num_samples=100, micro_batch=8, shard_size=40, **options)
    with render_settings(recipe):
        return np.concatenate(
            [batch.images for batch in Renderer(generator, recipe, device=device).batches(first, count)]
        )


def difference(first, second):
    return np.abs(first.astype(int) - second).max()


@pytest.mark.parametrize("folding", [False, True])
@pytest.mark.parametrize(("name", "arguments"), GENERATORS)
def test_a_gpu_renders_what_a_cpu_renders_to_one_grey_level(name, arguments, folding):
    on_gpu = rendered(name, arguments, folding=folding)
    assert difference(on_gpu, rendered(name, arguments, device="cpu")) <= 1


@pytest.mark.parametrize(("name", "arguments"), GENERATORS)
def test_pixels_are_the_same_again_and_do_not_depend_on_how_the_samples_are_grouped(name, arguments):
    whole = rendered(name, arguments)
    np.testing.assert_array_equal(rendered(name, arguments), whole)
    np.testing.assert_array_equal(rendered(name, arguments, first=16, count=5), whole[16:21])


@pytest.mark.parametrize("folding", [False, True])
def test_a_compiled_network_renders_the_same_to_one_grey_level(folding):
    assert difference(rendered("fashion", {}, compile=True, folding=folding), rendered("fashion", {})) <= 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_lower_precision_stays_close(dtype):
    assert 0 < difference(rendered("fashion", {}, dtype=dtype), rendered("fashion", {})) < 60


@pytest.mark.parametrize(("name", "arguments"), GENERATORS)
def test_the_built_in_generators_keep_the_protocol(name, arguments):
    findings = check(load_generator(name, arguments=arguments), device="cuda")
    assert [finding for finding in findings if finding.passed is False] == []


def test_copies_behind_the_rendering_hold_what_a_copy_in_front_of_the_host_holds():
    """Enough work an item that a copy without its wait would come too early."""
    device = torch.device("cuda")
    matrix = torch.randn(2048, 2048, device=device) / 45

    def items():
        for number in range(40):
            product = to_device(np.full((2048, 2048), number, np.float32), device)
            for _ in range(10):
                product = torch.tanh(matrix @ product)
            yield number, (product, (product > 0).any())

    expected = {number: tensors[0].cpu().numpy() for number, tensors in items()}
    for number, (array, _) in to_host(items(), CudaDevice(device)):
        np.testing.assert_array_equal(array, expected[number])


def test_buffers_of_the_host_are_page_locked():
    assert CudaDevice(torch.device("cuda")).host_buffer(torch.zeros(3, dtype=torch.uint8)).is_pinned()


def test_a_data_set_from_a_gpu_names_it_and_says_that_tf32_is_off(tmp_path):
    generator = load_generator("fashion")
    recipe = make_recipe(generator, num_samples=100, micro_batch=8, shard_size=40)
    manifest = generate(recipe, tmp_path / "set", generator=generator, device="cuda")
    assert manifest.num_samples == 100
    environment = render_environment("cuda", recipe)
    assert environment["gpu"] == torch.cuda.get_device_name()
    assert environment["tf32"] is False
    with render_settings(recipe):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
