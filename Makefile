# Each target sets up what it needs; `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2

.PHONY: demo serve-demo test test-all test-convert lint types docs clean

# Three folders of models of two networks, that know 5, 4 and 7 classes; one model made of
# them, with no image at hand; pictures of classes that none of them knows, told apart by it.
# Each line can be run by itself, and continues what was interrupted.
DEMO := runs/demo

demo: $(VENV)/.installed
	$(BIN)/python experiments/run.py --workdir=$(DEMO)/five \
	  --config=experiments/configs/demo_teachers.py:way=5,seed=1
	$(BIN)/python experiments/run.py --workdir=$(DEMO)/four \
	  --config=experiments/configs/demo_teachers.py:way=4,seed=2
	$(BIN)/python experiments/run.py --workdir=$(DEMO)/seven \
	  --config=experiments/configs/demo_teachers.py:way=7,network=resnet10,seed=3
	$(BIN)/python experiments/run.py --workdir=$(DEMO)/model \
	  --config=experiments/configs/demo.py \
	  --config.zoo.path=$(DEMO)/five/zoo,$(DEMO)/four/zoo,$(DEMO)/seven/zoo
	$(BIN)/python experiments/draw_pictures.py --target=$(DEMO)/new_classes
	$(BIN)/python experiments/classify.py --model=$(DEMO)/model --labelled \
	  --support=$(DEMO)/new_classes/support --images=$(DEMO)/new_classes/pictures \
	  --out=$(DEMO)/predictions.csv

# Trains three small teachers, serves them by MLServer on loopback, and distils the
# panel of what they answer over HTTP.
serve-demo: $(VENV)/.installed-dev
	$(BIN)/python experiments/run.py --workdir=runs/serve_demo/teachers \
	  --config=experiments/configs/pretrain_cifar_fs_conv4.py:smoke
	$(BIN)/python experiments/serve_zoo.py --zoo=runs/serve_demo/teachers/zoo \
	  --folder=runs/serve_demo/served -- --workdir=runs/serve_demo/panel \
	  --config=experiments/configs/panel_cifar_fs.py:smoke,queries \
	  --config.zoo.pretrain.num_teachers=0

PYTEST := $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal --durations=25

test: $(VENV)/.installed-dev
	$(PYTEST)

# Those marked slow as well, with PyTorch and the shared teachers: three quarters of an
# hour at most, before an issue is called resolved.
test-all: $(VENV)/.installed-dev
	$(PYTEST) -m "slow or not slow"

# Models of torchvision, timm and Hugging Face, converted by their own packages: an
# environment beside the usual one, of 5 GB, or 7 where only PyPI can be reached.
CONVERT ?= .venv-convert

test-convert: $(CONVERT)/.installed
	HF_HUB_OFFLINE=1 $(CONVERT)/bin/python -m pytest -m convert --durations=10 tests

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site of docs/, strict: a link that leads nowhere fails (--quiet would hide warnings
# from --strict).  build/docs/index.html is opened as a file; only the search wants a
# server: python -m http.server -d build/docs.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu PYTHONPATH=. $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(CONVERT) build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'free_jax needs Python 3.11 or newer; set PYTHON=...')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[experiments]"
	touch $@

# torch only for parity tests and .pth files; this build needs no CUDA packages.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,tensorboard,fusion]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

# PyTorch without the packages of CUDA.  The index is asked for nothing
# else, and where it cannot be reached PyPI's will do.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

$(CONVERT)/.installed: pyproject.toml
	$(PYTHON) -m venv $(CONVERT)
	-$(CONVERT)/bin/python -m pip install --quiet --no-deps --retries 1 \
	  --index-url $(TORCH_INDEX) torch==2.14.1 torchvision==0.29.1
	$(CONVERT)/bin/python -m pip install --quiet -e ".[convert,dev]"
	touch $@
