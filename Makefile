# Every target runs in one virtual environment with pinned packages.
python ?= python3
bin := .venv/bin

.PHONY: sweep test slow browser cluster bench lint

sweep: .venv/ready
	$(bin)/convene sweep search_spaces/digits.toml

test: .venv/ready
	$(bin)/pytest -m "not slow and not browser and not cluster"

slow: .venv/ready
	$(bin)/pytest -m slow

browser: .venv/ready
	$(bin)/pytest -m browser

cluster: .venv/ready
	$(bin)/pytest -m cluster

bench: .venv/ready
	$(bin)/python -m tests.bench

lint: .venv/ready
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

.venv/ready: pyproject.toml constraints.txt
	$(python) -m venv .venv
	$(bin)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
