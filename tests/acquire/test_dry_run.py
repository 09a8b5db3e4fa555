"""What makes say that list objects: several at once lose nothing, and one that cannot be made hides no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.kbuild import VMLINUX, ListedObjects, record, record_folders
from builder.errors import ToolError
from tests.conftest import need

FOLDERS = 24
EACH = 12
#: longer than what a make writes at once
LONG = " ".join(f"-DOPTION_{number}" for number in range(600))


def compiled(name: str, more: str = "") -> str:
    folder, _, base = name.rpartition("/")
    options = f"{LONG} {more} -DKBUILD_BASENAME='\"{base}\"' -DKBUILD_MODNAME='\"{base}\"'"
    return f"\tset -e; gcc -Wp,-MMD,{folder}/.{base}.o.d {options} -c -o {name}.o {name}.c\n"


def archived(folder: str, bases: list[str]) -> str:
    listed = " ".join(f"{base}.o" for base in bases)
    return f'\tset -e; printf "{folder}/%s " {listed} | xargs ar cDPrST {folder}/built-in.a\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree whose makefile calls one make for each folder, as kbuild does."""
    need("make")
    root = tmp_path / "tree"
    root.mkdir()
    goals = [f"part{number}" for number in range(FOLDERS)]
    calls = "".join(f"{goal}:\n\t$(MAKE) -f {goal}.mk\n" for goal in goals)
    (root / "Makefile").write_text(f".PHONY: ./ {' '.join(goals)}\n./: {' '.join(goals)}\n{calls}")
    for goal in goals:
        bases = [f"file{number}" for number in range(EACH)]
        rows = "".join(compiled(f"{goal}/{base}") for base in bases)
        (root / f"{goal}.mk").write_text(f"all:\n{rows}{archived(goal, bases)}")
    return root


def listed(root: Path, work: Path, jobs: int) -> ListedObjects:
    work.mkdir()
    assert record(root, ["make", "--no-print-directory", f"-j{jobs}"], work / "objects.db") == FOLDERS * EACH
    return ListedObjects(work / "objects.db")


def test_makes_that_run_at_once_lose_no_line(root: Path, tmp_path: Path) -> None:
    one, many = (listed(root, tmp_path / f"with spaces {jobs}", jobs).all() for jobs in (1, 8))
    assert one == many and all(command.owners == (VMLINUX,) for command in many)
    assert {word for command in many for word in command.words} >= set(LONG.split())


def test_an_object_from_rust_hides_no_folder_around_it(root: Path, tmp_path: Path) -> None:
    """As `scripts/Makefile.build` of 7.2 has it: the recipe is run by make in a dry run, too."""
    makefile = root / "part3.mk"
    rust = "define rule_rustc_o_rs\n\tfalse\nendef\npart3/code.o:\n\t+$(rule_rustc_o_rs)\n"
    makefile.write_text(makefile.read_text().replace("all:", "all: part3/code.o") + rust)
    commands = listed(root, tmp_path / "work", 2).all()
    assert [command.object for command in commands if command.owners != (VMLINUX,)] == []


@pytest.mark.parametrize(
    ("lacks", "told"),
    [("part3/image.o", ["part3/image.o"]), ("rust/core.o: scripts/target.json\nall: rust/core.o", [])],
)
def test_what_make_has_no_rule_for_is_told(root: Path, tmp_path: Path, lacks: str, told: list[str]) -> None:
    """Nothing is said of the objects beside it; what only the compiler of Rust makes is beside none of C."""
    assert listed(root, tmp_path / "whole", 2).lacking == []
    makefile = root / "part3.mk"
    makefile.write_text(makefile.read_text().replace("all:", f"all: {lacks}\nall:", 1))
    assert record(root, ["make", "--no-print-directory"], tmp_path / "objects.db") == (FOLDERS - 1) * EACH
    assert ListedObjects(tmp_path / "objects.db").lacking == told


def test_a_disk_that_is_full_is_no_short_list(root: Path, tmp_path: Path) -> None:
    makefile = root / "part5.mk"
    makefile.write_text(makefile.read_text() + "$(shell echo 'make: write error: stdout' >&2)\n")
    with pytest.raises(ToolError, match="cannot be written"):
        record(root, ["make"], tmp_path / "objects.db")


#: a module of several objects, as `record_folders` looks for it
LINKED = "\tset -e; ld -m elf_x86_64 -r -o net/8021q/8021q.o @net/8021q/8021q.mod ; {objtool}printf x\n"
OBJTOOL = "./tools/objtool/objtool --orc --module net/8021q/8021q.o; "


@pytest.mark.parametrize(("objtool", "options"), [("", ()), (OBJTOOL, ("--orc", "--module"))])
def test_a_folder_alone_has_the_options_of_objtool(tmp_path: Path, objtool: str, options: tuple[str, ...]) -> None:
    need("make")
    module = compiled("net/8021q/8021q", "-DMODULE") + LINKED.format(objtool=objtool)
    (tmp_path / "Makefile").write_text(
        f".PHONY: fs/ net/8021q/\nfs/:\n{compiled('fs/open')}{archived('fs', ['open'])}\nnet/8021q/:\n{module}"
    )
    record_folders(tmp_path, ["make"], {"fs": tmp_path / "fs.db"})
    command = ListedObjects(tmp_path / "fs.db").of_object("fs/open.o")
    assert command.objtool == options and command.owners == (VMLINUX,)


def test_a_folder_alone_without_a_linked_module_tells_nothing(tmp_path: Path) -> None:
    """How objtool is run is not known then: all objects have to be listed."""
    need("make")
    (tmp_path / "Makefile").write_text(f".PHONY: fs/\nfs/:\n{compiled('fs/open')}{archived('fs', ['open'])}")
    record_folders(tmp_path, ["make"], {"fs": tmp_path / "fs.db"})
    assert ListedObjects(tmp_path / "fs.db").all() == []
