"""What vulture takes for unused and may stay, each with its reason: `make test` and `tox -e lint` run it.

The names are real ones, so that mypy says when an entry is about something that is no more. What is unused and has
no reason that can be written here is deleted instead.
"""

from __future__ import annotations

import sqlite3

import capstone
import distributed.scheduler

import builder
import builder.load
from builder.arch import x86_64
from builder.emit import kept_parts
from builder.emit.kept_templates import KeptTemplates
from builder.fleet.simulate import Simulation
from builder.fleet.workers import EndsWhole
from builder.image.guest import qemu
from builder.report.html import PageOutcome
from tests.access import CheckedPages
from tests.compare.campaign import Result


def _(
    simulation: Simulation, outcome: PageOutcome, result: Result, facts: x86_64._Facts, connection: sqlite3.Connection
) -> None:
    qemu._end_all  # atexit calls it
    kept_parts._Writer.persistent_id, kept_parts._Writer.reducer_override  # pickle calls them
    kept_parts._Reader.persistent_load, kept_parts._Reader.find_class  # and these
    outcome.sentence  # templates/report.html.j2 reads it
    result.tried  # the campaign writes the whole result into its JSON
    facts.has_target  # decode() takes the whole row apart
    connection.text_factory  # sqlite3 calls it
    capstone.Cs.syntax  # capstone reads it
    simulation.overhead_ms  # as_json() takes the whole row
    KeptTemplates.load_bytecode  # jinja2 calls it
    KeptTemplates.dump_bytecode  # and this
    EndsWhole.setup  # Dask calls it
    EndsWhole.teardown  # and this
    distributed.scheduler.heartbeat_interval  # the simulation sets it, the scheduler calls it
    builder.__getattr__  # PEP 562: Python calls it for names that a module lacks
    builder.load.__class__  # what makes a package that can be called
    CheckedPages.log_message  # http.server calls it
