"""Reading patches of every common form, and applying them exactly or not at all."""

from __future__ import annotations

import difflib
import quopri
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.acquire.patchfile import apply_all, apply_hunks, judge, located, read_patch
from builder.errors import InputError

OLD = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n"
NEW = "one\ntwo\nthree\nFOUR\nfive\nsix\nseven\n"
BODY = "@@ -2,5 +2,5 @@\n two\n three\n-four\n+FOUR\n five\n six\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fix.patch"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


HEADERS = {
    "git": "diff --git a/fs/x.c b/fs/x.c\nindex 1..2 100644\n--- a/fs/x.c\n+++ b/fs/x.c\n",
    "no prefix": "--- fs/x.c\n+++ fs/x.c\n",
    "two trees": "--- linux-6.1.orig/fs/x.c\t2026-01-01 00:00:00\n+++ linux-6.1/fs/x.c\t2026-01-02 00:00:00\n",
    "quilt": "Index: b/fs/x.c\n===================================\n--- a/fs/x.c\n+++ b/fs/x.c\n",
    "mail": "From: A <a@b>\nSubject: [PATCH] x\n\ntext\n---\n fs/x.c | 2 +-\n\n--- a/fs/x.c\n+++ b/fs/x.c\n",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_every_form_names_the_same_file(tmp_path: Path, header: str) -> None:
    (change,) = read_patch(written(tmp_path, header + BODY))
    assert (change.path, change.kind) == ("fs/x.c", "modified")
    assert apply_hunks(OLD, change) == NEW


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("--- /dev/null\n+++ b/fs/n.c\n@@ -0,0 +1 @@\n+x\n", "added"),
        ("--- a/fs/n.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n", "removed"),
        (
            "diff --git a/fs/o.c b/fs/n.c\nsimilarity index 90%\nrename from fs/o.c\nrename to fs/n.c\n"
            "--- a/fs/o.c\n+++ b/fs/n.c\n@@ -1 +1 @@\n-x\n+y\n",
            "renamed",
        ),
    ],
)
def test_kinds(tmp_path: Path, header: str, kind: str) -> None:
    (change,) = read_patch(written(tmp_path, header))
    assert (change.path, change.kind) == ("fs/n.c", kind)


def one(tmp_path: Path, body: str) -> str:
    (change,) = read_patch(written(tmp_path, f"--- a/x.c\n+++ b/x.c\n{body}"))
    return apply_hunks(OLD, change)


def test_a_moved_hunk_applies_where_it_fits(tmp_path: Path) -> None:
    assert one(tmp_path, BODY.replace("-2,5 +2,5", "-90,5 +90,5")) == NEW


def test_a_hunk_that_does_not_fit_is_named(tmp_path: Path) -> None:
    why = r'line 3 is "three", the patch has "THREE"'
    with pytest.raises(InputError, match=rf"x\.c: hunk 1 of 1 of fix\.patch does not fit \(line 2\): {why}$"):
        one(tmp_path, BODY.replace(" three", " THREE"))


FIRST = "@@ -1,2 +1,3 @@\n-one\n+1\n+1b\n two\n"


@pytest.mark.parametrize(
    ("text", "body", "says"),
    [
        (
            "one\n\ttwo\nthree\n",
            " one\n-    two\n+2\n three\n",
            r'line 2 is "\\ttwo", the patch has "    two"; .*white',
        ),
        ("one\ntwo \nthree\n", " one\n-two\n+2\n three\n", 'line 2 is "two ", the patch has "two"; .*white space only'),
        ("one\ntwo\n", " one\n-two\n+2\n three\n", 'line 3 is the end of the file, the patch has "three"$'),
        ("x\ny\nz\nq\none\ntwo\nTHREE\n", " one\n-two\n+2\n three\n", 'line 7 is "THREE", the patch has "three"$'),
        ("a\nb\nc\n", " one\n-two\n+2\n three\n", "no line of it is there$"),
    ],
)
def test_why_a_hunk_does_not_fit(tmp_path: Path, text: str, body: str, says: str) -> None:
    (change,) = read_patch(written(tmp_path, f"--- a/x.c\n+++ b/x.c\n@@ -1,3 +1,3 @@\n{body}"))
    with pytest.raises(InputError, match=says):
        apply_hunks(text, change)


