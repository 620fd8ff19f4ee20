"""Load tests: `nox -s perf` runs them all, `nox -s perf -- NAME` one."""
