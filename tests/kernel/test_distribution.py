"""The distribution's own kernels, compared with its packages, its modules and the running kernel."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from builder.acquire.packages import fetch_headers
from builder.binary.kernel import Kernel, read_module_bytes
from builder.binary.kernel.modules import list_modules
from builder.image.guest import Guest
from tests.conftest import needed
from tests.kernel.synthetic import bzimage

pytestmark = pytest.mark.kernel


def some_modules(kernel: Kernel, count: int = 40) -> Iterator[ELFFile]:
    assert kernel.modules_root is not None
    found = sorted(list_modules(kernel.modules_root).values())
    for place in islice(found, 0, None, max(1, len(found) // count)):
        yield ELFFile(io.BytesIO(read_module_bytes(kernel.modules_root / place)))


def section(module: ELFFile, name: str) -> bytes:
    found = module.get_section_by_name(name)
    return bytes(found.data()) if found is not None else b""


def test_what_it_is(target: Kernel, release: str) -> None:
    assert target.release == release
    assert target.vermagic.startswith(f"{release} SMP ")
    assert target.banner.startswith(f"Linux version {release} (")
    assert target.features.livepatch and target.features.btf and target.features.orc
    assert target.features.ibt == target.features.module_memory == (not release.startswith("6.1."))
    target.require_livepatch()


def test_exports_are_those_of_module_symvers(target: Kernel, release: str) -> None:
    with needed(f"no headers of {release}"):
        symvers = fetch_headers(release).build / "Module.symvers"
    wanted = {}
    for line in symvers.read_text().splitlines():
        crc, name, owner, kind, namespace = line.split("\t")
        if owner == "vmlinux":
            wanted[name] = (int(crc, 16), kind == "EXPORT_SYMBOL_GPL", namespace)
    found = {name: (export.crc, export.gpl, export.namespace) for name, export in target.exports().items()}
    assert len(found) > 10_000
    assert found == wanted


def test_exports_are_where_kallsyms_say(target: Kernel) -> None:
    for export in target.exports().values():
        assert export.address in {symbol.address for symbol in target.symbols_named(export.name)}


def test_layout_of_struct_module_is_that_of_the_modules(target: Kernel) -> None:
    layout = target.layout("module")
    places = {layout.offset_of("init"), layout.offset_of("exit")}
    start, space = layout.offset_of("name"), layout.member("name").size
    for module in some_modules(target):
        content = section(module, ".gnu.linkonce.this_module")
        assert len(content) == layout.size
        assert content[start : start + space].rstrip(b"\0").replace(b"_", b"").isalnum()
        relocations = section(module, ".rela.gnu.linkonce.this_module")
        assert {offset for offset, _, _ in struct.iter_unpack("<QQq", relocations)} <= places


def test_crcs_are_those_that_modules_ask_for(target: Kernel) -> None:
    checked = 0
    for module in some_modules(target):
        for crc, raw in struct.iter_unpack("<Q56s", section(module, "__versions")):
            export = target.export(raw.rstrip(b"\0").decode())
            if export is not None:
                assert export.crc == crc, export.name
                checked += 1
    assert checked > 500


def test_table_entries_fit_their_sections(target: Kernel) -> None:
    rows = {
        ".altinstructions": "alt_instr",
        "__bug_table": "bug_entry",
        "__ex_table": "exception_table_entry",
        ".orc_unwind": "orc_entry",
        ".parainstructions": "paravirt_patch_site",
    }
    present = [name for name in rows if name in target.sections]
    assert len(present) >= 4
    for name in present:
        assert target.sections[name].size % target.layout(rows[name]).size == 0, name


def test_layouts_that_a_livepatch_needs(target: Kernel) -> None:
    patch, thing, function = (target.layout(name) for name in ("klp_patch", "klp_object", "klp_func"))
    # The part that a livepatch fills in, include/linux/livepatch.h
    assert [member.name for member in patch.members[:4]] == ["mod", "objs", "states", "replace"]
    assert [member.name for member in thing.members[:3]] == ["name", "funcs", "callbacks"]
    first = [(member.name, member.offset) for member in function.members[:3]]
    assert first == [("old_name", 0), ("new_func", 8), ("old_sympos", 16)]


def test_every_relocation_for_kaslr_is_in_the_image(target: Kernel) -> None:
    found = target.kaslr_relocations()
    low, high = target.image.text_limits
    for sites, size, least in ((found.add64, 8, 100_000), (found.add32, 4, 50_000)):
        assert len(sites) > least
        inside = 0
        for site in sites:
            value = int.from_bytes(target.read(site, size), "little", signed=True) % (1 << 64)
            inside += low <= value <= high
        assert inside > 0.99 * len(sites)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gzip", "lz4", "zstd"])
def test_the_same_kernel_in_another_compression(target: Kernel, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(target.vmlinux.read_bytes(), kind))
    other = Kernel.open(path, cache=tmp_path / "cache")
    assert other.vmlinux.read_bytes() == target.vmlinux.read_bytes()
    assert (other.release, other.features) == (target.release, target.features)


@pytest.mark.guest
def test_symbols_are_those_of_the_running_kernel(target: Kernel) -> None:
    """/proc/kallsyms of a boot without KASLR, line by line, and the BTF that the kernel shows."""
    lines = hashlib.md5()
    count = 0
    for count, symbol in enumerate(target.all_symbols(), 1):  # noqa: B007 - the last one is the number
        lines.update(f"{symbol.address:016x} {symbol.type} {symbol.name}\n".encode())
    btf = target.symbol("__start_BTF").address
    types = hashlib.md5(target.read(btf, target.symbol("__stop_BTF").address - btf))
    with Guest(target) as guest:
        guest.check("echo 0 > /proc/sys/kernel/kptr_restrict")
        own = "awk 'NF == 3 {print $1, $2, $3}' /proc/kallsyms"
        assert int(guest.check(f"{own} | wc -l", timeout=120)) == count
        assert guest.check(f"{own} | md5sum", timeout=120).split()[0] == lines.hexdigest()
        assert guest.check("md5sum < /sys/kernel/btf/vmlinux", timeout=120).split()[0] == types.hexdigest()
