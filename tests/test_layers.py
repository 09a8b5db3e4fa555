"""The folders of the package are the pipeline, and imports run one way only."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "builder"
ORDER = (
    "acquire", "arch", "binary", "compare", "compose", "emit", "image", "load", "operate", "preflight", "report",
)  # fmt: skip
APART = {("preflight", "operate")}
"""(folder, folder above it) that do not know each other all the same: what runs, and what would go wrong."""
COMPOSE = ("cli", "fleet")
"""Folders that compose the whole, as the package's top level does: the command line, and below it who does many things
at once. No stage knows them, and the fleet does not know the command line."""
FOR_ALL = {"codes", "errors", "guide", "supported", "templates", "arch", "__init__"}
"""What every folder may import: codes, exceptions, pages, kernels that were tried, templates, rows of a CPU."""
BELOW = ("codes.py", "errors.py", "guide.py", "supported.py", "templates.py")
"""Files that stand below everything; each imports none but those before it."""
MOST_LINES = 500

NAMES_NO_MACHINE = ("compare", "compose", "emit", "image", "load", "operate", "preflight")
"""Folders that ask `builder.arch` for what a machine is, and name none themselves."""
ABOUT_A_MACHINE = {
    "compose/holders.py": "the sections of arch/x86/kernel/vmlinux.lds.S, and the list of arch/x86/tools/relocs.c",
    "image/boot.py": "the capability bits that arch/x86/kernel decides by",
    "image/capture.py": "takes those, and the variables of arch/x86/kernel, out of a guest",
    "image/cpu_flags.py": "CPUID leaves by the names of their bits",
    "image/derive.py": "executes what arch/x86/kernel does at boot, and answers CPUID",
    "image/execute.py": "emulates a processor by its registers",
    "image/extable.py": "the exception table of arch/x86/mm/extable.c",
    "image/facts.py": "structures and symbols of arch/x86/kernel/alternative.c",
    "image/guest/log.py": "what the kernel says, arch/x86 too, when something is broken",
    "image/guest/qemu.py": "the program that emulates a machine of that kind",
    "load/boot.py": "the tables of arch/x86/kernel/vmlinux.lds.S",
    "load/overwrite.py": "writes a jump, and looks for those that lead into it",
    "load/passes/": "what arch/x86/kernel does to the code of a module",
    "load/relocate.py": "apply_relocate_add of arch/x86/kernel/module.c",
    "load/tables.py": "the sections of arch/x86/kernel/vmlinux.lds.S that hold plain code",
}
"""Files, and folders with a slash, of these that stand for a part of the kernel (or of QEMU) that is one machine's."""
MACHINE_NAMES_KEPT = frozenset({"sealed-endbr"})
"""Strings that are part of the contract with scripts: codes of refusals."""

SOURCES = sorted(PACKAGE.rglob("*.py"))
TEXTS = sorted(
    path
    for pattern in ("builder/**/*", "templates/**/*", "samples/**/*", "tests/**/*", "*", ".ci/*")
    for path in ROOT.glob(pattern)
    if path.is_file()
    and path.name != ".git"
    and path.suffix not in (".pyc", ".o", ".ko", ".png")
    and "__pycache__" not in path.parts
)
CODE = [path for path in TEXTS if path.suffix in (".py", ".j2", ".c", ".sh")]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.Module, source: Path, package: Path = PACKAGE) -> Iterator[tuple[int, str]]:
    """The line and the dotted name, inside the package, of everything that `source` imports.

    Imports inside functions and under TYPE_CHECKING count: a layer is a layer.
    """
    here = source.relative_to(package).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package.name:
                    yield node.lineno, alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                stem = (*here[: len(here) - node.level], *(node.module or "").split("."))
            elif (node.module or "").split(".")[0] == package.name:
                stem = tuple((node.module or "").split(".")[1:])
            else:
                continue
            base = [part for part in stem if part]
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])


