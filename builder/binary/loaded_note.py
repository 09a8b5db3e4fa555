"""The manifest of a module as a note that is loaded with it, so that a running kernel can say what it has loaded.

The kernel shows the notes of a module in /sys/module/NAME/notes (add_notes_attrs, kernel/module/sysfs.c, v6.1), also
where the module's file is gone. The note is an ELF note of type 1 and the owner `Bespoke`; its content is text, so that
a shell can hand it on: base64 of what bzip2 makes of the manifest.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import re
import struct
from typing import Final

from builder.binary.manifest import Manifest
from builder.errors import InputError

SECTION: Final = ".note.bespoke"
_OWNER: Final = b"Bespoke\0"
_TYPE: Final = 1
_ALIGN: Final = 4
_MOST: Final = 1 << 28
"""Bytes that a manifest may have; that of the largest module of the tests has a few hundred thousand."""
_TEXT: Final = re.compile(r"Bespoke\0*([A-Za-z0-9+/]+=*)")


def to_note(written: bytes) -> bytes:
    """The contents of the section, of a manifest as `Manifest.to_bytes` writes it; equal ones give equal bytes."""
    text = base64.b64encode(bz2.compress(written))
    padding = bytes(-len(text) % _ALIGN)
    return struct.pack("<III", len(_OWNER), len(text), _TYPE) + _OWNER + text + padding


def from_note(shown: str, *, where: str) -> Manifest:
    """From the note as it was read as text. InputError for what is none, or a damaged one."""
    found = _TEXT.search(shown)
    if found is None:
        raise InputError("is no note of a module of ours", where=where)
    unpack = bz2.BZ2Decompressor()
    try:
        content = unpack.decompress(base64.b64decode(found[1], validate=True), _MOST)
    except (OSError, ValueError, binascii.Error) as error:
        raise InputError(f"its note cannot be read: {error}", where=where) from None
    if not unpack.eof:
        raise InputError(f"its note is cut off, or makes more than {_MOST} bytes", where=where)
    return Manifest.from_bytes(content, where=where)