def test_lines_are_those_of_the_tree_behind_a_hunk_that_fits(tmp_path: Path) -> None:
    """The first hunk makes the text longer, which the reader of the message does not see."""
    (change,) = read_patch(written(tmp_path, f"--- a/x.c\n+++ b/x.c\n{FIRST}@@ -5,2 +6,2 @@\n-five\n+5\n SIX\n"))
    with pytest.raises(InputError, match=r'hunk 2 of 2 .*\(line 5\): line 6 is "six", the patch has "SIX"$'):
        apply_hunks(OLD, change)


def test_all_that_does_not_fit_is_told_together(tmp_path: Path) -> None:
    first = f"--- a/x.c\n+++ b/x.c\n{BODY.replace(' two', ' TWO')}@@ -7 +7 @@\n-SEVEN\n+7\n"
    changes = read_patch(written(tmp_path, f"{first}--- a/y.c\n+++ b/y.c\n{BODY}--- a/z.c\n+++ b/z.c\n{BODY}"))
    texts = {"x.c": OLD.encode(), "y.c": b"one\n"}
    with pytest.raises(InputError) as caught:
        apply_all(changes, texts.get)
    said = str(caught.value)
    assert said.startswith("x.c: hunk 1 of 2 of fix.patch does not fit") and "; x.c: hunk 2 of 2" in said
    assert "; y.c: hunk 1 of 1" in said and "z.c: fix.patch changes this file, which the source has not" in said


def test_an_offset_is_told(tmp_path: Path) -> None:
    (change,) = read_patch(written(tmp_path, f"--- a/x.c\n+++ b/x.c\n{FIRST}@@ -4,2 +5,2 @@\n-six\n+6\n seven\n"))
    applied = apply_all([change], lambda name: OLD.encode())
    assert applied.moved == (("x.c", "hunk 2 of 2 of fix.patch, made for line 4, applies 2 lines further down"),)
    assert apply_all([replace(change, hunks=change.hunks[:1])], lambda name: OLD.encode()).moved == ()


def test_an_applied_patch_is_recognised(tmp_path: Path) -> None:
    (change,) = read_patch(written(tmp_path, f"--- a/x.c\n+++ b/x.c\n{BODY}"))
    with pytest.raises(InputError, match="applied already"):
        apply_hunks(NEW, change)


def test_two_equally_near_places_are_no_place(tmp_path: Path) -> None:
    (change,) = read_patch(written(tmp_path, "--- a/x\n+++ b/x\n@@ -3,1 +3,1 @@\n-a\n+b\n"))
    assert apply_hunks("x\na\nx\nx\nx\n", change) == "x\nb\nx\nx\nx\n"
    with pytest.raises(InputError, match="does not fit"):
        apply_hunks("x\na\nx\na\nx\n", change)


def test_line_ends_of_every_kind_survive(tmp_path: Path) -> None:
    text = "a\r\nb\x0c\nc\x1d d\ne\u2028f\nlast"
    patch = (
        "--- a/x\n+++ b/x\n@@ -1,5 +1,5 @@\n a\r\n-b\x0c\n+B\x0c\n c\x1d d\n e\u2028f\n-last\n"
        "\\ No newline at end of file\n+end\n\\ No newline at end of file\n"
    )
    (change,) = read_patch(written(tmp_path, patch))
    assert apply_hunks(text, change) == text.replace("b\x0c", "B\x0c").replace("last", "end")


def test_bytes_that_are_no_utf8_survive(tmp_path: Path) -> None:
    path = tmp_path / "fix.patch"
    path.write_bytes(b"--- a/x.c\n+++ b/x.c\n@@ -1,2 +1,2 @@\n /* caf\xe9 */\n-a\n+b\xff\n")
    result = apply_all(read_patch(path), lambda name: b"/* caf\xe9 */\na\n")
    assert result.files == {"x.c": b"/* caf\xe9 */\nb\xff\n"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing here\n",
        "--- a/x\n+++ b/x\n@@ -1,9 +1,9 @@\n a\n",
        "--- a/x\n+++ b/x\n@@ what @@\n a\n",
        "--- a/../../etc/x\n+++ b/../../etc/x\n@@ -1 +1 @@\n-a\n+b\n",
        "--- /etc/x.c\n+++ /etc/x.c\n@@ -1 +1 @@\n-a\n+b\n",
    ],
)
def test_what_is_no_patch_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError):
        read_patch(written(tmp_path, text))


