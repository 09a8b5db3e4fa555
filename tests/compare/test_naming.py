"""What the compilers' local names mean."""

from __future__ import annotations

import pytest

from builder.compare import naming


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("foo", "foo"), ("lock.63240", "lock"), ("foo.isra.0", "foo.isra"), ("foo.isra.12.cold.7", "foo.isra.cold"),
        ("foo.constprop.0.isra.0", "foo.constprop.isra"), ("foo.part.3", "foo.part"), ("foo.cold", "foo.cold"),
        ("__UNIQUE_ID_ddebug684", "__UNIQUE_ID_ddebug"), ("__UNIQUE_ID_x684.3", "__UNIQUE_ID_x"),
        ("__pfx_foo.isra.4", "__pfx_foo.isra"), ("foo.llvm.123456", "foo.llvm"), ("v1_2", "v1_2"), ("a.b", "a.b"),
    ],
)  # fmt: skip
def test_a_family_is_the_name_without_its_numbers(name: str, family: str) -> None:
    assert naming.family(name) == family
    assert naming.is_numbered(name) == (name != family)


@pytest.mark.parametrize(
    ("name", "parent"),
    [("foo.cold", "foo"), ("foo.cold.7", "foo"), ("foo.isra.0.cold", "foo.isra.0"), ("foo", None), ("coldfoo", None),
     ("foo.coldish", None)],
)  # fmt: skip
def test_the_parent_of_a_cold_part(name: str, parent: str | None) -> None:
    assert naming.cold_parent(name) == parent


@pytest.mark.parametrize(
    ("name", "section", "never"),
    [
        ("__key.5", ".bss.__key.5", True), ("__warned.3", ".data.once", True), ("anything.1", ".data.once", True),
        ("_rs.41", ".data._rs.41", True), ("__func__.9", ".rodata.__func__.9", True),
        ("__already_done.1", ".data.once", True), ("descriptor.8", "__dyndbg", True), ("CSWTCH.88", ".rodata", True),
        ("f._rs", ".data.f._rs", True), ("__func__.f", ".rodata.__func__.f", True), ("f.count", ".bss.f.count", False),
        ("f.__key.3", ".bss.f.__key.3", True),
        ("count.2", ".bss.count.2", False), ("keys", ".data.keys", False), ("__UNIQUE_ID_a1", ".modinfo", True),
        ("__UNIQUE_ID_a1", ".data", False),
    ],
)  # fmt: skip
def test_what_each_version_has_of_its_own(name: str, section: str, never: bool) -> None:
    assert naming.is_never_paired(name, section) is never


def test_static_locals_are_told_from_clones() -> None:
    assert naming.is_static_local("count.5") and naming.is_static_local("lock.63240")
    assert naming.is_static_local("f.count") and naming.is_static_local("f.count.2")
    assert not naming.is_static_local(".L.str.3")
    assert not naming.is_static_local("foo.isra.0") and not naming.is_static_local("foo")
