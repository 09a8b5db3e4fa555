"""Which functions of the kernel take a source line, in which argument, and which other argument goes with it.

Each row is a declaration of the kernel's (Linux 4.x to 6.12), whose callers are macros that give `__LINE__` there. A
row that is wrong would call a real change a moved line: read the declaration before adding one, and name its file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

FILE, FUNCTION, MODULE = "file", "function", "module"
"""What goes with a line: __FILE__, __func__, or ACPICA's _acpi_module_name."""


@dataclass(frozen=True, slots=True)
class Taker:
    """`names` (a regular expression) take a line as argument `line` and `kind` as argument `sibling`, both from 0.

    Without `kind` nothing goes with the line, and only a line map or the source patch can prove it. `sources` is
    what a `FILE` argument begins with, where functions of other files have the same name. A static function of the
    name is another one, unless the declared one may be static too (`local`).
    """

    names: str
    line: int
    sibling: int = -1
    kind: str = ""
    sources: str = ""
    local: bool = False


TAKERS: Final = (
    # include/linux/kernel.h, include/linux/sched.h
    Taker(r"___?might_sleep|__might_(resched|fault)|__cant_(sleep|migrate)", 1, 0, FILE),
    # include/linux/lockdep.h
    Taker(r"lockdep_rcu_suspicious", 1, 0, FILE),
    # include/asm-generic/bug.h, kernel/panic.c; not __warn_printk(), whose arguments are those of its format
    Taker(r"warn_slowpath_(null|fmt|fmt_taint)|__warn", 1, 0, FILE),
    # include/linux/cred.h
    Taker(r"__validate_process_creds|__invalid_creds", 2, 1, FILE),
    Taker(r"__validate_creds", 2, 1, FILE, local=True),
    # include/kunit/test-bug.h
    Taker(r"__kunit_fail_current_test", 1, 0, FILE),
    # include/net/xdp.h
    Taker(r"xdp_warn", 2, 1, FUNCTION),
    # include/sound/core.h, sound/core/seq/seq_lock.h
    Taker(r"__snd_printk", 2, 1, FILE),
    Taker(r"snd_use_lock_sync_helper", 2, 1, FILE),
    # include/acpi/acpixf.h, drivers/acpi/acpica/acutils.h (AE_INFO of acoutput.h)
    Taker(r"acpi_(error|exception|warning|bios_(error|exception|warning))", 1, 0, MODULE),
    Taker(r"acpi_ut_(predefined_(warning|info|bios_error)|prefixed_namespace_error|method_error)", 1, 0, MODULE),
    Taker(r"acpi_debug_print(_raw)?", 1, 3, MODULE),
    # fs/ext4/ext4.h, ext4_jbd2.h, xattr.c, namei.c, extents.c, inode.c
    Taker(r"__ext4_(error|std_error|warning|abort)", 2, 1, FUNCTION),
    Taker(r"__ext4_(error|warning)_(inode|file)", 2, 1, FUNCTION),
    Taker(r"__check_block_validity|__warn_no_space_for_csum", 2, 1, FUNCTION, local=True),
    Taker(r"__ext4_(grp_locked_error|forget|handle_dirty_\w+|check_dir_entry)", 1, 0, FUNCTION),
    Taker(r"__ext4_ext_(dirty|check)", 1, 0, FUNCTION, local=True),
    Taker(r"__ext4_journal_(stop|get_write_access|get_create_access)", 1, 0, FUNCTION),
    Taker(r"__read_extent_tree_block|ext4_check_blockref", 1, 0, FUNCTION, local=True),
    Taker(r"__ext4_mark_inode_dirty|__dump_mmp_msg", 3, 2, FUNCTION),
    Taker(r"__ext4_xattr_check_block", 3, 2, FUNCTION, local=True),
    Taker(r"__ext4_iget", 4, 3, FUNCTION),
    Taker(r"__xattr_check_inode|__ext4_read_dirblock", 4, 3, FUNCTION, local=True),
    Taker(r"__ext4_journal_start_(sb|reserved)", 1),
    # include/linux/jbd2.h
    Taker(r"__jbd2_debug", 3, 2, FUNCTION),
    # fs/btrfs/ctree.h, messages.h
    Taker(r"__btrfs_(abort_transaction|handle_fs_error|std_error|panic)", 2, 1, FUNCTION),
    Taker(r"(btrfs_)?assertfail(\.(constprop|isra)\.\d+)*", 2, 1, FILE, r"fs/btrfs/", local=True),
    # fs/xfs/xfs_linux.h, xfs_error.h, xfs_mount.h; the arguments of assfail() were fewer by one before 5.10
    Taker(r"assfail|asswarn", 3, 2, FILE, r"fs/xfs/"),
    Taker(r"assfail|asswarn", 2, 1, FILE, r"fs/xfs/"),
    Taker(r"xfs_error_report", 4, 3, FILE),
    Taker(r"xfs_corruption_error", 6, 5, FILE),
    Taker(r"xfs_errortag_test|xfs_do_force_shutdown", 3, 2, FILE),
    # fs/gfs2/util.h
    Taker(r"gfs2_assert_(withdraw|warn)_i|gfs2_meta_check_ii|gfs2_io_error_bh_i", 4, 3, FILE),
    Taker(r"gfs2_consist(_inode|_rgrpd)?_i|gfs2_io_error_i", 3, 2, FILE),
    Taker(r"gfs2_metatype_check_ii", 6, 5, FILE),
    # fs/ocfs2/cluster/masklog.h, fs/ocfs2/dlmglue.h
    Taker(r"__mlog_printk|ocfs2_dump_meta_lvb_info", 2, 1, FUNCTION),
    # drivers/block/drbd/drbd_int.h
    Taker(r"__update_timing_details", 4, 3, FUNCTION),
    # drivers/usb/gadget/function/f_mass_storage.c, drivers/scsi/aic7xxx/aic79xx.h, arch/x86/kernel/hpet.c
    Taker(r"__fsg_is_set", 2, 1, FUNCTION, local=True),
    Taker(r"ahd_assert_modes", 4, 3, FILE, local=True),
    Taker(r"_hpet_print_config|nsp32_d?message", 1, 0, FUNCTION, local=True),
    # drivers/scsi/bfa/bfa_cs.h
    Taker(r"__bfa_trc", 2, local=True),
)  # fmt: skip


