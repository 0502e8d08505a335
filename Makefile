# Everything sets itself up: `make demo` on a fresh clone is all that is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The `photo` extra without jax and a second OpenCV (one that needs libGL), which mediapipe asks for
# and this package's use of it does not.
PHOTO_NEEDS := absl-py attrs flatbuffers "protobuf>=4.25.3,<5"
export PYTHONUNBUFFERED := 1

.PHONY: setup demo demo-head docs test test-slow test-gpu lint format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]" $(PHOTO_NEEDS)
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps mediapipe
	$(BIN)/python scripts/compile_kernels.py
	@touch $@

demo: setup
	$(BIN)/python train.py '+exp=[demo,draped]'

# PERSE on a synthetic head and edits of it: turntable, sheet of the edits, video of expressions.
HEAD := outputs/head/$(shell date +%Y-%m-%d_%H-%M-%S)
demo-head: setup
	$(BIN)/python train.py +exp=head_demo hydra.run.dir=$(HEAD)
	$(BIN)/python scripts/animate.py run=$(HEAD) motion=talk fps=20 height=256 width=256 hydra.run.dir=$(HEAD)/talk

# The site, in site/; its tools are installed when first asked for. Material prints its plans.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@touch $@

# One thread per worker: most tests are too small for more.
test: $(VENV)/.oracles
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The tests compare with the video generators' public networks and with SMPL-X's own package, whose
# licence is non-commercial; nothing else needs them.
$(VENV)/.oracles: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[diffusion,oracle]"
	@touch $@

test-slow: $(VENV)/.oracles
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.oracles
	$(BIN)/python -m pytest -m gpu

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) outputs multirun site
