"""The commands: one module each, with `add(subparsers)` that sets `run` in the parsed arguments.

What holds for all of them is here: `--json`, `-v`, `-q`, the exit statuses, and
that no traceback ever reaches a user.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from textwrap import fill
from typing import Final, NoReturn

from builder import __version__
from builder.cli.common import Output
from builder.errors import BespokeError, RefusedError, UsageError

# In the order of the pipeline; a command's module is imported when the command is named.
COMMANDS: Final = {
    "diff": "what changed between two objects or trees, and whether it can ship",
    "build": "the livepatch module of a change",
    "patch": "the livepatch module of a source patch, without building the kernel",
    "fleet": "many fixes for many kernels: a module of each, checked, with a report",
    "mark": "the livepatch module of marks: records of any line and expression of the kernel's source",
    "check": "load a module into a simulated kernel, without a VM, and say what stands against it",
    "inspect": "what a module contains, ours or anybody's; with a second one, what that does otherwise",
    "completion": "what a shell completes these commands by",
    "explain": "what the code of a refusal, a warning or a finding means, with an example and the way out",
    "cache": "what the cache holds, how much room it takes, and when it was last used; prunes it",
    "kernels": "which kernels were tried, and what is proven on each",
    "package": "a .deb, an .rpm or a tree of files that loads livepatches at boot, on the kernels that they are for",
    "fidelity": "compare what the simulated loader makes of modules with what a kernel's own makes",
    "try": "load a module in a QEMU guest: a command before, with and after it",
    "load": "load a livepatch on this machine; probes follow the code",
    "unload": "take a livepatch out again",
    "status": "the livepatches of this machine, their versions and the probes in them",
    "watch": "the records of loaded marks, as they come",
    "probe": "plant a kprobe event that counts whichever version of a function runs",
}


def run(arguments: Sequence[str], *, ready: Callable[[], object] = lambda: None) -> int:
    """Run one command line and return its exit status; `ready` is called once what it needs is imported."""
    parser, chosen = _parser(arguments)
    ready()
    try:
        options = _parsed(parser, arguments)
    except SystemExit as ended:
        return int(ended.code or 0) if not isinstance(ended.code, str) else 2
    if chosen is None:
        parser.print_help(sys.stderr)
        return 2
    options.command_line = tuple(arguments)
    output = Output(json=options.json, verbose=options.verbose, quiet=options.quiet)
    try:
        _check_words(arguments)
        with output.logged(), _within_its_room():
            return int(options.run(options, output))
    except RefusedError as refused:
        output.refused(refused)
        return refused.exit_status
    except BespokeError as problem:
        output.error(str(problem))
        return problem.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except KeyboardInterrupt:
        output.error("interrupted")
        return 130
    except OSError as problem:
        output.error(f"{problem.filename or 'the system'}: {problem.strerror or problem}")
        return 2
    except MemoryError:
        output.error("out of memory")
        return 2
    except Exception as problem:
        if _is_of_a_database(problem):
            output.error(f"a database of the cache cannot be used: {problem}")
            return 2
        if os.environ.get("BESPOKE_DEBUG"):
            raise
        output.error(
            f"a defect in bespoke: {type(problem).__name__}: {problem}; "
            "run again with BESPOKE_DEBUG=1 to see where, and please report it"
        )
        return 2


@contextmanager
def _within_its_room() -> Iterator[None]:
    """Whatever a command comes to, the cache is then no larger than BESPOKE_CACHE_SIZE says, where that is set."""
    if not os.environ.get("BESPOKE_CACHE_SIZE"):
        yield
        return
    from builder.acquire.room import keep_within, wanted_size

    wanted_size()  # what is no size is said before anything is done
    try:
        yield
    finally:
        keep_within()


def _is_of_a_database(problem: Exception) -> bool:
    """Such as "database or disk is full"; who has imported no sqlite3, which is slow, has none."""
    sqlite3 = sys.modules.get("sqlite3")
    return sqlite3 is not None and isinstance(problem, sqlite3.Error)


def _check_words(arguments: Sequence[str]) -> None:
    """UsageError for what no command line can hold and no path either; a caller from Python can give it."""
    for word in arguments:
        if "\0" in word:
            raise UsageError("holds a NUL character, as no path and no name can", where=word)


class _Parser(argparse.ArgumentParser):
    """Shows what it was given as everything else is shown."""

    def error(self, message: str) -> NoReturn:
        from builder.report.spelled import spelled  # here, for it is slow to import

        super().error(spelled(message))


def _parsed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """As parse_args(), but that the fetch arguments of a probe may stand behind options too."""
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "fetch") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.fetch += rest
    return options


def _examples(command: str) -> str:
    from builder.cli.examples import shown  # here, for only the help of a command shows them

    return shown(command)


def full_parser() -> argparse.ArgumentParser:
    """The parser with all options of all commands, of which completion and manual page are made."""
    return _parser(["--help"], every=True)[0]


def _parser(arguments: Sequence[str], *, every: bool = False) -> tuple[argparse.ArgumentParser, str | None]:
    parser = _Parser(
        prog="bespoke",
        description="Kernel live patches from object files: finds the functions that changed and emits a module "
        "bound to the running kernel's own symbols.",
        epilog="Exit status: 0 done, 1 refused, 2 bad usage or unreadable input, 3 nothing changed.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bespoke {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    chosen = next((a for a in arguments if a in COMMANDS), None)
    # Where a command stands first, nothing will be said of the others.
    alone = arguments[:1] if chosen in arguments[:1] and not every else COMMANDS
    for name, text in ((name, COMMANDS[name]) for name in alone):
        sub = commands.add_parser(
            name,
            help=text,
            description=fill(text[0].upper() + text[1:] + ".", 79),
            epilog=_examples(name) if every or name == chosen else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if every or name == chosen:
            import_module(f"builder.cli.{name}_command").add(sub)
            sub.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
            sub.add_argument("-v", "--verbose", action="store_true", help="say more")
            sub.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    return parser, chosen
