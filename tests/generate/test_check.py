import re
import time

import pytest
import torch
from click.testing import CliRunner
from stub_generators import Mapped, Noisy, Stub, Unconditional
from torch import nn

from genrep.generate import bigbigan, biggan, diffusion, fashion, procedural, stylegan2
from genrep.generate.biggan import deep_128
from genrep.generate.check import check
from genrep.generate.generators import LoadedGenerator, known_generators, load_generator
from genrep.generate.generators_command import COLUMNS, main


def findings(plug_in):
    return {finding.claim: finding for finding in check(LoadedGenerator(plug_in, spec="stub", arguments={}))}


def broken(plug_in):
    return [claim for claim, finding in findings(plug_in).items() if finding.passed is False]


@pytest.mark.parametrize("plug_in", [Stub, Unconditional, Mapped])
def test_a_generator_that_keeps_the_protocol_passes(plug_in):
    assert broken(plug_in()) == []


TINY = [
    ("bigbigan", {"config": "tiny"}),
    ("biggan-deep-128", {"config": "tiny"}),
    ("biggan-deep-256", {"config": "tiny"}),
    ("biggan-deep-512", {"config": "tiny"}),
    ("diffusers", {"config": "tiny", "steps": "2"}),
    ("fashion", {}),
    ("fashion-null", {}),
    ("procedural:dead-leaves", {"size": "32"}),
    ("procedural:stylegan-oriented", {"size": "32"}),
    ("stylegan2", {"config": "tiny"}),
    ("stylegan2", {"config": "tiny-classes", "noise": "seeded", "rows": "4-23"}),
]


@pytest.mark.parametrize(("name", "arguments"), TINY)
def test_every_built_in_generator_passes_without_a_download(name, arguments):
    generator = load_generator(name, arguments=arguments)
    assert [finding for finding in check(generator) if finding.passed is False] == []


def test_every_registered_generator_is_among_those_checked():
    assert {name for name, _ in TINY} == set(known_generators())


def test_claims_that_do_not_apply_are_neither_passed_nor_failed():
    result = findings(Unconditional())
    skipped = {claim for claim, finding in result.items() if finding.passed is None}
    narrower = {"labels matter", "truncation is continuous", "noise by seed", "intermediate latents", "thread-safe"}
    assert skipped == narrower | {"speed"}


class WrongShape(Stub):
    def render(self, latents, labels):
        return super().render(latents, labels)[:, :, :4]


class NotFinite(Stub):
    def render(self, latents, labels):
        return super().render(latents, labels) / 0


class OutOfRange(Stub):
    def render(self, latents, labels):
        return 3 * super().render(latents, labels)


class Random(Stub):
    def render(self, latents, labels):
        return super().render(latents + torch.rand(1), labels)


class BatchDependent(Stub):
    def render(self, latents, labels):
        return super().render(latents - latents.mean(dim=0), labels)


class Drifting(Stub):
    def __init__(self):
        super().__init__()
        self.count = nn.BatchNorm1d(1)

    def render(self, latents, labels):
        self.count.running_mean += 1
        return super().render(latents, labels)


class IgnoresLatents(Stub):
    def render(self, latents, labels):
        return super().render(0 * latents, labels)


class IgnoresLabels(Stub):
    def render(self, latents, labels):
        return super().render(latents, 0 * labels)


class Widening(Mapped):
    def map(self, latents, labels):
        return super().map(latents, labels) / self.truncation**2


class Stepping(Mapped):
    def map(self, latents, labels):
        return super().map(latents, labels) * (0.5 if self.truncation < 0.5 else 1)


class Remembering(Mapped):
    def set_truncation(self, truncation):
        self.truncation = truncation + 1e-4 * (self.truncation < 0.6)


class Inconsistent(Mapped):
    def render(self, latents, labels):
        return super().render(0.9 * latents, labels)


class Detached(Stub):
    def render(self, latents, labels):
        return super().render(latents.detach(), labels)


class Stepped(Stub):
    def render(self, latents, labels):
        return (8 * super().render(latents, labels)).round() / 8


class Counting(Stub):
    """Holds a tensor that is no network's."""

    def __init__(self):
        super().__init__()
        self.calls = torch.zeros(1)

    def render(self, latents, labels):
        self.calls += 1
        return super().render(latents, labels)


class WronglyFolded(Stub):
    def folded(self):
        return Stub(gain=1.5)


