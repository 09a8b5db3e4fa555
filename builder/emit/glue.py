"""The glue: module init and exit and the klp_patch / klp_object / klp_func records, as assembly.

Rendered from the architecture's template with the offsets of the target's BTF and
assembled by GNU `as`; no compiler and no kernel tree take part. What was assembled is
kept by all that it is made of: to load what renders takes as long as the rest of a small module.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from builder import templates
from builder.acquire import sums
from builder.acquire.cache import path_of
from builder.arch import Glue
from builder.binary import ObjectFile, ours, read_object, tables
from builder.binary.kernel import Kernel, StructLayout
from builder.binary.names import MODULE_NAME
from builder.errors import InputError, ToolError

_POINTER = 8

IMPORTS = ("klp_enable_patch", "module_layout", "msleep_interruptible", "param_ops_byte")
"""What the glue takes from the kernel, and the CRC that stands for struct module."""
_HOLD_MILLISECONDS, _HOLD_ROUNDS = 5, 6000
"""How often it looks whether to go on, and for how long: half a minute and more, by the length of a tick."""


@dataclass(frozen=True, slots=True)
class GlueFunction:
    """One klp_func: the old name, its sympos and the symbol of the new function."""

    old_name: str
    sympos: int
    symbol: str


@dataclass(frozen=True, slots=True)
class GlueSets:
    """`count` rows from a symbol on: words that are exchanged in running variables (SET_ROW)."""

    symbol: str
    count: int


@dataclass(frozen=True, slots=True)
class GlueObject:
    """One klp_object; `name` is None for vmlinux. `callbacks` map pre_patch etc. to symbols of the patch's own;
    `at_exit` is what runs when the module is taken out, `sets` are exchanged before and after; `leaving` is the new
    version of what the patched module runs when it is unloaded."""

    name: str | None
    functions: Sequence[GlueFunction]
    callbacks: Mapping[str, str] = field(default_factory=dict)
    at_exit: Sequence[str] = ()
    sets: Sequence[GlueSets] = ()
    leaving: str = ""


@dataclass(frozen=True, slots=True)
class KlpRecord:
    """A struct to lay out: `fields` are (offset, size, assembler expression or text)."""

    size: int
    fields: tuple[tuple[int, int, str], ...]


SET_ROW = struct.Struct("<QQQQ")
"""A word that is exchanged in a running variable: address, old value, new value, width in bytes."""


def module_name(text: str) -> str:
    """`text` as a module name; InputError if the kernel could not hold it."""
    name = text.replace("-", "_")
    if not name or not all(c.isascii() and (c.isalnum() or c == "_") for c in name) or len(name) >= MODULE_NAME:
        raise InputError(f"{text!r} cannot be a module's name: letters, digits and _ only, at most {MODULE_NAME - 1}")
    return name


def free_module_name(text: str, kernel: Kernel) -> str:
    """The same, where that kernel has no use of its own for the name; InputError says which.

    Raises KernelError for a kernel that cannot be livepatched.
    """
    name = module_name(text)
    kernel.require_livepatch()
    for uses, what in (
        (name in kernel.builtin_names, "it is built in, or has parameters, and stands in /sys/module"),
        (kernel.find_module(name) is not None, "one of its own modules is called so"),
    ):
        if uses:
            raise InputError(f"{name!r} is taken in {kernel.release}: {what}; say another with --name")
    return name


@dataclass(frozen=True, slots=True)
class GlueParts:
    """What the glue of one module says; `versions` are imported symbols with their CRCs, `states` how many structures
    of the patch's own lie in the section of that purpose."""

    name: str
    objects: Sequence[GlueObject]
    versions: Sequence[tuple[str, int]] = ()
    namespaces: Sequence[str] = ()
    replace: bool = False
    states: int = 0


def exit_imports(kernel: Kernel) -> tuple[str, ...]:
    """What the glue takes from the kernel where it leads the exit of a patched module to a new version."""
    return "__module_get", "module_put", wait_for_tasks(kernel)


