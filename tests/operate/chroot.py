"""The host's files in a guest, and its Python run there on this checkout."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from builder.image.guest import Answer, Guest
from tests.conftest import ROOT

PLACE = "/host"
MOUNTS = f"""\
mount -t proc proc {PLACE}/proc
mount -t sysfs sysfs {PLACE}/sys
mount -t tracefs tracefs {PLACE}/sys/kernel/tracing
mount -t debugfs debugfs {PLACE}/sys/kernel/debug
mount -t devtmpfs devtmpfs {PLACE}/dev
mount -t tmpfs tmpfs {PLACE}/run
"""


def python(guest: Guest, *words: str, timeout: float = 300.0, before: Sequence[str] = ()) -> Answer:
    """The host's Python with this checkout, in the guest, with a place of its own for files; `before` runs it."""
    command = shlex.join([*before, sys.executable, *words])
    script = f"cd {shlex.quote(str(ROOT))} && PYTHONDONTWRITEBYTECODE=1 HOME=/run BESPOKE_CACHE=/run/cache {command}"
    return guest.run(f"chroot {PLACE} /bin/sh -c {shlex.quote(script)}", timeout=timeout)
