# One environment (.venv) for everything; each target says what it does. `make` alone lists the targets.
#   PYTHON    the Python that .venv is made with:  make demo PYTHON=python3.12
#   PIP_ARGS  added to every pip call:             make demo PIP_ARGS="--extra-index-url <an index with CPU builds>"
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
TORCH := 2.13.0
PINS := requirements/constraints.txt
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check install $(PIP_ARGS) -c $(PINS)
SAY := @echo "==>"
.DEFAULT_GOAL := help
.PHONY: help venv demo demo-ensemble test

help:
	@echo "make demo   set up .venv, train the embedded demo, evaluate it and print the results (a few minutes)"
	@echo "make demo-ensemble   train three small members and test their ensemble (some minutes more)"
	@echo "make test   set up .venv, then run ruff, mypy and pytest"
	@echo "make venv   set up .venv only: torch $(TORCH), this package and the versions in $(PINS)"
	@echo "Variables: PYTHON=python3.12, PIP_ARGS=\"--extra-index-url ...\" (see README.md)"

venv: $(STAMP)
	$(SAY) "The environment $(VENV) is up to date."

demo: venv
	$(SAY) "Running the demo: $(RUN) -m lit_basereward.demo"
	@$(RUN) -m lit_basereward.demo

demo-ensemble: venv
	$(SAY) "Running the ensemble's demo: $(RUN) -m lit_basereward.demo.ensemble"
	@$(RUN) -m lit_basereward.demo.ensemble

test: venv
	$(SAY) "Checking style: ruff check, ruff format --check"
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	$(SAY) "Checking types: mypy lit_basereward"
	@$(RUN) -m mypy lit_basereward
	$(SAY) "Running the tests: pytest, on all cores"
	@$(RUN) -m pytest --numprocesses auto --dist worksteal

# The stamp is written last, so that an interrupted set-up is taken up again by the next make.
$(STAMP): setup.cfg pyproject.toml $(PINS)
	$(SAY) "Making the environment $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is \
	'"$$($(PYTHON) -V)"'; name another with PYTHON=...")'
	@$(PYTHON) -m venv $(VENV) || { echo "No environment could be made. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@$(install_torch)
	$(SAY) "Installing lit_basereward and what it needs, in the versions of $(PINS) (some minutes)"
	@$(PIP) --quiet --editable ".[demo,data,test]"
	@$(RUN) -c "import torch; print('==> torch', torch.__version__, 'on', \
	torch.cuda.get_device_name() if torch.cuda.is_available() else 'the CPU')"
	@touch $(STAMP)

# torch goes first and alone: its CPU and CUDA builds share one version, and only here is it known which one is wanted.
# Without a GPU the CPU build is asked for by name; the CUDA build and its gigabytes come only where there is no other.
define install_torch
if nvidia-smi -L >/dev/null 2>&1; then \
  echo "==> Found an NVIDIA GPU: installing torch $(TORCH) with CUDA"; build="$(TORCH)"; \
elif $(PIP) --quiet --dry-run --no-deps "torch==$(TORCH)+cpu" >/dev/null 2>&1; then \
  echo "==> Found no NVIDIA GPU: installing torch $(TORCH), CPU build"; build="$(TORCH)+cpu"; \
else \
  echo "==> Found no NVIDIA GPU, and pip's indexes offer no CPU build by name: installing plain torch $(TORCH)"; \
  build="$(TORCH)"; \
fi; \
$(PIP) "torch==$$build"
endef
