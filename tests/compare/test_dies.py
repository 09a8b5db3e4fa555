"""Entries of debug information: what is read, and what is named as unknown (builder/compare/dies.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.binary import ObjectFile
from builder.compare import dies
from builder.compare.dies import Entries, TypesUnknown, sleb, uleb
from tests.support.compiling import Build

SOURCE = "struct s { int a; }; int f(struct s *p) { return p->a; }"


def with_section(obj: ObjectFile, name: str, data: bytes) -> ObjectFile:
    """The object with other content of one section."""
    sections = tuple(s._replace(data=data, size=len(data)) if s.name == name else s for s in obj.sections)
    return replace(obj, sections=sections)


@pytest.mark.parametrize("version", [4, 5])
def test_each_unit_is_found_and_its_first_entry_is_the_unit_s(build: Build, version: int) -> None:
    found = Entries(build(SOURCE, f"-gdwarf-{version}"))
    (unit,) = found.units
    assert unit.start == 0 and unit.end == len(found.data) and found.unit_of(unit.end - 1) is unit
    with pytest.raises(TypesUnknown, match="outside every unit"):
        found.unit_of(unit.end)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"\xff" * 4 + data[4:], "64-bit DWARF"),
        (lambda data: data[:4] + b"\6\0" + data[6:], "DWARF version 6"),
        (lambda data: data[:4] + b"\1\0" + data[6:], "DWARF version 1"),
        (lambda data: data[:7] + b"\4" + data[8:], "addresses of 4 bytes"),
    ],
)
def test_what_there_is_no_rule_for_is_named(build: Build, change: object, words: str) -> None:
    obj = build(SOURCE, "-gdwarf-5")
    data = dies.content(obj, ".debug_info")
    assert Entries(with_section(obj, ".debug_info", data)).units
    with pytest.raises(TypesUnknown, match=words):
        Entries(with_section(obj, ".debug_info", change(data)))  # type: ignore[operator]


def test_without_debug_information_there_is_none(build: Build) -> None:
    with pytest.raises(TypesUnknown, match="no debug information"):
        Entries(build(SOURCE))


@pytest.mark.parametrize(
    ("data", "unsigned", "signed"),
    [("02", 2, 2), ("7f", 127, -1), ("8001", 128, 128), ("e58e26", 624485, 624485), ("ff7e", 16255, -129)],
)
def test_numbers_of_variable_length(data: str, unsigned: int, signed: int) -> None:
    """The examples of DWARF 5, section 7.6."""
    content = bytes.fromhex("aa" + data + "aa")
    end = 1 + len(data) // 2
    assert uleb(content, 1) == (unsigned, end) and sleb(content, 1) == (signed, end)
