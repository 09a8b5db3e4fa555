"""Everything that the product answers, kept, so that a change that should change nothing can be held against it.

    python -m tests.results record DIR        before the change, and once more after it into another directory
    python -m tests.results compare DIR1 DIR2

What is asked is in `cases`, `recording` asks the command line and keeps the
answers, `normalise` says which parts of an answer may vary from run to run,
and `comparison` names every document that differs. Only `loaded` knows more of
the product than its commands: it is the sections as the simulated loader leaves
them, of which `check --json` reports no write of more than 64 bytes.
"""