FORMATS: Final = re.compile(
    "|".join(
        (
            r"RTNL: assertion failed at %s \(%d\)",  # include/linux/rtnetlink.h to 5.x, and ASSERT_RTNL() since
            r"(A|a)ssertion failed at %s:%d",
            r"Assertion failure in %s\(\) at (line %d|%s:%d)",  # fs/ext4/ext4.h, drivers/block/rbd.c
            r"Assertion failed on line %d of file %s",  # fs/dlm/dlm_internal.h
            r"BUG: failure at %s:%d/%s\(\)!",  # include/asm-generic/bug.h
            r"failure at %s:%d/%s\(\)!",  # drivers/scsi/mpt3sas, mpi3mr
            r"ASSERT\( .* \) in %s:%d",  # drivers/block/drbd/drbd_int.h
            r"\[%s:%d\(%s\)\]",  # drivers/net/ethernet/broadcom/bnx2x/bnx2x.h, include/linux/qed/qed_if.h
        )
    )
)
"""Formats that say themselves that the number is a line: as good as a declaration."""


@cache
def takers_of(callee: str) -> tuple[Taker, ...]:
    """The rows for a function by name; several where its declaration differs between releases."""
    return tuple(row for row in TAKERS if re.fullmatch(row.names, callee))


_CONVERSION: Final = re.compile(
    r"%(?P<flags>[-+ #0]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+)?)?(?:hh|h|ll|l|L|q|z|t|j)?(?P<kind>[a-zA-Z%])"
)


@cache
def conversions(text: str) -> tuple[str, ...]:
    """What a printk format makes of each argument behind it: the conversion's letter, `*` for a width.

    Documentation/core-api/printk-formats.rst (Linux 6.1): as in C, and all that is special follows `%p`.
    """
    out: list[str] = []
    for match in _CONVERSION.finditer(text):
        if match["kind"] == "%":
            continue
        out += ["*" for part in (match["width"], match["precision"]) if part == "*"]
        out.append(match["kind"])
    return tuple(out)