def wait_for_tasks(kernel: Kernel) -> str:
    """What waits until no task is between the load of a pointer and the call that goes by it: where a task that runs
    in the kernel is never put aside for another, each grace period does (kernel/rcu/tasks.h, v6.1)."""
    return "synchronize_rcu_tasks" if kernel.export("synchronize_rcu_tasks") is not None else "synchronize_rcu"


def assemble(kernel: Kernel, machine: Glue, parts: GlueParts) -> ObjectFile:
    """The glue as an object file. Raises ToolError when `as` is missing or fails."""
    tool = shutil.which("as")
    if tool is None:
        raise ToolError("GNU as is not there; install the package binutils")
    values = _values(kernel, machine, parts)
    place = path_of(f"glue/{kernel.sha256}", sorted(values.items()), machine, _made_by(machine, tool))
    if (known := sums.read_json(place)) is not None:
        content = b64decode(known)
    else:
        content = _run_assembler(tool, _rendered(machine, values), machine.assembler)
        sums.keep_json(place, b64encode(content).decode())
    return read_object(content, name="glue.o")


def _made_by(machine: Glue, tool: str) -> list[object]:
    """What can make another glue of the same values: our texts, by content, and programs, by their files."""
    texts = (
        templates.folder() / machine.template,
        *(Path(m.__file__ or "") for m in (templates, ours)),
        Path(__file__),
    )
    jinja2 = find_spec("jinja2")
    programs = (tool, jinja2.origin if jinja2 is not None else None)
    states = [(path, os.stat(path)) for path in programs if path]
    return [
        *(hashlib.sha256(text.read_bytes()).hexdigest() for text in texts),
        *((path, state.st_size, state.st_mtime_ns) for path, state in states),
    ]


def glue_source(kernel: Kernel, machine: Glue, parts: GlueParts) -> str:
    """The assembly text."""
    return _rendered(machine, _values(kernel, machine, parts))


def _rendered(machine: Glue, values: Mapping[str, Any]) -> str:
    from builder.emit.kept_templates import KeptTemplates  # here, for it is slow to import

    return templates.render(
        machine.template, {"quoted": _quoted, "record": _shown}, kept=KeptTemplates(), ours=ours, **values
    )


