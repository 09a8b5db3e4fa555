"""`bespoke patch` as a Makefile or a CI calls it: documents, statuses, what is written and what is not."""

from __future__ import annotations

import difflib
import shutil
from html import unescape
from pathlib import Path

import pytest

from builder.acquire.cache import cache_root
from builder.acquire.patch import prepare_patch
from builder.acquire.source import SourceTree, fetch_source
from samples.fixes import PATCHES
from tests.cli.conftest import Bespoke
from tests.conftest import needed

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(900)]

FIX = PATCHES / "01-meminfo-string.patch"


@pytest.fixture(scope="module")
def tree(release_61: str) -> SourceTree:
    with needed():
        return fetch_source(release_61)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out/fix.ko"


def inserted(tree: SourceTree, path: str, after: str, line: str) -> str:
    """A patch that adds one line after a text that stands once in the file."""
    old = (tree.root / path).read_text()
    assert old.count(f"{after}\n") == 1
    new = old.replace(f"{after}\n", f"{after}\n{line}\n")
    return "".join(
        difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{path}", f"b/{path}")
    )


def test_the_document_says_what_was_built_from_what(
    bespoke: Bespoke, tree: SourceTree, release_61: str, out: Path
) -> None:
    words = ("patch", FIX, "--kernel", release_61, "-o", out)
    ran = bespoke(*words, "--json", timeout=600)
    assert ran.status == 0, ran.err
    document = ran.document
    assert document["verdict"] == "changed" and document["kernel"]["release"] == release_61
    built = document["built_from"]
    assert built["files"] == ["fs/proc/meminfo.c"] and (built["considered"], built["compiled"]) == (1, 1)
    assert built["tree"] == tree.identity and "gcc" in built["compiler"]
    assert document["compiler"] == [built["compiler"]]
    assert "fs/proc/meminfo.c" in Path(built["log"]).read_text()
    assert [row["path"] for row in document["source"]] == ["fs/proc/meminfo.o"]
    assert document["next"] == f"bespoke try {out} --kernel {release_61}"
    first = out.read_bytes()
    said = bespoke(*words, "-j", 1)
    assert said.status == 0 and out.read_bytes() == first and list(out.parent.iterdir()) == [out]
    assert f"checked against vmlinux of {release_61}: 1 replaced function found there byte by byte" in said.out
    assert said.out.splitlines()[-1] == f"next: {document['next']}"
    assert bespoke(*words, "-q").out == ""


def test_nothing_that_runs_changed(
    bespoke: Bespoke, tree: SourceTree, release_61: str, tmp_path: Path, out: Path
) -> None:
    """A comment; a mode; a weak function that x86 overrides: each says which."""
    weak = "void __weak arch_release_task_struct(struct task_struct *tsk)\n{"
    texts = {
        "comment": (inserted(tree, "fs/proc/version.c", "#include <linux/fs.h>", "/* nothing */"), ""),
        "mode": ("diff --git a/fs/aio.c b/fs/aio.c\nold mode 100644\nnew mode 100755\n", ""),
        "weak": (inserted(tree, "kernel/fork.c", weak, "\ttsk->flags = 7;"), "weak-overridden"),
    }
    for name, (text, said) in texts.items():
        patch = tmp_path / f"{name}.patch"
        patch.write_text(text)
        ran = bespoke("patch", patch, "--kernel", release_61, "-o", out, "--json", timeout=600)
        assert (ran.status, ran.document["verdict"]) == (3, "unchanged"), (name, ran)
        assert said in ran.err and "nothing that runs changed" in ran.err
        assert list(out.parent.iterdir()) == []


