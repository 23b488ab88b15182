# Two commands for a fresh clone: `make quickstart` and `make test`. Both need Python 3.11 or newer, make and pip's index.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

RANDOM_PASSWORD = $(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(24))'

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow lint system-packages ui compile manifests local-secrets clean

help: ## show what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-16s %s\n", $$1, $$2 }'

# torch first: with it installed, no other package pulls in another build of it.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

install: $(INSTALLED) ## create .venv and install everything into it

quickstart: $(INSTALLED) ## run the whole pipeline on Python's own documentation, on this machine
	$(BIN)/deepsynth run

test: $(INSTALLED) lint ## lint, check types, run the tests
	$(BIN)/python -m pytest

test-slow: $(INSTALLED) ## run the tests that `make test` leaves out: whole runs, resumed trainings, memory estimates
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check components pipelines tests
	$(BIN)/ruff format --check components pipelines tests
	$(BIN)/mypy

system-packages: ## as root on Debian: the text engine Pango, fonts of all scripts, and what the tests read pages back with
	apt-get update --quiet --quiet
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --quiet --no-install-recommends \
		$$(sed 's/#.*//' images/debian-packages.txt images/debian-packages-test.txt)

ui: $(INSTALLED) ## open the MLflow UI over the runs
	$(BIN)/deepsynth ui

compile: $(INSTALLED) ## write pipeline.yaml for a Kubeflow Pipelines cluster
	$(BIN)/deepsynth compile -o pipeline.yaml

manifests: ## for kubectl apply -k build/manifests/NAME: the overlays with the images' names (REGISTRY=... TAG=...)
	test -n "$(TAG)" || { echo "which images? make manifests TAG=... REGISTRY=..., as in make images" >&2; exit 2; }
	for path in overlays/local overlays/production jobs/mlflow-db-upgrade; do \
		folder=build/manifests/$$(basename $$path) && mkdir -p $$folder && \
		printf '%s\n' 'apiVersion: kustomize.config.k8s.io/v1beta1' 'kind: Kustomization' "resources: [../../../manifests/$$path]" images: \
			$(foreach image,deepsynth-mlflow deepsynth-pipelines-python,'- name: $(image)' \
			'  newName: $(if $(REGISTRY),$(REGISTRY)/)$(image)' '  newTag: "$(TAG)"') > $$folder/kustomization.yaml; \
	done

local-secrets: ## random passwords for manifests/overlays/local, where there are none yet
	cd manifests/overlays/local && umask 077 && \
	if [ ! -e mlflow-backend-store.env ]; then password=$$($(RANDOM_PASSWORD)) && \
		printf '%s\n' "POSTGRES_PASSWORD=$$password" \
			"MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://mlflow:$$password@postgres:5432/mlflow" > mlflow-backend-store.env; fi && \
	if [ ! -e mlflow-artifact-store.env ]; then \
		printf '%s\n' "AWS_ACCESS_KEY_ID=mlflow" "AWS_SECRET_ACCESS_KEY=$$($(RANDOM_PASSWORD))" > mlflow-artifact-store.env; fi

clean: ## remove the virtual environment and the caches, keep the runs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
