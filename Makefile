# Everything runs in .venv, which make creates itself: only Python (3.11 to 3.13) with its venv module is needed.

VENV := .venv
RUN := "$(VENV)/bin/python"

# The interpreter to make the environment with; by default the first of these that is new enough.
PYTHON := python3.11 python3.12 python3.13 python3 python

FITS := import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# $(call install,ENVIRONMENT,ARGUMENTS) runs requirements/install.py with the first Python that has venv and, if one has
# it, pip. An environment of another version is replaced only where the call names PYTHON.
define install
@found=; for pip in ensurepip pip venv; do for python in $(PYTHON) $(if $(filter command,$(origin PYTHON)),,$(RUN)); do \
	if [ -z "$$found" ] && "$$python" -c "import $$pip; $(FITS)" >/dev/null 2>&1; then found=$$python; fi; \
done; done; \
if [ -z "$$found" ]; then \
	echo "Python: none of $(PYTHON) is Python 3.11, 3.12 or 3.13 with its venv module." \
		"Install one (Debian: apt-get install python3 python3-venv), or pass PYTHON=/path/to/python." >&2; \
	exit 2; \
fi; \
"$$found" -m requirements.install --environment="$(1)" $(if $(filter command,$(origin PYTHON)),--remake) $(2)
endef

# Arguments that a call may give.
LOCKS ?= cpu
WHEELHOUSE ?=
CORPUS ?=
MINUTES ?= 3
MAESTRO ?= corpora/maestro-v3.0.0-midi.zip
JOBS ?= auto
WORK ?= build/demo
TESTS ?= tests
PYTEST_ARGS ?=
KILLS ?= 24
CONTEXT ?=
SCOPE ?= all
COUNT ?= 40000
PYTHONS ?= 3.12 3.13
SEED ?= 0
TARGET ?= cpu
IMAGE ?= sostenuto:$(TARGET)
IMAGE_ARGS ?=
BUILDER ?= docker

.PHONY: help install demo maestro test faults cluster fuzz audit lint policies format api tour bench lock wheelhouse image imagetest interpreters clean
.PHONY: _cpu _development _policies _uv

help: ## this text
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## make .venv, or bring it up to date; LOCKS="gpu development" for more, WHEELHOUSE=directory without a network
	$(call install,$(VENV),--project --wheelhouse="$$WHEELHOUSE" $(LOCKS))

demo: _cpu ## from MIDI to music: Bach's chorales, or CORPUS=directory-or-zip; MINUTES=3 of training
	@$(RUN) -m demo --corpus="$$CORPUS" --work="$$WORK" --max_minutes="$$MINUTES"

maestro: _cpu ## download MAESTRO's MIDI (56 MB), for make demo CORPUS=corpora/maestro-v3.0.0-midi.zip
	@$(RUN) -m demo.maestro --output="$$MAESTRO"

test: _development ## run the tests; TESTS=tests/sostenuto for some, JOBS=0 for one process
	$(RUN) -m pytest --numprocesses=$(JOBS) --maxprocesses=4 --dist=loadfile $(PYTEST_ARGS) $(TESTS)

faults: _development ## strike every command KILLS=24 times in each way (kill, disk, clock, bucket); hours on two cores
	SOSTENUTO_KILLS=$(KILLS) SOSTENUTO_SEED=$(SEED) $(RUN) -m pytest --durations=0 --capture=no tests/faults

cluster: _development ## run the Kubernetes manifests on a control plane that Go builds once (SCOPE=short: fewer), or on CONTEXT=kubectl's with IMAGE
	@test -n "$(CONTEXT)" || $(RUN) -m tests.cluster.build
	SOSTENUTO_CLUSTER=$(SCOPE) SOSTENUTO_CLUSTER_CONTEXT="$(CONTEXT)" SOSTENUTO_CLUSTER_IMAGE="$(IMAGE)" \
		$(RUN) -m pytest --durations=0 --verbose $(PYTEST_ARGS) tests/cluster

fuzz: _development ## read COUNT=40000 mutated files of each kind, SEED=0; MIDI takes 2 minutes
	SOSTENUTO_FUZZ=$(COUNT) SOSTENUTO_SEED=$(SEED) $(RUN) -m pytest --durations=0 --capture=no $(PYTEST_ARGS) tests/fuzz

audit: _development ## hold every preset's graphs in every precision against TensorFlow's GPU kernels; 2 minutes, no GPU needed
	SOSTENUTO_AUDIT=all $(RUN) -m pytest --capture=no $(PYTEST_ARGS) tests/gpu

lint: _development ## check style, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

policies: _policies ## scan the Kubernetes manifests with checkov
	@"$(VENV)/policies/bin/uv" pip check --quiet --python "$(VENV)/policies/bin/python"
	PATH="$$(cd "$(VENV)" && pwd)/policies/bin:$$PATH" $(RUN) -m pytest $(PYTEST_ARGS) tests/k8s/test_policies.py

format: _development ## put the code into its format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

api: _development ## write docs/api.md and the list of modules from the docstrings
	$(RUN) docs/api.py

tour: _development ## execute docs/tour.ipynb and store its outputs in it
	$(RUN) docs/execute.py

bench: _development ## run the side-by-side measurements on CORPUS=directory
	@test -n "$$CORPUS" || { echo "Say on what to measure: make bench CORPUS=directory" >&2; exit 2; }
	$(RUN) benchmarks/preprocess.py --corpus="$$CORPUS"
	$(RUN) benchmarks/tutorial.py --corpus="$$CORPUS"
	$(RUN) benchmarks/train.py --corpus="$$CORPUS"

lock: _uv ## resolve setup.py into requirements/; LOCK_ARGS=--upgrade for newer versions
	@$(RUN) -m requirements.lock --uv="$(VENV)/bin/uv" -- $(LOCK_ARGS)

wheelhouse: ## download what install needs to WHEELHOUSE=build/wheelhouse, for a machine without a network
	$(call install,$(VENV),--download="$${WHEELHOUSE:-build/wheelhouse}" $(LOCKS))

image: ## build the image for a cluster; TARGET=cpu or gpu, IMAGE=name:tag, BUILDER=docker or buildah, IMAGE_ARGS
	$(BUILDER) build --file k8s/Dockerfile --target $(TARGET) --tag $(IMAGE) $(IMAGE_ARGS) .

imagetest: _development ## build the image with buildah on Debian's packages and run it as a pod would; 7 minutes
	SOSTENUTO_IMAGE=$(TARGET) $(RUN) -m pytest --durations=0 tests/k8s/test_image.py

_cpu:
	$(call install,$(VENV),--project --wheelhouse="$$WHEELHOUSE" cpu)

_development:
	$(call install,$(VENV),--project --wheelhouse="$$WHEELHOUSE" development)

# Checkov needs other versions of many packages than the jobs.
_policies: _development
	$(call install,$(VENV)/policies,--wheelhouse="$$WHEELHOUSE" policies)

_uv:
	$(call install,$(VENV))

interpreters: _uv ## install the newest versions that fit on PYTHONS="3.12 3.13" and run every command; 2 minutes each
	$(RUN) tests/interpreters.py $(PYTHONS)

clean: ## remove the environment, build/ and caches; corpora/ stays
	rm -rf "$(VENV)" build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

export CORPUS MINUTES MAESTRO WORK IMAGE_ARGS WHEELHOUSE
