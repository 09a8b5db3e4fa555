"""What workers do in tests of the engine: cells that end at once, or badly, as the name of the fix says."""

from __future__ import annotations

import os
import time
from pathlib import Path

from builder.acquire.tools import ended
from builder.fleet.cell import Prepared
from builder.fleet.engine import Doing
from builder.fleet.kernels import FleetKernel
from builder.fleet.orders import CellResult, Order


def ready(kernel: FleetKernel) -> Prepared:
    """That of a kernel `unlucky` takes five workers with it, its version is the folder where each leaves a file.

    That of a kernel `endless` is never ready.
    """
    if kernel.name == "endless":
        time.sleep(60)
    if kernel.name == "unlucky" and (begun := len(list(Path(kernel.version).iterdir()))) < 5:
        (Path(kernel.version) / f"{begun}").touch()
        os._exit(11)
    return Prepared(kernel, 1000, 0.0)


def work(order: Order, prepared: Prepared, jobs: int) -> CellResult:
    """What is done is in the patch's content: the folder where each beginning leaves a file, and so its number."""
    folder = Path(order.patches[0].content.decode().strip())
    begun = len(list(folder.glob(f"{order.kernel.name}.{order.fix}.*")))
    (folder / f"{order.kernel.name}.{order.fix}.{begun}").touch()
    name, kernel = order.fix, prepared.kernel.name
    if name.startswith("dies") or (name.startswith("unlucky") and begun == 0):
        os._exit(11)
    if name.startswith("hangs"):
        time.sleep(60)
    if name.startswith("runs"):
        ended(["sh", "-c", "sleep 4321 & wait", f"sleep of {folder}"])
    if name.startswith("full") and begun == 0:
        return CellResult(order.key, name, kernel, "trouble", f"cache: {os.strerror(28)}")
    if name.startswith("refused"):
        return CellResult(order.key, name, kernel, "refused", "init-changed: x")
    content = b"".join(patch.content for patch in order.patches) + kernel.encode()
    return CellResult(
        order.key, name, kernel, "shipped", "f", functions=("f",), module=content, manifest={"name": name},
        phases={"patch": 0.1},
    )  # fmt: skip


DOING = Doing(ready, work)
