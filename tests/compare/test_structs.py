"""Structure layouts: what changed between two objects, checked against an independent reader of DWARF."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile

from builder.binary import ObjectFile, read_object
from builder.compare.structs import StructChange, Variables, field_at, flat_fields, struct_changes, types_unknown
from builder.compare.typeinfo import TypeInfo
from tests.support.compiling import Build

OLD = """
typedef unsigned long ulong_t;
struct inner { int x; const char *name; };
struct kept { int a; struct inner in; ulong_t b[3]; };
struct moved { int a; long b; unsigned f1 : 3, f2 : 5; union { int u; long w; }; struct { char p, q; } named; };
struct padded { char a; long b; };
union choice { int i; long l; };
struct moved m = { 0 }; struct kept k = { 2 }; struct padded p; union choice c;
struct kept row[4] = { { 1 } };
struct inner deep[2][3] = { { { 1, "x" } } };
int f(void) { static struct inner local[2] = { { 3, "y" } }; return local[deep[0][1].x].x++; }
"""
CHANGES = {
    "an added field moves the others": ("int a; long b;", "int a; int fresh; long b; long c;", {
        ("fresh", "added", None, 4), ("c", "added", None, 16), ("f1", "moved", 16, 24), ("f2", "moved", 16, 24),
        ("u", "moved", 24, 32), ("w", "moved", 24, 32), ("named.p", "moved", 32, 40), ("named.q", "moved", 33, 41)}),
    "a removed field": ("int a; long b;", "long b;", {("a", "removed", 0, None), ("b", "moved", 8, 0),
        ("f1", "moved", 16, 8), ("f2", "moved", 16, 8), ("u", "moved", 24, 16), ("w", "moved", 24, 16),
        ("named.p", "moved", 32, 24), ("named.q", "moved", 33, 25)}),
    "a wider bit-field": ("f1 : 3, f2 : 5", "f1 : 4, f2 : 4", {("f1", "resized", 16, 16), ("f2", "moved", 16, 16)}),
    "a field of an unnamed union": ("int u; long w;", "long w;", {("u", "removed", 24, None)}),
    "a field of an unnamed structure": ("char p, q;", "char q, p;", {
        ("named.p", "moved", 32, 33), ("named.q", "moved", 33, 32)}),
}  # fmt: skip


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("case", CHANGES)
def test_each_kind_of_change_names_field_and_offsets(build: Build, case: str, version: int) -> None:
    before, after, expected = CHANGES[case]
    debug = f"-gdwarf-{version}"
    (change,) = struct_changes(build(OLD, debug), build(OLD.replace(before, after, 1), debug))
    assert change.name == "struct moved"
    assert {(f.name, f.kind, f.old_offset, f.new_offset) for f in change.fields} == expected


@pytest.mark.parametrize("version", [4, 5])
def test_a_field_that_grows_into_padding_is_a_change(build: Build, version: int) -> None:
    debug = f"-gdwarf-{version}"
    (change,) = struct_changes(build(OLD, debug), build(OLD.replace("char a; long b;", "short a; long b;"), debug))
    assert (change.name, change.old_size, change.new_size) == ("struct padded", 16, 16)
    assert [(f.name, f.kind, f.old_size, f.new_size) for f in change.fields] == [("a", "resized", 1, 2)]


def test_fields_at_one_offset_are_in_the_order_of_their_names(build: Build) -> None:
    """The same inputs give the same document, whatever order a set has today."""
    source = "struct s {{ union {{ int {}; }}; int z; }}; int f(struct s *p) {{ return p->z; }}\n"
    names = [f"{letter}{k}" for k in range(6) for letter in "pq"]
    old, new = build(source.format(", ".join(names)), "-g"), build(source.format("a, b"), "-g")
    (change,) = struct_changes(old, new)
    assert [f.name for f in change.fields] == ["a", "b", *sorted(names)]


def test_lines_and_new_types_are_no_change(build: Build) -> None:
    new = "\n\nstruct other { int z; };\n" + OLD + "struct other o; int g(struct other *p) { return p->z; }\n"
    assert struct_changes(build(OLD, "-g"), build(new, "-g")) == ()


def test_without_debug_information_the_reason_is_given(build: Build) -> None:
    plain = build(OLD)
    assert struct_changes(plain, build(OLD.replace("int a; long b;", "long b;"))) == ()
    assert types_unknown(plain) == "no debug information"


def test_compressed_debug_information_is_read(build: Build) -> None:
    new = OLD.replace("int i; long l;", "int i; long l; char big[32];")
    (change,) = struct_changes(build(OLD, "-g", "-gz=zlib"), build(new, "-g", "-gz=zlib"))
    assert (change.name, change.old_size, change.new_size) == ("union choice", 8, 32)


def test_damaged_debug_information_is_unknown_and_never_a_crash(build: Build) -> None:
    good = build(OLD, "-g")
    info = good.by_name[".debug_info"].index
    for size in (1, 13, 40, 200, 400):
        for fill in (b"", b"\xff" * 64):
            data = good.sections[info].data[:size] + fill
            sections = tuple(s._replace(size=len(data), data=data) if s.index == info else s for s in good.sections)
            bad = ObjectFile(good.name, good.machine, good.type, sections, good.symbols, good.relocations)
            assert struct_changes(good, bad) == ()
            assert types_unknown(bad)


@pytest.mark.parametrize("version", [4, 5])
def test_fields_of_variables_have_names(build: Build, version: int) -> None:
    obj = build(OLD, f"-gdwarf-{version}")
    assert field_at(obj, "k", 8) == "in.x"
    assert field_at(obj, "k", 16) == "in.name"
    assert field_at(obj, "k", 32) == "b[1]"
    assert field_at(obj, "m", 24) == "u"
    assert field_at(obj, "m", 33) == "named.q"
    assert field_at(obj, "row", 48 + 8) == "[1].in.x"
    assert field_at(obj, "deep", 16 * 4 + 8) == "[1][1].name"
    assert field_at(obj, "k", 4) == ""
    assert field_at(obj, "absent", 0) == ""
    local = next(s for s in obj.symbols if "local" in s.name)
    assert Variables(obj).field(local, 24) == "[1].name"


def _independent(path: Path) -> dict[str, tuple[int, dict[str, int]]]:
    """Named structures with the offsets of their named members, by pyelftools."""
    out: dict[str, tuple[int, dict[str, int]]] = {}
    with path.open("rb") as stream:
        for unit in ELFFile(stream).get_dwarf_info().iter_CUs():
            for entry in unit.get_top_DIE().iter_children():
                if entry.tag == "DW_TAG_structure_type" and "DW_AT_name" in entry.attributes:
                    if "DW_AT_byte_size" not in entry.attributes:
                        continue
                    out[_text(entry)] = (entry.attributes["DW_AT_byte_size"].value, dict(_offsets(entry)))
    return out


def _offsets(entry: DIE) -> list[tuple[str, int]]:
    rows = []
    for member in entry.iter_children():
        if "DW_AT_name" in member.attributes and "DW_AT_bit_size" not in member.attributes:
            place = member.attributes.get("DW_AT_data_member_location")
            rows.append((_text(member), place.value if place else 0))
    return rows


def _text(entry: DIE) -> str:
    return str(entry.attributes["DW_AT_name"].value.decode())


def _with_debug(root: Path) -> list[Path]:
    found = sorted(root.glob("corpus/pairs/*/layout.json")) + sorted(root.glob("running-*/pairs/*/layout.json"))
    return [p.parent for p in found if ".debug_info" in read_object(p.parent / "orig.o").by_name]


@pytest.mark.data
@pytest.mark.slow
def test_every_structure_is_read_as_an_independent_reader_does(data: Path) -> None:
    compared = 0
    for place in _with_debug(data)[:4]:
        types = TypeInfo(read_object(place / "orig.o"))
        theirs = _independent(place / "orig.o")
        assert {f"struct {name}" for name in theirs} == {n for n in types.defined if n.startswith("struct ")}
        for name, (size, offsets) in theirs.items():
            (mine,) = types.defined[f"struct {name}"]
            fields = {f.name: f.offset for f in types.fields(mine) if f.name and not f.bits}
            assert (types.size(mine), fields) == (size, offsets), name
            compared += 1
    assert compared > 1000


@pytest.mark.data
def test_the_recorded_layouts_are_found(data: Path) -> None:
    """layout.json names each changed structure with the members that pahole printed at another place."""
    seen = 0
    for place in _with_debug(data):
        expected = json.loads((place / "layout.json").read_text())
        found = {c.name: c for c in struct_changes(read_object(place / "orig.o"), read_object(place / "patched.o"))}
        assert sorted(found) == sorted(expected), place.name
        for name, row in expected.items():
            seen += 1
            change = found[name]
            assert [str(change.old_size), str(change.new_size)] == row["size"]
            assert _listed(row["added"]) <= _offsets_of(change, new=True), place.name
            assert _listed(row["removed"]) <= _offsets_of(change, new=False), place.name
    assert seen >= 8


def _listed(rows: list[list[str]]) -> set[tuple[str, int]]:
    """Members by name and offset; what pahole printed as an attribute has no name there."""
    return {(name, int(place.split()[0])) for name, place in rows if not name.startswith("__attribute__")}


def _offsets_of(change: StructChange, *, new: bool) -> set[tuple[str, int]]:
    rows = ((f.name.partition(".")[0], f.new_offset if new else f.old_offset) for f in change.fields)
    return {(name, offset) for name, offset in rows if offset is not None}


def test_flat_fields_have_paths(build: Build) -> None:
    types = TypeInfo(build(OLD, "-g"))
    (moved,) = types.defined["struct moved"]
    assert {n: f.offset for n, f in flat_fields(types, moved).items()} == {
        "a": 0,
        "b": 8,
        "f1": 16,
        "f2": 16,
        "u": 24,
        "w": 24,
        "named.p": 32,
        "named.q": 33,
    }


CLANG = """
    .data
    .globl v
    .type v,@object
