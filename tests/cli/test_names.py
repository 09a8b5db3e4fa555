"""Names that nobody should choose, through every command and every format."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from builder.binary import ObjectFile, elf, read_object
from builder.binary.module import read_modinfo
from builder.binary.writer import write_object
from builder.cli import COMMANDS, run
from builder.report.spelled import spelled
from tests.conftest import ROOT, needed
from tests.report.conftest import Page
from tests.support.compiling import TRACED, Build, builder
from tests.support.kernels import opened
from tests.support.names import HOSTILE, OBEYED

SOURCE = """
static int counter;
extern int outside(int);
int work(int x) { counter += VALUE; return outside(x + counter) + VALUE; }
int gone(int x);
#if VALUE == 1
int gone(int x) { return outside(x); }
#else
int fresh(int x) { return outside(x + 7); }
#endif
__attribute__((section(".init.text"), noinline)) int start(int x) { return x + VALUE; }
"""


@dataclass(frozen=True)
class Said:
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Say = Callable[..., Said]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command line in this process; whatever it prints is fit for a terminal, and is UTF-8."""

    def said(*words: object) -> Said:
        status = run([str(word) for word in words])
        out, err = capsys.readouterr()
        for stream in (out, err):
            assert not OBEYED.search(stream), stream
            stream.encode()
        assert "Traceback" not in err and "defect" not in err, err
        return Said(status, out, err)

    return said


