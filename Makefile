# Two commands for a fresh clone: `make quickstart` and `make test`. Both need Python 3.11 or newer, make and pip's index.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_TESTS := .venv/.installed-with-tests

RANDOM_PASSWORD = $(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(24))'

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-runs test-docker torchvision vllm-env lint system-packages docker-packages images image-cuda push-images wheels wheels-cuda ui \
	lock pin-images audit sbom attest verify-sbom scan-images sign-images compile cluster-check manifests local-secrets clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-16s %s\n", $$1, $$2 }'

# PYTHON=python3.12 uses another Python; TORCH_CPU_INDEX=URL names an index of torch's CPU builds: images/install-environment.sh
PINNED := pyproject.toml constraints.txt images/torch-cpu.txt $(wildcard images/packages/*.txt)
$(INSTALLED): $(PINNED)
	PYTHON=$(PYTHON) TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) images/install-environment.sh
	touch $@

$(INSTALLED_TESTS): $(PINNED)
	PYTHON=$(PYTHON) TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) images/install-environment.sh test
	touch $(INSTALLED) $@

install: $(INSTALLED_TESTS) ## create .venv and install everything into it, for tests too

quickstart: $(INSTALLED) ## run the whole pipeline on Python's own documentation, on this machine
	$(BIN)/deepsynth run

# A file's tests stay in one process, because they share fixtures; in order, because tests/conftest.py puts the longest first.
test: $(INSTALLED_TESTS) lint ## lint, check types, run the tests
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-docker: $(INSTALLED_TESTS) ## build the images, run the pipeline in them; root needs no running engine: the tests start their own
	$(BIN)/python -m pytest -m docker tests/docker

test-slow: $(INSTALLED_TESTS) ## run the tests that `make test` leaves out: whole runs, resumed trainings, memory estimates
	$(BIN)/python -m pytest -m slow --numprocesses logical --maxprocesses 2 --dist loadfile --no-loadscope-reorder

# Beside whole runs, the files of which `make test` runs a part.
RUNS := tests/pipeline tests/newcomer $(addprefix tests/unit/, prepare/test_killed.py \
	shared/programs/test_cpu_threads.py shared/tracking/test_store_addresses.py \
	train/test_loftq.py train/loop/test_dealing.py train/loop/test_training_progress.py train/vision/test_vision_features.py \
	export/test_export.py export/package/test_foreign_files.py export/package/test_letter_warnings.py \
	export/publication/test_registered_reader.py pipelines/commands/test_command_line.py \
	pipelines/task_side/test_task_imports.py)

test-runs: $(INSTALLED_TESTS) ## of these the whole runs: a new user's first hour, champions, partitions, killed tasks
	$(BIN)/python -m pytest -m slow $(RUNS) --numprocesses logical --maxprocesses 2 --dist loadfile --no-loadscope-reorder

torchvision: $(INSTALLED_TESTS) ## torchvision for the slow test of the families that need it, beside the CPU build of torch
	rm -rf .torchvision
	$(BIN)/python -m pip install --quiet --no-deps --target .torchvision torchvision==0.28.0 num2words==0.5.14

vllm-env: ## vLLM for the CPU in .vllm-env, an environment of its own (2.5 GB), for the slow tests that it serves a package
	PYTHON=$(PYTHON) TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) images/install-vllm.sh

lint: $(INSTALLED_TESTS) ## ruff and mypy
	$(BIN)/ruff check components pipelines tests docs images
	$(BIN)/ruff format --check components pipelines tests docs images
	$(BIN)/mypy

system-packages: ## as root on Debian: the text engine Pango, fonts of all scripts, and the tests' OCR engine
	apt-get update --quiet --quiet
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --quiet --no-install-recommends \
		$$(sed 's/#.*//' images/debian-packages.txt images/debian-packages-test.txt)

docker-packages: ## as root on Debian: the Docker engine, and what makes a base image without a registry
	apt-get update --quiet --quiet
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --quiet --no-install-recommends docker.io debootstrap

# Images: docs/docker.md. TAG identifies the code, so that different contents never share a tag.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
COMMIT := $(shell git rev-parse HEAD 2> /dev/null)
TAG ?= $(VERSION)-$(shell echo $(COMMIT) | cut -c 1-12)$(if $(shell git status --porcelain 2> /dev/null),-dirty)
SOURCE ?= $(shell git config --get remote.origin.url 2> /dev/null | sed 's,//[^/@]*@,//,')
PREFIX = $(if $(REGISTRY),$(REGISTRY)/)
BUILD = docker build --file images/Dockerfile --build-arg VERSION=$(VERSION) --build-arg GIT_COMMIT=$(COMMIT) \
	--build-arg SOURCE=$(SOURCE) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(BUILD_OPTIONS)
IMAGES = $(PREFIX)deepsynth-pipelines-python:$(TAG) $(PREFIX)deepsynth-mlflow:$(TAG)
CUDA_IMAGE = $(PREFIX)deepsynth-pipelines-python-cuda:$(TAG)
# The same arguments for both images: the classic builder builds the step stages before those of the MLflow server.
CPU = --build-arg ACCELERATOR=cpu $(if $(TORCH_CPU_INDEX),--build-arg TORCH_CPU_INDEX=$(TORCH_CPU_INDEX))
CHECK_TAG = $(if $(filter latest,$(TAG)),$(error TAG=latest says nothing about the code, and caches keep it: name another))

images: ## build the steps' CPU image and the MLflow server's: REGISTRY= TAG= BASE_IMAGE= TORCH_CPU_INDEX=
	$(CHECK_TAG)$(BUILD) $(CPU) --target step --tag $(word 1,$(IMAGES)) .
	$(BUILD) $(CPU) --target mlflow --tag $(word 2,$(IMAGES)) .
	@docker images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep --fixed-strings ':$(TAG) '

image-cuda: ## build the steps' CUDA image, several GB: REGISTRY= TAG= BASE_IMAGE=
	$(CHECK_TAG)$(BUILD) --target step --build-arg ACCELERATOR=cuda --tag $(CUDA_IMAGE) .

push-images: ## push the images of TAG that were built here to REGISTRY
	$(if $(REGISTRY),,$(error REGISTRY= is needed))$(CHECK_TAG)for image in $(IMAGES) $(CUDA_IMAGE); do \
		if docker image inspect $$image > /dev/null 2>&1; then docker push $$image || exit 1; fi; done

wheels: ## download wheels for `make images`, for builds that cannot reach a package index
	PYTHON=$(PYTHON) TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) images/download-wheels.sh cpu
	PYTHON=$(PYTHON) images/download-wheels.sh mlflow

