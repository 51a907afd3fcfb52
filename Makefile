# `make demo` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

RESULTS ?= results/mini
BUILD ?= paper/build
GENERATED ?= paper/generated/$(notdir $(RESULTS))
MINI ?= work/mini
JOBS ?= $(shell nproc)

LATEX := latexmk texlive-latex-recommended lmodern

.PHONY: demo test test-slurm lint benchmark generated reproduce-mini readme paper latex clean

demo: $(STAMP)  ## data, three methods and a random backbone, evaluation, table and figures on synthetic ECG
	$(VENV)/bin/ecgbench demo

test: $(STAMP)  ## the tests, in under 5 minutes
	$(VENV)/bin/python -m pytest -m "not slow and not slurm" -n 2

test-slurm: $(STAMP)  ## on a Slurm of its own, started and stopped here: root on Debian, about 25 minutes
	if slurm/testcluster/up.sh; then $(VENV)/bin/python -m pytest -m slurm $(ARGS); code=$$?; slurm/testcluster/down.sh --wipe; \
		exit $$code; else echo "no test cluster: its tests are skipped"; fi

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

benchmark: $(STAMP)  ## add ARGS="--published PATH" to measure beside the published implementation
	$(VENV)/bin/python benchmarks/run.py $(ARGS)

generated: $(STAMP)  ## tables, figures and the text's numbers, from the records in RESULTS (results/mini) into GENERATED
	@if ls $(RESULTS)/*.json > /dev/null 2>&1; then $(VENV)/bin/ecgbench report --results $(RESULTS) --out $(GENERATED); \
		else echo "$(RESULTS) holds no record: every number is --"; $(VENV)/bin/python -m paper.macros $(GENERATED); fi

reproduce-mini: $(STAMP)  ## results/mini again, in work/mini (stopped, it continues there), DATA: see results/mini/README.md
	@ls results/mini/*.json > /dev/null
	@for name in ptb-xl-mini unlabelled-1024; do for file in signals.npy records.csv; do test -f "$(DATA)/$$name/$$file" || { \
		echo "$(DATA)/$$name/$$file is missing; write make reproduce-mini DATA=FOLDER, see results/mini/README.md" >&2; exit 2; }; done; \
		[ -d $(MINI)/stores/$$name ] || { mkdir -p $(MINI)/arrays/$$name && cp tests/fixtures/$$name.yaml $(MINI)/arrays/$$name/dataset.yaml && \
		ln -sfn "$(abspath $(DATA))/$$name/signals.npy" "$(abspath $(DATA))/$$name/records.csv" $(MINI)/arrays/$$name && \
		$(VENV)/bin/ecgbench data prepare array --from $(MINI)/arrays/$$name --work $(MINI); } || exit; done
	$(VENV)/bin/ecgbench sweep run slurm/sweeps/mini.yaml --local -j $(JOBS) --threads 1 --work $(MINI) --results $(MINI)/results
	$(VENV)/bin/ecgbench repeat results/mini $(MINI)/results

readme: generated  ## the README's section of results, and the table of results/mini-tuning
	$(VENV)/bin/python -m paper.readme $(RESULTS) $(GENERATED)/figures/auroc.svg README.md
	$(VENV)/bin/python -m paper.tuning results/mini-tuning results/mini-tuning/README.md

paper: latex generated  ## paper/build/paper.pdf; with other records: RESULTS=results/NAME
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
