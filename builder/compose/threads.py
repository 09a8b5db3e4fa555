"""Functions that are never left while the kernel runs: the transition to their new version would not end.

A kernel thread's main function is on its stack from its first to its last moment; livepatch waits until no task is in
old code (Documentation/livepatch/livepatch.rst, "Consistency model").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from builder.compare import Atom, View
from builder.compare.calls import given_to
from builder.compose.selection import Selection
from builder.errors import Refusal

# Function -> the argument that becomes a thread's main function: include/linux/kthread.h, include/linux/sched/task.h,
# kernel/fork.c, include/linux/smpboot.h (through data), Linux 6.1 to 6.12.
_STARTERS: Final = re.compile(
    r"kthread_create_on_(node|cpu)|kthread_run_on_cpu|kernel_thread|user_mode_thread|create_io_thread|"
    r"vhost_task_create|create_kthread"
)
_MAIN_ARGUMENT: Final = 0


def never_left(selection: Selection) -> Iterator[Refusal]:
    """A redirected function that is some thread's main function."""
    comparison = selection.comparison
    started = _started(comparison.old)
    for atom in selection.redirected:
        old = comparison.correlation.twins[atom]
        starter = started.get(old)
        if starter is not None:
            yield Refusal(
                "never-returns",
                atom.name,
                atom.section.name,
                f"{atom.name} is the main function of a kernel thread ({starter}), which never leaves it: "
                "while one runs, the transition does not end",
                "change what it calls instead; or accept it, and stop its threads before the patch is loaded",
                fatal=False,
            )


def _started(view: View) -> dict[Atom, str]:
    """Function -> where its address is given to what starts a thread."""
    out: dict[Atom, str] = {}
    starters = {s.name for s in view.obj.symbols if s.is_undefined and _STARTERS.fullmatch(s.name)}
    for caller in view.functions if starters else ():
        if starters.isdisjoint(view.undefined_names(caller)):
            continue
        for r, target in view.leads_of(caller):
            insn = view.instruction_at(caller, r.offset)
            if insn is None or insn.is_call or target.atom is None or not target.atom.is_function or target.offset:
                continue
            for call, number in given_to(view, caller, insn):
                if number == _MAIN_ARGUMENT and _STARTERS.fullmatch(call.callee):
                    out.setdefault(target.atom, f"{call.callee}() in {caller.name}")
    return out
