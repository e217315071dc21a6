# The commands of a developer; `make` lists them. Each is a line that you can also type yourself.
.DEFAULT_GOAL := help
.PHONY: help setup test test-all lint pins docs ci mutations

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## install the tested versions of all packages, and the hooks of git
	uv sync --all-packages
	uv run pre-commit install

test: ## the tests to run before a commit
	uv run pytest

test-all: ## all tests but the nightly ones; needs Chromium, Terraform, Go, kubectl
	.ci/tests

lint: ## formatting, lint, types, workflows, secrets, documentation
	.ci/static

pins: ## newest versions of all packages: pyproject.toml and requirements.lock
	.ci/pins

docs: ## the documentation as a site in .local/site
	.ci/site

mutations: ## put known faults into the code; the tests must find each of them
	.ci/mutations

ci: ## everything that is checked before a change gets in
	.ci/run
