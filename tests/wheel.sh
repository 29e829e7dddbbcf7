#!/bin/sh
# Build the wheel, install it in an empty environment outside the tree, import every module, generate eight samples.
# usage: tests/wheel.sh PYTHON [CONSTRAINTS]     run from the repository root
set -eu
python=$1 constraints=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git archive --format=tar HEAD | tar -x -C "$(mkdir -p "$work/source" && echo "$work/source")"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work/dist" "$work/source"
"$work/venv/bin/python" -m pip install --quiet ${constraints:+--constraint "$constraints"} "$work"/dist/genrep-*.whl
cd "$work"
"$work/venv/bin/python" - <<'PY'
import importlib, pathlib, pkgutil

names = []
for part in ("generate", "shards", "train", "evaluate"):
    package = importlib.import_module(f"genrep.{part}")
    assert "site-packages" in str(package.__path__[0]), package.__path__
    names += [m.name for m in pkgutil.walk_packages(package.__path__, f"genrep.{part}.")]
for name in names:
    importlib.import_module(name)
print(f"{len(names)} modules imported")
PY
"$work/venv/bin/genrep-generate" --n 8 --views steer --out set --quiet
"$work/venv/bin/genrep-shards" verify set
