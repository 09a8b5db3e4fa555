"""kallsyms in every layout, exports in both forms, and how livepatch counts symbols."""

from __future__ import annotations

import random

import pytest

from builder.binary import Address
from builder.binary.kernel import Export, KernelSymbol
from builder.errors import KernelError
from tests.kernel.conftest import Opener
from tests.kernel.synthetic import BASE, LAYOUTS, TEXT, Exported, Row, functions, vmlinux

PERCPU: list[Row] = [(0, "A", "__per_cpu_start"), (0, "A", "first_cell"), (0x1000, "A", "second_cell")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str, opened: Opener) -> None:
    rows = functions() + (PERCPU if layout in ("6.1", "6.12") else [])
    kernel = opened(vmlinux(layout, rows=rows))
    found = list(kernel.all_symbols())
    own = {(s.address, s.type, s.name) for s in found}
    assert own >= set(rows)
    assert [s.position for s in found] == list(range(len(found)))
    assert [s.address for s in found] == sorted(s.address for s in found)
    assert kernel.release == "6.1.0-test"
    assert kernel.vermagic == "6.1.0-test SMP preempt mod_unload "
    assert kernel.banner == "Linux version 6.1.0-test (somebody) (gcc) #1 SMP"


@pytest.mark.parametrize("count", [2304, 2305, 2559, 2560, 4096])
@pytest.mark.parametrize("layout", ["6.1", "7.2"])
def test_markers_at_their_limits(layout: str, count: int, opened: Opener) -> None:
    extra = len(list(opened(vmlinux(layout, rows=functions(2600))).all_symbols())) - 2602
    kernel = opened(vmlinux(layout, rows=functions(count - 2 - extra)))
    assert len(list(kernel.all_symbols())) == count


def test_names_longer_than_127_tokens(opened: Opener) -> None:
    long = "z" + "q7w" * 160
    kernel = opened(vmlinux(rows=[*functions(), (BASE + 40, "t", long)]))
    assert [s.address for s in kernel.symbols_named(long)] == [BASE + 40]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_that_are_not_ascii_come_back(layout: str, opened: Opener) -> None:
    """Tokens are bytes, and two of them may share a character; a name need not be UTF-8 at all."""
    raw = [b"caf\xc3\xa9", b"\xff\xfe", b"a\xed\xa0\x80", b"\x1b[31m\n", "世界".encode(), b"\x80"]
    added = [(BASE + 40 + i, "t", name.decode("latin-1")) for i, name in enumerate(raw)]
    exports = [Exported("_stext", BASE), Exported("exported\udcff", BASE + 40, namespace="space\udcfe")]
    kernel = opened(vmlinux(layout, rows=[*functions(), *added], exports=exports))
    names = [name.decode("utf-8", "surrogateescape") for name in raw]
    assert [kernel.symbol(name).address for name in names] == [address for address, _, _ in added]
    assert set(names) <= {symbol.name for symbol in kernel.all_symbols()}
    found = kernel.export("exported\udcff")
    assert found is not None and found.namespace == "space\udcfe" and found in kernel.exports().values()


def test_position_among_equals(opened: Opener) -> None:
    kernel = opened(vmlinux())
    equals = kernel.symbols_named("helper")
    assert len(equals) == 260
    assert [kernel.sympos(s) for s in equals] == list(range(1, 261))
    assert [s.address for s in equals] == [BASE + TEXT + 160 * i for i in range(260)]
    [alone] = kernel.symbols_named("_stext")
    assert kernel.sympos(alone) == 0
    assert kernel.symbols_named("nobody") == ()
    with pytest.raises(KernelError, match="260 symbols are called helper"):
        kernel.symbol("helper")
    with pytest.raises(KernelError, match="none of its symbols"):
        kernel.sympos(KernelSymbol("helper", BASE, "t", 7))


def test_equals_at_one_address_keep_their_order(opened: Opener) -> None:
    twins: list[Row] = [(BASE + 64, "t", "twin"), (BASE + 64, "T", "alias"), (BASE + 64, "T", "twin")]
    kernel = opened(vmlinux(rows=[*functions(), *twins]))
    assert [(s.type, kernel.sympos(s)) for s in kernel.symbols_named("twin")] == [("t", 1), ("T", 2)]


