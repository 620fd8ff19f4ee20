"""Load tests: `nox -s perf` measures, beside what users would use instead, and writes a report."""
