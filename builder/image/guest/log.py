"""What the kernel said: warnings worth a failure, and the taints decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

RECORD = re.compile(r"^(?:<(?P<level>\d+)>)?\[\s*(?P<seconds>\d+\.\d+)\](?:\[[^\]]*\])? ?(?P<text>.*)$")
ERROR_LEVEL = 3
"""KERN_ERR; level 4 is also what a plain printk() without a level has."""

SEVERE = re.compile(
    r"^WARNING: |^BUG: |^Oops|: Oops|^kernel BUG at|^Call Trace:|^Kernel panic|^kernel tried to execute"
    r"|^general protection fault|^divide error:|^invalid opcode:|^int3: |^stack segment: |^Missing ENDBR"
    r"|^INFO: task .* blocked|^refcount_t: |^Unpatched return thunk|Skipping invalid relocation target"
    r"|^jump_label: |^static_call: |^unchecked MSR access"
)
"""Said by the kernel when something is broken, whatever the level it says it at."""
EXPECTED = re.compile(
    r"loading out-of-tree module taints kernel|module verification failed: signature"
    r"|tainting kernel with TAINT_LIVEPATCH"
)
"""Said of every livepatch that comes from elsewhere (kernel/module/main.c, kernel/module/signing.c)."""

TAINTS = {
    0: ("P", "proprietary module"),
    1: ("F", "module force-loaded"),
    2: ("S", "kernel running on an out-of-specification system"),
    3: ("R", "module force-unloaded"),
    4: ("M", "machine check"),
    5: ("B", "bad page"),
    6: ("U", "user request"),
    7: ("D", "kernel died (oops)"),
    8: ("A", "ACPI table overridden"),
    9: ("W", "kernel warning"),
    10: ("C", "staging driver"),
    11: ("I", "firmware workaround"),
    12: ("O", "out-of-tree module"),
    13: ("E", "unsigned module"),
    14: ("L", "soft lockup"),
    15: ("K", "livepatch"),
    16: ("X", "distribution's own"),
    17: ("T", "structure layout randomised"),
    18: ("N", "test"),
}
"""Bit: letter and meaning (`Documentation/admin-guide/tainted-kernels.rst`)."""
EXPECTED_TAINTS = "OEK"


def taints(value: int) -> tuple[str, ...]:
    """The letters of /proc/sys/kernel/tainted; a bit without a letter is shown as its number."""
    return tuple(TAINTS.get(bit, (str(bit), ""))[0] for bit in range(value.bit_length()) if value >> bit & 1)


def taint_meaning(letter: str) -> str:
    return next((meaning for known, meaning in TAINTS.values() if known == letter), "unknown")


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of the kernel log; `level` is None where the source does not give it (the console)."""

    level: int | None
    seconds: float
    text: str

    @property
    def is_warning(self) -> bool:
        """Something is wrong: an error by level, or what the kernel prints when it is broken."""
        if EXPECTED.search(self.text):
            return False
        return bool(SEVERE.search(self.text)) or (self.level is not None and self.level <= ERROR_LEVEL)

    def __str__(self) -> str:
        return f"[{self.seconds:12.6f}] {self.text}"


_NUMBER = re.compile(r"\b(?:0x)?[0-9a-f]*\d[0-9a-f]*\b")


@dataclass(frozen=True, slots=True)
class ModuleTraffic:
    """A span of the log, by time stamps, in which modules came or went; `again`: all of them had done so before."""

    start: float
    end: float
    again: bool


@dataclass(frozen=True, slots=True)
class KernelLog:
    """The log, in order."""

    records: tuple[LogRecord, ...]

    @classmethod
    def parse(cls, text: str) -> KernelLog:
        """From `dmesg -r` or a console; lines without a time stamp (user space, firmware) are left out."""
        matches = filter(None, map(RECORD.match, text.splitlines()))
        rows = ((m["level"], float(m["seconds"]), m["text"]) for m in matches)
        return cls(tuple(LogRecord(int(level) & 7 if level else None, at, said) for level, at, said in rows))

    @property
    def end(self) -> float:
        """The time stamp of the last line, 0 for an empty log."""
        return self.records[-1].seconds if self.records else 0.0

    def since(self, mark: float) -> KernelLog:
        """What was said after the time stamp `mark`."""
        return KernelLog(tuple(record for record in self.records if record.seconds > mark))

    def caused(self, mark: float, traffic: Sequence[ModuleTraffic]) -> KernelLog:
        """What was said after `mark` and is due to what came then, for all that can be told.

        A line that was said before it, numbers apart, is not; nor is what modules say of themselves as they come
        and go for the first time. What the kernel says when something is broken is passed over only where it said
        the same as they came before.
        """
        known = {_NUMBER.sub("#", record.text) for record in self.records if record.seconds <= mark}

        def is_due(record: LogRecord) -> bool:
            said = _NUMBER.sub("#", record.text) in known
            span = next((span for span in traffic if span.start < record.seconds <= span.end), None)
            if SEVERE.search(record.text):
                return span is None or not said
            return not (said or (span is not None and not span.again))

        return KernelLog(tuple(record for record in self.since(mark).records if is_due(record)))

    def warnings(self) -> tuple[str, ...]:
        """The texts of the warnings; a stack trace counts only where nothing before it says what it is of."""
        found, inside = list[str](), False
        for record in self.records:
            if record.text.startswith("---[ end trace"):
                inside = False
            elif record.is_warning:
                if not (inside and record.text == "Call Trace:"):
                    found.append(record.text)
                inside = True
        return tuple(found)

    def first_failure(self) -> str | None:
        """The line that says best why a kernel died: the first severe one."""
        return next((record.text for record in self.records if SEVERE.search(record.text)), None)

    def tail(self, lines: int = 60) -> str:
        return "\n".join(map(str, self.records[-lines:]))

    def __str__(self) -> str:
        return "\n".join(map(str, self.records))
