"""A host on which the process that uses it is killed before a chosen step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from builder.image.machine import Between, Host


class Killed(BaseException):
    """Nothing catches it: what would run after a SIGKILL does not run here either."""


class KillingHost:
    """Everything that is asked of the host is a step; `die` is called before the one numbered `at` (from 0)."""

    def __init__(self, host: Host, at: int, die: Callable[[], object] | None = None) -> None:
        self._host = host
        self._left = at
        self._die = die
        self.steps: list[str] = []

    def _step(self, what: str) -> None:
        if self._left <= len(self.steps):
            if self._die is not None:
                self._die()
            raise Killed(what)
        self.steps.append(what)

    def read(self, path: str) -> str:
        self._step(f"read {path}")
        return self._host.read(path)

    def names(self, path: str) -> tuple[str, ...]:
        self._step(f"names {path}")
        return self._host.names(path)

    def waiting(self, *, enabled: bool) -> tuple[str, ...]:
        return self._host.waiting(enabled=enabled)

    def pause(self, seconds: float) -> None:
        self._step("pause")
        self._host.pause(seconds)

    def lock(self, path: str) -> AbstractContextManager[None]:
        return self._host.lock(path)

    def write(self, path: str, text: str, *, append: bool = False) -> None:
        self._step(f"write {text.strip()} to {path}")
        self._host.write(path, text, append=append)

    def store(self, path: str, text: str) -> None:
        self._step(f"store {path}")
        self._host.store(path, text)

    def remove(self, path: str) -> None:
        self._step(f"remove {path}")
        self._host.remove(path)

    def insert(self, module: bytes, name: str = "", between: Between | None = None) -> None:
        self._step("insert")
        self._host.insert(module, name, between)

    def delete(self, name: str) -> None:
        self._step(f"delete {name}")
        self._host.delete(name)
