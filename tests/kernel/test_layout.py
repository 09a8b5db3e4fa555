"""BTF: sizes, offsets, paths, enumerators, and what is said where there is none."""

from __future__ import annotations

import pytest

from builder.binary.kernel.btf import Btf
from builder.errors import KernelError
from tests.kernel.conftest import Opener
from tests.kernel.synthetic import BASE, TEXT, BtfWriter, Exported, vmlinux


def some_btf() -> bytes:
    out = BtfWriter()
    u32, char = out.integer("unsigned int", 4), out.integer("char", 1)
    const = out.add(10, "", char)
    text = out.pointer(const)
    list_head = out.count + 2
    link = out.pointer(list_head)
    assert out.struct("list_head", 16, [("next", link, 0), ("prev", link, 64)]) == list_head
    inner = out.struct("", 8, [("left", u32, 0), ("right", u32, 32)])
    union = out.struct("", 8, [("whole", out.pointer(0), 0), ("", inner, 0)], union=True)
    name = out.array(char, 56)
    region = out.struct("module_memory", 24, [("base", out.pointer(0), 0), ("size", u32, 64)])
    regions = out.array(region, 7)
    grid = out.array(out.array(u32, 3), 2)
    proto = out.add(13, "", u32)
    alias = out.add(8, "region_t", region)
    members = [
        ("state", u32, 0),
        ("list", list_head, 64),
        ("name", name, 192),
        ("", union, 640),
        ("mem", regions, 704),
        ("init", out.pointer(proto), 2048),
        ("label", text, 2112),
        ("grid", grid, 2176),
        ("one", alias, 2368),
    ]
    out.struct("module", 328, members)
    out.struct("flags", 4, [("low", u32, 3 << 24 | 0), ("high", u32, 29 << 24 | 3)], bits=True)
    out.struct("ambiguous", 4, [("a", u32, 0)])
    out.struct("ambiguous", 8, [("a", u32, 0), ("b", u32, 32)])
    out.struct("twice", 4, [("a", u32, 0)])
    out.struct("twice", 4, [("a", u32, 0)])
    out.enum("module_state", [("LIVE", 0), ("COMING", 1)])
    out.enum("signed", [("MINUS", -1)], signed=True)
    out.enum("unsigned", [("ALL", 0xFFFFFFFF)])
    out.enum64("wide", [("HUGE", 1 << 40), ("ONE", 1)])
    return out.section()


@pytest.fixture(scope="module")
def btf() -> Btf:
    return Btf(some_btf(), where="image")


def test_types_that_lead_nowhere_or_in_a_circle() -> None:
    out = BtfWriter()
    out.struct("around", 8, [("again", out.count + 1, 0)])
    out.add(8, "itself", out.count + 1)
    out.struct("beyond", 8, [("far", 1000, 0)])
    out.struct("through", 8, [("alias", 2, 0)])
    out.struct("rows", 8, [("row", out.count + 2, 0)])
    out.array(out.count + 1, 3)
    types = Btf(out.section(), where="image")
    for name in ("around", "itself", "beyond", "through", "rows"):
        with pytest.raises(KernelError, match="image: its BTF is damaged: "):
            types.layout(name)


def test_members(btf: Btf) -> None:
    layout = btf.layout("module")
    assert layout.size == 328
    assert [(m.name, m.offset, m.size, m.type_name) for m in layout.members] == [
        ("state", 0, 4, "unsigned int"),
        ("list", 8, 16, "struct list_head"),
        ("name", 24, 56, "char[56]"),
        ("", 80, 8, "union {...}"),
        ("mem", 88, 168, "struct module_memory[7]"),
        ("init", 256, 8, "unsigned int (*)()"),
        ("label", 264, 8, "const char *"),
        ("grid", 272, 24, "unsigned int[2][3]"),
        ("one", 296, 24, "region_t"),
    ]