wheels-cuda: ## the same for `make image-cuda`: 3 GB
	PYTHON=$(PYTHON) images/download-wheels.sh cuda

# Supply chain: docs/security.md.
BILLS = build/sbom
lock: $(INSTALLED_TESTS) ## write constraints.txt and images/packages after a change of the dependencies: UPGRADE="NAME NAME" or all
	PATH="$(BIN):$$PATH" $(BIN)/python images/lock.py $(UPGRADE)

pin-images: ## write today's digests of the base image and of the local overlay's stores
	$(PYTHON) images/pin_images.py

AUDIT_SERVICE ?= pypi
audit: $(INSTALLED_TESTS) ## look up known vulnerabilities of all pinned Python packages: AUDIT_SERVICE=pypi or osv
	mkdir -p build && for list in torch environment-gpu environment-test cuda mlflow; do \
		$(BIN)/python images/requirements.py $$list || exit 1; done | sort -u > build/audited.txt
	$(BIN)/pip-audit --requirement build/audited.txt --require-hashes --disable-pip --strict --progress-spinner off \
		--vulnerability-service $(AUDIT_SERVICE)

sbom: $(INSTALLED_TESTS) ## write a bill of materials (CycloneDX) for each image of TAG that was built here, into build/sbom
	for image in $(IMAGES) $(CUDA_IMAGE); do if docker image inspect $$image > /dev/null 2>&1; then \
		$(BIN)/python images/sbom.py $$image $(BILLS) || exit 1; fi; done

attest: $(INSTALLED_TESTS) ## sign the bills of materials with a key of openssl's: KEY=private.pem
	$(if $(KEY),,$(error KEY= is needed, a private key as a PEM file))$(BIN)/python images/attest.py sign $(BILLS) --key $(KEY)

verify-sbom: $(INSTALLED_TESTS) ## check the signed bills of materials: KEY=public.pem
	$(if $(KEY),,$(error KEY= is needed, a public key as a PEM file))$(BIN)/python images/attest.py verify $(BILLS) --key $(KEY)

scan-images: ## look up known vulnerabilities of what the images hold, by trivy or grype, after `make sbom`
	images/scan-images.sh $(BILLS)/*.cdx.json

sign-images: ## sign the pushed images of TAG by cosign and attach their bills of materials: REGISTRY= COSIGN_KEY=
	$(if $(COSIGN_KEY),,$(error COSIGN_KEY= is needed, see images/sign-images.sh))$(CHECK_TAG)COSIGN_KEY=$(COSIGN_KEY) \
		images/sign-images.sh $(IMAGES) $(CUDA_IMAGE)

ui: $(INSTALLED) ## open the MLflow UI over the runs
	$(BIN)/deepsynth ui

compile: $(INSTALLED) ## write pipeline.yaml for a Kubeflow Pipelines cluster
	$(BIN)/deepsynth compile -o pipeline.yaml

cluster-check: $(INSTALLED) ## check a cluster before the first run: ENVIRONMENT=manifests/environments/local.yaml
	$(if $(ENVIRONMENT),,$(error ENVIRONMENT= is needed, the cluster's file in manifests/environments))$(BIN)/deepsynth doctor --environment $(ENVIRONMENT)

manifests: ## write the overlays with the images of REGISTRY= TAG=, for kubectl apply -k build/manifests/NAME
	$(CHECK_TAG)for path in overlays/local overlays/production jobs/mlflow-db-upgrade; do \
		folder=build/manifests/$$(basename $$path) && mkdir -p $$folder && \
		printf '%s\n' 'apiVersion: kustomize.config.k8s.io/v1beta1' 'kind: Kustomization' "resources: [../../../manifests/$$path]" images: \
			$(foreach image,deepsynth-mlflow deepsynth-pipelines-python deepsynth-pipelines-python-cuda,'- name: $(image)' \
			'  newName: $(PREFIX)$(image)' '  newTag: "$(TAG)"') > $$folder/kustomization.yaml; \
	done

local-secrets: ## write random passwords for manifests/overlays/local, if there are none yet
	cd manifests/overlays/local && umask 077 && \
	if [ ! -e mlflow-backend-store.env ]; then password=$$($(RANDOM_PASSWORD)) && \
		printf '%s\n' "POSTGRES_PASSWORD=$$password" \
			"MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://mlflow:$$password@postgres:5432/mlflow" > mlflow-backend-store.env; fi && \
	if [ ! -e mlflow-artifact-store.env ]; then \
		printf '%s\n' "AWS_ACCESS_KEY_ID=mlflow" "AWS_SECRET_ACCESS_KEY=$$($(RANDOM_PASSWORD))" > mlflow-artifact-store.env; fi

clean: ## remove the virtual environment and the caches, keep the runs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
