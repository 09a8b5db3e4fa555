"""The names that livepatch reads, against what the kernel's own patterns take (kernel/livepatch/core.c)."""

from __future__ import annotations

import pytest

from builder.binary import klp
from builder.errors import InputError


def test_a_symbol_is_read_as_it_was_written() -> None:
    for parts in (("vmlinux", "printk", 0), ("ext4", "f.constprop.0", 2), ("a" * 55, "b" * 511, 1)):
        name = klp.symbol_name(*parts)
        assert klp.is_symbol(name) and not klp.is_section(name)
        assert klp.parse_symbol(name) == parts and klp.object_named(name) == parts[0]
    assert klp.symbol_name("vmlinux", "seq_read", 1) == ".klp.sym.vmlinux.seq_read,1"


def test_a_section_is_read_as_it_was_written() -> None:
    name = klp.section_name("ext4", ".text")
    assert name == ".klp.rela.ext4..text" and klp.is_section(name) and not klp.is_symbol(name)
    assert klp.section_object(name) == klp.object_named(name) == "ext4"


@pytest.mark.parametrize(
    "name",
    [".klp.sym.", ".klp.sym.vmlinux", ".klp.sym.vmlinux.", ".klp.sym.vmlinux.f", ".klp.sym.vmlinux.f,",
     ".klp.sym.vmlinux.f,x", ".klp.sym..f,0", f".klp.sym.{'a' * 56}.f,0", f".klp.sym.vmlinux.{'b' * 512},0",
     ".klp.sim.vmlinux.f,0", "printk"],
)  # fmt: skip
def test_a_symbol_that_the_kernel_would_not_take_is_named(name: str) -> None:
    with pytest.raises(InputError, match=r"symbol .* has an incorrectly formatted name") as caught:
        klp.parse_symbol(name)
    assert name in str(caught.value) and klp.object_named(name) is None


@pytest.mark.parametrize("name", [".klp.rela.", ".klp.rela..text", ".rela.text", ".klp.rel.vmlinux..text"])
def test_a_section_that_the_kernel_would_not_take_is_named(name: str) -> None:
    with pytest.raises(InputError, match=r"section .* has an incorrectly formatted name") as caught:
        klp.section_object(name)
    assert name in str(caught.value) and klp.object_named(name) is None