@pytest.mark.parametrize(
    ("path", "offset", "size"),
    [
        ("init", 256, 8),
        ("list.prev", 16, 8),
        ("whole", 80, 8),
        ("right", 84, 4),
        ("mem", 88, 168),
        ("mem[0]", 88, 24),
        ("mem[6].size", 88 + 6 * 24 + 8, 4),
        ("grid[5]", 292, 4),
        ("one.size", 304, 4),
    ],
)
def test_paths(btf: Btf, path: str, offset: int, size: int) -> None:
    layout = btf.layout("module")
    assert (layout.offset_of(path), layout.member(path).size) == (offset, size)
    assert layout.has(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "struct module has no member nothing"),
        ("list.last", r"struct module has no member list\.last \(there is no last\)"),
        ("mem[7]", r"no member mem\[7\]"),
        ("mem.base", r"no member mem\.base"),
        ("state[0]", r"no member state\[0\]"),
        ("state.x", r"no member state\.x"),
        ("a b", "is no path"),
        ("", "is no path"),
    ],
)
def test_paths_that_lead_nowhere(btf: Btf, path: str, message: str) -> None:
    layout = btf.layout("module")
    with pytest.raises(KernelError, match=message):
        layout.offset_of(path)
    assert not layout.has(path)


def test_bit_fields(btf: Btf) -> None:
    low, high = btf.layout("flags").members
    assert (low.bit_offset, low.bit_size, high.bit_offset, high.bit_size) == (0, 3, 3, 29)
    with pytest.raises(KernelError, match=r"flags\.high is a bit-field"):
        btf.layout("flags").offset_of("high")


def test_names(btf: Btf) -> None:
    assert btf.layout("region_t") == btf.layout("module_memory")
    assert btf.layout("twice").size == 4
    with pytest.raises(KernelError, match=r"2 different structs are called ambiguous"):
        btf.layout("ambiguous")
    with pytest.raises(KernelError, match="no struct nothing"):
        btf.layout("nothing")
    with pytest.raises(KernelError, match="no struct char"):
        btf.layout("char")


def test_enumerators(btf: Btf) -> None:
    assert btf.enumerators("module_state") == {"LIVE": 0, "COMING": 1}
    assert btf.enumerators("wide") == {"HUGE": 1 << 40, "ONE": 1}
    found = {name: btf.enumerator(name) for name in ("COMING", "MINUS", "ALL", "HUGE")}
    assert found == {"COMING": 1, "MINUS": -1, "ALL": 0xFFFFFFFF, "HUGE": 1 << 40}
    with pytest.raises(KernelError, match="0 values for an enumerator nothing"):
        btf.enumerator("nothing")
    with pytest.raises(KernelError, match="no enum nothing"):
        btf.enumerators("nothing")


def test_unknown_kind() -> None:
    out = BtfWriter()
    out.integer("int", 4)
    out.add(77, "odd", 0)
    with pytest.raises(KernelError, match=r"unknown kind 77 \(number 2\)"):
        Btf(out.section(), where="image")


def test_truncated() -> None:
    with pytest.raises(KernelError, match="BTF is truncated"):
        Btf(some_btf()[:-10], where="image")
    with pytest.raises(KernelError, match="BTF is not of version 1"):
        Btf(b"", where="image")


def test_kernel_with_btf(opened: Opener) -> None:
    kernel = opened(vmlinux("6.12", btf=some_btf()))
    assert kernel.features.btf and kernel.features.module_memory
    assert kernel.layout("module").offset_of("init") == 256
    again = opened(vmlinux("6.12", btf=some_btf()))
    assert again.layout("module") == kernel.layout("module")


def test_kernel_without_btf(opened: Opener) -> None:
    exports = [Exported("klp_enable_patch", BASE + TEXT, gpl=True)]
    rows = [(BASE, "T", "_stext"), (BASE + 16 * TEXT, "T", "_etext"), (BASE + TEXT, "T", "klp_enable_patch")]
    rows += [(BASE + TEXT + 16 * i, "t", f"f{i}") for i in range(3000)]
    kernel = opened(vmlinux(rows=rows, exports=exports))
    assert kernel.features.livepatch and not kernel.features.btf
    for ask in (lambda: kernel.layout("module"), kernel.require_livepatch):
        with pytest.raises(KernelError, match=r"no BTF \(CONFIG_DEBUG_INFO_BTF\)"):
            ask()


def test_kernel_without_livepatch(opened: Opener) -> None:
    kernel = opened(vmlinux(btf=some_btf()))
    assert not kernel.features.livepatch
    with pytest.raises(KernelError, match="cannot be livepatched: it was built without CONFIG_LIVEPATCH"):
        kernel.require_livepatch()
