"""A patch's objects: which, compiled from what, and the tree untouched whatever happens."""

from __future__ import annotations

import difflib
import os
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from builder.acquire.compile import AS_USUAL, Compiling, preprocess
from builder.acquire.includes import Includes
from builder.acquire.kbuild import VMLINUX, Command
from builder.acquire.patch import PatchObjects, prepare_patch
from builder.acquire.source import COMPLETE, INCLUDES, SourceTree
from builder.acquire.tools import run
from builder.acquire.tree_state import keep_state
from builder.errors import NOTHING, Allowed, InputError, RefusedError
from tests.acquire.conftest import FILES

Edit = Callable[..., PatchObjects]


def diff(path: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{path}", f"b/{path}")
    return "".join(lines)


def replaced(path: str, old: str, new: str) -> str:
    text = FILES[path]
    assert old in text
    return diff(path, text, text.replace(old, new))


@pytest.fixture
def patched(tree: SourceTree, tmp_path: Path) -> Edit:
    def made(*patches: str, allowed: Allowed = NOTHING, how: Compiling = AS_USUAL) -> PatchObjects:
        files = []
        for number, text in enumerate(patches):
            files.append(tmp_path / f"{number}.patch")
            files[-1].write_text(text)
        return prepare_patch(files, tree, allowed=allowed, how=how)

    return made


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".bespoke" not in path.parts
    }


