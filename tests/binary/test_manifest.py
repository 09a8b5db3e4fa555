"""The manifest: what is written is read again, and what is wrong in one is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from builder.binary.manifest import (
    CarriedFunction,
    CarriedPart,
    Manifest,
    MapRow,
    Original,
    SetWord,
    TargetKernel,
    WrittenBinding,
)
from builder.errors import InputError, Refusal

WHOLE = Manifest(
    name="fix",
    kernel=TargetKernel("6.1.0-50-amd64", "0" * 64, "6.1.0-50-amd64 SMP preempt mod_unload modversions"),
    replace=False,
    on=("older",),
    objects=("ext4", "vmlinux"),
    functions=(
        CarriedFunction("fresh", "fresh", "vmlinux", "new", 16, "a" * 64),
        CarriedFunction("inlined", "inlined.livepatch", "vmlinux", "carrier", 16, "a" * 64, Original(12, "b" * 64)),
        CarriedFunction(
            name="changed",
            symbol="changed.livepatch",
            object="ext4",
            role="changed",
            new_size=32,
            new_hash="c" * 64,
            old=Original(24, "d" * 64, "changed", 2),
            redirected=True,
            late=(5, 9),
            map=(MapRow(0, 0, 100, 7), MapRow(5, 0, 60, 1, "changed.cold.livepatch")),
            since="older",
            base="changed.livepatch",
            points=(MapRow(9, 4, 80, 7),),
            parts=(
                CarriedPart(
                    "changed.cold", 0, 8, (MapRow(0, 5, 90, 3),), (MapRow(4, 5, 80, 3),), "changed.cold.livepatch"
                ),
            ),
        ),
    ),
    bindings=(WrittenBinding(".text", 6, 4, "ext4", "ext4", "counter", 1, -4),),
    special_entries={"__bug_table": {"changed": 2}},
    accepted=(Refusal("exit-changed", "leave", ".exit.text", "leave changed", "accept it", fatal=False),),
    warnings=(Refusal("sched-text", "f", ".sched.text", "somewhere else", "nothing to do", fatal=False),),
    sets=(SetWord("ext4", "limit", 8, 4),),
    compiler=("gcc-14 (Debian 14.2.0-19) 14.2.0", "gcc-14=14.2.0-19", "libc6=2.41-12"),
)


def test_what_is_written_is_read_again() -> None:
    assert Manifest.from_bytes(WHOLE.to_bytes(), where="fix.ko") == WHOLE
    assert Manifest.from_json(WHOLE.as_json(), where="fix.ko") == WHOLE
    assert Manifest.from_json(json.loads(WHOLE.to_bytes()), where="fix.ko").to_bytes() == WHOLE.to_bytes()
    assert [row.name for row in WHOLE.redirected] == ["changed"]


def test_what_does_not_hold_is_not_written() -> None:
    fresh, inlined, changed = WHOLE.as_json()["functions"]
    assert set(fresh) == {"name", "symbol", "object", "role", "new_size", "new_hash", "redirected"}
    assert set(inlined) - set(fresh) == {"old_size", "old_hash"}
    assert set(changed) - set(inlined) == {"old_name", "sympos", "late", "map", "points", "since", "base", "parts"}
    assert changed["map"] == [[0, 0, 100, 7], [5, 0, 60, 1, "changed.cold.livepatch"]]


def test_in_the_first_modules_a_copy_is_called_like_the_original() -> None:
    document = WHOLE.as_json()
    for row in document["functions"]:
        del row["symbol"]
    assert [row.symbol for row in Manifest.from_json(document, where="fix.ko").functions] == [
        *("fresh", "inlined", "changed")
    ]


def set_(*path: Any) -> Callable[[Any], None]:
    """Put the last of `path` at the place that the others lead to."""

    def change(document: Any) -> None:
        *way, key, value = path
        for step in way:
            document = document[step]
        document[key] = value

    return change


def drop(*path: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        *way, key = path
        for step in way:
            document = document[step]
        del document[key]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_("format", 2), "it is of format 2, not 1"),
        (drop("format"), "format is missing"),
        (drop("name"), "name is missing"),
        (set_("name", 7), "name is not a text"),
        (set_("kernel", "6.1"), "kernel is not an object"),
        (drop("kernel", "release"), "kernel.release is missing"),
        (set_("replace", 1), "replace is not true or false"),
        (set_("on", "older"), "on is not a list"),
        (set_("objects", 0, None), "objects[0] is not a text"),
        (drop("functions"), "functions is missing"),
        (set_("functions", 2, "old_size", True), "functions[2].old_size is not a number"),
        (drop("functions", 2, "sympos"), "functions[2].sympos is missing"),
        (drop("functions", 2, "old_name"), "functions[2].old_name is missing"),
        (set_("functions", 2, "map", 0, [1, 2, 3]), "functions[2].map[0] has 3 cells, not 4 or 5"),
        (set_("functions", 2, "map", 1, 4, 0), "functions[2].map[1][4] is not a text"),
        (set_("functions", 2, "parts", 0, "size", "8"), "functions[2].parts[0].size is not a number"),
        (drop("bindings", 0, "addend"), "bindings[0].addend is missing"),
        (set_("special_entries", "__bug_table", "changed", "2"), "special_entries.__bug_table.changed is not a number"),
        (drop("accepted", 0, "code"), "accepted[0].code is missing"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[Any], None], said: str) -> None:
    document = copy.deepcopy(WHOLE.as_json())
    change(document)
    with pytest.raises(InputError) as caught:
        Manifest.from_bytes(json.dumps(document).encode(), where="fix.ko")
    assert str(caught.value) == f"fix.ko: its manifest cannot be read: {said}"


def test_a_code_of_another_version_is_read() -> None:
    document = copy.deepcopy(WHOLE.as_json())
    document["warnings"][0]["code"] = "of-a-later-version"
    assert Manifest.from_json(document, where="fix.ko").as_json() == document


def test_notes_of_the_first_modules_are_read() -> None:
    """They told code, symbol and message only."""
    document = copy.deepcopy(WHOLE.as_json())
    document["warnings"] = [{"code": "sched-text", "symbol": "f", "message": "somewhere else"}]
    (row,) = Manifest.from_json(document, where="fix.ko").warnings
    assert row == Refusal("sched-text", "f", "", "somewhere else", "", fatal=False)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[", b"[]", b"null", b"7", b"[" * 100_000])
def test_what_is_no_document_is_an_error(data: bytes) -> None:
    with pytest.raises(InputError, match=r"fix\.ko: its manifest cannot be read"):
        Manifest.from_bytes(data, where="fix.ko")
