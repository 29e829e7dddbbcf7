import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import torch
from click.testing import CliRunner
from diffusers import DDIMScheduler, DiffusionPipeline, EulerDiscreteScheduler

from genrep.generate.check import check
from genrep.generate.command import main
from genrep.generate.generators import is_registered, load_generator
from genrep.generate.latents import anchor_latents
from genrep.shards import read
from genrep.shards.errors import DataError

PROMPTS = ("a cat", "a dog on a mat", "red")


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """Name -> folder of a pipeline; a file of prompts."""
    root = tmp_path_factory.mktemp("pipelines")
    (root / "prompts.txt").write_text("\n  ".join(["", *PROMPTS]) + "\n\n")
    makers = (tiny_pipelines.ddim, tiny_pipelines.ddpm, tiny_pipelines.dit, tiny_pipelines.stable_diffusion)
    return {make.__name__: tiny_pipelines.save(make, root / make.__name__) for make in makers} | {"root": root}


def load(folder, **arguments):
    return load_generator(f"diffusers:{folder}", arguments={"steps": "3", **arguments})


def load_text(pipelines, **arguments):
    return load(pipelines["stable_diffusion"], prompts=str(pipelines["root"] / "prompts.txt"), **arguments)


def noise(generator, count):
    return torch.from_numpy(anchor_latents(5, range(count), dim=generator.latent_dim))


def with_change(folder, target, file, **fields):
    """A copy of a pipeline with other fields in one of its JSON files."""
    shutil.copytree(folder, target)
    content = json.loads((target / file).read_text())
    (target / file).write_text(json.dumps({**content, **fields}))
    return target


# ------------------------------------------------------------------------------------- images of the pipelines


def test_every_kind_of_pipeline_keeps_the_protocol(pipelines):
    for generator in (
        load(pipelines["ddim"], steps="2"),
        load(pipelines["ddpm"], scheduler="ddim", steps="2"),
        load(pipelines["dit"], steps="2"),
        load_text(pipelines, steps="2"),
        load_generator("diffusers", arguments={"config": "tiny", "steps": "2"}),
    ):
        findings = {finding.claim: finding for finding in check(generator)}
        assert [finding for finding in findings.values() if finding.passed is False] == []
        assert findings["folded"].passed


