# Self-documenting: `make` lists the targets that carry a `##` comment.
.DEFAULT_GOAL := help
.PHONY: help check format test test-slow faults bench audit-smoke report lock lock-upgrade lock-check image ci

PLAN ?= tests/data/smoke.yaml
IMAGE ?= leaktune
ACCELERATOR ?= cuda
# For the oldest Python of `requires-python`, so that the lock does not depend on whose Python runs it.
COMPILE := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --all-extras \
	--generate-hashes --no-header --output-file requirements.lock

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

check: ## format check, lint, types
	uv run ruff format --check .
	uv run ruff check .
	uv run mypy

format: ## rewrite the sources in the house format, and apply the safe fixes of the linter
	uv run ruff format .
	uv run ruff check --fix .

test: ## the tests that run in a few minutes on two cores
	uv run pytest -n 2

test-slow: ## the tests marked slow
	uv run pytest -n 2 -m slow

faults: ## bring every fault of docs/reliability.md about, and count how many audits outlived them
	uv run pytest -n 2 -m fault --junitxml build/faults.xml; status=$$?; \
	uv run python -m tests.fault_table build/faults.xml && exit $$status

bench: ## what scoring, searching and spreading cost, as ratios (takes minutes; leave the machine alone)
	for name in objective searcher fanout scaling; do uv run python benchmarks/run.py $$name || exit; done

audit-smoke: ## one small audit through the command line (PLAN=...)
	out=$$(mktemp -d) && uv run engine/run.py run --config $(PLAN) --output "$$out/audit"; \
	status=$$?; rm -rf "$$out"; exit $$status

report: ## write the report page of a finished run again (RUN=runs/...)
	@test -n "$(RUN)" || { echo "Say which run: make report RUN=runs/..."; exit 2; }
	uv run engine/run.py report "$(RUN)"

lock: ## write requirements.lock for pyproject.toml, keeping the locked versions that still fit
	$(COMPILE)
	.ci/run lock-check

lock-upgrade: ## the same, with the newest versions of everything
	$(COMPILE) --upgrade
	.ci/run lock-check

lock-check: ## is requirements.lock what pyproject.toml asks for?
	.ci/run lock-check

image: ## build the cluster's image (IMAGE=..., ACCELERATOR=cuda or cpu)
	docker build --tag $(IMAGE) --build-arg ACCELERATOR=$(ACCELERATOR) .

ci: ## all of it, as on a clean machine
	.ci/run
