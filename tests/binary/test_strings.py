"""String sections: where a string begins and ends depends on the width of its characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.binary import Section, SectionIndex, SectionOffset, String, elf
from builder.errors import UnknownError

STRINGS = elf.SHF_ALLOC | elf.SHF_MERGE | elf.SHF_STRINGS
ENCODINGS = {1: "utf-8", 2: "utf-16-le", 4: "utf-32-le"}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


def section(data: bytes, width: int, flags: int = STRINGS) -> Section:
    return Section(
        SectionIndex(1), f".rodata.str{width}.{width}", elf.SHT_PROGBITS, flags, len(data), data, entsize=width
    )


@given(st.sampled_from(sorted(ENCODINGS)), st.lists(TEXT, min_size=1, max_size=6), st.data())
def test_each_place_of_a_section_belongs_to_its_string(width: int, texts: list[str], data: st.DataObject) -> None:
    encoded = [text.encode(ENCODINGS[width]) for text in texts]
    whole = section(b"".join(text + bytes(width) for text in encoded), width)
    number = data.draw(st.integers(0, len(texts) - 1))
    start = SectionOffset(sum(len(text) + width for text in encoded[:number]))
    end = start + len(encoded[number])
    assert whole.string_at(start) == String(encoded[number], width)
    assert str(whole.string_at(start)) == texts[number]
    inside = SectionOffset(data.draw(st.integers(start, end)))
    assert whole.string_bounds(inside) == (start, end + width)
    assert whole.string_at(inside).data == whole.data[inside:end]


def test_what_nothing_ends_goes_on_to_the_end_of_the_section() -> None:
    cut = section("one\0two".encode("utf-16-le"), 2)
    assert str(cut.string_at(SectionOffset(8))) == "two" and cut.string_bounds(SectionOffset(10)) == (8, 14)


def test_equal_bytes_of_another_width_are_another_string() -> None:
    assert section(b"ab\0\0", 1).string_at(SectionOffset(0)) != section(b"ab\0\0", 2).string_at(SectionOffset(0))


def test_a_section_that_is_none_of_strings_holds_those_of_c() -> None:
    plain = section(b"ab\0c\0", 8, elf.SHF_ALLOC)
    assert plain.character == 1 and str(plain.string_at(SectionOffset(0))) == "ab"


@pytest.mark.parametrize("width", [0, 3, 8])
def test_an_unknown_width_is_named(width: int) -> None:
    with pytest.raises(UnknownError, match=rf"\.rodata\.str{width}.*{width} bytes"):
        section(b"abcdefgh", width).string_at(SectionOffset(0))