def test_an_unconditional_image_is_what_ddim_makes_of_the_latent(pipelines):
    """The sampler of Song et al. 2021 with eta = 0, written out."""
    generator = load(pipelines["ddim"])
    assert (generator.latent_dim, generator.image_shape, generator.num_classes) == (3 * 8 * 8, (3, 8, 8), 0)
    latents = noise(generator, 4)
    network = DiffusionPipeline.from_pretrained(pipelines["ddim"]).unet.eval()
    alphas = torch.linspace(1e-4, 0.02, 1000).neg().add(1).cumprod(0)
    images = latents.view(4, 3, 8, 8)
    with torch.no_grad():
        for step in (666, 333, 0):
            alpha, alpha_next = alphas[step], alphas[step - 333] if step else torch.tensor(1.0)
            epsilon = network(images, step).sample
            clean = ((images - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()).clamp(-1, 1)
            images = alpha_next.sqrt() * clean + (1 - alpha_next).sqrt() * epsilon
    torch.testing.assert_close(generator.render(latents, None), images.clamp(-1, 1), atol=2e-5, rtol=0)


def test_a_text_image_is_what_the_pipeline_makes_of_prompt_and_latent(pipelines):
    generator = load_text(pipelines, guidance="3")
    assert (generator.latent_dim, generator.image_shape) == (4 * 8 * 8, (3, 16, 16))
    assert generator.class_names == PROMPTS
    latents = noise(generator, 3)
    pipeline = DiffusionPipeline.from_pretrained(pipelines["stable_diffusion"], safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        [PROMPTS[2], PROMPTS[0], PROMPTS[2]],
        latents=latents.view(3, 4, 8, 8),
        num_inference_steps=3,
        guidance_scale=3.0,
        output_type="np",
    ).images
    images = generator.render(latents, torch.tensor([2, 0, 2])).permute(0, 2, 3, 1)
    np.testing.assert_allclose(images.detach().numpy(), 2 * expected - 1, atol=1e-5)


def test_a_class_conditional_pipeline_has_the_classes_of_imagenet(pipelines):
    generator = load(pipelines["dit"])
    assert (generator.latent_dim, generator.image_shape, generator.num_classes) == (256, (3, 16, 16), 1000)
    assert generator.class_names[1] == "goldfish"
    assert generator.class_groups["n01443537"] == (1,)
    assert generator.arguments["guidance"] == "4.0"  # the pipeline's default, recorded


def test_a_gradient_reaches_the_latents(pipelines):
    """Of the sum of the pixels, as finite differences have it."""
    generator = load(pipelines["ddim"], steps="2")
    latents = noise(generator, 1).requires_grad_()
    generator.render(latents, None).sum().backward()
    step = torch.zeros_like(latents)
    step[0, 17] = 1e-2
    with torch.no_grad():
        difference = generator.render(latents + step, None).sum() - generator.render(latents - step, None).sum()
    assert latents.grad[0, 17].item() == pytest.approx(difference.item() / 2e-2, rel=0.05)


def test_the_latents_given_are_left_as_they_are(pipelines):
    generator = load(pipelines["ddim"])
    latents = noise(generator, 2)
    before = latents.clone()
    generator.render(latents, None)
    assert torch.equal(latents, before)


# ------------------------------------------------------------------------------------------------- schedulers


def test_a_scheduler_that_draws_noise_is_refused_and_ddim_taken_on_request(pipelines):
    with pytest.raises(DataError, match=r"DDPMScheduler draws noise while it samples.* scheduler=ddim takes"):
        load(pipelines["ddpm"])
    generator = load(pipelines["ddpm"], scheduler="ddim")
    assert generator.arguments == {"steps": "3", "scheduler": "DDIMScheduler"}
    latents = noise(generator, 2)
    assert torch.equal(generator.render(latents, None), load(pipelines["ddim"]).render(latents, None))


def test_another_deterministic_scheduler_of_the_pipeline_is_kept(pipelines, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(pipelines["stable_diffusion"], safety_checker=None)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "euler")
    generator = load(tmp_path / "euler", prompts=str(pipelines["root"] / "prompts.txt"))
    assert generator.arguments["scheduler"] == "EulerDiscreteScheduler"
    assert [finding for finding in check(generator) if finding.passed is False] == []


def test_ddim_is_refused_for_a_model_that_was_trained_otherwise(pipelines, tmp_path):
    flow = with_change(
        pipelines["stable_diffusion"], tmp_path / "flow", "model_index.json",
        scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"],
    )  # fmt: skip
    (flow / "scheduler/scheduler_config.json").write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler"}')
    with pytest.raises(DataError, match=r"scheduler=ddim does not fit a model .* FlowMatchEulerDiscreteScheduler"):
        load(flow, prompts=str(pipelines["root"] / "prompts.txt"), scheduler="ddim")


def test_noise_drawn_in_the_middle_of_sampling_is_refused(pipelines, monkeypatch):
    generator = load(pipelines["ddim"])
    step = DDIMScheduler.step

    def noisy(self, model_output, timestep, sample, **options):
        if timestep < 100:
            sample = sample + torch.randn_like(sample)
        return step(self, model_output, timestep, sample, **options)

    monkeypatch.setattr(DDIMScheduler, "step", noisy)
    with pytest.raises(DataError, match="draws noise while it samples"):
        generator.render(noise(generator, 1), None)


# -------------------------------------------------------------------------------------------------- identity


def test_the_fingerprint_follows_weights_configuration_settings_and_prompts(pipelines, tmp_path):
    def fingerprint(folder=pipelines["ddim"], **arguments):
        return load(folder, **arguments).fingerprint()

    assert fingerprint() == fingerprint(shutil.copytree(pipelines["ddim"], tmp_path / "copy"))
    scheduler = with_change(pipelines["ddim"], tmp_path / "a", "scheduler/scheduler_config.json", beta_end=0.03)
    other = tiny_pipelines.unet()
    with torch.no_grad():
        other.conv_out.bias += 1e-3
    other.save_pretrained(shutil.copytree(pipelines["ddim"], tmp_path / "b") / "unet")
    (tmp_path / "fewer.txt").write_text("a cat\n")
    text = {load_text(pipelines, **more).fingerprint() for more in ({}, {"guidance": "2"}, {"steps": "2"})}
    fewer = load(pipelines["stable_diffusion"], prompts=str(tmp_path / "fewer.txt")).fingerprint()
    assert len({fingerprint(), fingerprint(scheduler), fingerprint(tmp_path / "b"), *text, fewer}) == 7


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_set_is_made_and_made_again_from_its_recipe_and_a_named_folder(pipelines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompts = ["--generator-arg", f"prompts={pipelines['root'] / 'prompts.txt'}", "--generator-arg", "steps=2"]
    folder = ["--generator", f"diffusers:{pipelines['stable_diffusion']}", *prompts]
    made = run(*folder, "--n", 6, "--views", "gauss,independent", "--std", 0.6, "--out", "set")
    assert made.exit_code == 0, made.output
    recipe = json.loads(Path("set/recipe.json").read_text())
    assert recipe["generator"]["name"] == "diffusers"
    assert recipe["generator"]["keeps_variance"] is True
    assert str(pipelines["root"]) not in json.dumps(recipe)  # no path of this machine
    samples = list(read("set"))
    assert sorted(sample.meta["class"] for sample in samples) == sorted(2 * PROMPTS)
    latents = np.stack([sample.latents for sample in samples])
    assert latents.shape == (6, 3, 256)
    assert np.corrcoef(latents[:, 0].ravel(), latents[:, 1].ravel())[0, 1] == pytest.approx(0.8, abs=0.05)
    assert latents.std(axis=(0, 2)) == pytest.approx(1, abs=0.06)

    again = run(*folder, "--from-recipe", "set/recipe.json", "--out", "again")
    assert again.exit_code == 0, again.output
    first = load_text(pipelines)
    assert load_generator(**first.loaded_by).fingerprint() == first.fingerprint()  # as a worker of Ray does
    weights = run(
        "--weights", pipelines["stable_diffusion"], *prompts, "--from-recipe", "set/recipe.json", "--out", "w"
    )
    assert weights.exit_code == 0, weights.output
    contents = [Path(name, "shard-000000.tar").read_bytes() for name in ("set", "again", "w")]
    assert contents[0] == contents[1] == contents[2]

    alone = run("--from-recipe", "set/recipe.json", "--out", "alone")
    assert alone.exit_code == 1
    assert "name one pipeline, a folder or an id of the Hub, as --generator diffusers:PATH-or-ID" in alone.output
    other = run("--generator", f"diffusers:{pipelines['ddim']}", "--from-recipe", "set/recipe.json", "--out", "other")
    assert other.exit_code == 1
    assert "does not fit the recipe: its fingerprint is" in other.output
    assert not Path("alone").exists()
    assert not Path("other").exists()


def test_a_recipe_names_a_model_of_the_hub_but_cannot_make_it_be_downloaded(pipelines, tmp_path, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append((name, options))
        if name != "tiny/ddim":
            raise OSError("the network\nis far away")
        return str(pipelines["ddim"])

    monkeypatch.setattr(DiffusionPipeline, "download", download)
    monkeypatch.chdir(tmp_path)
    from_hub = ["--generator", "diffusers:tiny/ddim", "--generator-arg", "steps=2"]
    made = run(*from_hub, "--generator-arg", "revision=v2", "--n", 2, "--out", "set")
    assert made.exit_code == 0, made.output
    assert asked == [("tiny/ddim", {"revision": "v2", "use_safetensors": True})]
    assert json.loads(Path("set/recipe.json").read_text())["generator"]["name"] == "diffusers:tiny/ddim"

    alone = run("--from-recipe", "set/recipe.json", "--out", "alone")
    assert alone.exit_code == 1
    assert "names generator 'diffusers:tiny/ddim', which is not registered" in alone.output
    assert len(asked) == 1
    assert not is_registered("diffusers:tiny/ddim")
    again = run(*from_hub, "--from-recipe", "set/recipe.json", "--out", "again")
    assert again.exit_code == 0, again.output

    missing = run("--generator", "diffusers:tiny/absent", "--out", "absent")
    assert missing.exit_code == 1
    assert missing.output.count("\n") == 1
    assert "tiny/absent (revision main) is not in the cache and could not be downloaded (OSError)" in missing.output


# ------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"steps": "0"}, "steps=0 must be a number from 1 to 10000"),
        ({"steps": "many"}, "steps=many must be a number"),
        ({"guidance": "high"}, "guidance=high must be a number from 0 to 1000"),
        ({"guidance": "2"}, "DDIMPipeline takes no guidance"),
        ({"scheduler": "euler"}, "scheduler=euler is unknown; known: own, ddim"),
        ({"config": "huge"}, "config=huge is unknown; known: published, tiny"),
        ({"config": "tiny"}, "name one pipeline"),
        ({"prompts": "nowhere.txt"}, "nowhere.txt: no prompts could be read from it"),
        ({"prompts": "prompts.txt"}, "DDIMPipeline takes no prompts"),
        ({"prompts": "empty.txt"}, "empty.txt: holds no prompts"),
        ({"prompts": "twice.txt"}, "twice.txt: 'a' stands there twice"),
        ({"gidance": "2"}, "'gidance'; it takes --generator-arg"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(pipelines, tmp_path, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    for name, text in (("prompts.txt", "a cat"), ("empty.txt", "\n \n"), ("twice.txt", "a\nb\na")):
        Path(name).write_text(text)
    with pytest.raises(DataError) as caught:
        load(pipelines["ddim"], **arguments)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipeline_steered_by_text_asks_for_prompts(pipelines):
    with pytest.raises(DataError, match=r"StableDiffusionPipeline is steered by text; name a file .* prompts=FILE"):
        load(pipelines["stable_diffusion"])


@pytest.mark.parametrize("name", ["no/such/folder", "nowhere", "../up", "a b/c", ""])
def test_what_is_neither_folder_nor_id_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"is no folder here and no id of the Hub|name one pipeline"):
        load(name)


def test_a_folder_that_holds_no_pipeline_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no pipeline of diffusers: its model_index\.json could not be read"):
        load(tmp_path)


def test_a_pipeline_that_needs_an_image_is_refused(pipelines, tmp_path):
    folder = with_change(
        pipelines["stable_diffusion"], tmp_path / "p", "model_index.json", _class_name="StableDiffusionImg2ImgPipeline"
    )
    with pytest.raises(DataError, match=r"does not make images from noise alone \(it takes image\)"):
        load(folder, prompts=str(pipelines["root"] / "prompts.txt"))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"_class_name": ["mine", "Mine"]}, "its pipeline .* is none of diffusers"),
        ({"_class_name": "MyPipeline"}, "its pipeline MyPipeline is none of diffusers"),
        ({"unet": ["mine", "Mine"]}, r"component unet is mine\.Mine, no part of a model"),
        ({"unet": ["os", "system"]}, r"component unet is os\.system"),
        ({"unet": ["torch", "load"]}, r"component unet is torch\.load"),
        ({"unet": ["transformers", "AutoModel"]}, r"component unet is transformers\.AutoModel"),
        ({"unet": ["diffusers", "AutoModel"]}, r"component unet is diffusers\.AutoModel"),
    ],
)
def test_a_model_that_names_code_is_refused_before_anything_is_imported(pipelines, tmp_path, fields, complaint):
    folder = with_change(pipelines["ddim"], tmp_path / "p", "model_index.json", **fields)
    (folder / "unet/mine.py").write_text(f"open({str(tmp_path / 'created')!r}, 'w')")
    with pytest.raises(DataError, match=complaint) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "created").exists()