@pytest.fixture(scope="module")
def plain(gcc: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[ObjectFile, ObjectFile]:
    """An old and a new object with names as they should be."""
    build: Build = builder(gcc, tmp_path_factory.mktemp("units"), TRACED)
    return build(SOURCE, "-DVALUE=1"), build(SOURCE, "-DVALUE=2")


def renamed(obj: ObjectFile, name: str) -> bytes:
    """The object with functions, variables, a source file and sections of that name."""
    kept = {"", "__fentry__"}
    symbols = [s if s.name in kept or s.is_section else s._replace(name=_changed(s.name, name)) for s in obj.symbols]
    sections = [s._replace(name=f"{s.name}{name}") if s.name == ".text.work" else s for s in obj.sections]
    return write_object(replace(obj, symbols=tuple(symbols), sections=tuple(sections)))


def _changed(old: str, name: str) -> str:
    return name if old == "work" else f"{old}{name}"


@dataclass(frozen=True)
class Pair:
    old: Path
    new: Path
    name: str


@pytest.fixture
def hostile(plain: tuple[ObjectFile, ObjectFile], tmp_path: Path, request: pytest.FixtureRequest) -> Pair:
    """Both objects with the hostile name in them, and in their paths as far as a file can have it."""
    name: str = request.param
    paths = []
    for side, obj in zip(("old", "new"), plain, strict=True):
        folder = tmp_path / side
        folder.mkdir()
        paths.append(Path(os.fsdecode(os.fsencode(folder) + b"/" + _file_name(name))))
        paths[-1].write_bytes(renamed(obj, name))
    return Pair(paths[0], paths[1], name)


def _file_name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape").replace(b"/", b"_") + b".o"


every = pytest.mark.parametrize("hostile", HOSTILE, indirect=True, ids=ascii)


@every
def test_a_diff_in_every_format(say: Say, hostile: Pair, tmp_path: Path) -> None:
    name, page = hostile.name, tmp_path / "page.html"
    document = say("diff", f"{hostile.old}", f"{hostile.new}", "--json", "--html", page).document
    functions = document["functions"]
    assert name in functions["changed"] and f"fresh{name}" in functions["new"] and f"gone{name}" in functions["removed"]
    assert (document["old"], document["new"]) == (str(hostile.old), str(hostile.new))
    shown = say("diff", hostile.old, hostile.new, "-v")
    assert (
        f"  changed  {spelled(name)}".rstrip() in shown.out
        and f"refused: init-changed: start{spelled(name)} changed" in shown.out
    )
    text = page.read_text("utf-8")
    assert not OBEYED.search(text)
    read = Page(text)
    assert read.broken == [] and _foreign(read) == []
    allowed = say("diff", hostile.old, hostile.new, "--json", "--allow", f"init-changed:start{name}").document
    assert "init-changed" not in [row["code"] for row in allowed["refusals"]]


@every
def test_two_trees(say: Say, hostile: Pair, tmp_path: Path) -> None:
    (tmp_path / "old" / f"only{hostile.old.name}").write_bytes(b"no object")
    bad = tmp_path / "new" / f"bad{hostile.old.name}"
    for side in ("old", "new"):
        (tmp_path / side / bad.name).write_bytes(b"no object")
    words = ("diff", tmp_path / "old", tmp_path / "new")
    document = say(*words, "--json").document
    rows = {row["path"]: row for row in document["pairs"]}
    assert set(rows) == {hostile.old.name, bad.name} and document["unpaired"] == [f"only{hostile.old.name}"]
    assert hostile.name in rows[hostile.old.name]["functions"]["changed"] and rows[bad.name]["verdict"] == "error"
    shown = say(*words, "-v", "--html", tmp_path / "page.html")
    assert spelled(bad.name) in shown.out and spelled(hostile.name) in shown.out
    assert not OBEYED.search((tmp_path / "page.html").read_text("utf-8"))


def test_the_page_in_a_browser(say: Say, plain: tuple[ObjectFile, ObjectFile], browser: str, tmp_path: Path) -> None:
    """All names on one page: a browser finds no element and no script in it but the page's own, and runs none."""
    for count, name in enumerate(HOSTILE):
        for side, obj in zip(("old", "new"), plain, strict=True):
            path = Path(os.fsdecode(os.fsencode(tmp_path / side / str(count)) + b"/" + _file_name(name)))
            path.parent.mkdir(parents=True)
            path.write_bytes(renamed(obj, name))
    page = tmp_path / "page.html"
    say("diff", tmp_path / "old", tmp_path / "new", "--html", page)
    seen = _seen(browser, page)
    assert _foreign(seen) == []
    shown = seen.text(tag="body")
    assert [name for name in HOSTILE if " ".join(spelled(name, whole=True).split()) not in shown] == []

    # the check sees what a page lets through
    for name in ("<script>document.body.append(1)</script>", "<img src=x onerror=alert(1)>", "<style>p{}</style>"):
        page.write_text(page.read_text("utf-8").replace("<body>", f"<body>{name}", 1), "utf-8")
        assert _foreign(_seen(browser, page))


def _seen(browser: str, page: Path) -> Page:
    """The document that a browser made of a page, its scripts run."""
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={page.parent / 'profile'}",
    ]
    command += ["--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    return Page(done.stdout.decode())


def _foreign(seen: Page) -> list[str]:
    """What is no part of a page of one script and one style, whose links all lead into itself."""
    found = [tag for tag in ("script", "style", "h1", "title") if seen.count(tag) != 1]
    found += [tag for tag, _ in seen.tags if tag in ("img", "iframe", "object", "embed", "svg")]
    found += [key for _, attributes in seen.tags for key in attributes if key.startswith("on")]
    return found + [link for link in seen.values("href") if not link.startswith("#")]


@every
@pytest.mark.kernel
def test_a_build_that_is_refused_and_a_check(say: Say, hostile: Pair, tmp_path: Path, release_61: str) -> None:
    with needed():
        image = opened(release_61).path
    page, out = tmp_path / "page.html", tmp_path / "fix.ko"
    words = (
        "build",
        hostile.old,
        hostile.new,
        "--kernel",
        image,
        "-o",
        out,
        "--allow",
        f"init-changed:start{hostile.name}",
    )
    ran = say(*words, "--json", "--html", page)
    assert ran.status == 1 and not out.exists()
    assert hostile.name in ran.document["functions"]["changed"] and not OBEYED.search(page.read_text("utf-8"))
    assert say(*words).err.startswith("bespoke: refused: ")
    assert say("check", hostile.new, "--kernel", image).status != 0


@every
def test_what_a_module_says_of_itself(hostile: Pair, plain: tuple[ObjectFile, ObjectFile]) -> None:
    """Its .modinfo comes back as it is; through a newly written file too."""
    raw = hostile.name.encode("utf-8", "surrogateescape")
    texts = (
        plain[0]
        .sections[-1]
        ._replace(name=".modinfo", type=elf.SHT_PROGBITS, data=b"name=" + raw + b"\0depends=" + raw)
    )
    modinfo = read_modinfo(replace(plain[0], sections=(*plain[0].sections[:-1], texts)))
    assert modinfo == {"name": (hostile.name,), "depends": (hostile.name,)}
    assert hostile.name in {symbol.name for symbol in read_object(hostile.old).symbols}


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_argument_that_leads_nowhere(say: Say, command: str, name: str, tmp_path: Path) -> None:
    """Each command names what it was given in one line of its error."""
    path, kernel = tmp_path / f"nothing{name}", tmp_path / f"kernel{name}"
    words: tuple[object, ...] = {
        "diff": (path, path),
        "build": (path, path, "--kernel", kernel, "-o", tmp_path / "out.ko"),
        "patch": (path, "--kernel", kernel, "-o", tmp_path / "out.ko"),
        "fleet": (path, "--kernels", kernel, "-o", tmp_path / "out"),
        "mark": ("vfs_read", "--kernel", kernel, "-o", tmp_path / "out.ko"),
        "watch": (f"x{name}",),
        "check": (path, "--kernel", kernel),
        "inspect": (path, path),
        "package": (path, "--dir", "-o", tmp_path / "out"),
        "completion": (f"x{name}",),
        "explain": (f"x{name}",),
        "cache": ("--prune", f"x{name}"),
        "kernels": (f"x{name}",),
        "fidelity": ("--kernel", kernel, path),
        "try": (path, "--kernel", kernel),
        "load": (path, "--timeout", name),
        "unload": (f"x{name}", "--timeout", name),
        "status": ("--timeout", name),
        "probe": (f"x{name}", f"--{name}"),
    }[command]
    ran = say(command, *words)
    assert ran.status in (1, 2) and ran.out == ""
    assert len([row for row in ran.err.splitlines() if row.startswith("bespoke: ") or " error: " in row]) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_nul_is_a_clean_error(say: Say, command: str) -> None:
    ran = say(command, "a\0b", "c\0d")
    assert ran.status == 2 and ran.out == ""
    assert "NUL" in ran.err or " error: " in ran.err


def test_a_patch_that_names_such_paths(say: Say, tmp_path: Path) -> None:
    """Its text is another's too: what is wrong with it is told in one line."""
    for name in (*HOSTILE, "a\0b"):
        text = f"--- a/fs/{name}.c\n+++ b/fs/{name}.c\n@@ -1,2 +1,2 @@\n a{name}\n-b\n+c{name}\n"
        (tmp_path / "x.patch").write_bytes(text.encode("utf-8", "surrogateescape"))
        ran = say("diff", tmp_path / "old.o", tmp_path / "new.o", "--source-diff", tmp_path / "x.patch")
        assert ran.status == 2 and ran.err.count("bespoke: ") >= 1 and len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("more", [{}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_process_in_a_locale_that_is_not_utf_8(more: dict[str, str]) -> None:
    """Its arguments are bytes, and its streams its own."""
    command = [sys.executable.encode(), b"-m", b"builder", b"diff", b"/no\xff\x1b[31m\xe4\xb8\x96", b"x"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 2 and done.stdout == b""
    assert re.fullmatch(rb"bespoke: /no[^\x00-\x1f]+: cannot be read: No such file or directory\n", done.stderr)
