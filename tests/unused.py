"""What vulture takes for unused and may stay, each with its reason: `make test` and `tox -e lint` run it.

The names are real ones, so that mypy says when an entry is about something that is no more. What is unused and has
no reason that can be written here is deleted instead.
"""

from __future__ import annotations

from builder.arch import model, x86_64
from builder.compare import meaning
from builder.compare.structs import FieldChange
from builder.image.guest import qemu
from builder.operate.kprobes.registry import Registry
from builder.report.html import Outcome
from tests.compare.campaign import Result


def _(outcome: Outcome, result: Result) -> None:
    qemu._end_all  # atexit calls it
    outcome.sentence  # templates/report.html.j2 reads it
    result.tried  # the campaign writes the whole result into its JSON
    x86_64._disassembler().syntax  # capstone reads it


# To go: nobody reads them, and other work in these files is under way.
def _(
    row: model.RelocationRow,
    architecture: model.Architecture,
    facts: x86_64._Facts,
    meanings: meaning.Meanings,
    change: FieldChange,
) -> None:
    facts.has_target
    Registry.unregister_kprobe