def test_a_model_that_brings_code_is_refused(pipelines, tmp_path):
    folder = shutil.copytree(pipelines["ddim"], tmp_path / "p")
    (folder / "unet/mine.py").write_text("")
    with pytest.raises(DataError, match=r"brings code of its own \(unet/mine\.py\), which is not run"):
        load(folder)


@pytest.mark.parametrize(("kind", "part"), [("ddim", "unet"), ("stable_diffusion", "text_encoder")])
def test_weights_as_pickles_are_refused_in_one_line_and_nothing_is_created(pipelines, tmp_path, kind, part):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'created'}",)

    folder = shutil.copytree(pipelines[kind], tmp_path / "p")
    (weights,) = (folder / part).glob("*.safetensors")
    weights.unlink()
    name = "diffusion_pytorch_model.bin" if part == "unet" else "pytorch_model.bin"
    torch.save({"w": Hostile()}, folder / part / name)
    with pytest.raises(DataError) as caught:
        load(folder, **({} if kind == "ddim" else {"prompts": str(pipelines["root"] / "prompts.txt")}))
    assert "\n" not in str(caught.value)
    assert "safetensors" in str(caught.value)
    assert not (tmp_path / "created").exists()


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(DataError, match=r"pip install 'genrep\[diffusers\]'"):
        load_generator("diffusers", arguments={"config": "tiny"})
