"""The command line in a process of its own, which says what it took: `python -m tests.support.measured WORD...`."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from builder.cli import run


def peak() -> int:
    """Bytes of memory that this process has had at most (VmHWM of proc(5): what its parent had is not in it)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


if __name__ == "__main__":
    status = run(sys.argv[1:])
    print(f"\n{peak()} {time.process_time()}")
    sys.exit(status)
