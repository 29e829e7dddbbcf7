"""Who may know whom: design rules that nothing else would notice being broken."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "shards": {"shards"},
    "generate": {"generate", "shards"},
    "train": {"train", "shards"},
    "evaluate": {"evaluate", "train", "shards"},
}


def imported_parts(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {match[1] for name in names if (match := re.match(r"genrep\.(\w+)", name))}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_the_parts_below_it(part):
    files = sorted((ROOT / part).rglob("*.py"))
    assert files
    strangers = {str(file.relative_to(ROOT)): imported_parts(file) - MAY_IMPORT[part] for file in files}
    assert {name: found for name, found in strangers.items() if found} == {}


def test_every_package_folder_is_listed_in_setup_cfg():
    listed = set(re.findall(r"^    genrep\.([\w.]+)$", (ROOT / "setup.cfg").read_text(), flags=re.MULTILINE))
    folders = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for part in MAY_IMPORT
        for file in (ROOT / part).rglob("__init__.py")
    }
    assert folders == listed


def test_only_the_evaluator_reads_test_images():
    readers = [
        str(file.relative_to(ROOT))
        for part in ("generate", "shards", "train", "examples")
        for file in (ROOT / part).rglob("*.py")
        if re.search(r"load\(\s*[\"']test[\"']", file.read_text())
    ]
    assert readers == []
