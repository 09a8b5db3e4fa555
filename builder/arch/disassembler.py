"""Capstone's C library, called without its Python package.

The package is the usual way, but it brings the tables of some twenty machines, which take as long to import as a small
object takes to compare. What is asked of it here is one text, by calls that are the same in all of version 5; where
another version is installed, or its library lies elsewhere, the package is imported after all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

Disassembler = Callable[[bytes, int], tuple[str, str] | None]
"""(bytes, address) -> mnemonic and operands of the first instruction in them, None where there is none."""

# include/capstone/{capstone,x86}.h, 5.0
_ARCH_X86: Final = 3
_MODE_64: Final = 1 << 3
_OPT_SYNTAX: Final = 1
_SYNTAX_ATT: Final = 2
_MAJOR: Final = 5


class _Instruction(ctypes.Structure):
    """`cs_insn` of version 5."""

    _fields_ = (
        ("id", ctypes.c_uint),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint16),
        ("bytes", ctypes.c_ubyte * 24),
        ("mnemonic", ctypes.c_char * 32),
        ("op_str", ctypes.c_char * 160),
        ("detail", ctypes.c_void_p),
    )


def x86_disassembler() -> Disassembler:
    """That of 64-bit x86, in AT&T syntax."""
    library = _library()
    return _by_package() if library is None else _by_library(library)


def _library() -> ctypes.PyDLL | None:
    """The library that the installed package has with it, if it is of the version that is known here."""
    spec = find_spec("capstone")
    folders = (spec.submodule_search_locations if spec is not None else None) or ()
    place = next((place for folder in folders if (place := Path(folder) / "lib/libcapstone.so").is_file()), None)
    if place is None:
        return None
    # By PyDLL, which keeps other threads out: they share what reads.
    try:
        library = ctypes.PyDLL(str(place))
    except OSError:
        return None
    return library if library.cs_version(None, None) >> 8 == _MAJOR else None


def _by_library(library: ctypes.PyDLL) -> Disassembler:
    rows = ctypes.POINTER(_Instruction)
    library.cs_option.argtypes = (ctypes.c_size_t, ctypes.c_int, ctypes.c_size_t)
    library.cs_disasm.argtypes = (
        *(ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_size_t),
        ctypes.POINTER(rows),
    )
    library.cs_disasm.restype = ctypes.c_size_t
    library.cs_free.argtypes = (rows, ctypes.c_size_t)
    library.cs_free.restype = None
    handle = ctypes.c_size_t()
    if library.cs_open(_ARCH_X86, _MODE_64, ctypes.byref(handle)) or library.cs_option(
        handle, _OPT_SYNTAX, _SYNTAX_ATT
    ):
        return _by_package()

    def first(code: bytes, address: int) -> tuple[str, str] | None:
        found = rows()
        count = library.cs_disasm(handle, code, len(code), address, 1, ctypes.byref(found))
        if not count:
            return None
        text = found[0].mnemonic.decode(), found[0].op_str.decode()
        library.cs_free(found, count)
        return text

    return first


def _by_package() -> Disassembler:
    import capstone

    machine: Any = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    machine.syntax = capstone.CS_OPT_SYNTAX_ATT

    def first(code: bytes, address: int) -> tuple[str, str] | None:
        return next(((insn.mnemonic, insn.op_str) for insn in machine.disasm(code, address, 1)), None)

    return first
