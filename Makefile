# Everything a fresh clone needs: Python 3.10 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-cuda lint bench mutate dependencies clean-demo

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[test]'
	touch $(READY)

demo: $(READY)
	$(BIN)/mmssl demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# what only a CUDA device can tell
test-cuda: $(READY)
	MMSSL_TEST_CUDA=1 $(BIN)/python -m pytest tests/test_cuda.py tests/data/test_crew.py tests/data/test_workers.py tests/nn/test_sparse.py tests/encoders/test_sparse_unet.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# docs/performance.md: make bench, make bench DEVICE=cuda, make bench ONLY="knn video"
DEVICE ?= cpu
bench: .venv-bench/.ready
	.venv-bench/bin/python tools/bench/report.py --device $(DEVICE) $(if $(ONLY),--only $(ONLY))

# the peers, beside the packages of .venv
PACKAGES := "import site; print(site.getsitepackages()[0])"
.venv-bench/.ready: $(READY)
	$(PYTHON) -m venv .venv-bench
	$(BIN)/python -c $(PACKAGES) > "$$(.venv-bench/bin/python -c $(PACKAGES))/beside.pth"
	.venv-bench/bin/pip install --quiet -e '.[bench]'
	touch $@

# which single mistakes in the code no test notices: make mutate FILES="mmssl/losses mmssl/trainer.py"
FILES ?= mmssl/losses
mutate: $(READY)
	$(BIN)/pip install --quiet pytest-cov
	$(BIN)/python tools/mutate.py $(FILES)

# what an installation of today would take under each Python, and what of it is newer than what is tested here
dependencies: $(READY)
	$(BIN)/pip install --quiet uv
	$(BIN)/python tools/dependencies.py

clean-demo:
	rm -rf data/bounce runs/demo
