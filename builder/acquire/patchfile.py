"""A source patch: read, judged file by file, applied in memory.

`read_patch` parses it into one `FileChange` for each file. `located` gives that
the name which the source tree has for the file, `judge` says whether a live
patch can carry it, and `apply_all` makes the file's new content (by `hunks`).
Nothing here writes to the tree.
"""

from __future__ import annotations

import email
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from unidiff import errors as unidiff_errors
from unidiff import patch as unidiff

from builder.acquire.bounds import read_input
from builder.acquire.hunks import Hunk, fit
from builder.errors import InputError, Refusal


@dataclass(frozen=True, slots=True)
class FileChange:
    """What a patch does to one file.

    `path` is the file's name in the tree, with `/`; of a renamed file the new one.
    `kind` is modified, added, removed, renamed, copied or binary. `hunks` stand in
    the patch's order, and `patch` is the name of the patch's file, for messages.
    """

    path: str
    kind: str
    hunks: tuple[Hunk, ...]
    patch: str


def read_patch(path: Path) -> tuple[FileChange, ...]:
    """The changes of a unified diff (as git or quilt write it), in the patch's order.

    Raises `InputError` for an unreadable or truncated patch, one without any
    change, and paths that lead out of the tree.
    """
    try:
        text = _plain(read_input(path))
        parsed = unidiff.PatchSet.from_string(text)
    except unidiff_errors.UnidiffParseError as error:
        raise InputError(f"no valid unified diff: {error}", where=path) from error
    if re.search(r"^diff --(cc|combined) ", text, re.MULTILINE):
        raise InputError("is a combined diff, of a merge: only a diff between two versions can be applied", where=path)
    # The parser passes over a hunk whose header it does not understand; a line of a hunk never begins with @.
    hunks = re.split(r"^\+\+\+ ", text, maxsplit=1, flags=re.MULTILINE)[1:]
    if sum(line.startswith("@@ ") for part in hunks for line in part.split("\n")) != sum(len(f) for f in parsed):
        raise InputError("no valid unified diff: a hunk's header (@@ ... @@) is damaged", where=path)
    changes = tuple(_change(item, path) for item in parsed)
    if not changes:
        raise InputError("holds no change (no unified diff found)", where=path)
    return changes


_ENCODED = re.compile(rb"^Content-Transfer-Encoding:[ \t]*(quoted-printable|base64)", re.IGNORECASE | re.MULTILINE)


def _plain(raw: bytes) -> str:
    """The text of a patch file, what a mail system has done to it undone."""
    # A mail saved as it was sent; `git format-patch` itself encodes no body.
    if _ENCODED.search(raw.partition(b"\n\n")[0].replace(b"\r\n", b"\n").partition(b"\n\n")[0]):
        decoded = email.message_from_bytes(raw).get_payload(decode=True)
        raw = decoded if isinstance(decoded, bytes) else raw
    text = raw.decode("utf-8", "surrogateescape")
    # No tool ends the lines between hunks by CR LF; where they all do, the whole file has been converted.
    heads = re.findall(r"^(?:--- |\+\+\+ |@@ -).*", text, re.MULTILINE)
    return text.replace("\r\n", "\n") if heads and all(line.endswith("\r") for line in heads) else text


def _unquoted(name: str) -> str:
    """The path that git wrote as `name`: one with other bytes than ASCII stands in double quotes, and these as
    octal escapes (`"caf\\303\\251.c"` for café.c, core.quotePath)."""
    if len(name) < 2 or not (name.startswith('"') and name.endswith('"')):
        return name
    plain = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), name[1:-1]).replace('\\"', '"')
    return plain.encode("latin-1", "replace").decode("utf-8", "surrogateescape")


def _change(item: unidiff.PatchedFile, patch: Path) -> FileChange:
    source, target = _unquoted(str(item.source_file)), _unquoted(str(item.target_file))
    added, removed = source == "/dev/null", target == "/dev/null"
    source, target = _strip(target if added else source, target if not removed else source)
    source, target = (str(PurePosixPath(name)) for name in (source, target))
    if not re.search(r"^(rename|copy) from ", str(item.patch_info), re.MULTILINE):
        source, target = _one_file(source, target)
    if PurePosixPath(target).is_absolute() or ".." in PurePosixPath(target).parts:
        raise InputError(f"names a path outside the tree: {target}", where=patch)
    if "\0" in source + target:
        raise InputError(f"names a path with a NUL character: {target}", where=patch)
    kind = "modified"
    for name, holds in (
        ("binary", item.is_binary_file),
        ("added", added),
        ("removed", removed),
        ("copied", source != target and "copy from " in str(item.patch_info)),
        ("renamed", source != target),
    ):
        if holds:
            kind = name
            break
    return FileChange(path=target, kind=kind, hunks=tuple(_hunk(hunk) for hunk in item), patch=patch.name)