v:  .zero 16
    .size v, 16
    .section .debug_abbrev,"",@progbits
    .byte 1, 0x11, 1, 0x72, 0x17, 0x73, 0x17, 0, 0
    .byte 2, 0x13, 1, 0x03, 0x25, 0x0b, 0x0b, 0, 0
    .byte 3, 0x0d, 0, 0x03, 0x25, 0x49, 0x13, 0x38, 0x0b, 0, 0
    .byte 4, 0x24, 0, 0x03, 0x25, 0x0b, 0x0b, 0, 0
    .byte 5, 0x34, 0, 0x03, 0x25, 0x49, 0x13, 0x02, 0x18, 0, 0
    .byte 6, 0x13, 1, 0x0b, 0x0b, 0, 0
    .byte 7, 0x0d, 0, 0x49, 0x13, 0x38, 0x0b, 0, 0
    .byte 0
    .section .debug_info,"",@progbits
0:  .long 2f-1f
1:  .short 5
    .byte 1, 8
    .long .debug_abbrev
    .byte 1
    .long .Lstrings
    .long .Laddresses
    .byte 5, 4
    .long .Lstruct-0b
    .byte 2, 0xa1, 0
.Lstruct: .byte 2, 0, 16
    .byte 3, 1
    .long .Lint-0b
    .byte 0
    .byte 7
    .long .Linner-0b
    .byte {place}
