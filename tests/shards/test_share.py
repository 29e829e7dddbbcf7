"""A set made ready for others: card, Croissant, the Hub (a stand-in), and the page."""

import hashlib
import html.parser
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import islice
from types import SimpleNamespace

import huggingface_hub
import mlcroissant
import numpy as np
import pytest
from click.testing import CliRunner
from etils import epath
from tiny_sets import expected_image, tiny_recipe, write_set

import genrep.shards
from genrep.shards.command import main
from genrep.shards.distance import distances, measured
from genrep.shards.errors import DataError
from genrep.shards.push import push, uploads
from genrep.shards.verify import verify

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)> | `x` [a](javascript:b) \n# head'


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def hostile_set(folder):
    recipe = tiny_recipe()
    recipe["generator"] |= {"class_names": [HOSTILE, "odd"], "name": HOSTILE, "fingerprint": HOSTILE}
    write_set(folder, recipe, licence=HOSTILE)
    return folder


# the card


def test_a_card_tells_recipe_licence_statistics_and_how_to_rebuild(tiny_set):
    assert run("card", tiny_set).output == f"samples.png, croissant.json, README.md written in {tiny_set}\n"
    text = (tiny_set / "README.md").read_text()
    for words in (
        "closed-form",
        "MIT",
        "| 1 | gauss |",
        "--from-recipe recipe.json",
        "@inproceedings",
        "| 0 | even | 5 |",
    ):
        assert words in text
    assert "(samples.png)" in text
    assert (tiny_set / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_the_hub_understands_the_header_of_a_card(tiny_set, tmp_path):
    run("card", tiny_set, "--quiet")
    data = huggingface_hub.DatasetCard((tiny_set / "README.md").read_text()).data
    assert data.license == "mit"
    assert data.size_categories == ["n<1K"]
    assert data.configs == [{"config_name": "default", "data_files": "shard-*.tar"}]
    assert "synthetic" in data.tags
    other = tmp_path / "other"
    write_set(other, licence="Terms of Example Inc.: ask first")
    run("card", other, "--quiet")
    data = huggingface_hub.DatasetCard((other / "README.md").read_text()).data
    assert (data.license, data.license_name) == ("other", "terms-of-example-inc.-ask-first")


def test_a_card_of_imported_images_does_not_call_them_generated(tmp_path):
    write_set(tmp_path / "set", tiny_recipe(kind="imported", views=()), licence=None)
    run("card", tmp_path / "set", "--quiet")
    text = (tmp_path / "set" / "README.md").read_text()
    assert "license: unknown" in text
    assert "synthetic" not in text
    assert "genrep-generate" not in text
    assert "Nobody has stated a licence" in text


def test_a_set_with_a_card_is_still_whole_and_loads_as_before(tiny_set, tmp_path):
    run("card", tiny_set, "--quiet")
    assert verify(tiny_set, deep=True) == []
    code = (
        "import datasets, sys\n"
        "rows = datasets.load_dataset(sys.argv[1], split='train', cache_dir=sys.argv[2])\n"
        "assert len(rows) == 10 and rows[3]['__key__'] == '000000003', rows\n"
    )
    subprocess.run([sys.executable, "-c", code, tiny_set, tmp_path / "cache"], check=True, capture_output=True)


def test_what_a_set_says_of_itself_stays_text_in_its_card(tmp_path):
    folder = hostile_set(tmp_path / "set")
    run("card", folder, "--quiet")
    text = (folder / "README.md").read_text()
    assert "<" not in text.replace("n<1K", "")
    assert "\n# head" not in text
    assert "](javascript" not in text
    huggingface_hub.DatasetCard(text)  # the header is still YAML


def test_a_part_of_a_set_has_a_page_of_its_own_and_neither_card_nor_upload(tiny_set, tmp_path):
    part = tiny_set / "shard-{000000..000001}.tar"
    for command in (("card", part), ("push", part, "me/set", "--dry-run")):
        result = run(*command)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert "name that, the whole of it" in result.stderr
    _, page = page_of(part, tmp_path / "page.html")
    assert page.tags.count("img") == 16
    assert "10 samples of 2 x 9 x 7 px: 8 of them" in page.text


# Croissant


def test_croissant_is_valid_and_leads_to_every_image_and_label(tiny_set, tmp_path, monkeypatch):
    # mlcroissant keeps what it unpacked under the name of the tar, whatever set it is of
    monkeypatch.setattr(
        "mlcroissant._src.operation_graph.operations.extract.EXTRACT_PATH", epath.Path(tmp_path / "unpacked")
    )
    run("card", tiny_set, "--quiet")
    dataset = mlcroissant.Dataset(jsonld=str(tiny_set / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    for view, name in enumerate(["anchor", "view1"]):
        found = {int(row[f"{name}/key"]): np.asarray(row[f"{name}/content"]) for row in dataset.records(name)}
        assert sorted(found) == list(range(10))
        for index, pixels in found.items():
            assert np.array_equal(pixels, expected_image(index, view)[..., 0])
    labels = {int(row["label/key"]): int(row["label/content"]) for row in islice(dataset.records("label"), 10)}
    assert labels == {index: index % 2 for index in range(10)}


def test_croissant_names_every_tar_with_its_hash(tiny_set):
    run("card", tiny_set, "--quiet")
    told = json.loads((tiny_set / "croissant.json").read_text())
    objects = {part["contentUrl"]: part["sha256"] for part in told["distribution"] if part["@type"] == "cr:FileObject"}
    assert objects == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tiny_set.glob("shard-*.tar")
    }


# the Hub


@dataclass
class Hub:
    """Stands in for HfApi: keeps what was committed, and may fail after some commits."""

    commits: list = field(default_factory=list)
    files: dict = field(default_factory=dict)
    fail_after: int = 10**9

    def create_repo(self, repository, *, repo_type, private, exist_ok):
        assert (repo_type, exist_ok) == ("dataset", True)
        if "/" not in repository:
            raise ValueError(f"Repo id must be in the form 'namespace/name', got {repository}")

    def list_repo_tree(self, repository, *, repo_type, recursive):
        assert (repo_type, recursive) == ("dataset", True)
        yield SimpleNamespace(path=".tables", tree_id="0")  # a folder
        for name, content in self.files.items():
            is_large = name.endswith((".tar", ".png", ".parquet"))
            yield SimpleNamespace(
                path=name,
                size=len(content),
                blob_id=hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
                lfs=SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if is_large else None,
            )

    def create_commit(self, repository, *, repo_type, operations, commit_message):
        if len(self.commits) >= self.fail_after:
            raise ConnectionError("connection reset by peer")
        self.commits.append([operation.path_in_repo for operation in operations])
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()


def test_push_sends_the_set_and_its_manifest_alone_and_last(tiny_set):
    run("card", tiny_set, "--quiet")
    (tiny_set / "notes.txt").write_text("mine")
    hub = Hub()
    assert push(genrep.shards.open(tiny_set), "me/set", api=hub) == 12
    assert hub.commits[-1] == ["manifest.json"]
    assert hub.commits[0][0] == "recipe.json"
    own = {str(path.relative_to(tiny_set)) for path in tiny_set.rglob("*") if path.is_file()} - {"notes.txt"}
    assert set(hub.files) == own
    assert all((tiny_set / name).read_bytes() == content for name, content in hub.files.items())


def test_a_push_that_broke_sends_only_the_rest(tiny_set, monkeypatch):
    monkeypatch.setattr("genrep.shards.push.COMMIT_FILES", 2)
    hub = Hub(fail_after=2)
    with pytest.raises(DataError, match=r"me/set: the Hub refused \(connection reset by peer\).*to continue"):
        push(genrep.shards.open(tiny_set), "me/set", api=hub)
    assert len(hub.files) == 4
    assert "manifest.json" not in hub.files
    hub.fail_after = 10**9
    shown = []
    sent = push(
        genrep.shards.open(tiny_set), "me/set", api=hub, progress=lambda done, total: shown.append((done, total))
    )
    assert sent == 6
    assert shown[0][0] > 0
    assert shown[-1][0] == shown[-1][1]
    assert sum(map(len, hub.commits)) == 10  # nothing went twice
    assert push(genrep.shards.open(tiny_set), "me/set", api=hub) == 0


def test_a_dry_run_lists_what_would_go_and_sends_nothing(tiny_set, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", None)  # would not be callable
    lines = run("push", tiny_set, "me/set", "--dry-run").output.splitlines()
    files = uploads(genrep.shards.open(tiny_set))
    assert [line.split() for line in lines[:-1]] == [[f"{file.bytes:,}", file.name] for file in files]
    assert lines[-1].split()[0] == f"{sum(file.bytes for file in files):,}"
    assert lines[-1].endswith("in 10 files would go to me/set")


def test_push_refuses_in_one_line(tiny_set):
    with pytest.raises(DataError, match="check the name"):
        push(genrep.shards.open(tiny_set), "nowhere", api=Hub())
    url = "memory://push/set"
    write_set(url)
    result = run("push", url, "me/set", "--dry-run")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "push takes a folder of this machine" in result.stderr


# the page


class Page(html.parser.HTMLParser):
    """What a page would load, run or follow, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.handlers, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def page_of(folder, out, *words):
    assert run("preview", folder, "--html", "--out", out, *words).exit_code == 0
    text = out.read_text()
    return text, Page(text)


def test_the_page_shows_samples_distances_classes_and_recipe_and_loads_nothing(tiny_set, tmp_path):
    text, page = page_of(tiny_set, tmp_path / "page.html", "--rows", "4")
    assert page.tags.count("img") == 8
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"@import|url\(", text)
    assert "default-src 'none'" in text
    for words in ("0 even", "1 odd", '"name": "closed-form"', "Latent distance", "1.00"):
        assert words in page.text


def test_a_page_of_hostile_names_is_inert(tmp_path):
    text, page = page_of(hostile_set(tmp_path / "set"), tmp_path / "page.html")
    assert "script" not in page.tags
    assert page.handlers == []
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "<script>alert(1)</script>" in page.text  # shown as what it is
    assert "<script" not in text


def test_pages_of_sets_without_views_or_classes_or_latents_say_so(tmp_path):
    write_set(tmp_path / "set", tiny_recipe(kind="imported", views=()))
    text, page = page_of(tmp_path / "set", tmp_path / "page.html")
    assert "Latent distance" not in text
    assert page.tags.count("img") == 10


def test_distances_are_those_of_the_latents(tiny_set):
    dataset = genrep.shards.open(tiny_set)
    found = distances(dataset, measured(dataset))
    # of the tiny set: row k of sample i is i + (4 k + 0, 1, 2, 3) / 8
    assert np.allclose(found.views, 1.0)
    assert np.allclose(found.anchors[0], np.sqrt(14) / 8)
    assert found.views.shape == (10, 1)


def test_a_sample_of_positions_lies_evenly_and_holds_each_once(tmp_path):
    write_set(tmp_path / "set", tiny_recipe(num_samples=100, shard_size=50))
    dataset = genrep.shards.open(tmp_path / "set")
    assert measured(dataset, 3) == [0, 50, 99]
    assert measured(dataset) == list(range(100))
    url = "memory://distance/set"
    write_set(url, tiny_recipe(num_samples=100, shard_size=50))
    assert measured(genrep.shards.open(url)) == list(range(50))