class SpoiltByFolding(Stub):
    def folded(self):
        result = Stub()
        self.gain = 0.5
        return result


class NotFolded(Stub):
    def folded(self):
        raise RuntimeError("no truncation")


class ThreadSafe(Stub):
    thread_safe = True


class Shared(ThreadSafe):
    """Keeps its latents where the next caller overwrites them."""

    def render(self, latents, labels):
        self.latents = latents
        time.sleep(0.001)
        return super().render(self.latents, labels)


class BadFingerprint(Stub):
    def fingerprint(self):
        return b"12"


@pytest.mark.parametrize(
    ("plug_in", "claims"),
    [
        (WrongShape, ["shape and type"]),
        (OutOfRange, ["finite, within [-1, 1]"]),
        (BatchDependent, ["independent of the batch"]),
        (Drifting, ["rendering moves no state"]),
        (IgnoresLabels, ["labels matter"]),
        (Widening, ["truncation narrows"]),
        (Stepping, ["truncation is continuous"]),
        (Remembering, ["truncation can be set back"]),
        (Inconsistent, ["intermediate latents"]),
        (Counting, ["rendering moves no state"]),
        (WronglyFolded, ["folded"]),
        (SpoiltByFolding, ["folded"]),
        (NotFolded, ["folded"]),
        (Detached, ["gradient to the latents"]),
        (Stepped, ["gradient to the latents"]),
        (BadFingerprint, ["fingerprint"]),
    ],
)
def test_a_single_fault_breaks_its_claim_and_no_other(plug_in, claims):
    assert broken(plug_in()) == claims


@pytest.mark.parametrize(
    ("plug_in", "claim"),
    [
        (NotFinite, "finite, within [-1, 1]"),
        (Random, "deterministic"),
        (Random, "rendering moves no state"),
        (IgnoresLatents, "latents matter"),
        (Shared, "thread-safe"),
    ],
)
def test_a_fault_that_shows_in_several_claims_breaks_its_own(plug_in, claim):
    assert claim in broken(plug_in())


def test_a_generator_that_nobody_can_fold_keeps_the_protocol():
    class Locked(Stub):
        def __deepcopy__(self, memo):
            raise TypeError("cannot copy")

    result = findings(Locked())
    assert [claim for claim, finding in result.items() if finding.passed is False] == []
    assert result["folded"].passed is None
    assert "cannot be folded (TypeError: cannot copy)" in result["folded"].detail
    assert result["speed"].detail.endswith("with --fold not possible")


@pytest.mark.parametrize(("plug_in", "passed"), [(ThreadSafe, True), (Stub, None)])
def test_only_a_generator_that_says_it_is_thread_safe_is_tried_by_several_threads(plug_in, passed):
    assert findings(plug_in())["thread-safe"].passed is passed


@pytest.mark.parametrize("method", ["to", "set_truncation"])
def test_a_generator_that_cannot_be_set_up_is_one_finding(method):
    def refusing(self, value):
        raise RuntimeError("no")

    result = findings(type("Refusing", (Stub,), {method: refusing})())
    assert list(result) == ["device and truncation"]
    assert (result["device and truncation"].passed, result["device and truncation"].detail) == (
        False,
        "RuntimeError: no",
    )


def test_what_folding_changes_is_reported_in_grey_levels():
    finding = findings(deep_128(config="tiny"))["folded"]
    assert finding.passed
    told = re.fullmatch(r"folded images differ from the plain ones by (\S+) grey levels", finding.detail)
    assert 0 < float(told[1]) < 0.01


def test_another_noise_seed_is_measured():
    result = findings(Noisy())
    assert result["noise by seed"].passed
    assert "1 grey levels" in result["noise by seed"].detail


def test_an_exception_of_the_plug_in_is_a_finding_in_one_line():
    class Raising(Stub):
        def render(self, latents, labels):
            raise RuntimeError("no\nkernel")

    finding = findings(Raising())["deterministic"]
    assert finding.passed is False
    assert finding.detail == "RuntimeError: no kernel"


class FromThePackage:
    """BigGAN as the package gives it, in training mode, spectral norms at work."""

    latent_dim, image_shape, num_classes = 16, (3, 32, 32), 1000

    def __init__(self):
        config = biggan._config(biggan._TINY, source="")
        self._network = biggan._network(config)
        self._network.load_state_dict(biggan._random_state(config))

    def render(self, latents, labels):
        return self._network(latents, nn.functional.one_hot(labels, 1000).float(), 1.0)


