"""Which folders' makefiles compile a source: told by their text, or said not to be known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.acquire.makers import makers

TREE = {
    "fs/Makefile": "obj-y += open.o\nobj-$(CONFIG_PROC) += proc/\n",
    "fs/proc/Makefile": "obj-y += proc.o\nproc-y := base.o fd.o\nCFLAGS_open.o = -O1\n",
    "fs/proc/base.c": "",
    "fs/tree/Makefile": "obj-m += tree.o\ntree-y += lib/alloc.o \\\n\tscan.o # base.o\n",
    "fs/tree/lib/alloc.c": "",
    "fs/sum/Makefile": "obj-m += sum.o\nsum-y += $(addprefix scrub/, dir.o)\n",
    "fs/sum/scrub/Makefile": "obj-y += dir.o\n",
    "virt/kvm/Makefile.kvm": "KVM ?= ../../../virt/kvm\nkvm-y := $(KVM)/main.o\n",
    "virt/kvm/main.c": "",
    "arch/x86/kvm/Makefile": "include $(srctree)/virt/kvm/Makefile.kvm\nobj-m += kvm.o\nkvm-y += x86.o mmu/mmu.o\n",
    "arch/x86/kvm/mmu/mmu.c": "",
    "arch/x86/include/generated/made": "",
    "arch/arm/Makefile": "obj-y += ../../fs/open.o\n",
    "lib/Makefile": "lib-y += ctype.o cmdline.o main.o\n",
    "drivers/stub/Makefile": "lib-y += lib-ctype.o file.o\n$(obj)/lib-%.o: $(srctree)/lib/%.c FORCE\n\t$(call x)\n",
    "drivers/stub/file.c": "",
    "drivers/file/Makefile": "obj-y += file.o ctype.o\n",
    "drivers/one/Makefile": "obj-m += a.o\n$(obj)/sha.o: $(srctree)/lib/cmdline.c\n",
    "drivers/parts/Kbuild": "include $(src)/deep/Kbuild\nparts-y += deep/part.o\n",
    "drivers/parts/deep/Kbuild": "parts-y += deep/part.o\n",
    "net/Makefile": "obj-y += main.o\nccflags-y := -I$(srctree)/lib\n",
    "net/far/Makefile": "obj-y += main.o domain.o\ndomain-y := ../x.o\n",
    "net/far/main.c": "",
    "tools/Makefile": "objs := ../fs/open.o\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


WHERE: Mapping[str, tuple[str, ...] | None] = {
    "fs/open.c": ("fs",),  # neither another machine's makefile nor that of a program counts
    "fs/proc/base.c": ("fs/proc",),
    "fs/tree/lib/alloc.c": ("fs/tree/lib", "fs/tree"),
    "fs/tree/scan.c": ("fs/tree",),
    "fs/sum/scrub/dir.c": ("fs/sum/scrub", "fs/sum"),  # by a function of make
    "arch/x86/kvm/mmu/mmu.c": ("arch/x86/kvm/mmu", "arch/x86/kvm"),
    "virt/kvm/main.c": None,  # by a makefile that another includes
    "lib/ctype.c": None,  # by a rule for all sources of the folder
    "lib/cmdline.c": None,  # by a rule of its own
    "lib/main.c": None,  # `main.o` of virt/kvm may be it
    "drivers/file/file.c": ("drivers/file",),  # another folder's own
    "drivers/file/ctype.c": ("drivers/file",),  # that rule is not about this folder
    "drivers/parts/deep/part.c": ("drivers/parts/deep", "drivers/parts"),
    "net/far/domain.c": ("net/far",),
    "net/none.c": ("net",),
    "top.c": None,
}


@pytest.mark.parametrize(("source", "folders"), WHERE.items(), ids=list(WHERE))
def test_the_folders_that_may_compile_a_source(root: Path, source: str, folders: tuple[str, ...] | None) -> None:
    assert makers(root, source) == folders
