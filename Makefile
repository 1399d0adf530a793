# make demo: environment, synthetic data, training, evaluation, table, contact sheet and report.
# make test: environment, the optional packages too, and all tests but the slow ones.
# make test-slow: the slow tests alone; make test-all: every test.
# make gpu-check: what needs a GPU, with a table at the end; RUN=python3 takes an interpreter that has all packages.
# make docs-check: every command, key, link and name of README and docs, and what they say how to add.
# make fuzz: new inputs, more than 20,000 in all, for everything that is read; a table says how many were refused.
# PYTHON chooses the interpreter of the virtual environment, VENV its folder.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
OPTIONAL := 'open_clip_torch>=3.0' 'onnx>=1.17' 'onnxscript>=0.5' 'onnxruntime>=1.20' 'faiss-cpu>=1.9' 'selenium>=4.20'
FUZZ_TIMES ?= 16
DEMO_DATA := data/synthetic-mars
DEMO_OUTPUT := runs/demo
# One process of one thread per core; each takes whole files, in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

.DELETE_ON_ERROR:
.PHONY: demo test test-slow test-all docs-check gpu-check fuzz environment

environment: $(VENV)/installed

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

demo: environment
	$(RUN) -m datasets.synthetic --root $(DEMO_DATA)
	$(RUN) train-main.py --config_file configs/demo.yml --overwrite DATASETS.ROOT_DIR $(DEMO_DATA) OUTPUT_DIR $(DEMO_OUTPUT)

$(VENV)/installed-optional: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check $(OPTIONAL)
	touch $@

test: $(VENV)/installed-optional
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed-optional
	$(PYTEST) -m slow

test-all: $(VENV)/installed-optional
	$(PYTEST)

docs-check: $(VENV)/installed-optional
	$(PYTEST) tests/docs tests/configs/test_reference.py tests/test_extending.py

# Without environment where RUN is given: nothing is installed then.
gpu-check: $(if $(filter file,$(origin RUN)),environment)
	$(RUN) -m pytest -m gpu tests/gpu

fuzz: $(VENV)/installed-optional
	FUZZ_TIMES=$(FUZZ_TIMES) $(PYTEST) tests/fuzz