def test_an_unreadable_patch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fix\.patch.*cannot be read"):
        read_patch(tmp_path / "fix.patch")


def test_files_that_should_or_should_not_exist(tmp_path: Path) -> None:
    add = read_patch(written(tmp_path, "--- /dev/null\n+++ b/n.h\n@@ -0,0 +1 @@\n+x\n"))
    assert apply_all(add, lambda name: None).files == {"n.h": b"x\n"}
    with pytest.raises(InputError, match="exists"):
        apply_all(add, lambda name: b"")
    change = read_patch(written(tmp_path, f"--- a/x.c\n+++ b/x.c\n{BODY}"))
    with pytest.raises(InputError, match="source has not"):
        apply_all(change, lambda name: None)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("fs/ext4/Makefile", "patch-makefile"),
        ("scripts/mod/Makefile", "patch-makefile"),
        ("Kbuild", "patch-makefile"),
        ("arch/x86/Kconfig.debug", "patch-kconfig"),
        ("kernel/vmlinux.lds.S", "patch-assembler"),
        ("arch/x86/entry/syscalls/syscall_64.tbl", "patch-generated"),
        ("rust/x.rs", "patch-generated"),
        ("fs/foo.bin", "patch-unknown-file"),
    ],
)
def test_what_cannot_be_followed(tmp_path: Path, path: str, code: str) -> None:
    (change,) = read_patch(written(tmp_path, f"--- a/{path}\n+++ b/{path}\n{BODY}"))
    refusal = judge(change)
    assert refusal is not None and (refusal.code, refusal.symbol) == (code, path)
    assert path in refusal.message and refusal.advice and not refusal.fatal


def test_line_ends_that_a_mail_system_converted(tmp_path: Path) -> None:
    (change,) = read_patch(written(tmp_path, f"--- a/x.c\n+++ b/x.c\n{BODY}".replace("\n", "\r\n")))
    assert change.path == "x.c" and apply_hunks(OLD, change) == NEW


def test_line_ends_of_the_file_itself_stay(tmp_path: Path) -> None:
    body = "".join(f"{line}\r\n" if line[0] in " +-" else f"{line}\n" for line in BODY.splitlines())
    (change,) = read_patch(written(tmp_path, f"--- a/x.c\n+++ b/x.c\n{body}"))
    assert apply_hunks(OLD.replace("\n", "\r\n"), change) == NEW.replace("\n", "\r\n")


def test_a_mail_that_is_encoded(tmp_path: Path) -> None:
    head = "From: A <a@b>\nSubject: x\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n"
    text = f"Gr\u00fc\u00dfe = \u2026\n---\n--- a/x.c\n+++ b/x.c\n{BODY}"
    path = tmp_path / "mail.patch"
    path.write_bytes(head.encode() + quopri.encodestring(text.encode()))
    (change,) = read_patch(path)
    assert apply_hunks(OLD, change) == NEW


def test_a_message_may_quote_what_looks_like_a_hunk(tmp_path: Path) -> None:
    (change,) = read_patch(written(tmp_path, f"[PATCH] x\n\n@@ expression e; @@\n\n--- a/x.c\n+++ b/x.c\n{BODY}"))
    assert apply_hunks(OLD, change) == NEW
    with pytest.raises(InputError, match="is damaged"):
        read_patch(written(tmp_path, f"--- a/x.c\n+++ b/x.c\n{BODY}@@ damaged @@\n"))


