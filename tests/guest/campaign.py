"""Livepatches for modules that others use: each is tried in a guest, in both orders of loading.

    python -m tests.guest.campaign [--kernel K] [--seed N] [--only NAME ...] [--count N]

A line more in one function of each module makes the livepatch; the modules that use it are loaded with it. What works
must end with exit status 0 whether the module comes before the livepatch or after it.
"""

from __future__ import annotations

import argparse
import difflib
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from builder.acquire.cache import scratch
from builder.acquire.compile import AS_USUAL
from builder.acquire.kbuild import Command
from builder.acquire.packages import newest_kernel
from builder.acquire.source import SourceTree
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.errors import BespokeError, RefusedError
from builder.image.trial import TrialPlan, trial
from builder.pipeline import ModulePlan, patch
from tests.acquire.one_line import choose

ATTEMPTS = 6
"""Functions of a module of which one must be fit for a livepatch."""

USED: dict[str, tuple[str, ...]] = {
    "sctp": ("sctp_diag",),
    "sunrpc": ("nfsd", "nfs"),
    "nfsd": ("nfsd",),
    "mac80211": ("mac80211_hwsim",),
    "libcomposite": ("g_ether", "dummy_hcd"),
    "lockd": ("nfsd", "nfsv3"),
    "auth_rpcgss": ("rpcsec_gss_krb5", "nfsd"),
    "nfs": ("nfsv3", "nfsv4"),
    "fscache": ("nfs", "cifs"),
    "cfg80211": ("mac80211_hwsim",),
    "mac80211_hwsim": (),
    "udc_core": ("dummy_hcd", "g_serial"),
    "dummy_hcd": ("g_serial",),
    "u_ether": ("g_ether", "dummy_hcd"),
    "u_serial": ("g_serial", "dummy_hcd"),
    "usb_f_acm": ("g_serial", "dummy_hcd"),
    "usb_f_mass_storage": ("dummy_hcd",),
    "usbcore": ("usb_storage", "dummy_hcd"),
    "usb_storage": ("uas",),
    "usbserial": ("ftdi_sio",),
    "scsi_mod": ("sd_mod", "scsi_debug"),
    "libata": ("ahci",),
    "nf_conntrack": ("nft_ct", "nf_nat"),
    "nf_nat": ("nft_masq",),
    "nf_tables": ("nft_nat", "nft_limit"),
    "x_tables": ("xt_conntrack", "iptable_filter"),
    "ip_set": ("ip_set_hash_ip", "xt_set"),
    "ip_vs": ("ip_vs_rr", "ip_vs_wrr"),
    "bluetooth": ("rfcomm", "bnep"),
    "snd": ("snd_aloop",),
    "snd_pcm": ("snd_aloop",),
    "snd_timer": ("snd_hrtimer",),
    "dm_mod": ("dm_crypt", "dm_mirror"),
    "md_mod": ("raid1", "raid0"),
    "target_core_mod": ("iscsi_target_mod",),
    "ib_core": ("rdma_cm", "ib_ipoib"),
    "hid": ("usbhid", "hid_sony"),
    "rc_core": ("ir_rc5_decoder",),
    "videodev": ("vivid",),
    "vsock": ("vhost_vsock",),
    "ppp_generic": ("ppp_async", "pppoe"),
    "can": ("can_raw", "can_bcm"),
    "can_dev": ("slcan",),
    "ax25": ("netrom", "rose"),
    "udp_tunnel": ("vxlan", "geneve"),
    "bridge": ("br_netfilter",),
    "l2tp_core": ("l2tp_ppp", "l2tp_eth"),
    "rxrpc": ("kafs",),
    "configfs": ("netconsole",),
    "ocfs2_nodemanager": ("ocfs2",),
    "drm_kms_helper": ("bochs",),
    "mtd": ("mtdblock", "mtdram"),
}
"""Module -> what to load with it: modules that use it, or that it works with."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one module: `failures` by the order of loading; `notes` are of steps that were not done."""

    module: str
    function: str
    why_not_built: str = ""
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """One word for the table."""
        return "not built" if self.why_not_built else "failed" if self.failures else "went well in both orders"


def commands_by_module(tree: SourceTree) -> dict[str, list[Command]]:
    """The C objects of each module that no other one has."""
    found: dict[str, list[Command]] = {}
    with tree.objects() as objects:
        for command in objects.all():
            if len(command.owners) == 1 and command.source.endswith(".c") and (tree.root / command.source).is_file():
                found.setdefault(command.owners[0].replace("-", "_"), []).append(command)
    return found


def made(tree: SourceTree, kernel: Kernel, commands: Sequence[Command], seed: int, place: Path) -> str:
    """Write a livepatch of one function of these objects; its name. Raises BespokeError where none was fit."""
    objects, why = Objects(kernel), BespokeError("no function of it was found")
    chance = random.Random(seed)
    for attempt in range(ATTEMPTS):
        found = choose(tree, chance.sample(list(commands), len(commands)), seed + attempt)
        if found is None:
            break
        path, function, old, new = found
        before, after = (re.findall(r"[^\n]*\n|[^\n]+", text) for text in (old, new))
        text = "".join(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}"))
        source = place.with_suffix(".patch")
        source.write_text(text, "utf-8", "surrogateescape")
        try:
            module = patch([source], tree, objects, ModulePlan(place.stem), AS_USUAL).module
        except RefusedError as error:
            why = error
            continue
        if module is not None:
            place.write_bytes(module.content)
            return function
    raise why


def attempt(tree: SourceTree, kernel: Kernel, commands: Sequence[Command], name: str, seed: int) -> Tried:
    """Build and try one, twice."""
    failures, notes = list[str](), dict[str, None]()
    with scratch("trials") as folder:
        place = folder / f"line_in_{name}.ko"
        try:
            function = made(tree, kernel, commands, seed, place)
        except BespokeError as error:
            return Tried(name, "", str(error))
        for late in (False, True):
            plan = TrialPlan(load=USED.get(name, ()), late_load=late, timeout=120.0)
            order = "after the livepatch" if late else "before the livepatch"
            try:
                report = trial(place, kernel, plan)
            except BespokeError as error:
                failures.append(f"{order}: {error}")
                continue
            notes |= {f"{step.name}: {step.note}": None for step in report.steps if step.note}
            if report.failure is not None:
                failures.append(f"{order}: {report.failure}")
    return Tried(name, function, failures=tuple(failures), notes=tuple(notes))


def campaign(kernel: Kernel, names: Sequence[str], seed: int) -> Iterator[Tried]:
    """Each of the modules, in turn."""
    tree = find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
    known = commands_by_module(tree)
    for name in names:
        yield attempt(tree, kernel, known.get(name, []), name, seed)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.guest.campaign")
    parser.add_argument("--kernel", metavar="K", help="image or release (default: the newest 6.1)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these modules")
    parser.add_argument("--count", type=int, default=len(USED), metavar="N", help="so many of them")
    options = parser.parse_args(arguments)
    console, total = Console(soft_wrap=True, highlight=False), Counter[str]()
    try:
        kernel = Kernel.open(options.kernel or newest_kernel("6.1"))
        for row in campaign(kernel, options.only or list(USED)[: options.count], options.seed):
            total[row.outcome] += 1
            console.print(f"{row.module} ({row.function}): {row.outcome}", markup=False)
            for text in filter(None, (row.why_not_built, *row.failures, *(f"note: {note}" for note in row.notes))):
                console.print(f"    {text}", markup=False)
    except BespokeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    console.print(", ".join(f"{count} {what}" for what, count in sorted(total.items())))
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
