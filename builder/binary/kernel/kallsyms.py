"""The kernel's own symbol table, found in the image by what must hold of it.

scripts/kallsyms.c writes these tables, each aligned to 8 bytes (7.x: to 4)::

    num_syms     u32
    names        per symbol: length (ULEB128, at most two bytes), that many token numbers
    markers      u32 per 256 symbols: where in `names` the 256th, 512th, ... begins
    token_table  256 NUL-terminated texts; a symbol's first character is its type
    token_index  256 u16: where in token_table each text begins
    offsets      s32 per symbol

Their order and the meaning of `offsets` have changed, and distributions carry
the changes back, so nothing here asks for a version: the token table is found
by its digits (every kernel has names with each of them, so each is a token of
its own), the others by their bounds, and a reading of `offsets` counts only if
all addresses come out sorted and inside the image.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise, starmap
from operator import le
from typing import Final

from builder.acquire import bounds
from builder.binary.kernel.static import StaticImage
from builder.errors import KernelError

_DIGITS: Final = re.compile(b"".join(b"%d\0" % digit for digit in range(10)))
_MASK: Final = (1 << 64) - 1
_GROUP: Final = (256 * 2, 256 * 514)
"""The least and the most bytes that 256 names take: a length of one or two bytes, and tokens."""
_LONGEST: Final = 1024
"""Tokens of a name and letters of a token: twice KSYM_NAME_LEN (include/linux/kallsyms.h, v6.1)."""
_MOST_SYMBOLS: Final = 1 << 24  # kallsyms_seqs_of_names has three bytes for each


@dataclass(frozen=True, slots=True)
class Kallsyms:
    """All symbols in kallsyms order; `types` are the letters of nm; addresses sorted, absolute ones low."""

    names: list[str]
    types: list[str]
    addresses: array[int]
    layout: str


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Offsets in the file of the two token tables, and the 256 texts."""

    table: int
    index_end: int
    texts: list[str]


def decode(image: StaticImage) -> Kallsyms:
    """Find and decode the tables; KernelError where the image has none that are consistent."""
    some = False
    for segment in image.segments:
        low, high = segment.offset, segment.offset + segment.file_size
        for tokens in _token_tables(image, low, high):
            some = True
            for num_syms, names, count in _name_tables(image, tokens.table, low):
                found = _decode_names(image, tokens, names, count)
                if found is None:
                    continue
                texts, types = found
                addresses, layout = _addresses(image, tokens, num_syms, count)
                return Kallsyms(texts, types, addresses, layout)
    what = "names and offsets that fit its kallsyms tokens" if some else "kallsyms tables (CONFIG_KALLSYMS)"
    raise KernelError(f"no {what} in the image", where=image.where)


def _token_tables(image: StaticImage, low: int, high: int) -> Iterator[_Tokens]:
    """Every place where token_table and token_index agree on all 256 texts."""
    data = image.data
    for match in _DIGITS.finditer(data, low, high):
        end = match.start()
        for _ in range(ord("0"), 256):
            end = data.find(b"\0", end, high) + 1
            if not end:
                break
        for index_at in sorted({(end + 3) & ~3, (end + 7) & ~7}) if end else ():
            if index_at + 512 > high:
                continue
            index = array("H", data[index_at : index_at + 512])
            table = match.start() - index[ord("0")]
            if table < low or index[0] != 0:
                continue
            texts = data[table : end - 1].split(b"\0")
            begins = accumulate((len(text) + 1 for text in texts[:-1]), initial=0)
            if len(texts) == 256 and max(map(len, texts)) <= _LONGEST and list(begins) == index.tolist():
                yield _Tokens(table, index_at + 512, [text.decode("latin-1") for text in texts])


