"""What the compilers' local names mean: children of functions, static locals, statics nobody pairs.

Sources: gcc's clone suffixes (gcc/symtab.cc, `clone_function_name`), clang's
and LLVM's (`.llvm.HASH` from ThinLTO promotion), and the list of compiler-made
statics in the design document.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

# `.cold` is part of its parent; `.part`, `.isra`, `.constprop` are functions of their own.
_COLD: Final = re.compile(r"^(?P<parent>.+?)\.cold(\.\d+)?$")
_CLONE_NUMBER: Final = re.compile(r"\.(part|isra|constprop|cold|lto_priv|llvm|specialized)\.\d+")
_TRAILING_NUMBER: Final = re.compile(r"(\.\d+)+$")
_UNIQUE: Final = re.compile(r"^(__UNIQUE_ID_(?:__\w+?___)?\D*?)\d+$")

# Made per place of use, never shared: a new version gets its own. Only with a number or a function in the name
# (`__key.5`, `function.__key`): a plain variable may be called so too. Those of dynamic debug and printk's index are
# known by their sections alone.
_NEVER_PAIRED: Final = (
    "__key", "__warned", "__already_done", "__func__", "__FUNCTION__", "__PRETTY_FUNCTION__", "_rs", "CSWTCH",
    "_entry", "_entry_ptr", "__print_once", "___done", "______f", "__compound_literal", "___tp_str",
    "__bpf_trace_tp_map",
)  # fmt: skip
# Of these the compilers and macros make constants only: what is written is a variable of that name.
_CONSTANT: Final = frozenset(
    ("__func__", "__FUNCTION__", "__PRETTY_FUNCTION__", "CSWTCH", "_entry", "__compound_literal")
)
_WRITTEN: Final = re.compile(r"\.(data|bss)(?!\.rel\.ro).*")
_NEVER_PAIRED_SECTIONS: Final = (
    ".data.once", ".data..once", "__dyndbg", "__verbose", ".printk_index", "__trace_printk_fmt",
)  # fmt: skip

# struct _ddebug (include/linux/dynamic_debug.h) and struct pi_entry (include/linux/printk.h) hold a line number: bits
_LINE_BITS: Final = (("__dyndbg", 18), ("__verbose", 18), (".printk_index", 32))


@lru_cache(maxsize=65536)
def cold_parent(name: str) -> str | None:
    """The function that a `.cold` part belongs to, by name; None for other names."""
    match = _COLD.match(name)
    return match["parent"] if match else None


@lru_cache(maxsize=65536)
def family(name: str) -> str:
    """The name with everything taken out that a recompilation renumbers.

    `foo.isra.0.cold.7` -> `foo.isra.cold`, `lock.63240` -> `lock`,
    `__UNIQUE_ID_x684` -> `__UNIQUE_ID_x`.
    """
    if name.startswith("__UNIQUE_ID_"):
        name = _TRAILING_NUMBER.sub("", name)
        return re.sub(r"\d+$", "", name)
    if is_marker(name):
        return name[:6] + family(name[6:])
    return _TRAILING_NUMBER.sub("", _CLONE_NUMBER.sub(r".\1", name))


@lru_cache(maxsize=65536)
def is_numbered(name: str) -> bool:
    """Whether the name carries a number that a recompilation may change."""
    return family(name) != name


@lru_cache(maxsize=65536)
def is_never_paired(name: str, section: str) -> bool:
    """Compiler- or macro-made statics of which each version has its own."""
    if any(_is_part(section, of) for of in _NEVER_PAIRED_SECTIONS):
        return True
    if name.startswith("__UNIQUE_ID_"):
        return not _WRITTEN.fullmatch(section)  # a variable, whose state is to be kept, may be numbered by a macro
    # gcc: `__key.5`; clang: `function.__key`, `__func__.function`.
    parts = family(name).split(".")
    if len(parts) == 1 and not is_numbered(name):
        return False
    made = {parts[0], parts[-1]}.intersection(_NEVER_PAIRED)
    return bool(made) and not (made <= _CONSTANT and _WRITTEN.fullmatch(section))


def line_bits(section: str) -> int:
    """How many bits of a source line data of this section hold behind their pointers; 0 for other sections."""
    return next((bits for name, bits in _LINE_BITS if _is_part(section, name)), 0)


def _is_part(section: str, whole: str) -> bool:
    """Whether a section is the one of a name or an input of it: `__dyndbg_classes` is no `__dyndbg`."""
    return section == whole or section.startswith(whole + ".")


def is_static_local(name: str) -> bool:
    """gcc numbers function-level statics (`name.N`), clang puts the function first (`function.name`)."""
    return "." in name and not (is_label(name) or cold_parent(name) or _CLONE_NUMBER.search(name))


@lru_cache(maxsize=65536)
def is_label(name: str) -> bool:
    """An assembler-local label (`.LC0`, `.L.str.3`), without meaning of its own."""
    return name.startswith(".L")


@lru_cache(maxsize=65536)
def is_marker(name: str) -> bool:
    """The name of the padding before a function: CONFIG_PREFIX_SYMBOLS, CONFIG_CFI_CLANG."""
    return name.startswith(("__pfx_", "__cfi_"))


_SOURCE: Final = re.compile(r"[\w./+-]+\.[chS]")


def is_source_name(text: str) -> bool:
    """Whether a text is what __FILE__ may be."""
    return bool(_SOURCE.fullmatch(text))
