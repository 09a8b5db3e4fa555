"""Which folders' makefiles compile a source file, told by the makefiles' text.

Almost always it is the makefile beside it, or one of a folder above; those can be listed alone, in a second (see
`kbuild.record_folders`). A few compile files from elsewhere: `kvm-y += ../../../virt/kvm/kvm_main.o`, or a rule for
`lib-%.o` of `$(srctree)/lib/%.c`. Every object is named by its makefile, so that such a one has the file's name in
it; where it cannot be ruled out that the file is meant, only the list of all objects tells.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from builder.acquire.tools import ended
from builder.errors import ToolError

_NAMES: Final = ("Makefile*", "Kbuild*", "*.mk")
"""What makefiles of the kernel are called, and what they include."""

_OUTSIDE: Final = ("tools", "Documentation", "scripts", "rust", ".git", ".bespoke", "debian")
"""Folders whose makefiles compile programs of the build, or nothing."""

_FAR: Final = re.compile(
    r"\.\.(?=/|\s|$)|(?:src|obj)tree\b|\bvpath\b|\bVPATH\b|^\s*[-s]?include\s|%\.c\b", re.MULTILINE
)
"""What lets a makefile reach beyond its own folder, or have parts elsewhere."""
_RULE: Final = re.compile(r"^[^\n#=]*:[^\n=]*?(\S*)%\.c\b", re.MULTILINE)
"""A rule that makes objects of many sources, which need not be called as they are; where these lie."""
_SEARCHED: Final = re.compile(r"-I\s*\S+|-include\s+\S+")
"""Options: where headers are looked for decides nothing here."""
_COMPUTED: Final = re.compile(r"\$\((?:addprefix|addsuffix|foreach|patsubst|subst|wildcard|shell|call|eval)\b")
_HERE: Final = re.compile(r"^\$[({](?:obj|src)[)}]/")
_TOP: Final = re.compile(r"^\$[({](?:abs_)?srctree[)}]/")


def makers(
    root: Path, source: str, naming: Callable[[Path, str], Sequence[str]] | None = None
) -> tuple[str, ...] | None:
    """The folders whose makefiles may compile `source` (a path in the tree at `root`), its own the first.

    None where a makefile elsewhere may compile it too. `naming(root, stem)` are the makefiles with `stem.o` or `stem.c`
    in them, by default looked for in the tree. Raises ToolError where the makefiles cannot be read.
    """
    folder, base = os.path.split(source)
    stem = os.path.splitext(base)[0]
    if not folder or not re.fullmatch(r"[\w+-]+", stem):
        return None
    found = [folder]
    for path in (naming or makefiles_naming)(root, stem):
        here, name = os.path.split(path)
        main = name == _main_name(root, here)
        if here == folder and main:
            continue
        text = _SEARCHED.sub("", _plain((root / path).read_text("utf-8", "surrogateescape")))
        above = main and folder.startswith(f"{here}/")
        for word in _words(text, stem):
            if not _may_be(word, here, text, folder, stem):
                continue
            meant = os.path.normpath(f"{here}/{_HERE.sub('', word)[:-2]}")
            if above and ("$" in meant or _COMPUTED.search(text) or meant == f"{folder}/{stem}"):
                found.append(here)
                continue
            far = not main or "$" in meant or _FAR.search(text)
            if far and (meant == f"{folder}/{stem}" or not (main and _is_own(root, meant, text))):
                return None
    return tuple(dict.fromkeys(found))


def _main_name(root: Path, folder: str) -> str:
    """Of a folder's makefiles the one that kbuild reads (scripts/Makefile.build)."""
    return "Kbuild" if (root / folder / "Kbuild").is_file() else "Makefile"


def _may_be(word: str, here: str, text: str, folder: str, stem: str) -> bool:
    """Whether a word of a makefile can stand for the source: by its end, or by a rule for sources of that folder."""
    tail = re.sub(r"^.*(?:[)}]|\.\.)/", "", word)[:-2]
    if f"/{folder}/{stem}".endswith(f"/{tail}"):
        return True
    for before in _RULE.findall(text):
        place = _TOP.sub("", before) if _TOP.match(before) else f"{here}/{_HERE.sub('', before)}"
        if "$" in place or os.path.normpath(os.path.dirname(place)) == folder:
            return True
    return False


def _is_own(root: Path, meant: str, text: str) -> bool:
    """Whether a makefile has a source of its own by that name, or an object of several."""
    if any((root / f"{meant}{end}").is_file() for end in (".c", ".S", ".rs")):
        return True
    name = re.escape(os.path.basename(meant))
    return re.search(rf"^\s*{name}-(?:y|m|objs|\$[({{]\w+[)}}])\s*[:+?]?=", text, re.MULTILINE) is not None


def _words(text: str, stem: str) -> list[str]:
    """The words that end as the object or the source is called; no variables of an object (`CFLAGS_x.o =`)."""
    pattern = rf"([^\s:=;,'\"|&<>]*{re.escape(stem)}\.[oc])(?![\w.])(?!\s*[:+?]?=)"
    return list(dict.fromkeys(re.findall(pattern, text)))


def _plain(text: str) -> str:
    """Without comments, continued lines as one."""
    return re.sub(r"#.*", "", re.sub(r"\\\n", " ", text))


def makefiles_naming(root: Path, stem: str) -> list[str]:
    """The makefiles that have `stem.o` or `stem.c` in them, architectures of other machines left out."""
    machines = sorted({path.parent.parent.name for path in root.glob("arch/*/include/generated")})
    argv = ["grep", "-rlZF", "-e", f"{stem}.o", "-e", f"{stem}.c", *(f"--include={name}" for name in _NAMES)]
    argv += [f"--exclude-dir={name}" for name in _OUTSIDE]
    out = (*_OUTSIDE, "arch") if machines else _OUTSIDE
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name not in out)
    folders += [f"arch/{name}" for name in machines]
    found = ended([*argv, "--", *folders], cwd=root)
    if found.status not in (0, 1):
        raise ToolError(f"grep failed: {found.err.decode(errors='replace').strip()}", where=root)
    return sorted(os.fsdecode(name) for name in found.out.split(b"\0") if name)
