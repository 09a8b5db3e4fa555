"""The page: everything is on it, nothing on it is obeyed, and it needs nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builder.acquire.packages import fetch_kernel
from builder.binary import ObjectFile, read_object
from builder.binary.ours import copy_of
from builder.compare.structs import FieldChange, StructChange
from builder.compose.outcome import Diff
from builder.errors import Refusal
from builder.pipeline import diff, diff_objects
from builder.report.html import (
    MOST_LINES,
    Advice,
    Datum,
    PageFunction,
    PageOutcome,
    PagePair,
    ShownPatch,
    describe,
    render_page,
)
from builder.report.listing import Line, Listing, Row, Stretch
from builder.report.references import ShownBinding, ShownReference, bindings_in
from builder.templates import render
from tests.conftest import ROOT, needed
from tests.report.conftest import Diffed, Page, pair_paths
from tests.running.pairs import RELEASE
from tests.support.compiling import Build

EXAMPLE = Path(__file__).with_name("example.html")
SOURCE = """
extern int outside(const char *);
static int counter;
static __attribute__((noinline)) int helper(int x) { return outside("helper") + x; }
int work(int x) { counter += x; return helper(x) + outside("work"); }
int other(int x) { return counter += helper(x); }
"""
CHANGED = SOURCE.replace('outside("work")', 'outside("worked") * 2')


def page_of(found: Diff, label: str = "unit.o") -> Page:
    return Page(render_page(PageOutcome("a change", found.verdict), [describe(found, label)]))


def assert_sound(page: Page) -> None:
    """Well-formed, self-contained, every link leads somewhere, every table has a caption."""
    assert not page.broken
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.values("href")} <= set(ids)
    assert not page.values("src") and page.count("link") == 0
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]
    assert page.count("script") == 1
    assert "url(" not in page.text(tag="style") and "@import" not in page.text(tag="style")
    assert page.count("table") == page.count("caption")
    assert page.count("h1") == page.count("main") == page.count("title") == 1


def test_a_changed_function_with_its_reason_code_and_references(diffed: Diffed) -> None:
    found = diffed(SOURCE, CHANGED)
    page = page_of(found)
    assert_sound(page)
    assert page.text(cls="verdict").startswith("changed")
    function = page.text(id="p1f1")
    assert function.startswith("changed work")
    assert found.comparison.functions[found.comparison.new.by_name["work"]].reason.replace("`", "") in function
    assert '"work"' in function and '"worked"' in function
    rows = [row for row in describe(found).functions[0].references if row.name in ("counter", "helper", "outside")]
    assert [(row.name, row.kind, row.way) for row in rows] == [
        ("counter", "static variable", "original"),
        ("helper", "static function", "original"),
        ("outside", "symbol", "elsewhere"),
    ]
    assert "counter static variable the original" in function
    assert "__mcount_loc 1" in page.text(cls="entries")
    assert "other" not in page.text(cls="index")


def test_an_unchanged_pair(diffed: Diffed) -> None:
    page = page_of(diffed(SOURCE, SOURCE))
    assert_sound(page)
    assert page.text(cls="verdict").startswith("unchanged")
    assert "There is nothing to do." in page.text(cls="next")
    assert page.count("article") == 0


def test_a_refusal_with_its_advice_and_what_accepts_it(diffed: Diffed) -> None:
    mark = '__attribute__((section(".init.text"), noinline)) int start(void) { return 1; }'
    found = diffed(SOURCE + mark, CHANGED + mark.replace("1", "2"))
    page = page_of(found)
    assert_sound(page)
    text = page.text(cls="refusal")
    assert "init-changed" in text and "start changed, which runs only at start" in text
    assert "To accept it: --allow init-changed:start" in text
    assert "does not travel" in page.text(id="p1f1")


def test_a_refusal_that_nobody_can_accept() -> None:
    pair = PagePair(
        "a.o", "a.o", "b.o", "refused", refusals=(Advice.of(Refusal("noinstr", "f", ".noinstr.text", "m", "a")),)
    )
    text = Page(render_page(PageOutcome("t", "refused"), [pair])).text(cls="refusal")
    assert "Nobody can accept it" in text and "--allow" not in text


HOSTILE = (
    '<script>alert("1")</script>',
    "\"'><img src=x onerror=alert(1)>",
    "</code></table><h1>mine",
    "{{ outcome }}{% raw %}",
    "javascript:alert(1)",
    "</style><style>body{display:none}",
    "a\u202egnp.exe",
    "\x1b[31mred\x07",
    "not \udcff UTF-8",
    "a`b`c",
)


def renamed(obj: ObjectFile, name: str) -> ObjectFile:
    """The object with a function, a variable and a section of that name."""
    names = {"work": name, "counter": f"counter{name}", "outside": f"outside{name}"}
    symbols = tuple(s._replace(name=names.get(s.name, s.name)) for s in obj.symbols)
    sections = tuple(s._replace(name=f".text.{name}") if s.name == ".text.work" else s for s in obj.sections)
    return replace(obj, symbols=symbols, sections=sections)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_and_not_obeyed(compiled: Build, diffed: Diffed, name: str) -> None:
    plain = page_of(diffed(SOURCE, CHANGED))
    flags = ("-pg", "-mfentry", "-mrecord-mcount")
    found = diff_objects(renamed(compiled(SOURCE, *flags), name), renamed(compiled(CHANGED, *flags), name))
    outcome = PageOutcome(name, found.verdict, facts=((name, name),), unpaired=(name,), following=((name, name),))
    warning = Advice.of(Refusal("data-changed", name, name, name, name, fatal=False))
    pair = replace(describe(found, name), refusals=(warning,), warnings=(warning,), removed=(name,), line_only=(name,))
    text = render_page(outcome, [pair])
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)
    text.encode()
    page = Page(text)
    assert_sound(page)
    assert page.count("script") == page.count("style") == page.count("h1") == 1
    assert page.count("article") == plain.count("article")
    assert page.count("img") == 0
    shown = re.sub("[\x00-\x1f\u202a-\u202e\ud800-\udfff]", lambda c: f"\\u{ord(c[0]):04x}", name)
    assert page.text(tag="h1") == " ".join(shown.split())
    assert f"changed {shown}" in page.text(id="p1f1")


def test_hostile_strings_in_the_code(diffed: Diffed) -> None:
    new = SOURCE.replace('"work"', r'"</table><script>\"x\"\n"')
    page = page_of(diffed(SOURCE, new))
    assert_sound(page)
    assert r'"</table><script>\"x\"\n"' in page.text(cls="note")


def test_only_pages_are_escaped() -> None:
    """The glue and the guest's script are no HTML: what they say must not be changed."""
    text = render("guest-init.sh.j2", None, None, **_init_values())
    assert "&amp;" not in text and "&#34;" not in text


