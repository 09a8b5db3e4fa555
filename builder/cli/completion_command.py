"""`bespoke completion SHELL`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from builder.cli.common import Output

SHELLS = ("bash", "zsh", "fish")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    import shtab

    from builder.cli import full_parser

    parser = full_parser()
    _name_files(parser)
    script = shtab.complete(parser, shell=options.shell)
    if output.json:
        output.document({"shell": options.shell, "script": script})
    elif not output.quiet:
        sys.stdout.write(script + "\n")
    return 0


def _name_files(parser: argparse.ArgumentParser) -> None:
    """What is a path is completed as one."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _name_files(command)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