def loaded(plug_in):
    return LoadedGenerator(plug_in, spec="stub", arguments={})


def test_a_biggan_in_training_mode_fails():
    generator = loaded(FromThePackage())
    generator.plug_in._network.train()
    broken = {finding.claim for finding in check(generator) if finding.passed is False}
    assert {"eval mode", "deterministic", "rendering moves no state"} <= broken


def test_a_biggan_that_only_loading_brought_to_eval_mode_fails_that_claim_alone():
    generator = loaded(FromThePackage())
    assert generator.left_in_training == ("_network",)
    state = {name: tensor.clone() for name, tensor in generator.plug_in._network.state_dict().items()}
    broken = {finding.claim: finding.detail for finding in check(generator) if finding.passed is False}
    assert list(broken) == ["eval mode"]
    assert "leaves _network in training mode, which moves images by" in broken["eval mode"]
    after = generator.plug_in._network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert not generator.plug_in._network.training


def test_the_same_biggan_in_eval_mode_passes():
    plug_in = FromThePackage()
    plug_in._network.eval()
    assert broken(plug_in) == []


def test_training_mode_that_changes_nothing_is_mentioned_and_passes():
    generator = loaded(Unconditional())  # its factory leaves a linear layer in training mode
    finding = next(finding for finding in check(generator) if finding.claim == "eval mode")
    assert finding.passed
    assert "leaves network in training mode, which changes nothing" in finding.detail


def test_swapped_interpolation_of_statistics_fails_and_the_mended_one_passes():
    assert broken(deep_128(config="tiny", bn="published")) == ["truncation is continuous"]
    assert broken(deep_128(config="tiny")) == []


# ----------------------------------------------------------------------------------------------------- command


def run(*arguments):
    return CliRunner().invoke(main, arguments)


def test_the_list_is_a_markdown_table_of_every_registered_generator():
    result = run("list")
    assert result.exit_code == 0, result.output
    header, rule, *rows = result.output.splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == list(COLUMNS)
    assert set(rule) == {"|", "-"}
    names = [row.split("|")[1].strip() for row in rows]
    assert [name.removesuffix(":PATH-or-ID") for name in names] == list(known_generators())
    assert {len(line) for line in (header, rule, *rows)} == {len(header)}


@pytest.mark.parametrize("module", [biggan, bigbigan, diffusion, fashion, procedural, stylegan2])
def test_the_list_says_everything_about_the_built_in_adapters(module):
    for facts in module.ABOUT.values():
        assert set(facts) | {"name"} == set(COLUMNS)
        assert all(facts.values())


def test_check_ends_with_status_0_where_every_claim_holds():
    result = run("check", "stub_generators:conditional")
    assert result.exit_code == 0, result.output
    assert "ok   deterministic: the same call again gives the same bits" in result.output
    assert "images/s on cpu" in result.output


@pytest.mark.parametrize("arguments", [("biggan-deep-128", "config=tiny"), ("procedural:dead-leaves", "size=32")])
def test_registered_names_can_be_checked_without_a_download(arguments):
    name, argument = arguments
    result = run("check", name, "--generator-arg", argument, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_check_ends_with_status_1_and_the_broken_claim():
    result = run("check", "stub_generators:not_a_number", "--quiet")
    assert result.exit_code == 1
    assert result.output.startswith("FAIL finite, within [-1, 1]: 256 values are not finite")
    assert "ok " not in result.output


def test_arguments_reach_the_factory():
    result = run("check", "stub_generators:conditional", "--generator-arg", "gain=0", "--quiet")
    assert result.exit_code == 1
    assert "another latent moves no pixel" in result.output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("check", "nobody"), 1, "Error: there is no generator 'nobody'"),
        (("check", "stub_generators:conditional", "--generator-arg", "gain"), 2, "'gain' is not of the form KEY=VALUE"),
        (("check", "stub_generators:conditional", "--device", "abacus"), 1, "Error: device 'abacus' is not known"),
        (("check", "stub_generators:conditional", "--weights", "nowhere"), 1, "there are no weights at nowhere"),
        (("check",), 2, "Missing argument 'NAME'"),
    ],
)
def test_wrong_input_is_one_line_and_a_status(arguments, status, message):
    result = run(*arguments)
    assert result.exit_code == status
    assert message in result.output
    assert "Traceback" not in result.output
