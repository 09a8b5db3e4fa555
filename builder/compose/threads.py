"""Functions that are never left while the kernel runs: the transition to their new version would not end.

A kernel thread's main function is on its stack from its first to its last moment; livepatch waits until no task is in
old code (Documentation/livepatch/livepatch.rst, "Consistency model"). A main function is known by who starts it, by
what it does where its address went a longer way (a wrapper, a structure, another file), and by a loop without an end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from builder.arch import Instruction
from builder.binary import tables
from builder.compare import Atom, View
from builder.compare.calls import given_to
from builder.compose.selection import Selection
from builder.errors import Refusal

# Function -> the argument that becomes a thread's main function: include/linux/kthread.h, include/linux/sched/task.h,
# kernel/kthread.c, kernel/fork.c, include/linux/torture.h, Linux 6.1 to 6.12. Not what becomes the thread_fn of a
# struct smp_hotplug_thread (include/linux/smpboot.h): that returns each time.
_STARTERS: Final = re.compile(
    r"(__)?kthread_create_on_(node|cpu)|kthread_run_on_cpu|kernel_thread|user_mode_thread|create_io_thread|"
    r"vhost_task_create|create_kthread|_torture_create_kthread"
)
_MAIN_ARGUMENT: Final = 0
NEVER_RETURNS: Final = "never-returns"
# What only a thread's own main function does, in a loop or at its end (include/linux/kthread.h)
_STOPS: Final = re.compile(r"kthread_(freezable_)?should_stop|kthread_should_park")
_ENDS: Final = re.compile(r"(_*module_put_and_)?kthread_exit|kthread_complete_and_exit|(module_put|complete)_and_exit")
# After a call of these nothing comes: the task is gone, or the machine is dead (global_noreturns of v6.1's
# tools/objtool/check.c, without those that run a CPU as long as there is one).
_GONE: Final = re.compile(
    r"__invalid_creds|(__module_put_and_)?kthread_(complete_and_)?exit|__reiserfs_panic|__stack_chk_fail|"
    r"__ubsan_handle_builtin_unreachable|do_exit|do_group_exit|do_task_dead|ex_handler_msr_mce|fortify_panic|"
    r"kunit_try_catch_throw|lbug_with_loc|machine_real_restart|make_task_dead|panic|rewind_stack_and_make_dead|"
    r"sev_es_terminate|snp_abort|stop_this_cpu|usercopy_abort"
)


def never_left(selection: Selection) -> Iterator[Refusal]:
    """A redirected function that is some thread's main function, or that holds a loop without an end."""
    comparison = selection.comparison
    view = comparison.old
    started = _started(view)
    for atom in selection.redirected:
        old = comparison.correlation.twins[atom]
        if old in started:
            why = f"is the main function of a kernel thread ({started[old]}), which never leaves it"
        elif _acts_as_main(view, old) and _is_address_taken(view, old):
            why = "looks after its thread as the main function of one does, which never leaves it"
        elif not _GONE.fullmatch(old.name) and _is_endless(view, old):
            why = "comes to a loop that is never left"
        else:
            continue
        yield Refusal(
            NEVER_RETURNS,
            atom.name,
            atom.section.name,
            f"{atom.name} {why}: while one runs, the transition does not end",
            "change what it calls instead; or accept it, and stop its threads before the patch is loaded",
            fatal=False,
        )


def is_forced(selection: Selection, refusal: Refusal) -> bool:
    """Whether the author has accepted it by KPATCH_FORCE_UNSAFE."""
    return refusal.code == NEVER_RETURNS and refusal.symbol in selection.macros.forced


def forced(selection: Selection) -> Iterator[Refusal]:
    """What the author's word does not do: livepatch leaves no function out of its check of stacks."""
    for atom in selection.redirected:
        if atom.name in selection.macros.forced:
            yield Refusal(
                NEVER_RETURNS,
                atom.name,
                atom.section.name,
                f"KPATCH_FORCE_UNSAFE({atom.name}): both versions may run at once, says the author; a task that stays "
                "in the old one holds the transition up all the same",
                "if the transition does not end, write 1 to /sys/kernel/livepatch/MODULE/force once it is the last",
                fatal=False,
            )


