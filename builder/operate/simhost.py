"""A simulated kernel as a Host: its tracefs, debugfs and sysfs, as far as livepatches and probes go.

There is no transition and no task: a livepatch is enabled at once. What is
written is judged by the rules of `builder.operate.kprobes.registry`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

from builder.binary import Address
from builder.errors import LoadError
from builder.image.execute import Argument, Result
from builder.image.kept import Livepatch
from builder.image.machine import KPROBE_EVENTS, KPROBES_LIST, MODULES, OPTIMIZATION, TRACING, Between
from builder.image.simulated import SimulatedKernel
from builder.image.transition import LIVEPATCHES
from builder.load import livepatch
from builder.load.loader import load_module, unload_module
from builder.load.module import LoadedModule
from builder.operate.kprobes.events import parse_events
from builder.operate.kprobes.fetch import Filter
from builder.operate.kprobes.registry import Registry, refused

_EVENTS = f"{TRACING}/events/"


class SimulatedHost:
    """A Host on a simulated kernel; `registry` holds its probes."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self.kernel = kernel
        self.registry = Registry(kernel)
        self._files: dict[str, str] = {OPTIMIZATION: "1\n"}
        self._armed: frozenset[Address] = frozenset()
        self._watched: object = None

    # Code that runs

    def call(self, function: str | Address, *arguments: Argument, budget: int = 1_000_000) -> Result:
        """Call a function with the probes that are planted counting; see SimulatedKernel.call."""
        armed = frozenset(self.registry.armed())
        if armed != self._armed or self.kernel.execution.machine() is not self._watched:
            self.kernel.execution.reset()
            machine = self.kernel.execution.machine()
            self.registry.watch(machine)
            self._armed, self._watched = armed, machine
        return self.kernel.call(function, *arguments, budget=budget)

    def hits(self, event: str) -> int:
        """How often an event (GROUP/NAME) fired and passed its filter."""
        return self.registry.events[event].hits

    # Files

    @cached_property
    def _shown(self) -> Mapping[str, Callable[[], str]]:
        return {
            KPROBE_EVENTS: lambda: "".join(f"{probe.shown}\n" for probe in self.registry.probes),
            KPROBES_LIST: self._list,
            f"{TRACING}/enabled_functions": self._limited,
            "/proc/kallsyms": self._kallsyms,
            "/proc/modules": lambda: "".join(f"{name} 0 0 - Live 0x0\n" for name in reversed(self.kernel.modules)),
            "/proc/sys/kernel/osrelease": lambda: f"{self.kernel.kernel.release}\n",
            "/proc/sys/kernel/random/boot_id": lambda: "simulated\n",
        }

    def read(self, path: str) -> str:
        if path in self._shown:
            return self._shown[path]()
        if path in self._files:
            return self._files[path]
        if path.startswith(f"{LIVEPATCHES}/"):
            return self._patch_file(path)
        if path.startswith(_EVENTS):
            return self._event_file(path)
        if path.startswith(f"{MODULES}/"):
            return self._note(path)
        raise refused(errno.ENOENT, path)

    def _note(self, path: str) -> str:
        """`/sys/module/NAME/notes/SECTION`, as text."""
        name, _, section = path.removeprefix(f"{MODULES}/").partition("/notes/")
        module = self.kernel.modules.get(name)
        found = module.section(section) if module is not None else None
        if found is None:
            raise refused(errno.ENOENT, path)
        return self.kernel.memory.read(found.address, found.size).decode(errors="replace")

    def _patch_file(self, path: str) -> str:
        name, _, attribute = path.removeprefix(f"{LIVEPATCHES}/").partition("/")
        patch = self._patch(name)
        if patch is None or attribute not in ("enabled", "transition"):
            raise refused(errno.ENOENT, path)
        return f"{int(patch.enabled)}\n" if attribute == "enabled" else "0\n"

    def _patch(self, name: str) -> Livepatch | None:
        """One that is enabled; others have no directory."""
        return next((p for p in self.kernel.livepatches if p.module == name and p.enabled), None)

    def _event_file(self, path: str) -> str:
        key, _, attribute = path.removeprefix(_EVENTS).rpartition("/")
        state = self.registry.events.get(key)
        if state is None:
            raise refused(errno.ENOENT, path)
        found = {
            "enable": f"{int(state.enabled)}\n",
            "filter": f"{state.filter}\n",
            "trigger": "".join(f"{row}\n" for row in state.triggers),
            "hist": f"Totals:\n    Hits: {state.hits}\n",
        }
        if attribute not in found:
            raise refused(errno.ENOENT, path)
        return found[attribute]

    def write(self, path: str, text: str, *, append: bool = False) -> None:
        if path == KPROBE_EVENTS:
            for line in text.splitlines():
                self._command(line)
        elif path == OPTIMIZATION:
            self._files[path] = text  # no probe is optimized here
        elif path.startswith(f"{LIVEPATCHES}/") and path.endswith("/enabled"):
            self._enable(path, text.strip())
        elif path.startswith(_EVENTS):
            self._set(path, text.strip())
        else:
            raise refused(errno.EACCES, path)

    def _command(self, line: str) -> None:
        words = line.split()
        if words[0].startswith("-:"):
            head = words[1] if len(words) > 1 else ""
            self.registry.remove(words[0][2:], head, tuple(words[2:]))
        else:
            for event in parse_events(line):
                self.registry.add(event)

    def _enable(self, path: str, value: str) -> None:
        name = path.removeprefix(f"{LIVEPATCHES}/").partition("/")[0]
        if self._patch(name) is None:
            raise refused(errno.ENOENT, path)
        if value != "0":
            raise refused(errno.EINVAL, path)
        livepatch.disable_patch(self.kernel, name)

    def _set(self, path: str, value: str) -> None:
        key, _, attribute = path.removeprefix(_EVENTS).rpartition("/")
        state = self.registry.events.get(key)
        if state is None:
            raise refused(errno.ENOENT, path)
        if attribute == "enable":
            state.enabled = value == "1"
        elif attribute == "filter":
            state.filter = Filter.parse(value)
        elif attribute == "trigger":
            if value.startswith("!"):
                state.triggers = [row for row in state.triggers if row != value[1:]]
            else:
                state.triggers.append(value)
        else:
            raise refused(errno.EACCES, path)

    def names(self, path: str) -> tuple[str, ...]:
        if path == MODULES:
            return tuple(sorted(self.kernel.modules))
        if path.startswith(f"{MODULES}/"):
            return ("sections",) if path.removeprefix(f"{MODULES}/") in self.kernel.modules else ()
        if path == LIVEPATCHES:
            return tuple(sorted(patch.module for patch in self.kernel.livepatches if patch.enabled))
        name, _, owner = path.removeprefix(f"{LIVEPATCHES}/").partition("/")
        patch = self._patch(name)
        if patch is None:
            return ()
        if not owner:
            return ("enabled", "transition", *(found.name or "vmlinux" for found in patch.objects))
        rows = (found for found in patch.objects if (found.name or "vmlinux") == owner)
        return tuple(f"{f.name},{f.sympos or 1}" for found in rows for f in found.functions)

    def store(self, path: str, text: str) -> None:
        self._files[path] = text

    def remove(self, path: str) -> None:
        self._files.pop(path, None)

    # Modules

    def insert(self, module: bytes, name: str = "", between: Between | None = None) -> None:
        """Load a module; of one that is no livepatch the init function does not run."""
        try:
            loaded = load_module(self.kernel, module)
            self.registry.coming(loaded.name)
            if loaded.file.is_livepatch:
                self._start(loaded, between or (lambda: None))
        except LoadError as error:
            raise OSError(errno.EINVAL, error.message) from None

    def _start(self, loaded: LoadedModule, between: Between) -> None:
        name, before = loaded.name, set(self.kernel.redirections)
        try:
            livepatch.run_init(self.kernel, loaded, between)
            places = [r.place for old, r in self.kernel.redirections.items() if old not in before]
            if self.registry.blocks(places):
                livepatch.disable_patch(self.kernel, name)
                raise refused(errno.EBUSY)
        except BaseException:  # also where the process that loads it is killed meanwhile
            self.registry.going(name)
            unload_module(self.kernel, name)
            raise

    def delete(self, name: str) -> None:
        if any(patch.module == name and patch.enabled for patch in self.kernel.livepatches):
            raise refused(errno.EBUSY)
        try:
            unload_module(self.kernel, name)
        except LoadError:
            raise refused(errno.ENOENT if name not in self.kernel.modules else errno.EBUSY) from None
        self.registry.going(name)

    def waiting(self, *, enabled: bool) -> tuple[str, ...]:
        return ()

    def pause(self, seconds: float) -> None:
        """Nothing else runs in a simulated kernel."""

    def lock(self, path: str) -> AbstractContextManager[None]:
        return nullcontext()

    # Listings

    def _list(self) -> str:
        rows = []
        events = self.registry.events
        places = [(p.address, p.event.is_return, events[p.event.key].enabled) for p in self.registry.probes]
        for address, is_return, enabled in [*places, *((d.address, False, True) for d in self.registry.direct)]:
            if address is not None:
                start, _ = self.registry.function(address)
                symbol, _, module = self.kernel.symbols.describe(start).partition(" ")
                flags = "" if enabled else "[DISABLED]"
                flags += "[FTRACE]" if self.registry.is_ftrace(address) else ""
                symbol = symbol.rpartition("+")[0]
                kind = "r" if is_return else "k"
                rows.append(f"{address:016x}  {kind}  {symbol}+{address - start:#x}  {module.strip('[]')} {flags}\n")
        return "".join(rows)

    def _limited(self) -> str:
        held = [direct.address for direct in self.registry.direct if direct.post_handler]
        return "".join(f"{self._name(address)} (1)   I  \n" for address in held)

    def _name(self, address: Address) -> str:
        symbol, _, module = self.kernel.symbols.describe(address).partition(" ")
        return " ".join(filter(None, [symbol.rpartition("+")[0], module]))

    def _kallsyms(self) -> str:
        rows = [
            f"{place:016x} t {name}\t[{module}]"
            for module, names in self.kernel.symbols.of_module.items()
            for name in names
            for place in names[name]
        ]
        return self._image + "\n".join(rows) + "\n"

    @cached_property
    def _image(self) -> str:
        return "".join(
            f"{s.address:016x} {s.type} {s.name}\n" for s in self.kernel.kernel.symbols_in(Address(0), Address(1 << 64))
        )
