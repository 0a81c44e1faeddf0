# Everything runs in .venv, which make creates itself: only Python (3.11 to 3.13) with its venv module is needed.

VENV := .venv
RUN := $(VENV)/bin/python
LOCK := requirements/locked.txt
INSTALLED := $(VENV)/installed
UV := 0.13.9
# It wants other versions of many packages than ours.
CHECKOV := $(VENV)/policies/bin/checkov

COMPILE = $(VENV)/bin/uv pip compile setup.py --generate-hashes --custom-compile-command 'make lock' --quiet

# Everything but gpu: CUDA is large.
LOCKED_EXTRAS := beam gcp train tune demo dev

# What the image of k8s/Dockerfile holds, for its Python: the same versions, without what only development needs.
IMAGE_EXTRAS := beam gcp train tune
IMAGE_PYTHON := --python-version 3.13 --python-platform linux

# The interpreter to make .venv with; by default the first of these that is new enough.
PYTHON := python3.11 python3.12 python3.13 python3 python

FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# Arguments that a call may give.
CORPUS ?=
MAESTRO ?= corpora/maestro-v3.0.0-midi.zip
JOBS ?= auto
TESTS ?= tests
KILLS ?= 24
SEED ?= 0
TARGET ?= cpu
IMAGE ?= sostenuto:$(TARGET)
IMAGE_ARGS ?=
BUILDER ?= docker

.PHONY: help demo maestro test faults lint policies format api tour bench lock image imagetest clean

help: ## this text
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## from MIDI to music: Bach's chorales, or make demo CORPUS=directory-or-zip
	@$(RUN) -m demo --corpus="$$CORPUS"

maestro: $(INSTALLED) ## download MAESTRO's MIDI (56 MB), for make demo CORPUS=corpora/maestro-v3.0.0-midi.zip
	@$(RUN) -m demo.maestro --output="$$MAESTRO"

test: $(INSTALLED) ## run the tests; TESTS=tests/notes for some, JOBS=0 for one process
	$(RUN) -m pytest --numprocesses=$(JOBS) --maxprocesses=4 --dist=loadfile $(TESTS)

faults: $(INSTALLED) ## kill runs at KILLS=24 random moments, fill their disk, and compare; half an hour on two cores
	SOSTENUTO_KILLS=$(KILLS) SOSTENUTO_SEED=$(SEED) $(RUN) -m pytest --durations=0 --capture=no tests/faults

lint: $(INSTALLED) ## check style, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

policies: $(INSTALLED) $(CHECKOV) ## scan the Kubernetes manifests with checkov
	PATH="$$PWD/$(dir $(CHECKOV)):$$PATH" $(RUN) -m pytest tests/k8s/test_policies.py

format: $(INSTALLED) ## put the code into its format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

api: $(INSTALLED) ## write docs/api.md anew from the docstrings
	$(RUN) docs/api.py

tour: $(INSTALLED) ## execute docs/tour.ipynb and store its outputs in it
	$(RUN) docs/execute.py

bench: $(INSTALLED) ## run the side-by-side measurements on CORPUS=directory
	@test -n "$$CORPUS" || { echo "Say on what to measure: make bench CORPUS=directory" >&2; exit 2; }
	$(RUN) benchmarks/preprocess.py --corpus="$$CORPUS"
	$(RUN) benchmarks/tutorial.py --corpus="$$CORPUS"
	$(RUN) benchmarks/train.py --corpus="$$CORPUS"

lock: $(INSTALLED) ## resolve setup.py into requirements/; LOCK_ARGS=--upgrade for newer versions
	$(RUN) -m pip install --quiet uv==$(UV)
	$(COMPILE) $(addprefix --extra ,$(LOCKED_EXTRAS)) --universal --python-version 3.11 --output-file $(LOCK) $(LOCK_ARGS)
	echo checkov | $(VENV)/bin/uv pip compile - --generate-hashes --custom-compile-command 'make lock' --quiet --universal \
		--python-version 3.11 --output-file requirements/policies.txt $(LOCK_ARGS)
	$(COMPILE) $(addprefix --extra ,$(IMAGE_EXTRAS)) --constraint $(LOCK) $(IMAGE_PYTHON) \
		--output-file requirements/runtime.txt $(LOCK_ARGS)
	$(COMPILE) $(addprefix --extra ,$(IMAGE_EXTRAS) gpu) --constraint requirements/runtime.txt $(IMAGE_PYTHON) \
		--output-file requirements/gpu.txt $(LOCK_ARGS)

image: ## build the image for a cluster; TARGET=cpu or gpu, IMAGE=name:tag, BUILDER=docker or buildah, IMAGE_ARGS
	$(BUILDER) build --file k8s/Dockerfile --target $(TARGET) --tag $(IMAGE) $(IMAGE_ARGS) .

imagetest: $(INSTALLED) ## build the image with buildah on Debian's packages and run it as a pod would; 7 minutes
	SOSTENUTO_IMAGE=$(TARGET) $(RUN) -m pytest --durations=0 tests/k8s/test_image.py

# The file that marks .venv as whole is written last, so that an interrupted installation is taken up again.
$(INSTALLED): $(LOCK)
	@found=; for python in $(PYTHON); do \
		if $$python -c '$(FITS)' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 with its venv module among: $(PYTHON)." >&2; \
		echo "Install one (Debian: apt install python3 python3-venv), or say make PYTHON=/path/to/python." >&2; \
		exit 2; \
	fi; \
	echo "Making $(VENV) with $$($$found --version); some 220 packages, two minutes."; \
	$$found -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(LOCK)
	@touch $@

$(CHECKOV): requirements/policies.txt $(INSTALLED)
	@$(RUN) -m venv $(VENV)/policies
	@$(VENV)/policies/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

clean: ## remove the environment, build/ and caches; corpora/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

export CORPUS MAESTRO IMAGE_ARGS
