"""Whatever a file holds, reading it gives an object or an InputError, soon."""

from __future__ import annotations

import random
import re
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.binary import ObjectFile, elf, read_object, write_object
from builder.errors import BespokeError, InputError
from builder.pipeline import diff_objects
from tests.binary.models import objects
from tests.conftest import data_root

SEED = 20260
HEADER = struct.Struct("<HHIQQQIHHHHHH")


def read(data: bytes) -> ObjectFile | None:
    """The object with all that is parsed late, or None for what is refused."""
    try:
        found = read_object(data, name="corrupt")
        for index in found.relocations:
            found.relocations[index]
        found.symbols_in, found.by_name, found.rela_of  # noqa: B018 - computed when asked for
        return found
    except InputError as problem:
        assert problem.message and problem.where == "corrupt"
        return None


def sample() -> bytes:
    path = data_root() / "running-6.1.0-50/pairs/crypto__af_alg/orig.o"
    return path.read_bytes()


def boundaries(data: bytes) -> list[int]:
    """Every place where a header or a section begins or ends, and one byte to either side."""
    _, _, _, _, _, shoff, _, _, _, _, _, shnum, _ = HEADER.unpack_from(data, 16)
    places = {0, 4, 5, 16, 63, 64, shoff, *(shoff + 64 * k for k in range(shnum + 1))}
    for k in range(shnum):
        offset, size = struct.unpack_from("<QQ", data, shoff + 64 * k + 24)
        places |= {offset, offset + size}
    return sorted({at + by for at in places for by in (-1, 0, 1) if 0 <= at + by < len(data)})


@pytest.mark.data
def test_cut_at_every_boundary() -> None:
    data = sample()
    assert read(data) is not None
    for at in boundaries(data):
        assert read(data[:at]) is None, f"{at} of {len(data)} bytes were taken for an object"


@pytest.mark.data
def test_flipped_bytes() -> None:
    data, rng = sample(), random.Random(SEED)
    shoff = HEADER.unpack_from(data, 16)[5]
    refused = 0
    for _ in range(1500):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 4, 16))):
            # headers and tables more often than contents
            low, high = rng.choice(((0, 64), (shoff, len(data)), (shoff, len(data)), (0, len(data))))
            broken[rng.randrange(low, high)] = rng.choice((0, 0xFF, rng.randrange(256)))
        refused += read(bytes(broken)) is None
    assert 100 < refused < 1500


@pytest.mark.data
def test_every_field_of_the_headers_at_its_extremes() -> None:
    data = sample()
    shoff, shnum = HEADER.unpack_from(data, 16)[5], HEADER.unpack_from(data, 16)[11]
    fields = [(16, 2), (18, 2), (24, 8), (40, 8), (58, 2), (60, 2), (62, 2)]
    widths = (4, 4, 8, 8, 8, 8, 4, 4, 8, 8)
    for k in range(shnum):
        at = shoff + 64 * k
        for width in widths:
            fields.append((at, width))
            at += width
    for at, width in fields:
        for value in (0, 1, 2**15, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, len(data)):
            broken = bytearray(data)
            broken[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
            read(bytes(broken))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_noise(data: bytes) -> None:
    read(data)
    read(b"\x7fELF\x02\x01\x01\0" + data)


@given(objects(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_broken_models(model: ObjectFile, rng: random.Random) -> None:
    broken = bytearray(write_object(model))
    for _ in range(3):
        broken[rng.randrange(len(broken))] = rng.randrange(256)
    read(bytes(broken))


@pytest.mark.data
@pytest.mark.slow
def test_a_comparison_of_broken_objects_ends_in_an_answer_or_an_error() -> None:
    """The stages after the reader meet what it lets through."""
    place = data_root() / "running-6.1.0-50/pairs/crypto__af_alg"
    data, new = (place / "orig.o").read_bytes(), read_object(place / "patched.o")
    rng, answers = random.Random(SEED), 0
    for _ in range(250):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 3))):
            broken[rng.randrange(64, len(data))] = rng.randrange(256)
        try:
            old = read_object(bytes(broken), name="corrupt")
            diff_objects(old, new).as_json()
            answers += 1
        except BespokeError as problem:
            assert problem.message
    assert answers


def test_nothing_but_a_header() -> None:
    data = bytearray(64)
    data[:8] = b"\x7fELF\x02\x01\x01\0"
    data[16:18] = elf.ET_REL.to_bytes(2, "little")
    data[18:20] = elf.EM_AARCH64.to_bytes(2, "little")
    found = read(bytes(data))
    assert found is not None and found.machine == elf.EM_AARCH64 and not found.sections and not found.symbols


@pytest.mark.data
def test_a_relocation_outside_its_section() -> None:
    whole = read(sample())
    assert whole is not None
    index = next(i for i, rows in whole.relocations.items() if rows)
    target = whole.sections[whole.sections[index].info]
    rows = {**whole.relocations, index: (whole.relocations[index][0]._replace(offset=target.extent[1]),)}
    found = read_object(write_object(replace(whole, relocations=rows)), name="corrupt")
    with pytest.raises(InputError, match=rf"outside {re.escape(target.name)} of {target.size:#x} bytes"):
        found.relocations_of(target.index)
