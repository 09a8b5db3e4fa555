"""What stock kernels demand of a livepatch module: each row breaks one thing and says what the kernel answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from builder.binary import ObjectFile, Relocation, Section, SectionIndex, SectionOffset, elf
from builder.binary.kernel import Kernel
from samples.objects import TARGET_NAME
from tests.emit.edits import klp_sections, modinfo, renamed, with_data, with_section, without

Break = Callable[[ObjectFile, Kernel], ObjectFile]
VERSION_SIZE: Final = 64
"""sizeof(struct modversion_info)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes of it. `refused`: the error of insmod. `log` is in what the kernel says.

    `taint` is one that the kernel then has. `warns`: it loads and works, and the
    kernel warns at the first call or when it goes. `oops`: it dies of the first call.
    """

    refused: str = ""
    log: str = ""
    taint: str = ""
    warns: str = ""
    oops: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One demand; `answers` by series. What warns or dies has a guest of its own (`apart`)."""

    name: str
    breaks: Break
    answers: Mapping[str, Answer]
    cpu: str = "max"

    @property
    def apart(self) -> bool:
        return any(a.warns or a.oops for a in self.answers.values())


def this_module_grown(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
    section = obj.by_name[".gnu.linkonce.this_module"]
    return with_data(obj, section.name, section.data + bytes(64))


def _versions(change: Callable[[list[bytes]], list[bytes]]) -> Break:
    def breaks(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
        data = obj.by_name["__versions"].data
        rows = [data[k : k + VERSION_SIZE] for k in range(0, len(data), VERSION_SIZE)]
        return with_data(obj, "__versions", b"".join(change(rows)))

    return breaks


def _named(row: bytes) -> str:
    return row[8:].rstrip(b"\0").decode()


def _wrong_crc(rows: list[bytes]) -> list[bytes]:
    return [bytes([row[0] ^ 1]) + row[1:] if _named(row) == "seq_printf" else row for row in rows]


def no_versions(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
    return without(obj, "__versions")


def wrong_sympos_of_function(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
    """klp_func.old_sympos of the first record: only one function has the name, the second is asked for."""
    layout = kernel.layout("klp_func")
    data = obj.by_name[".data"]
    names = sorted(r.offset for r in obj.relocations_of(data.index))
    place = next(at for at in names if at + layout.offset_of("new_func") - layout.offset_of("old_name") in names)
    at = place - layout.offset_of("old_name") + layout.offset_of("old_sympos")
    return with_data(obj, ".data", data.data[:at] + (2).to_bytes(8, "little") + data.data[at + 8 :])


def wrong_sympos_of_symbol(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
    return renamed(lambda n: n.endswith(".tick,0"), lambda n: n.replace(",0", ",2"))(obj)


def vmlinux_symbol_for_module(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
    return renamed(lambda n: n.endswith(".tick,0"), lambda n: ".klp.sym.vmlinux.seq_read,0")(obj)


def no_klp_flag(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
    (section,) = klp_sections(obj)
    return with_section(obj, section._replace(flags=elf.SHF_ALLOC))


def nonzero_target(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
    (section,) = klp_sections(obj)
    at = obj.relocations[section.index][0].offset
    target = obj.sections[section.info]
    return with_data(obj, target.name, target.data[:at] + b"\x01" + target.data[at + 1 :])


def nonzero_in(symbol: str) -> Break:
    """The first field of a thunk that is bound late is not zero before; of several thunks of a name, of the first."""

    def breaks(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
        thunk = next(s for s in obj.symbols if s.name == symbol)
        inside = range(thunk.value, thunk.value + thunk.size)
        sections = [s for s in klp_sections(obj) if s.info == thunk.shndx]
        at = min(r.offset for s in sections for r in obj.relocations[s.index] if r.offset in inside)
        data = obj.sections[thunk.shndx].data
        return with_data(obj, obj.sections[thunk.shndx].name, data[:at] + b"\x01" + data[at + 1 :])

    return breaks


def _late(table: str, offset: int) -> Break:
    """The field at `offset` of the table's first entry is written when the patched module is loaded."""

    def breaks(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
        target = obj.by_name[table]
        rela = obj.rela_of[target.index]
        moved = [r for r in obj.relocations[rela] if r.offset == offset]
        kept = tuple(r for r in obj.relocations[rela] if r.offset != offset)
        assert len(moved) == 1
        symbol = next(s.index for s in obj.symbols if s.name == f".klp.sym.{TARGET_NAME}.visits,0")
        symtab = obj.symtab
        assert symtab is not None
        late = Section(
            SectionIndex(len(obj.sections)),
            f".klp.rela.{TARGET_NAME}.{table}",
            elf.SHT_RELA,
            elf.SHF_ALLOC | elf.SHF_RELA_LIVEPATCH,
            24,
            b"",
            link=symtab.index,
            info=target.index,
            align=8,
            entsize=24,
        )
        rows = {
            **obj.relocations,
            rela: kept,
            late.index: (Relocation(SectionOffset(offset), moved[0].type, symbol, 0),),
        }
        return replace(obj, sections=(*obj.sections, late), relocations=rows)

    return breaks


def without_orc(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
    return without(obj, ".orc_unwind", ".orc_unwind_ip")


def without_return_sites(obj: ObjectFile, kernel: Kernel) -> ObjectFile:
    return without(obj, ".return_sites")


def _info(key: str, change: Callable[[str], str] | None) -> Break:
    return lambda obj, kernel: modinfo(key, change)(obj)


def _lacking(name: str) -> Break:
    return _versions(lambda rows: [row for row in rows if _named(row) != name])


def _same(answer: Answer) -> dict[str, Answer]:
    return {"6.1": answer, "6.12": answer}


# What insmod says of the errno: ENOEXEC, EINVAL, ENOENT.
FORMAT: Final = "invalid module format"
INVALID: Final = "Invalid argument"
UNKNOWN: Final = "unknown symbol in module"

ROWS: Final = (
    Row("nothing", lambda obj, kernel: obj, _same(Answer())),
    Row(
        "this-module-size", this_module_grown,
        {
            # a silent danger: more or less of it is read as struct module than is there
            "6.1": Answer(),
            "6.12": Answer(FORMAT, "section size must match the kernel's built struct module size"),
        },
    ),
    Row("versions-absent", lambda o, k: without(o, "__versions"), _same(Answer(log="kernel tainted", taint="F"))),
    Row("versions-partial", _lacking("seq_printf"), _same(Answer(INVALID, "no symbol version for seq_printf"))),
    Row("versions-no-layout", _lacking("module_layout"), _same(Answer(FORMAT, "no symbol version for module_layout"))),
    Row("versions-wrong-crc", _versions(_wrong_crc), _same(Answer(INVALID, "disagrees about version of symbol"))),
    Row("vermagic", _info("vermagic", lambda v: v.replace("SMP ", "")), _same(Answer(FORMAT, "version magic"))),
    Row("livepatch-absent", _info("livepatch", None), _same(Answer(INVALID, "is not marked as a livepatch module"))),
    Row("license-absent", _info("license", None), _same(Answer(UNKNOWN, "Unknown symbol klp_enable_patch"))),
    Row("sympos-function", wrong_sympos_of_function, _same(Answer(INVALID, "symbol position 2 for symbol 'rise'"))),
    Row("sympos-symbol", wrong_sympos_of_symbol, _same(Answer(INVALID, "symbol position 2 for symbol 'tick'"))),
    Row("vmlinux-symbol", vmlinux_symbol_for_module, _same(Answer(INVALID, "invalid access to vmlinux symbol"))),
    Row("nonzero-target", nonzero_target, _same(Answer(FORMAT, "existing value is nonzero"))),
    Row("no-orc", without_orc, _same(Answer())),
    Row(
        "no-return-sites", without_return_sites,
        {"6.1": Answer(), "6.12": Answer(warns="Unpatched return thunk in use")},
        cpu="Skylake-Server",  # whose returns go through the thunk
    ),
    Row("klp-flag", no_klp_flag, _same(Answer(oops="NULL pointer dereference"))),
    Row("late-jump-table", _late("__jump_table", 8), _same(Answer(warns="jump_label_del_module"))),
    Row("late-static-call", _late(".static_call_sites", 4), _same(Answer(oops="NULL pointer dereference"))),
)  # fmt: skip

THUNKS: Final = {
    "key, beside its site": "far.livepatch.keys",
    "key, where others make room": "looped.livepatch.keys",
    "key, by a landing": "near.livepatch.keys",
    "key of a tracepoint": "called.livepatch.keys",
    "call that an alternative replaces": "called.livepatch.late",
    "call that an alternative puts there": "alternative.0.late",
}
"""The forms of thunks that the module of tests/emit/module has, each with the symbol of one."""
THUNK: Final = Answer(FORMAT, "existing value is nonzero")
"""Of a thunk that is not zero where it is bound."""
