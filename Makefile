# make demo            fit, map and report on the sample cube (make demo QUICK=1: a short run)
# make test            fast tests
# make test-slow       the slow ones
# make types           static types, by mypy
# make clean           remove the environment and what runs leave behind

.PHONY: demo test test-slow types clean

demo: .venv/.installed
	.venv/bin/pi-vae demo --output demo $(if $(QUICK),--quick)

# a process a core, of one thread each; a file's tests stay together, as they share what is costly
pytest = OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --durations 20

test: .venv/.installed
	$(pytest)

# pytest says 5 where there is no such test: that is no failure. Files in the order of their names: by default those with
# one test come last, which here are the longest.
test-slow: .venv/.installed
	$(pytest) --no-loadscope-reorder -m "slow and not julia and not gpu" || [ $$? -eq 5 ]

types: .venv/.installed
	.venv/bin/mypy

.venv/.installed: setup.cfg pyproject.toml constraints.txt .ci/setup
	@.ci/setup

clean:
	rm -rf .venv demo build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find pi_vae inference tests -name __pycache__ -type d -prune -exec rm -rf {} +