def _init_values() -> dict[str, object]:
    names = re.findall(r"{{\s*(\w+)", (ROOT / "templates" / "guest-init.sh.j2").read_text())
    return {name: "a && b" for name in names}


def test_a_page_that_would_be_too_long_leaves_listings_out(diffed: Diffed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.report.html._MOST_PAGE", 3)
    page = page_of(diffed(SOURCE, CHANGED))
    assert_sound(page)
    assert "Not listed: this page is long enough" in page.text(id="p1f1")


def test_a_limit_says_what_is_left_out(diffed: Diffed) -> None:
    pair = describe(diffed(SOURCE, CHANGED), most=2)
    left = pair.functions[0].listing.left_out
    assert left > 0
    text = Page(render_page(PageOutcome("t", "changed"), [pair])).text(id="p1f1")
    assert f"{left} left out (-v lists all)" in text


def example() -> tuple[PageOutcome, PagePair]:
    """Everything that a page can show, in small."""
    rows = (
        Row("same", Line(0, "callq __fentry__", "", "a.c:1"), Line(0, "callq __fentry__", "", "a.c:1")),
        Row("changed", Line(5, "movl $1, %eax", "", ":2"), Line(5, "movl $2, %eax", "", ":2")),
        Row("removed", Line(10, "nopw", "", ""), None),
        Row("added", None, Line(10, "movq $0, %rdi", '"%s <&>"', ":3")),
    )
    same = tuple(Row("same", Line(k, "incl %eax", "", ""), Line(k, "incl %eax", "", "")) for k in (17, 19))
    changed = Listing((Stretch(False, rows, 0), Stretch(True, same, 3)), True, 9, 1, 1, 1, 3)
    single = Listing((Stretch(False, (Row("same", None, Line(0, "retq", "", "")),), 0),), False, 1, 0, 0, 0, 0)
    references = (
        ShownReference("total", "static variable", "original", 2, ShownBinding("total", "vmlinux", 3)),
        ShownReference("work", "function", "entry", 1, ShownBinding("work", "vmlinux", 0)),
        ShownReference("kfree", "symbol", "elsewhere", 1, ShownBinding("kfree", "", 0)),
        ShownReference("fresh", "function", "carried", 1, None),
    )
    part = PageFunction("work.cold", (), "part", "", ".text.unlikely.work", "", 4, 4, True, False, single)
    functions = (
        PageFunction(
            "work",
            ("alias",),
            "changed",
            "at work+0x5: `movl $1, %eax` -> `movl $2, %eax`",
            ".text.work",
            "a.c:1",
            20,
            24,
            True,
            True,
            changed,
            references,
            (("__bug_table", 2), ("__mcount_loc", 1)),
            (part,),
        ),
        PageFunction("fresh", (), "new", "in the new object only", ".text.fresh", "", 0, 1, True, False, single),
        PageFunction("bearer", (), "carrier", "unchanged, carries inner", ".text.bearer", "", 8, 8, True, True, single),
        PageFunction("start", (), "changed", "instruction removed", ".init.text", "", 8, 4, False, False, single),
    )
    fields = (FieldChange("lock", "added", None, 128, None, 4), FieldChange("next", "moved", 8, 16, 8, 8))
    refusal = Refusal(
        "init-changed", "start", ".init.text", "start changed, which runs only at start", "accept it", False
    )
    fatal = Refusal("noinstr", "idle", ".noinstr.text", "idle must not be instrumented", "change its callers")
    pair = PagePair(
        "a.o",
        "old/a.o",
        "new/a.o",
        "refused",
        "",
        functions,
        ("gone",),
        ("moved",),
        (Datum("table", ".rodata.table", 64, "64 bytes, now 72", False), Datum("seen", ".bss.seen", 4, "new", True)),
        (StructChange("struct item", 128, 136, fields),),
        (Advice.of(refusal), Advice.of(fatal)),
        (Advice.of(Refusal("struct-layout", "item", "", "it changed", "mind")),),
        (Advice.of(Refusal("data-changed", "table", "", "the value changed", "mind", False)),),
    )
    outcome = PageOutcome(
        "work",
        "refused",
        (("old", "old/a.o"), ("new", "new/a.o")),
        following=(("bespoke build old new", "Build it"),),
        bound=True,
        patches=(ShownPatch.of("fix.patch", "Of <me>\n--- a/a.c\n+++ b/a.c\n@@ -2,2 +2,2 @@\n x\n-1\n+2 & 3\n"),),
    )
    return outcome, pair


def body(text: str) -> str:
    """What the page says: without style, script and version."""
    found = re.search(r"<body>.*?(?=<script>)", text, re.DOTALL)
    assert found
    return re.sub(r"<footer>.*?</footer>\n?", "", found[0], flags=re.DOTALL)


def test_the_example_is_as_it_was() -> None:
    """A change of the page shows here; BESPOKE_GOLDEN=1 writes the example anew, to be looked at before it is kept."""
    outcome, pair = example()
    text = render_page(outcome, [pair])
    assert_sound(Page(text))
    if os.environ.get("BESPOKE_GOLDEN"):
        EXAMPLE.write_text(body(text))
    assert body(text) == EXAMPLE.read_text()


def test_a_source_patch_by_its_lines() -> None:
    patch = ShownPatch.of(
        "x", f"--- a/x\n+++ b/x\n@@ -1 +1,{MOST_LINES + 1} @@ f()\n--- y\n+++ z\n" + "+more\n" * MOST_LINES
    )
    assert [kind for kind, _ in patch.lines[:6]] == ["file", "file", "hunk", "removed", "added", "added"]
    two = ShownPatch.of("x", "--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n-a\n b\n--- a/y\n+++ b/y\n@@ -1,0 +1 @@\n+c\n")
    assert [kind for kind, _ in two.lines[3:]] == ["removed", "", "file", "file", "hunk", "added"]
    assert (len(patch.lines), patch.left_out, patch.count("removed")) == (MOST_LINES, 5, 1)


def test_an_index_of_pairs() -> None:
    outcome, pair = example()
    same = PagePair("b.o", "old/b.o", "new/b.o", "unchanged")
    bad = PagePair("c.o", "old/c.o", "new/c.o", "error", "is not an ELF file")
    page = Page(render_page(replace(outcome, unpaired=("only.o",)), [pair, same, bad]))
    assert_sound(page)
    index = page.text(cls="index")
    assert "a.o refused 2 1 init-changed start" in index
    assert "b.o unchanged 0 0" in index and "c.o error 0 0 is not an ELF file" in index
    assert {"p1", "p3", "p1f1"} <= set(page.values("id")) and "p2" not in page.values("id")
    assert "In one tree only: only.o" in page.text(tag="main")


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["net__tipc__udp_media", "net__can__isotp", "kernel__trace__blktrace", "net__rds__connection"]
)
def test_all_that_the_document_says_is_on_the_page(data: Path, name: str) -> None:
    found = diff(*pair_paths(data, name))
    document = found.as_json()
    page = page_of(found)
    assert_sound(page)
    functions = document["functions"]
    titles = page.text(tag="h4")
    everything = page.text(tag="main")
    for symbol in (*functions["changed"], *functions["new"]):
        assert symbol in titles or f"also called {symbol}" in everything, symbol
    for symbol in (*functions["removed"], *(s for row in document["children"].values() for s in row)):
        assert symbol in everything, symbol
    for row in document["refusals"]:
        assert row["message"].replace("`", "") in page.text(cls="refusal")
        assert row["code"] in page.text(cls="refusal")
    for row in document["warnings"]:
        assert row["message"].replace("`", "") in page.text(cls="warning")
    for symbol, _, _ in document["originals"]:
        assert symbol in page.text(cls="references"), symbol
    for table in document["special_entries"]:
        assert table in page.text(cls="entries"), table


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "builder", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.data
def test_the_command_writes_the_page_beside_its_output(data: Path, tmp_path: Path) -> None:
    old, new = pair_paths(data, "mm__swapfile")
    target = tmp_path / "report.html"
    ran = run("diff", old, new, "--json", "--html", target)
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    page = Page(target.read_text())
    assert_sound(page)
    assert document["functions"]["changed"][0] in page.text(tag="h4")
    assert f"bespoke build {old} {new}" in page.text(cls="next")
    again = tmp_path / "again.html"
    run("diff", old, new, "-q", "--html", again)
    assert again.read_bytes() == target.read_bytes()


