"""What a section's name says of the things in it: how long they live, and of which kind their storage is.

Sources: include/linux/init.h, include/linux/cache.h, include/linux/percpu-defs.h, include/asm-generic/vmlinux.lds.h
(Linux 6.1).
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import Final

from builder.binary import Section


class Lifetime(Enum):
    """Until when something is in memory."""

    INIT = "init"
    EXIT = "exit"
    LIVE = "live"


_LIFETIMES: Final = (
    (".init", Lifetime.INIT),
    (".meminit", Lifetime.INIT),
    (".exit", Lifetime.EXIT),
    (".memexit", Lifetime.EXIT),
)

# The first row that a name begins with counts.
_KINDS: Final = (
    (".data..percpu", "per-CPU"),
    (".data..read_mostly", "read-mostly"),
    (".data..ro_after_init", "read-only after init"),
    (".data..cacheline_aligned", "cache-line aligned"),
    (".data..shared_aligned", "cache-line aligned"),
    (".data..page_aligned", "page aligned"),
    (".bss..page_aligned", "page aligned"),
    (".data..decrypted", "decrypted"),
    (".bss..decrypted", "decrypted"),
    (".data..nosave", "not saved"),
    (".data.once", "once"),
    (".data..once", "once"),
    (".noinstr.text", "not instrumented"),
    (".entry.text", "entry code"),
    (".cpuidle.text", "idle code"),
    (".sched.text", "scheduler code"),
    (".kprobes.text", "not to be probed"),
    (".irqentry.text", "interrupt entry code"),
    (".softirqentry.text", "interrupt entry code"),
    (".spinlock.text", "lock code"),
    (".head.text", "boot code"),
)


@lru_cache(maxsize=65536)
def lifetime(section: str) -> Lifetime:
    """How long the things in a section of this name live."""
    for prefix, found in _LIFETIMES:
        if section.startswith(prefix):
            return found
    return Lifetime.LIVE


@lru_cache(maxsize=65536)
def _named_kind(section: str) -> str:
    for prefix, found in _KINDS:
        if section.startswith(prefix):
            return found
    return ""


def kind(section: Section) -> str:
    """The kind of storage, as a person would say it: "per-CPU", "read-only after init", "plain"."""
    if (found := lifetime(section.name)) is not Lifetime.LIVE:
        return str(found.value)
    named = str(_named_kind(section.name))
    if named:
        return named
    if section.is_exec:
        return "code"
    return "read-only" if is_readonly(section) else "plain"


def is_readonly(section: Section) -> bool:
    """Data that does not change after initialization (.data.rel.ro is writable only to the linker)."""
    return not section.is_write or section.name.startswith(".data.rel.ro")


# gcc: .data..Lubsan_data3, clang: .data..L__unnamed_2; -fdata-sections names them after labels that no symbol table has
_PRIVATE: Final = re.compile(r"\.(data|rodata|bss)(\.rel\.ro|\.rel\.local|\.rel)?\.\.L\w+")


def is_private(section: Section) -> bool:
    """Whether a section holds one datum of the compiler's own, which has no symbol and which each version has anew."""
    return bool(_PRIVATE.fullmatch(section.name))
