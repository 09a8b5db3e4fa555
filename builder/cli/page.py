"""`--html FILE`: the report as a page, for the commands that compare."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from builder.acquire.cache import cache_root
from builder.binary import read_object
from builder.cli.common import write_output
from builder.cli.trees import Describe
from builder.compose.outcome import Diff
from builder.emit import Module
from builder.errors import Refusal
from builder.report.html import MOST_ROWS, Advice, PageOutcome, PagePair, ShownPatch, describe, render_page
from builder.report.references import bindings_in


def describer(verbose: bool) -> Describe:
    """What turns a diff and its label into what the page says; all instructions where more is asked for."""
    return partial(_describe, most=None if verbose else MOST_ROWS)


def _describe(diff: Diff, label: str, most: int | None) -> PagePair:
    return describe(diff, label, most=most)


def write_diff(path: Path, old: Path, new: Path, pairs: Sequence[PagePair], unpaired: Sequence[str] = ()) -> None:
    """The page of `bespoke diff`: of one pair or of two trees."""
    verdict = _worst(pairs)
    accept = _accepting(pairs)
    following = []
    if accept is not None and verdict in ("changed", "refused"):
        command = shlex.join(["bespoke", "build", str(old), str(new), "--kernel", "RELEASE", "-o", "fix.ko"])
        purpose = "Build the module for the kernel that runs (RELEASE, or its vmlinuz)"
        if verdict == "refused":
            purpose = "If each of the reasons below is acceptable, accept them and build the module"
        following.append((" ".join([command, *accept]), purpose))
    outcome = PageOutcome(
        title=f"{old.name} → {new.name}" if len(pairs) != 1 else _title(pairs[0]),
        verdict=verdict,
        facts=(("old", str(old)), ("new", str(new)), *_counted(pairs)),
        unpaired=tuple(unpaired),
        following=tuple(following),
        sentence=_SENTENCES[verdict] if len(pairs) > 1 else "",
    )
    write_output(path, render_page(outcome, pairs))


@dataclass(frozen=True, slots=True)
class ModulePage:
    """What came of building a module for the kernel `release`, to be written to `output`.

    `options` are those of the command: the commands that follow need its kernel and `--object` too.
    `diffs` have labels; refusals that no diff has made are those of the kernel. Without module and
    refusals nothing changed. `notes` are about no single diff. `patches` are the source patches that the objects were
    compiled for, whose own places then say nothing, by (name, text).
    """

    diffs: tuple[tuple[str, Diff], ...]
    release: str
    output: Path
    options: argparse.Namespace
    module: Module | None = None
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[Refusal, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    patches: tuple[tuple[str, str], ...] = ()


def write_build(path: Path, built: ModulePage, *, verbose: bool = False) -> None:
    """The page of a module, with what the module that was written is bound to."""
    module, diffs = built.module, built.diffs
    bindings = bindings_in(read_object(module.content, name=module.name)) if module else {}
    most = None if verbose else MOST_ROWS
    pairs = [describe(diff, label, bindings, most) for label, diff in diffs]
    if built.patches:
        pairs = [replace(pair, old="", new="") for pair in pairs]
    verdict = "refused" if built.refusals else "built" if module else "unchanged"
    own = {r for _, diff in diffs for r in diff.judged.refusals}
    further = tuple(Advice.of(r) for r in built.refusals if r not in own)
    noted = [Advice.of(note) for note in built.notes]
    facts = [("kernel", built.release), *built.facts]
    following = []
    if module:
        manifest = module.manifest
        facts = [("module", str(built.output)), ("patches", ", ".join(manifest.objects)), *facts]
        given = (word for row in built.options.object for word in ("--object", row))
        arguments = [str(built.output), "--kernel", _kernel_word(built), *given]
        following.append(
            (shlex.join(["bespoke", "check", *arguments]), "See without a virtual machine whether it loads")
        )
        following.append(
            (shlex.join(["bespoke", "try", *arguments]), "Load it in a virtual machine that runs that kernel")
        )
        warned = {(w.code, w.symbol) for _, diff in diffs for w in diff.judged.warnings}
        late = [w for w in manifest.warnings if (w.code, w.symbol) not in warned]
        noted += [Advice.of(w) for w in late]
    accept = [a.accept for a in (*further, *(a for pair in pairs for a in pair.refusals))]
    if built.refusals and accept and all(accept):
        following.append(
            (
                " ".join([shlex.join(["bespoke", *built.options.command_line]), *dict.fromkeys(accept)]),
                "If each of the reasons below is acceptable, accept them and build the module",
            )
        )
    outcome = PageOutcome(
        title=module.name if module else built.output.name.removesuffix(".ko"),
        verdict=verdict,
        facts=(*facts, *_counted(pairs)),
        refusals=further,
        warnings=tuple(noted),
        following=tuple(following),
        sentence=_BUILT if module else "",
        bound=module is not None,
        patches=tuple(ShownPatch.of(*row) for row in built.patches),
    )
    write_output(path, render_page(outcome, pairs))


def _kernel_word(built: ModulePage) -> str:
    """The kernel as a command that follows names it: a reader's own file by its path, any other by its release."""
    given = Path(built.options.kernel)
    own = given.is_file() and not given.resolve().is_relative_to(cache_root().resolve())
    return str(given) if own else built.release


_BUILT = "The module is written; every function that it replaces was found in the kernel byte by byte."
_SENTENCES = {
    "error": "Not all of the pairs could be compared.",
    "refused": "Not all of the pairs can ship as they are.",
    "changed": "Everything that changed can ship.",
    "unchanged": "Nothing changed that has to ship.",
}


def _title(pair: PagePair) -> str:
    names = [f.name for f in pair.functions if f.role == "changed"]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or Path(pair.new).name


def _worst(pairs: Sequence[PagePair]) -> str:
    verdicts = {pair.verdict for pair in pairs}
    return next((v for v in ("error", "refused", "changed") if v in verdicts), "unchanged")


def _accepting(pairs: Sequence[PagePair]) -> list[str] | None:
    """The arguments that accept all refusals; None where one of them cannot be accepted."""
    rows = [refusal.accept for pair in pairs for refusal in pair.refusals]
    return list(dict.fromkeys(rows)) if all(rows) else None


def _counted(pairs: Sequence[PagePair]) -> list[tuple[str, str]]:
    """How many pairs have each verdict, where there are several."""
    if len(pairs) < 2:
        return []
    words = [
        f"{n} {v}" for v in ("error", "refused", "changed", "unchanged") if (n := sum(p.verdict == v for p in pairs))
    ]
    return [("pairs", f"{len(pairs)}: {', '.join(words)}")]
