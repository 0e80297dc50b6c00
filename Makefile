# Everything a fresh clone needs: Python 3.10 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint bench clean-demo

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[test]'
	touch $(READY)

demo: $(READY)
	$(BIN)/mmssl demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python tools/bench/clip_loss.py
	$(BIN)/python tools/bench/sparse_unet.py --octree

clean-demo:
	rm -rf data/bounce runs/demo
