# Every target creates what it needs and may be run again at any time.
# `make setup CONSTRAINTS=` ignores the tested versions; PIP_ARGS="--index-url URL" passes an index, e.g. for CPU wheels.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
BENCH ?= build/bench
BIN := $(VENV)/bin
STAMP := $(VENV)/.genrep-setup
BENCH_STAMP := $(VENV)/.genrep-bench
FASHION := /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz
INSTALL := $(BIN)/python -m pip install --quiet $(PIP_ARGS) $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
HAS_FFCV_LIBRARIES := pkg-config --exists opencv4 libturbojpeg 2>/dev/null
export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE  # where it is set, each process that tests start would compile every module anew

.PHONY: setup system demo test test-gpu bench bench-full lint format wheel-test clean

setup: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[dev,fidelity]'
	@$(HAS_FFCV_LIBRARIES) && $(INSTALL) --editable '.[ffcv]' || echo "FFCV is left out: \
	sudo apt-get install g++ libopencv-dev libturbojpeg0-dev pkg-config, then make -B setup; only FFCV's own loader needs it"
	@touch $(STAMP)

# real evaluation data (GENREP_FASHION_MNIST names another folder that holds it), and what FFCV is built from
system:
	@if [ -n "$$GENREP_FASHION_MNIST" ] || [ -e $(FASHION) ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq dataset-fashion-mnist >/dev/null; \
	else echo "Fashion-MNIST is missing: sudo apt-get install dataset-fashion-mnist, or name its folder in GENREP_FASHION_MNIST"; fi
	@if ! $(HAS_FFCV_LIBRARIES) && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			g++ libopencv-dev libturbojpeg0-dev pkg-config >/dev/null || true; \
	fi

demo: $(STAMP)
	$(BIN)/python examples/demo.py --out demo

# two processes share the files of tests, in the order of their names: the last file is a short one
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

# every row of docs/performance.md but the full line and cost against size: Markdown and JSON in $(BENCH)
bench: $(BENCH_STAMP)
	$(BIN)/python -m bench.write --size 28 --out $(BENCH)
	$(BIN)/python -m bench.write --size 128 --out $(BENCH)
	$(BIN)/python -m bench.write --size 128 --subsampling 4:2:0 --n 1024 --rounds 3 --out $(BENCH)
	$(BIN)/python -m bench.write --size 128 --format png --n 1024 --rounds 2 --out $(BENCH)
	$(BIN)/python -m bench.read --size 28 --out $(BENCH)
	$(BIN)/python -m bench.read --size 128 --n 1024 --rounds 3 --out $(BENCH)
	$(BIN)/python -m bench.generate --rounds 2 --out $(BENCH)
	$(BIN)/python -m bench.render --micro-batch 32 --rounds 1 --out $(BENCH)
	$(BIN)/python -m bench.train --out $(BENCH)
	$(BIN)/python -m bench.probe --out $(BENCH)
	$(BIN)/python -m bench.verify --size 28 --out $(BENCH)
	$(BIN)/python -m bench.verify --size 128 --rounds 3 --out $(BENCH)
	$(BIN)/python -m bench.startup --out $(BENCH)
	$(BIN)/python -m bench.page $(BENCH) > $(BENCH)/performance.md

# the line of the user in full, an hour or so and 10 GB of disk for a while; then larger sets and wider features
bench-full: $(BENCH_STAMP)
	$(BIN)/python -m bench.full --out $(BENCH)
	$(BIN)/python -m bench.size --full --out $(BENCH)
	$(BIN)/python -m bench.probe --width 1152 --out $(BENCH)
	$(BIN)/python -m bench.page $(BENCH) > $(BENCH)/performance.md

$(BENCH_STAMP): $(STAMP)
	$(INSTALL) --editable '.[bench]'
	@touch $@

# mypy does not follow setup.cfg's package_dir: it sees the four packages through links
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/mypy/genrep && ln -sfn $(foreach part,generate shards train evaluate,$(CURDIR)/$(part)) build/mypy/genrep/
	MYPYPATH=build/mypy $(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the wheel in an empty environment outside the tree: every module imports, eight samples are generated
wheel-test:
	sh tests/wheel.sh $(PYTHON) $(if $(CONSTRAINTS),$(abspath $(CONSTRAINTS)))

clean:
	rm -rf $(VENV) build dist *.egg-info