.Linner: .byte 6, 4
    .byte 3, 2
    .long .Lint-0b
    .byte 0, 0
    .byte 0
.Lint: .byte 4, 3, 4
    .byte 0
2:
    .section .debug_str_offsets,"",@progbits
    .long 24
    .short 5, 0
.Lstrings: .long .Ls0, .Ls1, .Ls2, .Ls3, .Ls4
    .section .debug_str,"MS",@progbits,1
.Ls0: .string "pair"
.Ls1: .string "first"
.Ls2: .string "second"
.Ls3: .string "int"
.Ls4: .string "v"
    .section .debug_addr,"",@progbits
    .long 12
    .short 5
    .byte 8, 0
.Laddresses: .quad v
"""


def test_clang_s_forms_are_read(build: Build) -> None:
    """Names and addresses by index, no siblings, an unnamed structure inside the one that holds it."""
    old, new = (build(CLANG.format(place=place), language="assembler") for place in (4, 8))
    assert types_unknown(old) == ""
    assert TypeInfo(old).defined.keys() == {"struct pair"}
    (change,) = struct_changes(old, new)
    assert change.name == "struct pair"
    assert [(f.name, f.kind, f.old_offset, f.new_offset) for f in change.fields] == [("second", "moved", 4, 8)]
    assert field_at(old, "v", 4) == "second" and field_at(old, "v", 0) == "first"