def code(path: Path) -> str:
    text = subprocess.run(["objdump", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    return text.partition("Disassembly")[2]


def count_compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that are compiled from now on."""
    compiled: list[str] = []

    def counted(words: Sequence[str | Path], **options: Any) -> str:
        if "-c" in words:
            compiled.append(str(words[-1]))
        return run(words, **options)

    monkeypatch.setattr("builder.acquire.compile.run", counted)
    return compiled


def test_a_touched_source_gives_its_own_object_and_leaves_the_tree_alone(patched: Edit, tree: SourceTree) -> None:
    before = content(tree.root)
    result = patched(replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2"))
    assert [(pair.path, pair.owner) for pair in result.pairs] == [("fs/read.o", VMLINUX)]
    assert code(result.pairs[0].old) != code(result.pairs[0].new)
    assert "0x6(" in code(result.pairs[0].new) or "$0x6" in code(result.pairs[0].new)
    assert content(tree.root) == before
    assert result.files == ("fs/read.c",) and [shift.path for shift in result.shifts] == ["fs/read.c"]
    assert result.log.is_file()


def test_the_same_patch_again_compiles_nothing(
    patched: Edit, tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2")
    first = patched(patch)
    compiled: list[object] = []
    monkeypatch.setattr("builder.acquire.compile.run", lambda *a, **k: compiled.append(a))
    assert patched(patch).pairs == first.pairs
    assert not compiled


def test_a_fix_more_compiles_its_own_object_only(patched: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before it read nothing of what it changes: in a cumulative module the last fix costs what the first did."""
    fixes = [
        replaced("fs/tick.c", "60", "61"),
        replaced("fs/hand.c", "12", "13"),
        replaced("fs/made.c", "TABLE;", "TABLE + 1;"),
        replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2"),
    ]
    compiled = count_compiled(monkeypatch)
    told = []
    for count in range(1, len(fixes) + 1):
        compiled.clear()
        found = patched(*fixes[:count], allowed=Allowed.parse(["patch-not-linked:fs/hand.c"]))
        told.append((len(found.pairs), sorted(set(compiled))))
    assert told[0][0] == 2 and told[-1][0] == 5  # fs/tick.c is included by another, too
    assert [names for _, names in told[1:]] == [["fs/hand.c"], ["fs/made.c"], ["fs/read.c"]]


def test_what_a_fix_begins_to_read_may_be_changed_by_the_next(patched: Edit) -> None:
    """fs/hand.c reads fs/never.h only once it is patched: a change to that is another new object."""
    allowed = Allowed.parse(["patch-not-linked:fs/hand.c", "patch-not-built:fs/never.h"])
    text = '#include "never.h"\n' + FILES["fs/hand.c"].replace("12", "NEVER_READ")
    reading = diff("fs/hand.c", FILES["fs/hand.c"], text)
    first = patched(reading, allowed=allowed)
    second = patched(reading, replaced("fs/never.h", "NEVER_READ 1", "NEVER_READ 2"), allowed=allowed)
    again = patched(reading, replaced("fs/tick.c", "60", "61"), allowed=allowed)
    made = [next(pair.new for pair in one.pairs if pair.path == "fs/hand.o") for one in (first, second, again)]
    assert "$0x1," in code(made[0]) and "$0x2," in code(made[1]) and "$0x1," in code(made[2])


def test_a_header_is_looked_for_once_in_each_object(
    patched: Edit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bespoke.acquire")
    header = replaced("include/linux/queue.h", ">= 8", ">= 9")
    first = patched(header)
    assert "objects that may read include/linux/queue.h" in caplog.text
    caplog.clear()
    asked: list[str] = []

    def counted(command: Command, **options: Any) -> bytes:
        asked.append(command.source)
        return preprocess(command, **options)

    monkeypatch.setattr("builder.acquire.work.preprocess", counted)
    both = patched(header, replaced("fs/tick.c", "60", "61"))
    assert {pair.path for pair in both.pairs} - {"fs/tick.o", "fs/again.o"} == {pair.path for pair in first.pairs}
    assert set(asked) == {"fs/again.c"}  # which reads fs/tick.c, and was not looked at before
    assert "1 object that may read" in caplog.text and "objects that may read" not in caplog.text
    asked.clear()
    patched(header.replace("+\treturn queue_len(q) >= 9", "+\treturn queue_len(q) >= 10"))
    assert "fs/read.c" in asked


def test_the_include_lines_are_read_for_what_is_new(
    patched: Edit, tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = replaced("include/linux/queue.h", ">= 8", ">= 9")
    patched(replaced("fs/made.c", "TABLE;", "TABLE + 1;"))  # which sources are included is kept by itself
    first = patched(header)
    read: list[Path] = []
    whole = Includes.of_tree

    def counted(root: Path, saved: Path, beyond: Collection[str] = ()) -> Includes:
        read.append(saved)
        return whole(root, saved, beyond)

    monkeypatch.setattr(Includes, "of_tree", counted)
    both = patched(header, replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2"))
    assert not read and {pair.path for pair in both.pairs} == {pair.path for pair in first.pairs}
    patched(header, replaced("fs/local.h", "LOCAL 3", "LOCAL 4"))
    assert len(read) == 1
    # What was generated meanwhile may include it, too.
    saved = tree.root / INCLUDES
    os.utime(saved, ns=(0, saved.stat().st_mtime_ns + 1))
    patched(header)
    assert len(read) == 2


def test_that_no_source_is_absent_is_kept_for_the_tree_as_it_is(tree: SourceTree) -> None:
    with tree.objects() as objects:
        (tree.root / "fs/hand.c").touch()
        keep_state(tree.root)
        assert tree.complete(objects) == [] and (tree.root / COMPLETE).is_file()
        (tree.root / "fs/hand.c").unlink()
        keep_state(tree.root)
        assert tree.complete(objects) == ["fs/hand.c"]


def test_both_versions_are_compiled_alike(patched: Edit) -> None:
    """A change that changes no code gives the same bytes: no path of the machine or the shadow gets in."""
    result = patched(replaced("fs/read.c", "int read_it", "/* now */ int read_it"))
    old, new = result.pairs[0].old.read_bytes(), result.pairs[0].new.read_bytes()
    assert old == new


def test_a_header_reaches_the_objects_whose_code_uses_it(patched: Edit) -> None:
    result = patched(replaced("include/linux/queue.h", ">= 8", ">= 9"))
    assert [pair.path for pair in result.pairs] == ["fs/read.o"]
    assert result.considered == 3


def test_a_macro_in_a_header_reaches_all_who_read_it(patched: Edit) -> None:
    result = patched(replaced("fs/local.h", "LOCAL 3", "LOCAL 4"))
    assert [(pair.path, pair.owner) for pair in result.pairs] == [
        ("drivers/net/card.o", "card"),
        ("fs/read.o", VMLINUX),
        ("fs/write.o", VMLINUX),
    ]
    for pair in result.pairs:
        assert code(pair.old) != code(pair.new)


def test_a_header_beyond_a_link_is_still_the_patched_one(patched: Edit) -> None:
    """deep/ is a link in the shadow, and ../../common.h from there leads into the tree itself."""
    result = patched(replaced("drivers/common.h", "COMMON 7", "COMMON 70"))
    assert {pair.owner for pair in result.pairs} == {"chip", "chip_lite"}
    assert "$0x47" in code(result.pairs[0].new)


def test_an_included_source_counts_as_a_header(patched: Edit) -> None:
    result = patched(replaced("fs/part.c", "x * 5", "x * 6"))
    assert [pair.path for pair in result.pairs] == ["fs/whole.o"]


def test_a_new_header_is_found(patched: Edit) -> None:
    result = patched(
        diff("fs/fresh.h", "", "#define FRESH 77\n").replace("--- a/fs/fresh.h", "--- /dev/null"),
        diff(
            "fs/read.c", FILES["fs/read.c"], '#include "fresh.h"\n' + FILES["fs/read.c"].replace("+ LOCAL", "+ FRESH")
        ),
    )
    assert "4d" in code(result.pairs[0].new)


def test_a_generated_header_is_generated(patched: Edit, tree: SourceTree) -> None:
    result = patched(replaced("fs/made.c", "TABLE;", "TABLE + 1;"))
    assert "$0xa" in code(result.pairs[0].new)
    assert (tree.root / "fs/made-table.h").is_file()


def test_patches_stack(patched: Edit) -> None:
    first = FILES["fs/read.c"].replace("+ LOCAL", "+ LOCAL * 2")
    result = patched(
        replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2"), diff("fs/read.c", first, first.replace("* 2", "* 20"))
    )
    assert "0x3c" in code(result.pairs[0].new)


def test_a_hunk_that_has_moved_is_mentioned(patched: Edit) -> None:
    patch = replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2").replace("@@ -1,5 +1,5 @@", "@@ -11,5 +11,5 @@")
    result = patched(patch)
    assert [pair.path for pair in result.pairs] == ["fs/read.o"]
    (row,) = result.warnings
    assert (row.code, row.symbol) == ("patch-moved", "fs/read.c") and "10 lines further up" in row.message


def test_a_patch_and_its_reverse_are_no_change(patched: Edit) -> None:
    changed = FILES["fs/read.c"].replace("+ LOCAL", "- LOCAL")
    result = patched(diff("fs/read.c", FILES["fs/read.c"], changed), diff("fs/read.c", changed, FILES["fs/read.c"]))
    assert result.pairs == () and result.files == ()


def refused(patched: Edit, patch: str, **options: object) -> list[tuple[str, str]]:
    with pytest.raises(RefusedError) as caught:
        patched(patch, **options)
    assert all(row.advice and not row.fatal for row in caught.value.refusals)
    return [(row.code, row.symbol) for row in caught.value.refusals]


def test_what_is_not_built_is_refused_unless_accepted(patched: Edit) -> None:
    unused = replaced("fs/unused.c", "unused;", "unused = 1;")
    assert refused(patched, unused) == [("patch-not-built", "fs/unused.c")]
    good = replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2")
    result = patched(unused, good, allowed=Allowed.parse(["patch-not-built:fs/unused.c"]))
    assert [pair.path for pair in result.pairs] == ["fs/read.o"]
    assert [(row.code, row.symbol) for row in result.warnings] == [("patch-not-built", "fs/unused.c")]


def test_a_header_that_nobody_really_reads_is_not_built(patched: Edit) -> None:
    """An include line is there, and the configuration keeps everybody from it."""
    assert refused(patched, replaced("fs/never.h", "READ 1", "READ 2")) == [("patch-not-built", "fs/never.h")]


def test_a_header_that_is_read_and_changes_nothing_is_no_refusal(patched: Edit) -> None:
    result = patched(replaced("fs/local.h", "LOCAL 3", "LOCAL 3 /* three */"))
    assert result.pairs == () and result.warnings == ()


def test_a_header_that_something_beside_the_kernel_reads(patched: Edit) -> None:
    """boot/start.o is part of nothing that can be patched: it would keep the old text."""
    patch = replaced("boot/clock.h", "CLOCK 1", "CLOCK 2")
    assert refused(patched, patch) == [("patch-not-linked", "boot/clock.h")]
    result = patched(patch, allowed=Allowed.parse(["patch-not-linked:boot/clock.h"]))
    assert [pair.path for pair in result.pairs] == ["fs/clock.o"]
    assert ["boot/start.o" in row.message for row in result.warnings] == [True]


def test_a_source_that_is_part_of_something_beside_the_kernel(patched: Edit) -> None:
    patch = replaced("fs/hand.c", "12", "24")
    assert refused(patched, patch) == [("patch-not-linked", "fs/hand.c")]
    assert [pair.path for pair in patched(patch, allowed=Allowed.parse(["patch-not-linked:fs/hand.c"])).pairs] == [
        "fs/hand.o"
    ]


def test_a_source_of_its_own_that_another_includes(patched: Edit) -> None:
    result = patched(replaced("fs/tick.c", "60", "61"))
    assert sorted(pair.path for pair in result.pairs) == ["fs/again.o", "fs/tick.o"]


def test_documentation_is_left_out_with_a_warning(patched: Edit) -> None:
    result = patched(diff("Documentation/a.rst", "x\n", "y\n"), replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2"))
    assert [row.code for row in result.warnings] == ["patch-no-code"]
    assert len(result.pairs) == 1


REFUSED = [
    ("fs/Makefile", "patch-makefile"),
    ("fs/Kconfig", "patch-kconfig"),
    ("fs/entry.S", "patch-assembler"),
    ("fs/strange.xyz", "patch-unknown-file"),
    ("fs/syscalls.tbl", "patch-generated"),
]


@pytest.mark.parametrize(("path", "expected"), REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(patched: Edit, path: str, expected: str) -> None:
    good = replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2")
    with pytest.raises(RefusedError) as caught:
        patched(diff(path, "x\n", "y\n") + good)
    assert [(row.code, row.symbol) for row in caught.value.refusals] == [(expected, path)]
    for symbol in (path, "*"):
        accepted = patched(diff(path, "x\n", "y\n") + good, allowed=Allowed.parse([f"{expected}:{symbol}"]))
        assert [pair.path for pair in accepted.pairs] == ["fs/read.o"]
        assert [row.code for row in accepted.warnings] == [expected]


def test_all_refusals_come_together(patched: Edit) -> None:
    with pytest.raises(RefusedError) as caught:
        patched(diff("fs/Makefile", "x\n", "y\n") + diff("fs/new.c", "", "int x;\n").replace("a/fs/new.c", "/dev/null"))
    assert [row.code for row in caught.value.refusals] == ["patch-makefile", "patch-new-file"]


LISTS = {
    "fs/Makefile": (
        "# the files\nobj-y := read.o write.o \\\n\twhole.o\nobj-$(CONFIG_TICK) += tick.o\nCFLAGS_hand.o = -DX\n"
    ),
    "drivers/net/Makefile": "obj-m := card.o\ncard-y := card.o\n",
    ".config": "CONFIG_TICK=y\nCONFIG_LOOSE=m\n",
}
NEW = '#include "local.h"\nint fresh(int x)\n{\n\treturn x + LOCAL;\n}\n'


@pytest.fixture
def listing(tree: SourceTree) -> SourceTree:
    """The tree with makefiles of its own."""
    for path, text in LISTS.items():
        (tree.root / path).write_text(text)
    return tree


def adding(path: str, makefile: str, was: str, becomes: str, text: str = NEW) -> str:
    before = LISTS[makefile]
    assert was in before
    lists = diff(makefile, before, before.replace(was, becomes))
    return lists + diff(path, "", text).replace(f"a/{path}", "/dev/null")


@pytest.mark.parametrize(
    ("path", "makefile", "change", "owner"),
    [
        ("fs/fresh.c", "fs/Makefile", ("read.o", "read.o fresh.o"), VMLINUX),
        ("fs/fresh.c", "fs/Makefile", ("CFLAGS_hand", "obj-$(CONFIG_TICK) += fresh.o\nCFLAGS_hand"), VMLINUX),
        ("drivers/net/fresh.c", "drivers/net/Makefile", ("card-y := card.o", "card-y := card.o fresh.o"), "card"),
    ],
    ids=["obj-y", "an option that is set", "a part of a module"],
)
def test_a_new_file_and_its_line_in_a_makefile(
    patched: Edit, listing: SourceTree, path: str, makefile: str, change: tuple[str, str], owner: str
) -> None:
    """It becomes an object of whom its neighbours belong to, beside those that call it; its old version is empty."""
    before = content(listing.root)
    text = NEW if path.startswith("fs/") else NEW.replace("local.h", "../../fs/local.h")
    result = patched(adding(path, makefile, *change, text=text) + replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2"))
    assert [(pair.path, pair.owner) for pair in result.pairs] == [
        ("fs/read.o", VMLINUX),
        (path.replace(".c", ".o"), owner),
    ]
    assert "fresh" in code(result.pairs[1].new) and code(result.pairs[1].old) == ""
    assert content(listing.root) == before


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (("CFLAGS_hand", "obj-m += fresh.o\nCFLAGS_hand"), ["patch-new-file"]),
        (("CFLAGS_hand", "obj-$(CONFIG_LOOSE) += fresh.o\nCFLAGS_hand"), ["patch-new-file"]),
        (("CFLAGS_hand", "obj-$(CONFIG_NONE) += fresh.o\nCFLAGS_hand"), ["patch-new-file"]),
        (("read.o", "fresh.o"), ["patch-makefile", "patch-new-file"]),
        (("CFLAGS_hand", "obj-y += fresh.o\nCFLAGS_fresh.o = -DY\nCFLAGS_hand"), ["patch-makefile", "patch-new-file"]),
        (("-DX", "-DY"), ["patch-makefile", "patch-new-file"]),
        (("read.o", "read.o fresh.o other.o"), ["patch-makefile", "patch-new-file"]),
    ],
    ids=["a new module", "a module by its option", "not set", "in place of another", "own flags", "flags", "another"],
)
def test_what_else_a_makefile_says_is_refused(
    patched: Edit, listing: SourceTree, change: tuple[str, str], codes: list[str]
) -> None:
    with pytest.raises(RefusedError) as caught:
        patched(adding("fs/fresh.c", "fs/Makefile", *change))
    assert sorted(row.code for row in caught.value.refusals) == codes


def test_boot_code_is_refused(patched: Edit) -> None:
    with pytest.raises(RefusedError) as caught:
        patched(replaced("boot/start.c", "return 1", "return 2"))
    assert caught.value.refusals[0].code == "patch-not-linked"


def test_a_patch_that_does_not_compile_names_the_line(patched: Edit, tree: SourceTree) -> None:
    before = content(tree.root)
    with pytest.raises(InputError, match=r"fs/read\.c:4:.*error"):
        patched(replaced("fs/read.c", "+ LOCAL", "+ MISSING"))
    assert content(tree.root) == before


def test_a_header_that_reaches_too_many_is_asked_about(patched: Edit) -> None:
    header = replaced("include/linux/queue.h", ">= 8", ">= 9")
    with pytest.raises(RefusedError, match="3 objects"):
        patched(header, how=Compiling(limit=2))
    assert refused(patched, header, how=Compiling(limit=2)) == [("patch-many-users", "include/linux/queue.h")]
    source = replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2")
    result = patched(
        header, source, how=Compiling(limit=2), allowed=Allowed.parse(["patch-many-users:include/linux/queue.h"])
    )
    assert [pair.path for pair in result.pairs] == ["fs/read.o"]
    assert [row.code for row in result.warnings] == ["patch-many-users"]


def test_an_interrupted_run_leaves_nothing_half_done(patched: Edit, tree: SourceTree, cache: Path) -> None:
    before = content(tree.root)
    patch = replaced("fs/local.h", "LOCAL 3", "LOCAL 4")

    def interrupt(done: int, count: int, what: str) -> None:
        if what.startswith("compile new"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patched(patch, how=Compiling(progress=interrupt))
    assert content(tree.root) == before
    assert list((cache / "tmp").iterdir()) == []
    assert len(patched(patch).pairs) == 3


def test_a_tree_that_was_changed_meanwhile_is_not_used(patched: Edit, tree: SourceTree) -> None:
    (tree.root / ".bespoke/identity").write_text("another")
    with pytest.raises(Exception, match="changed while it was in use"):
        patched(replaced("fs/read.c", "+ LOCAL", "+ 1"))


def test_a_header_that_values_for_assembler_come_from(
    patched: Edit, tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree.root / "kernel").mkdir()
    (tree.root / "kernel/bounds.c").write_text(
        '#include "../boot/clock.h"\nvoid f(void) { asm volatile("\\n.ascii \\"->CLOCK %0\\"" : : "i" (CLOCK)); }\n'
    )
    (tree.root / "kernel/.bounds.s.cmd").write_text(
        "cmd_kernel/bounds.s := gcc -Wp,-MMD,kernel/.bounds.s.d -Iinclude -O2 -S -o kernel/bounds.s kernel/bounds.c\n\n"
        "source_kernel/bounds.s := kernel/bounds.c\n\ndeps_kernel/bounds.s := \\\n  boot/clock.h \\\n\n"
    )
    compiled: list[Sequence[str | Path]] = []

    def counted(words: Sequence[str | Path], **options: Any) -> str:
        compiled.append(words)
        return run(words, **options)

    monkeypatch.setattr("builder.acquire.generated.run", counted)
    how: Mapping[str, Any] = {"allowed": Allowed.parse(["patch-not-linked:boot/clock.h"])}
    header = replaced("boot/clock.h", "CLOCK 1", "CLOCK 2")
    other = replaced("include/linux/queue.h", ">= 8", ">= 9")
    # Found again when another fix has joined it, to a file that the text does not read.
    counts = []
    for patches in (header,), (header, other):
        with pytest.raises(RefusedError) as caught:
            patched(*patches, **how)
        assert [(r.code, r.symbol) for r in caught.value.refusals] == [("patch-generated-header", "kernel/bounds.c")]
        counts.append(len(compiled))
    harmless = replaced("boot/clock.h", "CLOCK 1", "CLOCK (2 - 1)")
    for _ in range(2):
        assert patched(harmless, **how).files == ("boot/clock.h",)
        counts.append(len(compiled))
    assert 0 < counts[0] == counts[1] < counts[2] == counts[3]


def test_a_header_that_what_could_not_be_generated_may_read(patched: Edit, tree: SourceTree) -> None:
    (tree.root / "fs/hand.c").unlink()
    patch = replaced("fs/local.h", "LOCAL 3", "LOCAL 4")
    assert refused(patched, patch) == [("patch-user-unseen", "fs/local.h")]
    result = patched(patch, allowed=Allowed.parse(["patch-user-unseen:fs/local.h"]))
    assert [row.code for row in result.warnings] == ["patch-user-unseen"] and len(result.pairs) == 3