def test_a_weak_function_that_is_overridden_is_left_out_of_a_build_of_its_objects(
    bespoke: Bespoke, tree: SourceTree, release_61: str, tmp_path: Path, out: Path
) -> None:
    """What `build` says of a pair, in its document, its report and its page, is what the kernel runs of it."""
    weak = "void __weak arch_release_task_struct(struct task_struct *tsk)\n{"
    name = "arch_release_task_struct"
    patch = tmp_path / "weak.patch"
    patch.write_text(inserted(tree, "kernel/fork.c", weak, "\ttsk->flags = 7;"))
    (pair,) = prepare_patch([patch], tree).pairs
    page = tmp_path / "page.html"
    words = ("build", pair.old, pair.new, "--kernel", release_61, "-o", out)
    assert bespoke("diff", pair.old, pair.new, "--json").document["functions"]["changed"] == [name]
    ran = bespoke(*words, "--json", "--html", page)
    (document,) = ran.document["pairs"]
    assert (ran.status, ran.document["verdict"], document["verdict"]) == (3, "unchanged", "unchanged")
    assert [(row["code"], row["symbol"]) for row in document["warnings"]] == [("weak-overridden", name)]
    assert "weak-overridden" in page.read_text()
    said = bespoke(*words)
    assert said.status == 3 and f"weak-overridden: {name} is weak here" in said.err
    assert list(out.parent.iterdir()) == []


def test_a_file_of_another_machine_is_refused(
    bespoke: Bespoke, tree: SourceTree, release_61: str, tmp_path: Path, out: Path
) -> None:
    """No object comes from it: that is no change which leaves everything as it was."""
    patch = tmp_path / "machine.patch"
    patch.write_text(inserted(tree, "arch/arm64/kernel/process.c", "#include <linux/compat.h>", ""))
    page, words = tmp_path / "page.html", ("patch", patch, "--kernel", release_61, "-o", out, "--json")
    ran = bespoke(*words, "--html", page, timeout=600)
    assert ran.status == 1 and list(out.parent.iterdir()) == []
    rows = [(row["code"], row["symbol"]) for row in ran.document["refusals"]]
    again = " ".join(map(str, ("bespoke", *words, "--html", page, "--allow", ":".join(rows[0]))))
    assert f"<pre><code>{again}</code></pre>" in page.read_text()
    assert rows == [("patch-not-built", "arch/arm64/kernel/process.c")]
    ran = bespoke(
        *("patch", patch, FIX, "--kernel", release_61, "-o", out, "--json", "--allow", ":".join(rows[0])), timeout=600
    )
    assert ran.status == 0 and "patch-not-built" in ran.err + str(ran.document["built_from"]["warnings"])


