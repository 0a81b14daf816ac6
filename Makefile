# SPDX-License-Identifier: Apache-2.0
# One command for each thing to do; each makes what it needs first (scripts/setup.sh), once.
#   PYTHON=python3.12            another Python (3.10 to 3.13)
#   DEPTHLM_ROS, DEPTHLM_TORCH   see scripts/setup.sh
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-torch build demo test test-all check lint format bench fuzz soak bench-real bench-sparse bench-engines train engine clean

export PYTHON DEPTHLM_ROS DEPTHLM_TORCH
# Message fields are checked, and nothing leaves or enters this machine's own graph.
export ROS_PYTHON_CHECK_FIELDS = 1
export ROS_AUTOMATIC_DISCOVERY_RANGE = LOCALHOST
ifndef ROS_DOMAIN_ID
export ROS_DOMAIN_ID := $(shell echo $$(( $$$$ % 90 + 10 )))
endif

ENTER := . ./env.sh &&
ENTER_TORCH := . ./env.sh torch &&

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

setup: ## environment, ROS 2 and the built interfaces
	@scripts/setup.sh

setup-torch: ## second environment, with torch: training, export, tests marked torch
	@scripts/setup.sh torch

build: setup ## build and install the package anew (colcon)
	@scripts/build.sh

# IMAGES is a folder of pictures, or a video. FX is the focal length in pixels, or FOV the field of view in degrees along
# the longer side; without them it is estimated. FY, CX and CY (pixels) complete a calibration.
demo: setup ## camera, node and questions; pictures in out/  [IMAGES=folder FX=pixels, or FOV=degrees]
	@$(ENTER) python -m depthlm_ros.ros.tools.demo $(if $(IMAGES),--images="$(IMAGES)") \
		$(if $(FX),--fx="$(FX)") $(if $(FY),--fy="$(FY)") $(if $(CX),--cx="$(CX)") $(if $(CY),--cy="$(CY)") \
		$(if $(FOV),--fov="$(FOV)") $(ARGS)

test: setup setup-torch ## all tests but the slow ones, in both environments at once
	@scripts/test.sh "not slow and not torch" "not slow and torch" $(ARGS)

test-all: setup setup-torch ## all tests, the slow ones too
	@scripts/test.sh --in-turns "not torch" torch $(ARGS)

lint: setup
	@$(ENTER) ruff format --check . && ruff check . && mypy

check: lint test ## format, lint, types, tests

format: setup ## put the code into the one format
	@$(ENTER) ruff format . && ruff check --fix .

bench: setup ## rate, latency and overhead of the node; ends with one JSON line  [ARGS="--against FOLDER"]
	@$(ENTER) python bench/node.py $(ARGS)

fuzz: setup ## hostile messages and requests to real nodes; ends with one JSON line  [ARGS="--seed 1 --cases 5000"]
	@$(ENTER) python bench/fuzz.py $(ARGS)

soak: setup ## two cameras and nodes under changing load; ends with one JSON line  [ARGS="--minutes 240"]
	@$(ENTER) python bench/soak.py $(ARGS)

bench-real: setup ## scores on real images beside a peer; ends with one JSON line  [ARGS="--data FOLDER --only photographs"]
	@$(ENTER) python bench/real.py $(ARGS)

bench-sparse: setup-torch ## depth at N pixels: the released way against ours, same answers; ends with one JSON line
	@$(ENTER_TORCH) python bench/sparse.py $(ARGS)

bench-engines: setup-torch ## one look in torch and as an engine, same depth; ends with one JSON line  [ARGS=--int8]
	@$(ENTER_TORCH) python bench/engines.py $(ARGS)

train: setup-torch ## train the embedded model anew
	@$(ENTER_TORCH) depthlm train $(ARGS)

engine: setup-torch ## compile a model for one camera  ARGS="--model NAME --camera FILE.yaml"
	@$(ENTER_TORCH) depthlm engine build $(ARGS)

clean: ## remove what was built and written; keeps the environments
	rm -rf build install log out dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
