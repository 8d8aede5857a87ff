# Two commands set up a fresh clone:  make quickstart  and  make test.
# They need python3 (3.11 or later) and make; everything else is installed into .venv, as pinned by requirements.lock.

PYTHON ?= python3
DOCKER ?= docker
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := torch,hf,gguf,data,train,serve,otel,dev
RUN    := runs/quickstart
SERVE  ?= 1

# What a release publishes. zig is a C++ compiler for any architecture and for the oldest glibc that jaxlib runs on.
RELEASE  := build/release
MACHINES := x86_64 aarch64
GLIBC    := 2.27

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(VENV)/built  ## create .venv and install the project with all extras

# Does nothing the second time, unless a dependency or its version has changed.
$(VENV)/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python3 is too old: 3.11 or later is needed (make PYTHON=python3.12 …)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[$(EXTRAS)]'
	@touch $@

# The native library, anew where its sources have changed, as by a pull: one of other sources is not loaded.
$(VENV)/built: $(VENV)/installed $(wildcard llm_jax/kernels/cpu/src/*) $(wildcard llm_jax/native/*.py)
	-$(BIN)/python -m llm_jax.native.build  # without a compiler everything runs on XLA's own kernels
	@touch $@

.PHONY: quickstart
quickstart: install  ## train a small model, print a sample, serve it (SERVE=0 stops before serving)
	$(BIN)/llm-train --task lm --config-path configs/quickstart.yaml --checkpoint-dir $(RUN)
ifeq ($(SERVE),0)
	@echo; echo "To serve it: $(BIN)/llm-serve --model $(RUN)"
else
	$(BIN)/llm-serve --model $(RUN)
endif

.PHONY: test
test: install lint  ## install, lint, run every test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: test-schedules
test-schedules: install  ## 1,000 random schedules of requests on each kind of kernels (about 6 minutes)
	SCHEDULES=1000 $(BIN)/python -m pytest --timeout 1200 tests/inference/test_schedules.py

.PHONY: test-clients
test-clients: install  ## run real clients of Python and JavaScript (CLIENTS="openai_client ai_sdk" for some) against a server
	$(BIN)/python -m tests.clients $(CLIENTS)

.PHONY: test-page
test-page: install  ## run the tests of the chat page in Chromium: the system's, or one that playwright downloads
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[browser]'
	{ command -v chromium || command -v chromium-browser || command -v google-chrome; } > /dev/null || $(BIN)/playwright install --with-deps chromium
	$(BIN)/python -m pytest tests/server/test_chat_page.py tests/server/test_page_routes.py

.PHONY: check-deploy
check-deploy: install  ## validate deploy/ against Kubernetes' schemas, and its queries with Prometheus (apt install prometheus)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock kubernetes-validate
	$(BIN)/python -m pytest tests/test_deploy.py tests/server/test_dashboard.py
	$(BIN)/python scripts/check_prometheus.py

.PHONY: check-adapters
check-adapters: install  ## load and unload adapters under load, by requests and by SIGHUP: no request may be lost
	$(BIN)/python scripts/check_adapters.py

.PHONY: check-rolling
check-rolling: install  ## restart three replicas in turn under load behind nginx (apt install nginx-light): no request may fail
	$(BIN)/python scripts/check_rolling_restart.py

.PHONY: test-lm-eval
test-lm-eval: install  ## compare lm-evaluation-harness in process, through the server, and on transformers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock \
	  --editable '.[$(EXTRAS),lm-eval]' 'lm-eval[api,hf]'
	$(BIN)/python -m pytest tests/evaluation/test_harness.py

.PHONY: test-training
test-training: install  ## kill every task 20 times, damage each file of a state, train on every mesh (about 20 minutes)
	LLM_JAX_LONG_TESTS=1 $(BIN)/python -m pytest tests/training/test_kills.py tests/training/test_damage.py tests/training/test_meshes.py

.PHONY: real-models
real-models: install  ## fetch the real tokenizers and models that some tests need into .cache/real (about 0.5 GB)
	$(BIN)/python scripts/fetch_real_models.py

.PHONY: check-recipes
check-recipes: install  ## run the recipes of configs/ (RECIPES="full lora" for some): each reaches what it states, in time
	$(BIN)/python scripts/check_recipes.py $(RECIPES)

.PHONY: lint
lint: install  ## ruff, mypy, and the layers of the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache  # its cache remembers modules that were renamed

.PHONY: format
format: install  ## sort imports and format with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: demo-model
demo-model: install  ## train the model that ships in llm_jax/demo anew
	$(BIN)/python scripts/make_demo_model.py

.PHONY: bench
bench: install  ## compare this engine with transformers and llama.cpp on this machine (BENCH=--help lists its options)
	$(BIN)/python -m benchmarks $(BENCH)

.PHONY: bench-files
bench-files: install  ## compare this engine with llama.cpp on GGUF files (BENCH="FILE.gguf …"; by default random ones)
	$(BIN)/python -m benchmarks.files $(BENCH)

.PHONY: bench-data
bench-data: install  ## tokenise a corpus made on the fly beside the tokenizers library, and train on it (BENCH="--size 1000")
	$(BIN)/python -m benchmarks.data $(BENCH)

.PHONY: bench-train
bench-train: install  ## compare training steps with PyTorch's on this machine (BENCH=--help lists its options)
	$(BIN)/python -m benchmarks.training --sweep $(BENCH)

.PHONY: wheels
wheels:  ## build what a release publishes into dist: the source, and a wheel with the native kernels per architecture
	test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock build ziglang
	rm -rf dist
	set -e; zig="$$($(RELEASE)/bin/python -c 'import ziglang; print(ziglang.__path__[0])')/zig"; \
	for machine in $(MACHINES); do \
	  CXX="$$zig c++ -target $$machine-linux-gnu.$(GLIBC)" \
	  $(RELEASE)/bin/python -m build \
	    --config-setting=--build-option=--plat-name=manylinux_$(subst .,_,$(GLIBC))_$$machine; \
	done
	$(PYTHON) scripts/check_wheels.py dist

.PHONY: check-wheel
check-wheel: wheels  ## install the wheel into an empty environment without a compiler, and run its native kernels there
	$(PYTHON) scripts/check_wheels.py dist --install build/check-wheel

.PHONY: test-aarch64
test-aarch64:  ## run the native kernels for aarch64 under qemu-user (apt install qemu-user-static)
	test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock ziglang
	CXX="$$($(RELEASE)/bin/python -c 'import ziglang; print(ziglang.__path__[0])')/zig c++ -target aarch64-linux-musl" \
	  $(PYTHON) scripts/test_levels.py aarch64 qemu-aarch64-static

.PHONY: image
image:  ## build the server's container image (ACCELERATOR=cuda for NVIDIA GPUs)
	$(DOCKER) build --build-arg ACCELERATOR=$(or $(ACCELERATOR),cpu) --tag llm .

.PHONY: compose-up
compose-up:  ## start the server's container (PROFILE=monitoring adds Prometheus and Grafana)
	$(DOCKER) compose $(if $(PROFILE),--profile $(PROFILE)) up --detach --wait

.PHONY: compose-down
compose-down:  ## stop the containers
	$(DOCKER) compose --profile '*' down

.PHONY: clean
clean:  ## remove .venv and every cache, but no trained model
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
