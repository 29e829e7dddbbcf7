"""From a script of bench/ to the generated part of docs/performance.md."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*words):
    return subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_a_script_prints_and_leaves_what_the_page_is_filled_with(tmp_path):
    printed = run("bench.startup", "--rounds", "1", "--out", f"{tmp_path}/found")
    assert printed == (tmp_path / "found/startup.md").read_text()
    content = json.loads((tmp_path / "found/startup.json").read_text())
    seconds = {row["command"]: row["seconds"] for row in content["tables"][0]}
    assert [target["measured"] for target in content["targets"]] == list(seconds.values())[:2]
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs/performance.md").read_text())
    before, after = (page.read_text().split(mark) for mark in ("<!-- measured: begin -->", "<!-- measured: end -->"))
    run("bench.page", f"{tmp_path}/found", "--into", f"{page}")
    text = page.read_text()
    assert text.startswith(before[0])
    assert text.endswith(after[1])
    assert "| start-up: genrep-generate --help |" in text
    assert f"Python {content['machine']['python']}" in text
    run("bench.page", f"{tmp_path}/found", "--into", f"{page}")
    assert page.read_text() == text
