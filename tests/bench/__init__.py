"""Benchmarks (`tox -e bench`): they print figures and assert none, since a machine has its own speed."""