def _strip(source: str, target: str) -> tuple[str, str]:
    """Both names without what `patch -p1` would strip: `a/fs/x.c` and `b/fs/x.c`, or `linux-6.1/fs/x.c` and
    `linux-6.1-fixed/fs/x.c`, are fs/x.c. Names that do not begin like that stay as they are."""
    (first, _, rest), (other, _, its) = source.partition("/"), target.partition("/")
    if rest and its and ((first in ("a", "b") and other in ("a", "b")) or (first != other and rest == its)):
        return rest, its
    return source, target


#: what a name ends in that somebody gave to the older or newer version of a file
_VERSION = re.compile(r"(\.(orig|old|bak|new)|~)$")


def _one_file(source: str, target: str) -> tuple[str, str]:
    """Both names alike, where the two names of a plain `diff OLD NEW` can be those of one file; else as they are.

    `fs/x.c.orig` and `fs/x.c` are fs/x.c, and so are `fs/x.c` and `fs/x.c.new`. Of `linux/fs/x.c` and `x.c` it is
    the longer one: what it begins with may be another tree's name, which `located` takes off.
    """
    old, new = source, target
    if _VERSION.sub("", old).rpartition("/")[2] == _VERSION.sub("", new).rpartition("/")[2]:
        old, new = _VERSION.sub("", old), _VERSION.sub("", new)
    for long, short in ((old, new), (new, old)):
        if f"/{long}".endswith(f"/{short}"):
            # An absolute name is of no use; where it is the longer one the other may do.
            same = short if PurePosixPath(long).is_absolute() else long
            return same, same
    return source, target


def _hunk(hunk: unidiff.Hunk) -> Hunk:
    old: list[str] = []
    new: list[str] = []
    kept: list[tuple[int, int]] = []
    last: list[list[str]] = []
    for line in hunk:
        if line.line_type == "\\":
            # "\ No newline at end of file" speaks of the line before it.
            for side in last:
                side[-1] = side[-1].removesuffix("\n")
            continue
        if line.is_context:
            kept.append((len(old), len(new)))
        last = [
            side
            for side, wanted in ((old, line.is_context or line.is_removed), (new, line.is_context or line.is_added))
            if wanted
        ]
        for side in last:
            side.append(line.value)
    return Hunk(start=hunk.source_start, old=tuple(old), new=tuple(new), kept=tuple(kept))


def apply_hunks(text: str, change: FileChange) -> str:
    """The content of the file after the change; `InputError` names every hunk that does not fit, and why."""
    fitted = fit(text, change.hunks, change.patch)
    if fitted.misfits:
        raise InputError("; ".join(fitted.misfits), where=change.path)
    return fitted.text


def located(change: FileChange, exists: Callable[[str], bool]) -> FileChange:
    """The change under the name that the tree has for its file; `exists(path)` says what the tree has.

    A patch made beside the tree names `linux-6.1/fs/x.c`. Where the tree has no `linux-6.1`, but has `fs/x.c`
    (or, for a new file, the directory `fs`), that is what is meant. Else the change stays as it is.
    """

    def is_there(path: str) -> bool:
        return exists(path) or (change.kind == "added" and exists(str(PurePosixPath(path).parent)))

    # `diff -N` names a file that is new as if it had been empty.
    was_empty = bool(change.hunks) and not any(hunk.start or hunk.old for hunk in change.hunks)
    if change.kind == "modified" and was_empty and not exists(change.path):
        change = replace(change, kind="added")
    first, _, rest = change.path.partition("/")
    while rest and not exists(first):
        if is_there(rest):
            return replace(change, path=rest)
        first, _, rest = rest.partition("/")
    return change


