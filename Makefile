# `make quickstart` trains and evaluates on embedded data; `make test` runs every test.
# Both set up .venv first; nothing else is needed on a fresh machine but Python >= 3.11.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXTRAS ?= browser,dev,export,pretrained,raw,report,robustness,slides
# Its metadata asks for opencv-python, which would replace the headless OpenCV: without dependencies.
CORRUPTIONS := imagecorruptions-imaug>=1.1.4

export NO_ALBUMENTATIONS_UPDATE = 1

.PHONY: setup quickstart quickstart-wsi test check faults perturb bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "segmil needs Python >= 3.11; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[$(EXTRAS)]'
	case '$(EXTRAS)' in *robustness*) $(BIN)/python -m pip install \
		--disable-pip-version-check --quiet --no-deps '$(CORRUPTIONS)';; esac
	@touch $(STAMP)

quickstart: setup
	$(BIN)/python quickstart.py

quickstart-wsi: setup
	$(BIN)/python quickstart.py wsi

# Compiled tests are kept whatever the environment says: compiling takes ten seconds of each process.
test check: export PYTHONDONTWRITEBYTECODE =

# Quick and slow tests in two processes of one thread each; the tests of a file stay together, and
# files keep the order of tests/conftest.py.
test: export OMP_NUM_THREADS = 1
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: export OMP_NUM_THREADS = 1
check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

faults: setup
	$(BIN)/python -m tests.faults

perturb: setup
	$(BIN)/python -W ignore -m tests.perturb

bench: setup
	@missed=0; for name in startup workers bags evaluation mask_rcnn mil_speed raw_pipeline corruptions; do \
		echo "== $$name"; $(BIN)/python -W ignore benchmarks/$$name.py || missed=1; \
	done; exit $$missed

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache *.egg-info