def _name_tables(image: StaticImage, before: int, low: int) -> Iterator[tuple[int, int, int]]:
    """Candidates below `before`: offsets of num_syms and of names, and the number of symbols."""
    data = image.data
    at = before
    while (at := data.rfind(b"\0\0\0\0", low, at)) >= 0:
        markers = at & ~3
        at = markers + 3  # the next hit begins before this one
        head = int.from_bytes(data[markers + 4 : markers + 8], "little")
        if not _GROUP[0] <= head <= _GROUP[1]:
            continue
        run = _marker_run(data[markers : min(before, markers + 4 * (_MOST_SYMBOLS >> 8))])
        # What follows the markers can look like one more of them, hence a few lengths.
        for groups in range(len(run), max(len(run) - 3, 8), -1):
            last = markers - run[groups - 1]
            for names in range(last & ~3, max(last - 256 * 130, low + 8), -4):
                for num_syms in (names - 4, names - 8):
                    count = int.from_bytes(data[num_syms : num_syms + 4], "little")
                    if (count + 255) >> 8 == groups and not any(data[num_syms + 4 : names]):
                        yield num_syms, names, count


def _marker_run(content: bytes) -> list[int]:
    """The longest beginning of `content` that rises as markers of 256 names must."""
    words = array("I", content[: len(content) & ~3])
    stop = 1
    while stop < len(words) and _GROUP[0] <= words[stop] - words[stop - 1] <= _GROUP[1]:
        stop += 1
    return words[:stop].tolist()


def _decode_names(image: StaticImage, tokens: _Tokens, names: int, count: int) -> tuple[list[str], list[str]] | None:
    """Names and types of `count` symbols, or None where they do not end before the token table."""
    stream = image.data[names : tokens.table]
    text_of = tokens.texts.__getitem__
    join = "".join
    found: list[str] = []
    room = bounds.most(len(image.data))
    add = found.append
    at = 0
    try:
        for _ in range(count):
            length = stream[at]
            at += 1
            if length & 0x80:
                length = (length & 0x7F) | stream[at] << 7
                at += 1
            if not 0 < length <= _LONGEST:
                return None
            stop = at + length
            text = join(map(text_of, stream[at:stop]))
            room -= len(text)
            if room < 0:
                raise KernelError(f"what its kallsyms names {bounds.beyond(len(image.data))}", where=image.where)
            add(text)
            at = stop
    except IndexError:
        return None
    if at > len(stream) or not all(found):
        return None
    return [_name(text[1:]) for text in found], [text[0] for text in found]


def _name(text: str) -> str:
    """Of tokens, each of which may be a part of a character."""
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "surrogateescape")


def _addresses(image: StaticImage, tokens: _Tokens, num_syms: int, count: int) -> tuple[array[int], str]:
    """The address of every symbol, and the name of the first layout in which they are plausible."""
    low, high = image.text_limits
    for layout, addresses in _readings(image, tokens, num_syms, count):
        inside = bisect_right(addresses, high) - bisect_left(addresses, low)
        if inside > 0.9 * count and all(starmap(le, pairwise(addresses))):
            return addresses, layout
    raise KernelError("the kallsyms offsets are in none of the known layouts", where=image.where)


def _readings(image: StaticImage, tokens: _Tokens, num_syms: int, count: int) -> Iterator[tuple[str, array[int]]]:
    """What the offsets would mean in each layout: `kallsyms_sym_address` of kernel/kallsyms.c."""
    data, (low, high) = image.data, image.text_limits
    space = (4 * count + 7) & ~7
    based = (
        ("offsets, base, num_syms", num_syms - 8 - space, num_syms - 8),  # to 6.3
        ("token_index, offsets, base", tokens.index_end, tokens.index_end + space),  # from 6.4
    )
    for layout, at, base_at in based:
        base = int.from_bytes(data[base_at : base_at + 8], "little")
        if at >= 0 and low <= base <= high:
            raw = data[at : at + 4 * count]
            # CONFIG_KALLSYMS_ABSOLUTE_PERCPU, to 6.14: what is not negative is itself the address.
            signed = [value if value >= 0 else (base - 1 - value) & _MASK for value in array("i", raw)]
            yield f"{layout}; per-CPU absolute", array("Q", signed)
            yield layout, array("Q", [(base + value) & _MASK for value in array("I", raw)])
    for layout, at in (
        ("token_index, entry-relative offsets", tokens.index_end),  # 7.x
        ("entry-relative offsets, num_syms", num_syms - 4 * count),
    ):
        if at >= 0 and image.is_loaded(at, 4 * count):
            place = image.address_of(at)
            values = enumerate(array("i", data[at : at + 4 * count]))
            yield layout, array("Q", [(place + 4 * i + value) & _MASK for i, value in values])