#: files that are no part of any object: a change to them is left out, with a warning
NO_CODE = re.compile(
    r"(Documentation|LICENSES|tools|samples|debian)/.*|scripts/(?!mod/).*|.*\.(rst|txt|md|yaml)|"
    r"(MAINTAINERS|CREDITS|COPYING|README)|(.*/)?(\.gitignore|\.mailmap|\.get_maintainer\.ignore|TODO)"
)

#: (pattern of the path, code, why it cannot be followed)
NOT_FOLLOWED: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"(.*/)?(Makefile|Kbuild)([._-].*)?|.*\.mk"),
        "patch-makefile",
        "changes how the kernel is built, which a loaded module cannot",
    ),
    (
        re.compile(r"(.*/)?Kconfig([._-].*)?|.*_defconfig|(.*/)?\.config"),
        "patch-kconfig",
        "changes the configuration, which the running kernel already has",
    ),
    (
        re.compile(r".*\.(S|s|lds|asm)"),
        "patch-assembler",
        "is assembler or a linker script, which has no functions that ftrace can redirect",
    ),
    (
        re.compile(r".*\.(rs|dts|dtsi|tbl|pl|py|awk|sh|l|y|asn1|inc|uc|tmpl|keymap)(_shipped)?|.*_shipped"),
        "patch-generated",
        "is a source that other files are generated from",
    ),
)


def refusal_row(code: str, path: str, what: str, advice: str) -> Refusal:
    """A refusal (or warning) of a change to the file `path` that can be accepted by name."""
    return Refusal(code=code, symbol=path, section="", message=f"{path} {what}", advice=advice, fatal=False)


def judge(change: FileChange) -> Refusal | None:
    """Why a live patch cannot carry this change, by the file's name and what is done to it; None where it can.

    Only changes to C files that exist, and to headers, can be carried; `NOT_FOLLOWED` are the others that have
    a reason of their own. Each refusal may be accepted, which leaves that file's change out.
    """
    path = change.path
    without = "leave the file out of the patch, or accept that its change is left out"
    for pattern, code, why in NOT_FOLLOWED:
        if pattern.fullmatch(path):
            return refusal_row(code, path, why, without)
    if change.kind != "binary" and not path.endswith((".c", ".h")):
        return refusal_row("patch-unknown-file", path, "is of a kind that no rule is known for", without)
    if change.kind == "added" and path.endswith(".c"):
        return refusal_row(
            "patch-new-file",
            path,
            "is a new file, which no object of the kernel comes from",
            "put the new functions into a file that exists, or into a header",
        )
    if change.kind in ("removed", "renamed", "copied", "binary"):
        what = {"copied": "is a copy of another file", "binary": "is a binary file"}
        return refusal_row(f"patch-{change.kind}-file", path, what.get(change.kind, f"is {change.kind}"), without)
    return None


@dataclass(frozen=True, slots=True)
class Applied:
    """The new content of every changed file, and (path, what) of each hunk that stands elsewhere than it says.

    `changes` are those that were given, their hunks where they really stand.
    """

    files: dict[str, bytes]
    changes: tuple[FileChange, ...]
    moved: tuple[tuple[str, str], ...]


def apply_all(changes: Iterable[FileChange], read: Callable[[str], bytes | None]) -> Applied:
    """`changes` one on top of the other, the first on top of `read(path)`.

    Raises `InputError` that names each file and hunk that does not fit, of all patches together.
    """
    files: dict[str, bytes] = {}
    placed: list[FileChange] = []
    moved: list[tuple[str, str]] = []
    problems: list[tuple[str, str]] = []
    for change in changes:
        path = change.path
        old = files[path] if path in files else read(path)
        if change.kind == "added" and old is not None:
            problems.append((path, f"{change.patch} adds this file, which exists"))
            continue
        if change.kind != "added" and old is None:
            problems.append((path, f"{change.patch} changes this file, which the source has not"))
            continue
        fitted = fit((old or b"").decode("utf-8", "surrogateescape"), change.hunks, change.patch)
        files[path] = fitted.text.encode("utf-8", "surrogateescape")
        placed.append(replace(change, hunks=fitted.hunks))
        moved += [(path, what) for what in fitted.moved]
        problems += [(path, what) for what in fitted.misfits]
    if problems:
        (first, what), *others = problems
        raise InputError("; ".join([what, *(f"{path}: {more}" for path, more in others)]), where=first)
    return Applied(files, tuple(placed), tuple(moved))