def breaches(source: Path, text: str, package: Path = PACKAGE) -> list[str]:
    """Each import of `text`, standing at `source`, that runs against the order of the pipeline."""
    here = source.relative_to(package).parts
    composes = (len(here) == 1 and here[0] not in BELOW) or here[0] in COMPOSE
    found = []
    for line, target in imported(ast.parse(text), source, package):
        if composes:
            if here[0] == "fleet" and target.partition(".")[0] == "cli":
                found.append(f"{'/'.join(here)}:{line} imports {target}: the command line stands above it")
            continue
        top = target.partition(".")[0]
        is_module = (package / top).is_dir() or (package / f"{top}.py").is_file()
        if not is_module and re.fullmatch("__[a-z]+__", top):
            continue
        if here[0] in BELOW:
            if f"{top}.py" in BELOW[: BELOW.index(here[0])]:
                continue
            found.append(f"{source.name}:{line} imports {target}: {source.name} stands below everything")
        elif top in FOR_ALL:
            continue
        elif here[0] not in ORDER:
            found.append(f"{'/'.join(here)}:{line} stands in a folder that is no stage of the pipeline")
        elif (here[0], top) in APART:
            found.append(f"{'/'.join(here)}:{line} imports {target}: {here[0]}/ and {top}/ do not know each other")
        elif top not in ORDER or ORDER.index(top) > ORDER.index(here[0]):
            found.append(f"{'/'.join(here)}:{line} imports {target}, which does not stand above {here[0]}/")
    return found


