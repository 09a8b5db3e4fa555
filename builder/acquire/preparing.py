"""What is made of unpacked source before any of its objects can be compiled alone: configuration, headers, programs."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from builder.acquire.readymade import OBJTOOL, READYMADE, fits, put_in
from builder.acquire.toolchain import Compiler, read_config
from builder.acquire.tools import need, run
from builder.acquire.tree_state import keep_state
from builder.acquire.whole import write_whole
from builder.errors import ToolError

log = logging.getLogger("bespoke.acquire")

#: what every object is compiled with beyond the kernel's own flags; in the cached trees' names
EXTRA_FLAGS = "-ffunction-sections -fdata-sections"

#: options that olddefconfig may add or change without effect on any object's code: what signs modules, the
#: salt of build ids, and the versions of tools (the compiler is compared elsewhere)
HARMLESS_DRIFT = re.compile(
    r"CONFIG_(BUILD_SALT|MODULE_SIG_(ALL|KEY\w*)|SYSTEM_(TRUSTED|REVOCATION)_KEYS|SYSTEM_BLACKLIST_HASH_LIST|"
    r"OPENSSL_SUPPORTS_\w+|"
    r"(AS|LD|LLD|RUSTC?|RUSTC_LLVM|BINDGEN|PAHOLE|CLANG)_(VERSION|VERSION_TEXT)|CC_VERSION_TEXT|"
    r"(RUST|HAVE_RUST|RUSTC|RUSTC_HAS|CC_CAN|CC_HAS|AS_HAS|LD_CAN|LD_HAS|TOOLS_SUPPORT)_\w+)"
)

#: in a tree: it is one, with what is known of it
STAMP = ".bespoke/prepared.json"

#: The final link and the signing of modules want tools that no object needs (resolve_btfids, sign-file with
#: OpenSSL): while a tree is prepared these options are off for makefiles. They must stay so nowhere else: with
#: them kernel/bpf and module_signature.o are not built (kernel/Makefile).
PREPARING = ("CONFIG_MODULE_SIG_FORMAT=", "CONFIG_BPF=", "CONFIG_RUST=")

#: by this file the configuration asks whether there is a compiler of Rust (since 6.1); without one CONFIG_RUST is
#: turned off, and with it options that C code looks at too, though no C object needs that compiler
RUST_IS_AVAILABLE = "scripts/rust_is_available.sh"


@dataclass(frozen=True, slots=True)
class _Way:
    """What make makes in a tree: its configuration, if at all, then the rest; and whether objtool is of that."""

    configuration: tuple[str, ...]
    rest: tuple[str, ...]
    objtool: bool


_ALL_MADE = _Way(("olddefconfig",), ("modules_prepare",), objtool=True)
# archscripts: by a program of those the image of the vDSO is made (7.2); without it make names no object of its folder.
_GENERATED_TAKEN = _Way((), ("scripts", "archscripts", "tools/objtool"), objtool=True)
_OBJTOOL_TAKEN_TOO = _Way((), ("scripts", "archscripts"), objtool=False)

PROGRAMS = ("make", "gcc", "flex", "bison", "bc", "tar", "xz", "ld", "perl", "find")


def processors() -> int:
    """How many processes may compute at once here."""
    return len(os.sched_getaffinity(0))


def make_variables(root: Path, release: str, compiler: Compiler) -> list[str]:
    """Variables for every call of make in a tree: none of them decides which objects there are.

    What runs on this machine (objtool) is compiled by its own compiler, since it needs its own libraries.
    """
    return [
        f"CC={compiler.command}",
        f"HOSTCC={host_compiler(compiler)}",
        *([f"LD={compiler.linker}"] if compiler.linker else []),
        f"KERNELRELEASE={release}",
        f"KCFLAGS={EXTRA_FLAGS}",
        f"PAHOLE={root / '.bespoke/pahole'}",
    ]


def host_compiler(compiler: Compiler) -> str:
    """The compiler of what is run on this machine."""
    return "gcc" if compiler.linker else compiler.command


def prepare(root: Path, release: str, compiler: Compiler) -> None:
    """Configure an unpacked tree by `.bespoke/config`, make what every object needs, and stamp it.

    What is ready-made in the tree is taken, where it was made for that configuration, compiler and assembler.
    """
    need(PROGRAMS, purpose="preparing kernel source")
    log.info("preparing the source of %s", release)
    own = root / ".bespoke"
    wanted = read_config(own / "config")
    # CONFIG_DEBUG_INFO_BTF changes struct module, so it must stay on; of pahole it wants the version only.
    digits = wanted.get("CONFIG_PAHOLE_VERSION", "0")
    pahole = own / "pahole"
    pahole.write_text(f"#!/bin/sh\necho v{digits[:-2] or '0'}.{digits[-2:]}\n")
    pahole.chmod(0o755)
    if wanted.get("CONFIG_RUST") == "y":
        write_whole(root / RUST_IS_AVAILABLE, "#!/bin/sh\nexit 0\n")
        (root / RUST_IS_AVAILABLE).chmod(0o755)
    make = ["make", *make_variables(root, release, compiler), *PREPARING, f"-j{processors()}"]
    log_file = own / "prepare.log"
    way = _way(root, wanted, compiler)
    if way.objtool:
        _need_headers(host_compiler(compiler))
    if not (root / ".config").is_file():
        shutil.copyfile(own / "config", root / ".config")
    if way.configuration:
        run([*make, *way.configuration], cwd=root, log=log_file)
    drift = config_drift(wanted, read_config(root / ".config"))
    run([*make, *way.rest], cwd=root, log=log_file)
    version = run([*make, "-s", "kernelversion"], cwd=root).strip()
    utsrelease = (root / "include/generated/utsrelease.h").read_text()
    if f'"{release}"' not in utsrelease:
        raise ToolError(f"prepared for another release than {release}: {utsrelease.strip()}", where=root)
    keep_state(root)
    write_whole(root / STAMP, json.dumps({"kernel_version": version, "drift": drift}))


def _way(root: Path, wanted: dict[str, str], compiler: Compiler) -> _Way:
    """How the tree is prepared; what is ready-made of it, and fits, is in its place then."""
    ready = root / READYMADE
    if not (
        ready.is_dir()
        and compiler.same
        and not config_drift(wanted, read_config(ready / ".config"))
        and fits(root, wanted, compiler.command)
    ):
        return _ALL_MADE
    put_in(root)
    return _OBJTOOL_TAKEN_TOO if (root / OBJTOOL).exists() else _GENERATED_TAKEN


def config_drift(wanted: dict[str, str], got: dict[str, str]) -> list[str]:
    """Options whose value differs and may change code, as `OPTION: wanted -> got`, sorted."""
    keys = sorted(key for key in wanted.keys() | got.keys() if wanted.get(key, "n") != got.get(key, "n"))
    return [
        f"{key}: {wanted.get(key, 'n')} -> {got.get(key, 'n')}" for key in keys if not HARMLESS_DRIFT.fullmatch(key)
    ]


def _need_headers(compiler: str) -> None:
    """objtool is built from the tree and wants libelf's headers: say so before minutes have passed."""
    try:
        run([compiler, "-E", "-include", "gelf.h", "-x", "c", "/dev/null", "-o", "/dev/null"])
    except ToolError as error:
        raise ToolError("preparing kernel source needs: apt-get install libelf-dev") from error
