# make demo    unlearns real images on any machine, no download    make test    runs the test suite, make slow the rest of it
# make docs    builds the documentation, docs/_build/index.html    make dist    builds wheels and sdist, and tries them
# All set up .venv first. JAX=cpu or JAX=cuda12 forces the kind of JAX; PYTHON names the interpreter (3.11 or newer).
PYTHON ?= python3
comma := ,
VENV ?= .venv
JAX ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda12 || echo cpu)
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(JAX)
# glibc's switch for huge pages: XLA allocates a step's memory anew in every step, which costs less with them.
RUN := GLIBC_TUNABLES=$${GLIBC_TUNABLES-glibc.malloc.hugetlb=1} $(BIN)/python

.PHONY: setup demo test slow lint docs dist oldest clean

demo: setup
	$(RUN) experiments/run.py --dataset=tiny --task=data10 --seeds 0 1 2

test: setup
	$(BIN)/python -m pytest

slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m sphinx -M html docs docs/_build --fail-on-warning --fresh-env --keep-going --quiet --jobs auto
	@echo "written: docs/_build/html/index.html"

dist: setup
	PYTHON=$(BIN)/python sh tests/package/dist.sh

oldest: setup
	PYTHON=$(BIN)/python sh tests/package/oldest.sh

setup: $(READY)

$(READY): pyproject.toml setup.py camu_jax/models/onednn.cc
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@case "$(JAX)" in cpu|cuda12) ;; *) echo "JAX is '$(JAX)'; allowed: cpu, cuda12" >&2; exit 2;; esac
	@echo "installing into $(VENV) (JAX=$(JAX); JAX=cpu or JAX=cuda12 forces either) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev$(if $(filter cuda12,$(JAX)),$(comma)cuda12)]'
	@$(BIN)/python -c 'from camu_jax import models; models.missing() and print(f"note: {models.missing()}")'
	@touch $@

clean:
	rm -rf $(VENV) cache results checkpoints build dist docs/_build camu_jax/models/_onednn.*.so