def test_lto_suffixes_are_not_counted_by_guess(opened: Opener) -> None:
    rows: list[Row] = [
        (BASE + 48, "t", "promoted.llvm.123"),
        (BASE + 64, "t", "promoted"),
        (BASE + 80, "t", "free"),
    ]
    kernel = opened(vmlinux(rows=[*functions(), *rows]))
    for name in ("promoted", "promoted.llvm.123"):
        with pytest.raises(KernelError, match=r"depends on its \.llvm\. suffixes"):
            kernel.sympos(kernel.symbol(name))
    assert kernel.sympos(kernel.symbol("free")) == 0


def test_look_up_by_address(opened: Opener) -> None:
    kernel = opened(vmlinux(rows=functions() + PERCPU))
    start = BASE + TEXT
    first = kernel.symbol_at(start)
    assert first is not None and (first.name, first.address) == ("helper", start)
    assert kernel.symbol_at(start + 1) is None
    assert kernel.nearest(start + 15) == first
    assert kernel.size_of(first) == 16
    assert [s.address for s in kernel.symbols_in(start, start + 48)] == [start, start + 16, start + 32]
    assert kernel.symbols_in(start + 1, start + 16) == ()
    assert kernel.text_range() == (BASE, BASE + 16 * TEXT)
    low = kernel.nearest(Address(0xFFF))
    assert low is not None and low.name == "__per_cpu_start"
    assert kernel.size_of(low) == 0x1000


def test_size_of_the_last_symbol_is_unknown(opened: Opener) -> None:
    kernel = opened(vmlinux())
    *_, last = kernel.all_symbols()
    assert kernel.size_of(last) == 0


EXPORTS = [
    Exported("klp_enable_patch", BASE + TEXT + 16, crc=0x12345678, gpl=True),
    Exported("printk", BASE + TEXT + 32, crc=0xFFFFFFFF, namespace=""),
    Exported("secret", BASE + TEXT + 48, crc=7, namespace="CRYPTO_INTERNAL"),
    Exported("cell", Address(0x1000), crc=9, gpl=True),
]


def test_exports_with_crcs(opened: Opener) -> None:
    kernel = opened(vmlinux("6.12", rows=functions() + PERCPU, exports=EXPORTS))
    assert dict(kernel.exports()) == {
        e.name: Export(e.name, e.address, e.crc, e.gpl, e.namespace or "") for e in EXPORTS
    }
    assert kernel.export("printk") == Export("printk", BASE + TEXT + 32, 0xFFFFFFFF, False, "")
    assert kernel.export("nobody") is None
    assert kernel.features.modversions and not kernel.features.flags_table


def test_exports_with_flags(opened: Opener) -> None:
    kernel = opened(vmlinux("7.2", exports=EXPORTS[:3]))
    assert {e.name: (e.crc, e.gpl, e.namespace) for e in kernel.exports().values()} == {
        "klp_enable_patch": (None, True, ""),
        "printk": (None, False, ""),
        "secret": (None, False, "CRYPTO_INTERNAL"),
    }
    assert kernel.features.flags_table and not kernel.features.modversions


def test_no_kallsyms(opened: Opener) -> None:
    image = bytearray(vmlinux())
    digits = image.index(b"0\x001\x002\x003\x00")
    image[digits] = 0x7F
    with pytest.raises(KernelError, match="no kallsyms tables"):
        opened(bytes(image))


def test_kallsyms_out_of_order(opened: Opener) -> None:
    image = vmlinux("6.1")
    base = image.rindex(BASE.to_bytes(8, "little"))  # the offsets end where it begins
    one, other = slice(base - 400, base - 396), slice(base - 200, base - 196)
    damaged = bytearray(image)
    damaged[one], damaged[other] = image[other], image[one]
    with pytest.raises(KernelError, match="in none of the known layouts"):
        opened(bytes(damaged))


@pytest.mark.parametrize("seed", range(60))
def test_damaged_images_give_one_clear_error(seed: int, opened: Opener) -> None:
    chance = random.Random(seed)
    image = bytearray(vmlinux(chance.choice(LAYOUTS), exports=EXPORTS[:3]))
    rare = chance.random() < 0.5  # the tables are at the end
    for _ in range(chance.choice((1, 8, 64))):
        image[chance.randrange(0 if rare else len(image) * 3 // 4, len(image))] = chance.randrange(256)
    try:
        opened(bytes(image))
    except KernelError as error:
        assert "\n" not in str(error) and error.where


def test_without_banner(opened: Opener) -> None:
    with pytest.raises(KernelError, match="no linux_banner and no vermagic: built without CONFIG_KALLSYMS_ALL"):
        opened(vmlinux(texts=False))