def _values(kernel: Kernel, machine: Glue, parts: GlueParts) -> dict[str, Any]:
    """What the template is given, all of it written the same by `repr` where it is the same."""
    strings: dict[str, int] = {}

    def text(value: str) -> str:
        return f".Lstr{strings.setdefault(value, len(strings))}"

    func, obj, patch, module = (kernel.layout(n) for n in ("klp_func", "klp_object", "klp_patch", "module"))
    rows = []
    for number, item in enumerate(parts.objects):
        own = item.callbacks.get("pre_patch", "")
        before = f"{ours.PRE_PATCH}_{number}" if own or item.sets else ours.PRE_PATCH
        callbacks = {**item.callbacks, "pre_patch": before}
        after = item.callbacks.get("post_unpatch", "")
        if item.sets:
            callbacks["post_unpatch"] = f"{ours.PUT_BACK}{'_after' if after else ''}_{number}"
        put_back = callbacks.get("post_unpatch", "")
        if item.leaving:
            callbacks |= {
                "pre_patch": f"{ours.LEAD_EXIT}_{number}",
                "post_unpatch": f"{ours.LEAD_BACK}_{number}",
            }
        rows.append(
            {
                "funcs": [
                    _record(func, old_name=text(f.old_name), new_func=f.symbol, old_sympos=str(f.sympos))
                    for f in item.functions
                ],
                "record": _record(
                    obj,
                    funcs=f".Lfuncs{number}",
                    **({"name": text(item.name)} if item.name else {}),
                    **{f"callbacks.{kind}": symbol for kind, symbol in callbacks.items()},
                ),
                "pre_patch": own,
                "before": before,
                "post_unpatch": after,
                "after": put_back,
                "put": f"{ours.PUT}_{number}",
                "put_back": f"{ours.PUT_BACK}_{number}",
                "sets": item.sets,
                "leaving": item.leaving,
                "lead_exit": f"{ours.LEAD_EXIT}_{number}",
                "lead_back": f"{ours.LEAD_BACK}_{number}",
                "led_exit": f"{ours.LED_EXIT}_{number}",
                "was_exit": f"{ours.WAS_EXIT}_{number}",
            }
        )
    hold = _record(
        kernel.layout("kernel_param"),
        name=text(ours.HOLD_PARAMETER),
        mod=ours.THIS_MODULE,
        ops="param_ops_byte",
        perm="0600",
        level="-1",
        arg=ours.HOLD,
    )
    features = kernel.features
    modinfo = [("license", "GPL"), ("description", "bespoke livepatch"), ("depends", "")]
    modinfo += [(key, value) for feature, key, value in machine.modinfo if features.has(feature)]
    modinfo += [("livepatch", "Y"), ("name", parts.name), ("vermagic", kernel.vermagic)]
    modinfo += [("import_ns", n) for n in parts.namespaces]
    modinfo += [
        ("parmtype", f"{ours.HOLD_PARAMETER}:byte"),
        ("parm", f"{ours.HOLD_PARAMETER}:1: do not enable the patch until 0 is written here"),
    ]
    place = module.member("name")
    told = {"replace": "1"} if parts.replace else {}
    state = kernel.layout("klp_state").size if parts.states else 0
    told |= {"states": f".Lstates_end - {parts.states * state}"} if parts.states else {}
    return {
        "modinfo": modinfo,
        "versions": [(name, crc, MODULE_NAME - len(_octets(name)) - 1) for name, crc in parts.versions],
        "version_name_size": MODULE_NAME,
        "this_module": KlpRecord(
            module.size,
            tuple(
                sorted(
                    (
                        (place.offset, place.size, _quoted(parts.name)),
                        (module.offset_of("init"), _POINTER, ours.INIT),
                        (module.offset_of("exit"), _POINTER, ours.EXIT),
                    )
                )
            ),
        ),
        "objects": rows,
        "at_exit": [symbol for item in parts.objects for symbol in item.at_exit],
        "strings": list(strings),
        "func_size": func.size,
        "object_size": obj.size,
        "patch": _record(patch, mod=ours.THIS_MODULE, objs=".Lobjects", **told),
        "states": tables.STATES,
        "state_size": state,
        "hold": hold,
        "hold_milliseconds": _HOLD_MILLISECONDS,
        "hold_rounds": _HOLD_ROUNDS,
        "row_size": SET_ROW.size,
        "module_exit": module.offset_of("exit"),
        "object_module": obj.offset_of("mod"),
        "wait_for_tasks": wait_for_tasks(kernel),
        "features": features,
    }


def _record(layout: StructLayout, **values: str) -> KlpRecord:
    members = ((layout.member(name), value) for name, value in values.items())
    return KlpRecord(layout.size, tuple(sorted((m.offset, m.size, value) for m, value in members)))


_DIRECTIVES = {1: ".byte", 2: ".value", 4: ".long", 8: ".quad"}


def _shown(record: KlpRecord) -> str:
    lines, at = [], 0
    for offset, size, value in record.fields:
        if offset > at:
            lines.append(f"\t.zero {offset - at}")
        if value.startswith('"'):
            held = len(value.encode()) - 1  # the quotes go, a NUL comes
            lines += [f"\t.asciz {value}", f"\t.zero {size - held}"]
        else:
            lines.append(f"\t{_DIRECTIVES[size]} {value}")
        at = offset + size
    if record.size > at:
        lines.append(f"\t.zero {record.size - at}")
    return "\n".join(lines)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _quoted(text: str) -> str:
    """An assembler string; everything that is not plain ASCII in octal."""
    plain = {*range(0x20, 0x7F)} - {0x22, 0x5C}
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in _octets(text)) + '"'


def _run_assembler(tool: str, source: str, options: Sequence[str]) -> bytes:
    with TemporaryDirectory(prefix="bespoke-") as folder:
        target = Path(folder) / "glue.o"
        run = partial(subprocess.run, capture_output=True, text=True, timeout=60, check=False)
        done = run([tool, *options, "-o", str(target), "-"], input=source)
        if done.returncode:
            raise ToolError(f"as failed: {done.stderr.strip()}")
        return target.read_bytes()
