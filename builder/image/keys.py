"""What static keys and static calls hold: by the boot state, by a kernel that is watched, or by memory."""

from __future__ import annotations

from collections.abc import Callable

from builder.binary import Address
from builder.image.boot import BootState
from builder.image.memory import Memory

Reader = Callable[[Address], int | None]


def _unknown(_: Address) -> None:
    return None


class StaticKeys:
    """The counts of static keys and the targets of static calls, by the address of the key.

    `count_reader` and `target_reader` are asked for what is not in the state, where a kernel that runs is
    imitated. `changed` are the keys that were set since boot: of these memory tells.
    """

    def __init__(self, state: BootState, memory: Memory) -> None:
        self._state = state
        self._memory = memory
        self.changed: set[Address] = set()
        self.count_reader: Reader = _unknown
        self.target_reader: Reader = _unknown

    def count(self, key: Address) -> int:
        """Of a static key (struct static_key.enabled)."""
        known = None if key in self.changed else self._state.static_keys.get(key)
        if known is None:
            known = self.count_reader(key)
        return self._memory.s32(key) if known is None else known

    def target(self, key: Address) -> Address:
        """The function that a static call goes to (struct static_call_key.func, its first member)."""
        known: int | None = None if key in self.changed else self._state.static_calls.get(key)
        if known is None:
            known = self.target_reader(key)
        return self._memory.pointer(key) if known is None else Address(known)