def test_one_module_each(bespoke: Bespoke, tree: SourceTree, release_61: str, tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "fixes"
    folder.mkdir()
    shutil.copy(FIX, folder / "a-good.patch")
    (folder / "b-kconfig.patch").write_text("--- a/fs/Kconfig\n+++ b/fs/Kconfig\n@@ -1 +1 @@\n-x\n+y\n")
    (folder / "c-misfit.patch").write_text("--- a/fs/aio.c\n+++ b/fs/aio.c\n@@ -1 +1 @@\n-x\n+y\n")
    (folder / "d-many.patch").write_text(inserted(tree, "include/linux/seq_file.h", "struct seq_file {", "\tint more;"))
    ran = bespoke("patch", folder, "--each", "--kernel", release_61, "-o", out.parent, "--json", timeout=600)
    assert ran.status == 2
    rows = {Path(row["patch"]).name[0]: row for row in ran.document["patches"]}
    assert [rows[k]["verdict"] for k in "abcd"] == ["built", "refused", "error", "refused"]
    assert rows["a"]["functions"] and rows["a"]["module"] == str(out.parent / "a_good.ko")
    assert rows["b"]["refusals"][0]["symbol"] == "fs/Kconfig"
    assert "fs/aio.c" in rows["c"]["detail"] and "more than the limit" in rows["d"]["refusals"][0]["message"]
    assert [path.name for path in out.parent.iterdir()] == ["a_good.ko"]
    (folder / "series").write_text("a-good.patch\n")
    pages = tmp_path / "pages"
    words = ("patch", folder, "--each", "--kernel", release_61, "-o", out.parent, "--html", pages)
    assert "takes a directory for the pages" in bespoke(*words).err
    pages.mkdir()
    ran = bespoke(*words)
    assert ran.status == 0 and ran.out.splitlines()[-1].startswith("next: bespoke try ")
    page = unescape((pages / "a_good.html").read_text())
    for line in (line for line in FIX.read_text().splitlines() if line.startswith(("+", "-"))):
        assert f">{line}\n</span>" in page, "the source patch stands there as it was written"
    assert all(word in page for word in ("a-good.patch", tree.kernel_version, tree.compiler.version))
    assert str(cache_root()) not in page and f"bespoke check {rows['a']['module']} --kernel {release_61}" in page


def test_in_a_series_each_patch_is_applied_on_those_before_it(
    bespoke: Bespoke, tree: SourceTree, release_61: str, tmp_path: Path, out: Path
) -> None:
    """The second changes the first one's line; one that does not fit is left out, one beside the series has none."""
    folder = tmp_path / "fixes"
    folder.mkdir()
    first = FIX.read_text()
    (folder / "a.patch").write_text(first)
    (folder / "b.patch").write_text("--- a/fs/aio.c\n+++ b/fs/aio.c\n@@ -1 +1 @@\n-x\n+y\n")
    second = first.replace("PerCpu", "PERCPU").replace("Percpu", "PerCpu")
    (folder / "c.patch").write_text(second)
    (folder / "series").write_text("a.patch\nb.patch\nc.patch\n")
    words = ("--each", "--kernel", release_61, "-o", out.parent, "--json")
    ran = bespoke("patch", folder, *words, timeout=600)
    rows = ran.document["patches"]
    assert [row["verdict"] for row in rows] == ["built", "error", "built"], ran
    assert [len(row["on"]) for row in rows] == [0, 1, 1] and rows[2]["functions"] == rows[0]["functions"]
    (folder / "series").unlink()
    rows = bespoke("patch", folder, *words, timeout=600).document["patches"]
    assert [row["verdict"] for row in rows] == ["built", "error", "error"]


def test_code_that_does_not_compile(
    bespoke: Bespoke, tree: SourceTree, release_61: str, tmp_path: Path, out: Path
) -> None:
    patch = tmp_path / "bad.patch"
    patch.write_text(inserted(tree, "fs/proc/version.c", "#include <linux/fs.h>", "int bad = undeclared_thing;"))
    said = bespoke("patch", patch, "--kernel", release_61, "-o", out).problem()
    assert "fs/proc/version.c: does not compile" in said and "undeclared_thing" in said
    log = Path(said.rpartition("(log: ")[2].removesuffix(")"))
    assert "undeclared_thing" in log.read_text()
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{fix}", "-o", "{tmp}/absent/x.ko"], "there is no directory"),
        (["{fix}", "-o", "{tmp}"], "is a directory"),
        (["{fix}", "-o", "{tmp}/a b.ko"], "cannot be a module's name"),
        (["{fix}", "-o", "{tmp}/x.ko", "-j", "0"], "-j takes"),
        (["{fix}", "-o", "{tmp}/x.ko", "--each", "--name", "n"], "cannot be given with --each"),
        (["{tmp}/absent.patch", "-o", "{tmp}/x.ko"], "there is no file"),
        (["{tmp}", "-o", "{tmp}/x.ko"], "there are no patches"),
        (["{fix}", "--source", "{tmp}", "-o", "{tmp}/x.ko"], "no kernel source"),
        (["{fix}", "--source", "{fix}", "-o", "{tmp}/x.ko"], "tar failed"),
        (["{fix}", "--source", "linux-source-6.1=0.1-1", "-o", "{tmp}/x.ko"], "no longer offered"),
        (["{fix}", "--source", "nonsense", "-o", "{tmp}/x.ko"], "is no release; offered are: "),
        (["{fix}", "--source", "6.1.0-1-amd64", "-o", "{tmp}/x.ko"], "offered of 6.1: "),
    ],
)
def test_bad_usage(
    bespoke: Bespoke, tree: SourceTree, release_61: str, tmp_path: Path, words: list[str], says: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    given = [word.format(fix=FIX, tmp=place) for word in words]
    assert says in bespoke("patch", *given, "--kernel", release_61).problem()
    assert list(place.iterdir()) == []
