# The everyday commands: the same at home and in CI. `make run` and `make test` set up what they need.
.PHONY: run test check lint types format cover bench docs clean

python := .venv/bin/python

run:  ## start the gateway with the demo agent and embedded speech on port 8000
	@deploy/setup.sh run
	@.venv/bin/fastagent serve

test: check docs  ## everything that must hold
	@$(python) -m pytest -n 3 --dist loadfile

check: lint types

lint:
	@deploy/setup.sh test
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .

types:
	@deploy/setup.sh test
	@.venv/bin/mypy -p fastagent -p tests

format:
	@deploy/setup.sh test
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

cover:  ## branch coverage of what runs in this process
	@deploy/setup.sh test
	@$(python) -m pytest --cov --cov-report=term-missing:skip-covered

bench:  ## against Pipecat, in the same run
	@deploy/setup.sh bench
	@$(python) -m bench

docs:  ## build the documentation; warnings are errors
	@deploy/setup.sh test
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

clean:
	rm -rf .venv .venv-pipecat .venv-pjsua .types site build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