@pytest.mark.data
@pytest.mark.parametrize("jobs", [1, 2])
def test_two_trees_make_one_page(data: Path, tmp_path: Path, jobs: int) -> None:
    for side, number in (("old", 0), ("new", 1)):
        for name in ("mm__swapfile", "fs__fuse__inode"):
            place = tmp_path / side / "sub"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.o").write_bytes(pair_paths(data, name)[number].read_bytes())
        (tmp_path / side / "bad.o").write_text("no object")
    target = tmp_path / "report.html"
    ran = run("diff", tmp_path / "old", tmp_path / "new", "-q", "-j", jobs, "--html", target)
    assert ran.returncode == 2
    page = Page(target.read_text())
    assert_sound(page)
    for text in ("bad.o error 0 0", "sub/mm__swapfile.o changed 1 0", "sub/fs__fuse__inode.o changed 1 0"):
        assert text in page.text(cls="index")


@pytest.mark.data
def test_a_page_that_cannot_be_written_is_said_before_anything_is_done(data: Path, tmp_path: Path) -> None:
    old, new = pair_paths(data, "mm__swapfile")
    for target, message in (
        (tmp_path / "absent" / "x.html", "there is no directory"),
        (tmp_path, "is a directory"),
        (old, "names a file that is read or written as something else"),
    ):
        ran = run("diff", old, new, "--html", target)
        assert ran.returncode == 2
        assert message in ran.stderr and "Traceback" not in ran.stderr
        assert ran.stdout == ""


@pytest.mark.data
@pytest.mark.kernel
def test_a_built_module_says_what_it_is_bound_to(data: Path, tmp_path: Path) -> None:
    with needed():
        kernel = fetch_kernel(RELEASE).image
    old, new = pair_paths(data, "net__tipc__udp_media")
    module, target = tmp_path / "fix.ko", tmp_path / "report.html"
    ran = run("build", old, new, "--kernel", kernel, "-o", module, "--json", "--html", target)
    assert ran.returncode == 0, ran.stderr
    manifest = json.loads(ran.stdout)
    page = Page(target.read_text())
    assert_sound(page)
    bound = page.text(cls="references")
    for row in manifest["bindings"]:
        if row["section"] == ".text":
            assert f"{row['symbol']} of {row['object']}, sympos {row['sympos']}" in bound
    assert "kfree symbol another file exported by the kernel" in bound
    assert f"bespoke try {module} --kernel {RELEASE}" in page.text(cls="next")
    found = bindings_in(read_object(module.read_bytes(), name="fix.ko"))
    assert ShownBinding("tipc_net_id", "tipc", 0) in found[copy_of("tipc_udp_enable")]