@pytest.mark.parametrize("source", SOURCES, ids=name)
def test_imports_run_one_way(source: Path) -> None:
    assert breaches(source, source.read_text()) == []


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("binary/x.py", "from builder.compare import y"),
        ("binary/x.py", "import builder.load.passes"),
        ("compare/x.py", "from ..emit import module"),
        ("compare/x.py", "from .. import pipeline"),
        ("load/x.py", "def f():\n    from builder.report import terminal"),
        ("image/x.py", "from builder import load"),
        ("load/x.py", "from builder.operate import trail"),
        ("operate/x.py", "from builder.preflight.check import Checker"),
        ("preflight/x.py", "from builder.operate import trail"),
        ("arch/x.py", "from builder.binary.model import Section"),
        ("errors.py", "from builder.arch import x86_64"),
        ("codes.py", "from builder.errors import UsageError"),
        ("extras/x.py", "from builder.binary import reader"),
        ("fleet/x.py", "from builder.cli.common import Output"),
        ("report/x.py", "from builder.fleet import orders"),
    ],
)
def test_a_breach_is_seen(place: str, text: str) -> None:
    assert len(breaches(PACKAGE / place, text)) == 1


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("compare/x.py", "from builder.binary.model import Section\nfrom .twins import y\nimport os"),
        ("acquire/x.py", "from builder.arch import rows\nfrom builder.errors import ToolError"),
        ("report/x.py", "from builder import __version__\nfrom ..operate import trail"),
        ("pipeline.py", "from builder.report import terminal\nfrom . import load"),
        ("binary/x.py", "from builders.load import unrelated"),
        ("fleet/x.py", "from builder.preflight import check\nfrom builder import pipeline"),
        ("cli/x.py", "from builder.fleet import engine"),
    ],
)
def test_what_is_allowed_passes(place: str, text: str) -> None:
    assert breaches(PACKAGE / place, text) == []


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """`image.guest.live`, or `image` for its `__init__`."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(texts: Mapping[Path, str], package: Path = PACKAGE) -> dict[str, set[str]]:
    """The modules of `package` by name, and those of them that each imports, at whatever place."""
    graph: dict[str, set[str]] = {module_name(path, package): set() for path in texts}
    for path, text in texts.items():
        here = module_name(path, package)
        for _, target in imported(ast.parse(text), path, package):
            while target and target not in graph:  # a name out of a module
                target = target.rpartition(".")[0]
            if target and target != here:
                graph[here].add(target)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """Each module that leads back to itself, with a way there and back."""
    found = []
    for start in sorted(graph):
        came_from: dict[str, str] = {}
        queue = [start]
        while queue and start not in came_from:
            here = queue.pop(0)
            for target in sorted(graph[here] - came_from.keys()):
                came_from[target] = here
                queue.append(target)
        if start in came_from:
            way = [start]
            while len(way) == 1 or way[-1] != start:
                way.append(came_from[way[-1]])
            found.append(" -> ".join(reversed(way)))
    return found


def test_no_modules_import_each_other() -> None:
    assert circles(import_graph({path: path.read_text() for path in SOURCES})) == []


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ({"image/a.py": "from builder.image.b import B", "image/b.py": "from builder.image.a import A"}, "image.b"),
        ({"image/a.py": "from .b import B", "image/b.py": "def f():\n    from . import a"}, "image.b"),
        (
            {
                "image/a.py": "import builder.image.b",
                "image/b.py": "from builder.image.c import C",
                "image/c.py": "if TYPE_CHECKING:\n    from builder.image.a import A",
            },
            "image.b -> image.c",
        ),
        ({"load/__init__.py": "from builder.load.a import A", "load/a.py": "from builder.load import B"}, "load"),
        ({"pipeline.py": "from builder.emit import x", "emit/__init__.py": "from builder import pipeline"}, "emit"),
    ],
)
def test_a_circle_is_seen(texts: Mapping[str, str], found: str) -> None:
    seen = circles(import_graph({PACKAGE / name: text for name, text in texts.items()}))
    assert len(seen) == len(texts) and any(f" {found} " in f" {way} " for way in seen)


def test_modules_that_only_share_what_they_import_are_no_circle() -> None:
    texts = {
        "image/a.py": "from builder.image import b, c",
        "image/b.py": "from builder.image.c import C",
        "image/c.py": "import os\nfrom builder.errors import LoadError",
        "errors.py": "",
    }
    assert circles(import_graph({PACKAGE / name: text for name, text in texts.items()})) == []


def test_the_folders_are_the_stages_in_order() -> None:
    folders = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__")
    packages = [folder for folder in folders if any((PACKAGE / folder).rglob("*.py"))]
    assert sorted(ORDER) == list(ORDER), "a listing of the package must read as the pipeline"
    assert [folder for folder in packages if folder not in (*ORDER, *COMPOSE)] == []


# What only x86 has: itself, its registers, instructions, relocations, the tables that follow from its code and what
# the kernel calls these, the libraries that know it.
_REGISTER = r"[er](?:[abcd]x|[sd]i|[bs]p|ip)|r(?:8|9|1[0-5])d?|[cdefgs]s_base|[xyz]mm\d*"
MACHINE = re.compile(
    rf"""x86|amd64|i[36]86|endbr|retpoline|return_thunk|return_sites|indirect_thunk|(?<!static_)call_sites|call_thunk
    |call_depth|smp_lock|parainstr|paravirt|alt_?instr|__fentry|int3|iced|capstone|r_386
    |(?<![a-z0-9])(?:ibt|{_REGISTER}|nop[lw]|jmpq?|lea[lq]?|mov[lq]|em_386|--(?:32|64))(?![a-z0-9])""",
    re.IGNORECASE | re.VERBOSE,
)


NOT_TEXT = re.compile(rb"[^\0\n -~]")
"""In a constant of bytes: what is neither text nor a border of texts, and so may be code."""


def _docstrings(tree: ast.Module) -> set[int]:
    """The constants that are documentation: strings that stand as statements of their own."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def machine_words(text: str) -> list[str]:
    """Each name and string of `text` that belongs to one machine, and each constant that can only be its code."""
    tree = ast.parse(text)
    told = _docstrings(tree)
    found = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("builder.arch."):
            found.append(f"{line}: {node.module} (ask builder.arch)")
        if isinstance(node, ast.Constant):
            if isinstance(node.value, bytes) and NOT_TEXT.search(node.value.removeprefix(b"\x7fELF")):
                found.append(f"{line}: {node.value!r}")
            if not isinstance(node.value, str) or id(node) in told or node.value in MACHINE_NAMES_KEPT:
                continue
            words = [node.value]
        else:
            fields = ("id", "attr", "arg", "name", "asname", "module")
            words = [word for field in fields if isinstance(word := getattr(node, field, None), str)]
        found += [f"{line}: {word}" for word in words if MACHINE.search(word)]
    return found


def is_about_a_machine(source: Path) -> str | None:
    """The entry of ABOUT_A_MACHINE that a file falls under, None where there is none."""
    place = source.relative_to(PACKAGE).as_posix()
    return next((key for key in ABOUT_A_MACHINE if place == key or (key[-1] == "/" and place.startswith(key))), None)


@pytest.mark.parametrize(
    "source", [s for s in SOURCES if s.relative_to(PACKAGE).parts[0] in NAMES_NO_MACHINE], ids=name
)
def test_no_machine_is_named_outside_of_arch(source: Path) -> None:
    if is_about_a_machine(source) is None:
        assert machine_words(source.read_text()) == []


