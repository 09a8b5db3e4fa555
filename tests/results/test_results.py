"""What is recorded twice is the same; whatever is not the same is named."""

from __future__ import annotations

import lzma
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.results.__main__ import main
from tests.results.cases import PARTS, Plan, diff_cases, planned, tree_cases
from tests.results.comparison import compare, documents
from tests.results.normalise import normalised, rules
from tests.results.recording import Case, Recorder, RecordError, Run

SEED = 20
SUFFIXES = (".html.xz", ".json", ".txt")


def keep(folder: Path, documents: dict[str, bytes]) -> Path:
    for name, content in documents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str]]:
    """The exit status and the lines of a command."""
    status = main([str(word) for word in words])
    return status, capsys.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def cases(data: Path) -> Sequence[Case]:
    return random.Random(SEED).sample(diff_cases(Plan(data, data)), 3)


@pytest.fixture(scope="module")
def recorded(cases: Sequence[Case], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same, twice."""
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    for folder in folders:
        recorder = Recorder(folder, ROOT)
        recorder.check_code()
        assert len(recorder.record(cases, jobs=2)) == len(cases) * len(SUFFIXES)
    return folders


@pytest.mark.data
def test_the_same_gives_the_same(
    cases: Sequence[Case], recorded: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(documents(recorded[0])) == {case.name + suffix for case in cases for suffix in SUFFIXES}
    assert compare(*recorded) == []
    assert told(capsys, "compare", *recorded) == (0, ["9 documents and 9: none differ"])


@pytest.mark.data
def test_a_text_tells_all(cases: Sequence[Case], recorded: tuple[Path, Path]) -> None:
    text = (recorded[0] / f"{cases[0].name}.txt").read_text()
    assert re.findall(r"^[0-9a-f]{64}  (\S+)$", text, re.MULTILINE) == ["old.o", "new.o"]
    commands = re.findall(r"^\$ (.*)\nexit status (\d)$", text, re.MULTILINE)
    assert [words for words, _ in commands] == [
        "bespoke diff old.o new.o --json --html page.html",
        "bespoke diff old.o new.o",
    ]
    assert len({status for _, status in commands}) == 1
    assert "--- output\n" in text.partition("page.html")[2]


@pytest.mark.data
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_changed_byte_is_reported(
    cases: Sequence[Case],
    recorded: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    other = {
        name: lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        for name, path in documents(recorded[0]).items()
    }
    name = cases[1].name + suffix
    at = random.Random(suffix).choice([i for i, c in enumerate(other[name]) if chr(c).isalpha() and c < 128])
    other[name] = other[name][:at] + b"#" + other[name][at + 1 :]
    status, lines = told(capsys, "compare", recorded[0], keep(tmp_path, other))
    assert status == 1 and lines[-1] == "9 documents and 9: 1 differ"
    assert lines[0].startswith(f"{name}: differs (")
    assert {line[4] for line in lines[2:-1]} >= {"-", "+"}
    assert any(line.startswith("    +") and "#" in line for line in lines)


@pytest.mark.data
def test_a_missing_document_is_reported(
    cases: Sequence[Case], recorded: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{cases[2].name}.json"
    less = keep(tmp_path, {n: path.read_bytes() for n, path in documents(recorded[0]).items() if n == name})
    assert {d.why for d in compare(recorded[0], less)} == {f"is missing in {less}"}
    status, lines = told(capsys, "compare", less, recorded[0])
    assert status == 1 and len(lines) == 9 and all(f"is missing in {less}" in line for line in lines[:-1])


def test_only_what_differs_is_shown(tmp_path: Path) -> None:
    text = [f"line {n}" for n in range(200)]
    long = "x" * 1000
    first = {
        "a.txt": "\n".join(text).encode(),
        "b.ko": b"\x80" * 64,
        "c.json.xz": (long + "a" + long).encode(),
        "d.txt": b"end",
    }
    text[100] = "another"
    second = {
        "a.txt": "\n".join(text).encode(),
        "b.ko": b"\x80" * 40 + b"\0" * 24,
        "c.json.xz": (long + "b" + long).encode(),
        "d.txt": b"end\n",
    }
    a, b, c, d = compare(keep(tmp_path / "first", first), keep(tmp_path / "second", second))
    assert a.lines == ("@@ line 101", " line 98", " line 99", "-line 100", "+another", " line 101", " line 102")
    assert b.lines[:4] == ("@@ line 3", f" {0:08x}  {'80 ' * 16} {'.' * 16}", *b.lines[2:4])
    assert [row[:12] for row in b.lines if row[0] in "+-"] == [
        "-00000020  8",
        "-00000030  8",
        "+00000020  8",
        "+00000030  0",
    ]
    assert [row.count("x") + 1 for row in c.lines[1:]] == [160, 160] and "a" in c.lines[1] and "b" in c.lines[2]
    assert d.lines == ("(only in how the last line ends)",)


def test_a_part_is_compared_without_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = keep(tmp_path / "first", {"diff/a.txt": b"a", "trees/a.txt": b"a", "build/a.ko": b"a"})
    second = keep(tmp_path / "second", {"diff/a.txt": b"a", "trees/a.txt": b"b"})
    assert told(capsys, "compare", first, second, "--only", "diff") == (0, ["1 documents and 1: none differ"])
    status, lines = told(capsys, "compare", first, second, "--only", "diff", "trees")
    assert status == 1 and lines[0].startswith("trees/a.txt") and lines[-1] == "2 documents and 2: 1 differ"
    assert main(["compare", str(first), str(second), "--only", "build"]) == 2


@pytest.mark.data
def test_names_with_folders_are_trees(data: Path, tmp_path: Path) -> None:
    (case,) = tree_cases(Plan(data, data))
    inputs = {name: path for name, path in case.inputs.items() if "data-new" in name}
    assert inputs
    few = Case(case.name, inputs, case.runs)
    assert Recorder(tmp_path, ROOT).record([few]) == [
        f"{case.name}{suffix}" for suffix in (".json.xz", ".html.xz", ".two.json.xz", ".txt")
    ]
    one, two = (lzma.decompress((tmp_path / f"{case.name}{end}").read_bytes()) for end in (".json.xz", ".two.json.xz"))
    assert one == two and b"same/" in one
    assert "left behind" not in (tmp_path / f"{case.name}.txt").read_text()


def test_paths_are_made_the_same_and_nothing_else(tmp_path: Path) -> None:
    table = rules(Path("/some/place"), Path("/some/cache"), Path("/some/code"))
    assert len({rule.name for rule in table}) == len(table) and all(rule.why for rule in table)
    said = "/some/place/old.o, /some/cache: /some/code2/x (/some/code) 0.5 s"
    assert normalised(said, table) == "@work/old.o, @cache: /some/code2/x (@code) 0.5 s"


def test_an_answer_that_is_another_the_second_time_is_kept_twice(tmp_path: Path) -> None:
    write = "import sys, os; open('x', 'w').write(sys.argv[1]); print('to', os.getcwd())"
    same, other = (
        Case("part/case", {}, [Run((text,), files={"x": ".x"}, program=("-c", write)) for text in texts])
        for texts in ("aa", "ab")
    )
    recorder = Recorder(tmp_path, ROOT)
    assert recorder.record([same]) == ["part/case.x", "part/case.txt"]
    assert (tmp_path / "part/case.x").read_bytes() == b"a" and "to @work\n" in (tmp_path / "part/case.txt").read_text()
    assert recorder.record([other]) == ["part/case.x", "part/case-again.x", "part/case.txt"]
    assert (tmp_path / "part/case-again.x").read_bytes() == b"b"
    assert "x is another file than before" in (tmp_path / "part/case.txt").read_text()


def test_each_command_has_another_order_of_sets_in_every_recording_the_same(tmp_path: Path) -> None:
    show = Run((), program=("-c", "import os; print(os.environ['PYTHONHASHSEED'])"))
    for seed in (0, 7):
        Recorder(tmp_path, ROOT, seed).record_one(Case(f"part/{seed}", {}, (show, show)))
        said = (tmp_path / f"part/{seed}.txt").read_text()
        assert re.findall(r"^\d+$", said, re.MULTILINE) == [str(seed), str(seed + 1)]


def test_what_cannot_be_recorded(tmp_path: Path) -> None:
    recorder, same = Recorder(tmp_path, ROOT), Case("part/case", {}, ())
    with pytest.raises(RecordError, match="Traceback"):
        recorder.record([Case("part/none", {}, [Run((), program=("-c", "1/0"))])])
    with pytest.raises(RecordError, match="two cases"):
        recorder.record([same, same])
    with pytest.raises(RecordError, match="not the package"):
        Recorder(tmp_path, tmp_path).check_code()


def test_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "no recording" in capsys.readouterr().err
    monkeypatch.setenv("BESPOKE_DATA", str(tmp_path))
    (tmp_path / "diff").mkdir()
    assert main(["record", str(tmp_path), "--only", "diff"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert planned(["check", "diff"]) == ["diff", "check"] and planned([]) == list(PARTS)
    with pytest.raises(RecordError, match="there are the parts"):
        planned(["nothing"])