def _started(view: View) -> dict[Atom, str]:
    """Function -> where its address is given to what starts a thread."""
    out: dict[Atom, str] = {}
    starters = frozenset(index for index, s in enumerate(view.obj.symbols) if _STARTERS.fullmatch(s.name))
    for caller in view.functions if starters else ():
        if starters.isdisjoint(r.symbol for r in view.relocations(caller)):
            continue
        for r, target in view.leads_of(caller):
            insn = view.instruction_at(caller, r.offset)
            if insn is None or insn.is_call or target.atom is None or not target.atom.is_function or target.offset:
                continue
            for call, number in given_to(view, caller, insn):
                if number == _MAIN_ARGUMENT and _STARTERS.fullmatch(call.callee):
                    out.setdefault(target.atom, f"{call.callee}() in {caller.name}")
    return out


def _acts_as_main(view: View, atom: Atom) -> bool:
    """Whether a function ends its thread, or asks in a loop whether to."""
    names = view.undefined_names(atom)
    if any(_ENDS.fullmatch(name) for name in names):
        return True
    rows = view.instructions(atom) if any(_STOPS.fullmatch(name) for name in names) else ()
    return any(row.is_jump and row.target is not None and atom.entry <= row.target < row.offset for row in rows)


def _is_address_taken(view: View, atom: Atom) -> bool:
    for other in view.atoms:
        if tables.is_discarded(other.section.name):
            continue
        for r, target in view.leads_of(other):
            if target.atom is not atom or target.offset or other is atom:
                continue
            insn = view.instruction_at(other, r.offset) if other.is_function else None
            if insn is None or not (insn.is_call or insn.is_jump):
                return True
    return False


def _is_endless(view: View, atom: Atom) -> bool:
    """Whether a way through a function comes to where calls are made and no way out is left.

    A loop without calls is that of a machine which is dead. What is not known counts as a way out.
    """
    rows = view.instructions(atom)
    if not any(row.is_jump and row.target is not None and row.target <= row.offset for row in rows):
        return False
    on, aside = _ways(view, atom, rows)
    out = len(rows)
    leaves = [False] * out + [True]
    known = 0
    while known < (known := sum(leaves)):
        for k in reversed(range(out)):
            leaves[k] = leaves[k] or leaves[on[k]] or leaves[aside[k]]
    if not any(row.is_call and not leaves[k] for k, row in enumerate(rows)):
        return False
    seen, work = {0}, [0]
    while work:
        k = work.pop()
        fresh = {on[k], aside[k]} - seen - {out}
        seen |= fresh
        work += fresh
    return any(rows[k].is_call and not leaves[k] for k in seen)


def _is_last_call(view: View, atom: Atom, insn: Instruction) -> bool:
    if not insn.is_call:
        return False
    goal = view.goal(atom, insn)
    called = [goal.name] if goal is not None else []
    called += [target.name for _, target in view.references(atom, insn)]
    return any(_GONE.fullmatch(name) for name in called)


def _ways(view: View, atom: Atom, rows: Sequence[Instruction]) -> tuple[list[int], list[int]]:
    """Row -> the two rows that it may lead to, often the same; the number of rows for a way out."""
    out = len(rows)
    places = {row.offset: k for k, row in enumerate(rows)}
    # behind a warning the code goes on
    warnings = {view.target(entry.site).place for entry in view.telling.get(atom, ()) if entry.table.lines}
    on, aside = list(range(1, out + 1)), list(range(1, out + 1))
    for k, row in enumerate(rows):
        if row.is_jump:
            inside = row.target is not None and not view.relocations_at(atom, row)
            aside[k] = places.get(row.target or 0, out) if inside else out
        if (row.ends_block and row.offset not in warnings) or (row.is_call and _is_last_call(view, atom, row)):
            on[k] = aside[k] = aside[k] if row.is_jump else out
    return on, aside