@pytest.mark.parametrize("place", ABOUT_A_MACHINE)
def test_what_is_about_a_machine_names_it(place: str) -> None:
    """An entry that is needed no more goes."""
    files = [source for source in SOURCES if is_about_a_machine(source) == place]
    assert any(machine_words(source.read_text()) for source in files)


@pytest.mark.parametrize(
    "text",
    [
        "from builder.arch.x86_64 import X86_64",
        "from builder.arch.model import Architecture",
        "import builder.arch.x86_64",
        "from builder import arch\narch.x86_64.decode(b'')",
        "arch = by_machine(elf.EM_X86_64, where='')",
        "if features.ibt:\n    pass",
        "f(features=(kernel.retpoline,))",
        "run([tool, '--64'])",
        "name = '__x86_return_thunk'",
        "name == '.call_sites'",
        "table = f'{prefix}.return_sites'",
        "FILLER = b'\\xcc'",
        "NOP = bytes.fromhex('90') + b'\\x66\\x90'",
        "kind = 'R_X86_64_PC32'",
        "registers = ('rdi', 'r8')",
        "def smp_locks(): pass",
        "import iced_x86",
        "message = f'the kernel has sealed its {x} ENDBR64'",
    ],
)
def test_a_machine_is_seen(text: str) -> None:
    assert machine_words(text) != []


@pytest.mark.parametrize(
    "text",
    [
        '"""x86 has ENDBR."""\n# int3\ndef f():\n    """The rdi of the caller."""',
        "from builder.arch import Architecture, by_machine",
        "table.name == '.static_call_sites'",
        "insn.is_nop or insn.is_jump or insn.is_call",
        "Refusal('sealed-endbr', name)",
        "return data.find(b'\\0') + b'__ksymtab'.find(b'_')",
        "data.startswith(b'\\x7fELF') and data.endswith(b'~signature~\\n')",
        "view.arch.fentry, 'no-fentry', 'description', 'strip'",
    ],
)
def test_what_every_machine_has_passes(text: str) -> None:
    assert machine_words(text) == []


def public_classes(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Public class name -> the sources that define one; aliases of types count as classes."""
    found: dict[str, list[str]] = {}
    for place, text in sources.items():
        for node in ast.parse(text).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for one in names:
                if re.fullmatch("[A-Z][a-z]\\w*", one):
                    found.setdefault(one, []).append(place)
    return found


def test_a_public_class_has_a_name_of_its_own() -> None:
    found = public_classes({name(source): source.read_text() for source in SOURCES})
    assert len(found) > 100
    assert {one: places for one, places in found.items() if len(places) > 1} == {}


def test_a_name_that_two_classes_have_is_seen() -> None:
    found = public_classes({"a.py": "class Row: ...\nLIMIT = 3", "b.py": "Row = tuple[int, str]\n_Other = int"})
    assert found == {"Row": ["a.py", "b.py"]}


@pytest.mark.parametrize("text", CODE, ids=name)
def test_no_file_is_too_long(text: Path) -> None:
    assert len(text.read_text().splitlines()) <= MOST_LINES


# spelled in pieces, so that this file does not hold what it forbids
PATHS = "|".join(("work", "root", "home", "tmp" + "/w"))
WORDS = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X"))
# a word that ends a group or a string is a file's name in a pattern, not a note
FORBIDDEN = re.compile(rf"(?<![\w.$}}/~])/(?:{PATHS})/[\w.]|\b(?:{WORDS})\b(?![)|\"'])|\bNotImplemented" + r"Error\b")


@pytest.mark.parametrize("text", TEXTS, ids=name)
def test_no_machine_path_and_no_leftover(text: Path) -> None:
    lines = text.read_text(encoding="utf-8").splitlines()
    assert [f"{number}: {line}" for number, line in enumerate(lines, 1) if FORBIDDEN.search(line)] == []


@pytest.mark.parametrize("path", PATHS.split("|"))
def test_a_machine_path_is_seen(path: str) -> None:
    for form in ("open('{}/x')", "{}/.cache/y", "({}/z)", "a={}/b"):
        assert FORBIDDEN.search(form.format("/" + path)), form
    for harmless in ("$ROOT{}/x", "build{}/x", "~{}/x", "{}shop/x"):
        assert not FORBIDDEN.search(harmless.format("/" + path)), harmless


def test_stage_names_do_not_shadow_the_standard_library() -> None:
    assert [stage for stage in ORDER if stage in sys.stdlib_module_names] == []
