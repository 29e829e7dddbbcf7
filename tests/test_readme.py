"""What README.md and docs/ tell a newcomer to type works as it stands."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "docs" / name
    for name in (
        "evaluating.md",
        "generators.md",
        "rendering.md",
        "studies.md",
        "training.md",
        "transfer.md",
        "views.md",
    )
]
PROGRAMS = {entry.name: entry for entry in entry_points(group="console_scripts") if entry.name.startswith("genrep-")}
SMALLER = {
    "--n 20000": "--n 600",
    "genrep-train ": "genrep-train --steps 2 --batch-size 16 --threads 1 ",
    "import fashion-mnist": "import fashion-mnist --n 600",
}
FOLDERS = ("data/gauss", "runs/gauss", "data/real")


def commands(text):
    """The lines of indented blocks that call a program of ours, continued lines joined."""
    joined = text.replace("\\\n", " ")
    lines = [re.split("#| > ", line)[0].strip() for line in joined.splitlines() if line.startswith("    ")]
    return [re.sub(r"^torchrun .*? -- ", "", line) for line in lines if re.match(r"(torchrun .* -- )?genrep-", line)]


def run(line, folder):
    program, *arguments = shlex.split(line)
    words = [str(Path(sys.executable).parent / program), *arguments]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("line", commands(README) + [c for page in PAGES for c in commands(page.read_text())])
def test_every_command_in_the_documentation_is_accepted(line):
    program, *arguments = shlex.split(line.replace("...", ""))
    command = PROGRAMS[program].load()
    context = command.make_context(program, arguments)  # raises what a wrong option would raise
    if hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        command.make_context(name, rest)


def test_the_first_commands_of_the_readme_run_one_after_another(tmp_path):
    lines = [line for line in commands(README) if any(folder in line for folder in FOLDERS)]
    assert len(lines) >= 4
    for line in lines:
        if line.startswith("genrep-evaluate"):
            continue  # minutes: tests/evaluate has the same on small data
        for large, small in SMALLER.items():
            line = line.replace(large, small)
        finished = run(line, tmp_path)
        assert finished.returncode == 0, finished.stderr


def test_the_example_generator_keeps_the_protocol_and_generates(tmp_path):
    text = (ROOT / "docs/generators.md").read_text()
    (tmp_path / "rings.py").write_text(re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1])
    own = [line for line in commands(text) if " rings:factory" in line]
    checked, generated = (run(line, tmp_path) for line in own[:2])
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert generated.returncode == 0, generated.stderr
    assert (tmp_path / "rings-set" / "manifest.json").exists()


def cells(text):
    """The rows of the Markdown tables in a text, without their padding."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if set("".join(row)) - set("-")]


def test_the_readme_lists_the_generators_as_the_command_does(tmp_path):
    listed = run("genrep-generators list", tmp_path)
    assert listed.returncode == 0, listed.stderr
    section = README.split("\n## Generators\n")[1].split("\n## ")[0]
    assert cells(section) == cells(listed.stdout)


def test_the_readme_maps_every_file():
    files = [
        file.relative_to(ROOT / part).as_posix()
        for part in ("generate", "shards", "train", "evaluate")
        for file in (ROOT / part).rglob("*.py")
        if file.parent.name != part or file.name != "__init__.py"
    ]
    assert [name for name in files if f"| `{name}` |" not in README] == []
