# `make demo` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

RESULTS ?= results
BUILD ?= paper/build
GENERATED ?= paper/build/generated

LATEX := latexmk texlive-latex-recommended lmodern

.PHONY: demo test coverage test-slurm lint benchmark generated paper latex clean

demo: $(STAMP)  ## data, four backbones, evaluation, table, figures and page on synthetic ECG
	$(VENV)/bin/ecgssl demo

test: $(STAMP)  ## the tests, in about 3 minutes on two cores
	$(VENV)/bin/python -m pytest -m "not slow and not slurm" -n 2

coverage: $(STAMP)  ## which lines of bench/, slurm/ and paper/ the tests run
	$(VENV)/bin/python -m pytest -m "not slurm" -n 2 --cov --cov-report=term:skip-covered

test-slurm: $(STAMP)  ## on a Slurm of its own, started and stopped here: root on Debian, about 8 minutes
	if slurm/testcluster/up.sh; then $(VENV)/bin/python -m pytest -m slurm $(ARGS); code=$$?; slurm/testcluster/down.sh --wipe; \
		exit $$code; else echo "no test cluster: its tests are skipped"; fi

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

benchmark: $(STAMP)  ## add ARGS="--published PATH" to measure beside the published implementation
	$(VENV)/bin/python benchmarks/run.py $(ARGS)

generated: $(STAMP)  ## tables, figures and the text's numbers, from the results in RESULTS (results) into GENERATED
	@if [ -f $(RESULTS) ] || ls $(RESULTS)/*.json > /dev/null 2>&1; then $(VENV)/bin/ecgssl report --results $(RESULTS) --out $(GENERATED); \
		else echo "$(RESULTS) holds no result: every number is --"; $(VENV)/bin/python -m paper.macros $(GENERATED); fi

paper: latex generated  ## paper/build/paper.pdf; with other results: RESULTS=results/NAME
	cd paper && latexmk -g -pdf -silent -interaction=nonstopmode -halt-on-error \
		-outdir="$$(realpath -m --relative-to=. "$(abspath $(BUILD))")" \
		-usepretex="\\def\\generated{$$(realpath -m --relative-to=. "$(abspath $(GENERATED))")}" paper.tex \
		|| { echo "LaTeX failed: $(BUILD)/paper.log says where" >&2; exit 2; }
	@echo $(BUILD)/paper.pdf

latex:
	@command -v latexmk > /dev/null && kpsewhich lmodern.sty booktabs.sty > /dev/null 2>&1 || { echo "LaTeX is missing, or a part of it;" \
		"install it (Debian: apt-get install --no-install-recommends $(LATEX))" >&2; exit 2; }

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; write make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet torch==2.13.0 -c constraints.txt
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]' -c constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) work/demo paper/build
