# make book: environment, notebooks, pages.  make test: everything that is tested, in the same environment.
.DEFAULT_GOAL := book
.PHONY: book test notebooks html gpu-reference clean
# the pages are built from the executed notebooks, also under make -j
.NOTPARALLEL:

# The first of these that starts and is new enough; override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed
HTML := _build/html

# One thread per process: two processes share two cores.
export OMP_NUM_THREADS ?= 1
# transformers would say on every import that torchvision, which nothing here needs, is missing
export TRANSFORMERS_VERBOSITY ?= error

book: notebooks html

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

notebooks: $(STAMP)
	$(BIN)/erdpaper run

html: $(STAMP)
	$(BIN)/jupyter-book build . --all -W --keep-going --quiet
	@echo "The book: file://$(CURDIR)/$(HTML)/index.html"

# every notebook at the gpu profile; the ledger shows its verdicts beside those of the CPU
gpu-reference: $(STAMP)
	$(BIN)/erdpaper reference

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[book,test]"
	@touch $@

clean:
	rm -rf _build runs .venv
