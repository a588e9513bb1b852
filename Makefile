# The two commands most people want: `make demo` and `make test`. `make help` lists all.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN = $(BIN)/python
export TOKENIZERS_PARALLELISM = false
export TRANSFORMERS_VERBOSITY ?= error
# The tests start many processes: with this variable set, each would compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE
# pip would take a minute to compile thousands of modules that nobody imports; Python compiles what it meets.
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: help setup demo test test-lessons test-slow test-all kill-test mutate test-oldest lint tutorial tutorials bench figures book browser clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

setup: $(VENV)/.ready  ## make .venv with everything needed (only when something changed)

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) -e '.[test]'
	touch $@

demo: setup  ## every method side by side on two tasks (under 6 minutes), report in runs/demo
	$(RUN) -m tutorials everything --seeds 1 --out runs/demo

# pages of the second edition: their code has 96 columns, so that it fits on a page
PAGES = tutorials/0[0-9]_*.py tutorials/1[0-9]_*.py tutorials/2[01]_*.py tutorials/deep/*.py tutorials/topics/*.py
TEST = $(RUN) -m pytest -q -n 2 --dist worksteal --durations 20

test: setup  ## the tests; the commit chooses three lessons and a quarter of the long commands (6 to 10 minutes on two cores, by processor)
	$(TEST) -m 'not slow'

test-lessons: setup  ## execute all lessons (about 12 minutes)
	$(TEST) -m tutorial

test-slow: setup  ## the long tests: all commands, all classes of transformers, both bases pretrained again (about 40 minutes)
	$(RUN) -m pytest -q -m '(slow or long) and not tutorial' --timeout 3600

test-all: test test-lessons test-slow  ## everything: tests, all lessons, long tests

kill-test: setup  ## SIGKILL runs of all three trainers at 20 random moments each and continue them: the same bits? (20 minutes)
	$(RUN) tests/programs/kill_and_resume.py --kills 20

mutate: setup  ## change one operator, comparison, constant or flag at a time, 100 times: do the tests fail? (25 minutes)
	$(RUN) tests/mutation/mutate.py

test-oldest:  ## the suite on the oldest supported versions, in an environment of its own
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[test]'
	.venv-oldest/bin/python -m pytest -q -n 2 -m 'not slow'

lint: setup  ## ruff and pyright
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/ruff format --check --line-length 96 $(PAGES) && $(BIN)/pyright

tutorial: setup  ## run one lesson: make tutorial N=01
	$(RUN) -m tutorials run $(N)

tutorials: setup  ## render the lessons whose sources changed into tutorials/rendered
	$(INSTALL) -e '.[test,render]'
	$(RUN) -m tutorials render

bench: setup  ## the kernel benchmarks: on a GPU the Triton kernels, on a CPU the torch paths
	$(RUN) -m kernels.bench all --remember

figures: setup  ## write the measured figures of README, CLAIMS and the result pages from the committed reports
	$(RUN) -m training.reports.figures

book: setup  ## the committed pages as HTML in build/book, to read without a network (it says which pages are old)
	$(RUN) -m tutorials book

browser:  ## Debian's Chromium for the tests of the book, where it is missing and may be installed
	sh tests/install_browser.sh

clean:  ## remove what the targets made
	rm -rf .venv .venv-oldest build runs .pytest_cache .ruff_cache .hypothesis *.egg-info
