"""The small modules of the test data that once went wrong, and what is right for each.

Compiled by kbuild against the distribution's headers, both versions in one
directory; the old module is what runs. Here nothing is loaded: what a guest
shows of such changes stands in tests/guest and tests/samples.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.acquire.cache import published
from builder.acquire.packages import fetch_headers
from builder.acquire.tools import run as run_tool
from builder.binary import elf
from builder.binary.module import ModuleFile
from builder.cli import run
from builder.compose.owner import Objects
from builder.errors import Allowed, RefusedError
from builder.pipeline import ModulePlan, build, diff
from tests.conftest import data_root, needed
from tests.support.kernels import opened

pytestmark = [pytest.mark.data, pytest.mark.kernel]

KBUILD = "obj-m := tgt.o\nccflags-y += -ffunction-sections -fdata-sections\n"


@dataclass(frozen=True)
class Made:
    """The module that runs, and the objects of both versions under `old` and `new`, by the paths of their sources."""

    release: str
    module: Path
    old: Path
    new: Path

    def pair(self, name: str) -> tuple[Path, Path]:
        return self.old / name, self.new / name


def source(name: str) -> Path:
    place = data_root() / "cases/modules" / name
    if not place.is_dir():
        pytest.skip(f"no case {name} in the test data")
    return place


def lay_out(place: Path, side: str, work: Path) -> None:
    """One version of a case as kbuild takes it: a folder with its own Kbuild, or one file."""
    if (place / side).is_dir():
        shutil.copytree(place / side, work, copy_function=shutil.copy, dirs_exist_ok=True)  # newer than what was made
    else:
        shutil.copy(place / f"{side}.c", work / "tgt.c")
        (work / "Kbuild").write_text(KBUILD)


def made(name: str, release: str) -> Made:
    with needed():
        headers = fetch_headers(release)
    place = source(name)
    files = sorted(path for path in place.rglob("*") if path.is_file())
    texts = [text for path in files for text in (str(path.relative_to(place)).encode(), path.read_bytes())]
    digest = hashlib.sha256(b"\0".join([KBUILD.encode(), *texts])).hexdigest()[:16]

    def make(root: Path) -> None:
        work = root / "work"
        work.mkdir()
        for side in ("old", "new"):
            lay_out(place, side, work)
            command = ["make", "-s", "-C", headers.build, f"M={work}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
            run_tool([*map(str, command)])
            for path in [*work.rglob("*.o"), *work.glob("*.ko")]:
                kept = root / side / path.relative_to(work)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, kept)
        shutil.rmtree(work)

    root = published("samples", f"case-{name}-{release}-{headers.version}-{digest}", make)
    (module,) = (root / "old").glob("*.ko")
    return Made(release, module, root / "old", root / "new")


def refused(case: Made, name: str = "tgt.o", *allow: str) -> set[str]:
    """The codes of what stands in the way of the module, none where it is built."""
    allowed = Allowed.parse(allow)
    objects = Objects(opened(case.release), {ModuleFile.read_named(case.module).name: case.module})
    try:
        found = build([diff(*case.pair(name), allowed=allowed)], objects, ModulePlan("fix", allowed=allowed))
    except RefusedError as error:
        return {row.code for row in error.refusals}
    assert found is not None
    return set()


def test_two_statics_that_nothing_tells_apart_are_not_swapped(release_61: str) -> None:
    assert refused(made("statics-swapped-bss", release_61)) == {"static-ambiguous"}


def test_a_variable_that_grew_is_accepted_by_nobody(release_61: str) -> None:
    case = made("resize-overwrite", release_61)
    rows = diff(*case.pair("tgt.o")).judged.refusals
    assert [(row.symbol, row.fatal) for row in rows] == [("ring", True)]
    allowed = ["data-changed:ring", *(f"{row.code}:{row.symbol}" for row in rows)]
    assert refused(case, "tgt.o", *allowed) == {row.code for row in rows}


def test_the_name_of_an_object_is_that_of_its_module(
    release_61: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, out = made("object-name", release_61), tmp_path / "fix.ko"
    image = opened(release_61).path
    words = ["build", *map(str, case.pair("tgt.o")), "--kernel", str(image), "-o", str(out)]
    for name in ("tgt.ko", "nosuch", "vmlinux"):
        assert run([*words, "--object", f"{name}={case.module}"]) == 2 and not out.exists()
        assert f"say --object tgt={case.module}" in capsys.readouterr().err
    assert run([*words, "--object", f"tgt={case.module}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == ["tgt"]


@pytest.mark.parametrize("spelled", ["tgt-dash", "tgt_dash"])
def test_of_two_equal_functions_in_files_of_one_name_the_right_one_is_bound(
    release_61: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], spelled: str
) -> None:
    case, out = made("dup-neighbour", release_61), tmp_path / "fix.ko"
    words = ["build", *map(str, case.pair("b/util.o")), "--kernel", str(opened(release_61).path), "-o", str(out)]
    assert run([*words, "--object", f"{spelled}={case.module}", "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    (function,) = (row for row in manifest["functions"] if row["redirected"])
    bound = {row["symbol"]: row["sympos"] for row in manifest["bindings"]}
    assert function["old_name"] == "helper" and function["sympos"] == rank_beside(case.module, "helper", "only_b")
    assert bound == {"hits": rank_beside(case.module, "hits", "only_b")}


def rank_beside(module: Path, name: str, other: str) -> int:
    """Which of the symbols `name`, counted from 1, is of the same source file as the symbol `other`."""
    files: list[list[str]] = []
    for symbol in ModuleFile.read_named(module).object.symbols:
        if symbol.type == elf.STT_FILE:
            files.append([])
        elif files:
            files[-1].append(symbol.name)
    having = [names for names in files if name in names]
    return next(k for k, names in enumerate(having, 1) if other in names)


def test_a_parameter_that_is_left_out_is_said_by_every_command(
    release_61: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = made("new-param", release_61)
    told = said(case, tmp_path / "fix.ko", capsys)
    assert all("param-left-out" in text and "__param_bump" in text for text in told)


def test_a_tracepoint_of_the_module_stays_alive(
    release_61: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its label became a test of the key, behind the function."""
    case = made("own-tracepoint", release_61)
    _, text, document = said(case, tmp_path / "fix.ko", capsys)
    assert "entry-dropped" not in text + document
    module = ModuleFile.read(tmp_path / "fix.ko").object
    (thunk,) = (symbol for symbol in module.symbols if symbol.name.endswith(".keys"))
    late = [r for s in module.sections if s.name.startswith(".klp.rela.tgt.") for r in module.relocations[s.index]]
    tested = [module.symbols[r.symbol].name for r in late if thunk.value <= r.offset < thunk.value + thunk.size]
    assert [name.partition(",")[0] for name in tested] == [".klp.sym.tgt.__tracepoint_tgt_step"]


def said(case: Made, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str, str]:
    """What `diff` and `build` say of a case, and `build --json`; each is done."""
    pair = [str(path) for path in case.pair("tgt.o")]
    name = ModuleFile.read_named(case.module).name
    words = [*pair, "--kernel", str(opened(case.release).path), "-o", str(out), "--object", f"{name}={case.module}"]
    found = []
    for command in (["diff", *pair], ["build", *words], ["build", *words, "--json"]):
        assert run(command) == 0
        found.append(capsys.readouterr().out)
    return found[0], found[1], found[2]


def test_an_object_without_code_is_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = source("slim-lto")
    flags = ["-O2", "-ffunction-sections", "-flto", "-fno-fat-lto-objects", "-c"]
    for side in ("old", "new"):
        run_tool(["gcc", *flags, str(place / f"{side}.c"), "-o", str(tmp_path / f"{side}.o")])
    assert run(["diff", str(tmp_path / "old.o"), str(tmp_path / "new.o")]) == 2
    assert "holds no code: compile without -flto or with -ffat-lto-objects" in capsys.readouterr().err
