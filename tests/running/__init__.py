"""Real fixes for a kernel that really runs: built, loaded there, reached, and taken out again.

`python -m tests.running [PAIR ...]` does it for all shared pairs of that kernel
and prints the table; the test beside it does the same and judges.
"""
