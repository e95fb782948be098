# Each of these does everything on a fresh machine: makes its environment, installs, runs.
#   make demo    the shipped model answers questions about pictures and says why
#   make check   format, lint, types
#   make test    the tests, in three environments
PYTHON ?= python3
PYTEST_ARGS ?=
INSTALL = -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Nothing that runs here may reach another machine, and two test processes share two cores.
RUN = HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1

# torchvision comes with timm and openclip, and changes what transformers does: they stand apart.
MAIN_EXTRAS = plot,sound,train,captions,evaluate,ray
VISION_EXTRAS = timm,openclip

.PHONY: demo check test test-main test-vision test-bare clean
.DELETE_ON_ERROR:

demo: .venv/demo/.installed
	$(RUN) .venv/demo/bin/relmap demo --output relmap-demo

check: .venv/main/.installed
	.venv/main/bin/ruff format --check .
	.venv/main/bin/ruff check .
	.venv/main/bin/pyright

test: test-main test-vision test-bare

test-main: .venv/main/.installed
	$(RUN) .venv/main/bin/python -m pytest -n 2 $(PYTEST_ARGS)

test-vision: .venv/vision/.installed
	$(RUN) .venv/vision/bin/python -m pytest -n 2 tests/vision $(PYTEST_ARGS)

test-bare: .venv/bare/.installed
	$(RUN) .venv/bare/bin/python -I tests/bare_install.py

clean:
	rm -rf .venv build dist relmap-demo .pytest_cache .ruff_cache

# A stamp stands for "installed as pyproject.toml and constraints.txt say now".
.venv/%/.python:
	test -x .venv/$*/bin/python || $(PYTHON) -m venv .venv/$*
	.venv/$*/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	touch $@

.venv/main/.installed: .venv/main/.python pyproject.toml constraints.txt
	.venv/main/bin/python $(INSTALL) -e '.[$(MAIN_EXTRAS)]' --group tests --group check
	touch $@

.venv/vision/.installed: .venv/vision/.python pyproject.toml constraints.txt
	.venv/vision/bin/python $(INSTALL) -e '.[$(VISION_EXTRAS)]' --group tests
	touch $@

.venv/demo/.installed: .venv/demo/.python pyproject.toml constraints.txt
	.venv/demo/bin/python $(INSTALL) -e '.[plot]'
	touch $@

# The wheel as a user gets it; uninstalled first, since its version stays the same between two tests.
.venv/bare/.installed: .venv/bare/.python pyproject.toml constraints.txt $(shell find src -type f -not -name '*.pyc')
	rm -rf .venv/bare/wheel
	.venv/bare/bin/python -m pip wheel --quiet --no-deps --wheel-dir .venv/bare/wheel .
	.venv/bare/bin/python -m pip uninstall --quiet --yes relmap
	.venv/bare/bin/python $(INSTALL) .venv/bare/wheel/relmap-*.whl
	touch $@
