"""Processes of the load tests: what makes load, what is measured, and how they are spoken to."""