@pytest.mark.parametrize(
    ("old", "new", "path", "kind"),
    [
        ("fs/x.c.orig", "fs/x.c", "fs/x.c", "modified"),
        ("./fs/x.c", "./fs/x.c", "fs/x.c", "modified"),
        ("i/fs/x.c", "w/fs/x.c", "fs/x.c", "modified"),
        ('"a/fs/\\303\\266.c"', '"b/fs/\\303\\266.c"', "fs/\u00f6.c", "modified"),
        ("a/fs/x.c", "b/fs/y.c", "fs/y.c", "renamed"),
        ("fs/x.c", "fs/x.c.new", "fs/x.c", "modified"),
        ("fs/x.c.bak", "fs/x.c", "fs/x.c", "modified"),
        ("fs/x.c~", "fs/x.c", "fs/x.c", "modified"),
        ("fs/x.c.orig", "fs/x.c.new", "fs/x.c", "modified"),
        ("linux/fs/x.c", "x.c", "linux/fs/x.c", "modified"),
        ("x.c", "linux/fs/x.c", "linux/fs/x.c", "modified"),
        ("linux/fs/x.c", "fs/x.c", "linux/fs/x.c", "modified"),
        ("linux/fs/x.c.orig", "x.c", "linux/fs/x.c", "modified"),
        ("/tmp/fs/x.c", "fs/x.c", "fs/x.c", "modified"),
        ("fs/x.c", "fs/xx.c", "fs/xx.c", "renamed"),
        ("fs/x.h", "fs/x.h.in", "fs/x.h.in", "renamed"),
    ],
)
def test_names_of_files(tmp_path: Path, old: str, new: str, path: str, kind: str) -> None:
    (change,) = read_patch(written(tmp_path, f"--- {old}\n+++ {new}\n{BODY}"))
    assert (change.path, change.kind) == (path, kind)


def test_a_combined_diff_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="combined diff"):
        read_patch(written(tmp_path, "diff --cc x.c\n--- a/x.c\n+++ b/x.c\n@@@ -1,1 -1,1 +1,2 @@@\n  a\n++b\n"))


def test_the_name_of_another_tree_is_left_out_of_a_path(tmp_path: Path) -> None:
    (change,) = read_patch(written(tmp_path, f"--- linux/fs/x.c\n+++ linux/fs/x.c\n{BODY}"))
    assert change.path == "linux/fs/x.c"
    assert located(change, {"fs", "fs/x.c"}.__contains__).path == "fs/x.c"
    assert located(change, {"linux", "fs", "fs/x.c"}.__contains__).path == "linux/fs/x.c"
    assert located(change, {"fs"}.__contains__).path == "linux/fs/x.c"
    assert located(replace(change, path="old/linux/fs/x.c"), {"fs", "fs/x.c"}.__contains__).path == "fs/x.c"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            "diff --git a/fs/x.bin b/fs/x.bin\nindex 1..2 100644\nGIT binary patch\nliteral 0\nHcmV?d00001\n",
            "patch-binary-file",
        ),
        (
            "diff --git a/fs/x.c b/fs/y.c\nsimilarity index 100%\ncopy from fs/x.c\ncopy to fs/y.c\n",
            "patch-copied-file",
        ),
        (
            "diff --git a/fs/x.c b/fs/y.c\nsimilarity index 100%\nrename from fs/x.c\nrename to fs/y.c\n-- \n2.39\n",
            "patch-renamed-file",
        ),
    ],
)
def test_what_git_says_without_a_hunk_is_refused_by_name(tmp_path: Path, text: str, code: str) -> None:
    (change,) = read_patch(written(tmp_path, text))
    refusal = judge(change)
    assert refusal is not None and (refusal.code, refusal.symbol) == (code, change.path)


LINES = st.lists(st.sampled_from(["a", "b", "c", "{", "}", ""]), max_size=30)


@given(LINES, LINES, st.integers(0, 4))
def test_any_difference_applies(old: list[str], new: list[str], context: int) -> None:
    """What difflib makes of two texts, read and applied, gives the second from the first."""
    before, after = ("".join(f"{line}\n" for line in lines) for lines in (old, new))
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), "a/x.c", "b/x.c", n=context
    )
    text = "".join(lines)
    if not text:
        return
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".patch") as handle:
        handle.write(text)
        handle.flush()
        (change,) = read_patch(Path(handle.name))
    assert apply_hunks(before, change) == after


def test_thousands_of_hunks_that_do_not_fit_are_all_told_and_not_all_explained(tmp_path: Path) -> None:
    """Each is looked for in the whole file: 1,200 of them took half a minute."""
    hunks = "".join(f"@@ -{i},1 +{i},1 @@\n-absent\n+x\n" for i in range(1, 1001))
    (change,) = read_patch(written(tmp_path, HEADERS["git"] + hunks))
    with pytest.raises(InputError) as caught:
        apply_hunks("there\n" * 1000, change)
    said = str(caught.value)
    assert said.count("does not fit") == 1000 and 0 < said.count("no line of it is there") <= 100
