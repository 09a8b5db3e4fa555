"""Record what CPUID answers on each of QEMU's 64-bit CPU models: `builder/image/cpu_models.json`.

    python -m tests.image.models [MODEL ...]

Boots a guest for each that is not recorded yet, or for those that are named.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from builder.acquire.packages import fetch_kernel, newest_kernel
from builder.binary.kernel import Kernel
from builder.errors import GuestError
from builder.image import derive
from builder.image.capture import cpuid_leaves
from builder.image.guest import Guest, MachineConfig

PLACE = Path(derive.__file__).with_name("cpu_models.json")
TOO_OLD = ("486", "athlon", "coreduo", "kvm32", "n270", "pentium", "qemu32")
"""Without long mode; names begin so."""


def known_to_qemu() -> list[str]:
    """All models but those that are another's version (`-v2`), 32-bit ones and what is no model."""
    said = subprocess.run(["qemu-system-x86_64", "-cpu", "help"], capture_output=True, text=True, check=True).stdout
    names = [line.split()[0].removeprefix("x86 ") for line in _listed(said)]
    versions = {name for name in names if name.rpartition("-v")[2].isdigit()}
    return sorted(n for n in names if n not in versions and not n.startswith(TOO_OLD) and n not in ("base", "host"))


def _listed(text: str) -> list[str]:
    rows = text.partition("Available CPUs:")[2].partition("Recognized CPUID flags")[0].splitlines()
    return [row.removeprefix("x86 ") for row in rows if row.strip()]


def leaves_of(kernel: Kernel, cpu: str) -> dict[str, str]:
    """As the file has them: `LEAF.SUBLEAF` -> EAX EBX ECX EDX, all hexadecimal; without leaves that do not exist."""
    with Guest(kernel, MachineConfig(cpu=cpu, cmdline="no_timer_check", panic_on_oops=False)) as guest:
        found = cpuid_leaves(guest)
    highest = {first: found[first, 0][0] for first in (0, 0x40000000, 0x80000000) if (first, 0) in found}
    real = {at: row for at, row in found.items() if at[0] <= highest.get(at[0] & 0xF0000000, 0)}
    return {f"{leaf:x}.{sub:x}": " ".join(f"{w:x}" for w in words) for (leaf, sub), words in sorted(real.items())}


def main(names: list[str]) -> int:
    kernel = Kernel.open(fetch_kernel(newest_kernel("6.1")).image)
    recorded = json.loads(PLACE.read_text())
    for name in names or [n for n in known_to_qemu() if n not in recorded]:
        try:
            recorded[name] = leaves_of(kernel, name)
            print(f"{name}: {len(recorded[name])} leaves", flush=True)
        except GuestError as error:
            print(f"{name}: {error}", flush=True)
        PLACE.write_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
