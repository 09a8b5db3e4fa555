"""The simulated kernels of `tests/load`, for what looks at modules before they are loaded."""

from __future__ import annotations

from tests.load.conftest import kernel, patches, simulated

__all__ = ["kernel", "patches", "simulated"]
