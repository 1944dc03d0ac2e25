"""Score checkpoints and prediction files, and check data.

Each command is a module of `commands/`. This script finds the modules, parses the arguments and
reports wrong input.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import signal
import sys
from types import ModuleType

import commands
from engine.config.environment import environment_fault
from engine.config.installed import find_recipes

_ABOUT = "Score checkpoints and prediction files, and check data."


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 on success, 2 on wrong input, 130 on Ctrl-C."""
    words = find_recipes(sys.argv[1:] if argv is None else argv)
    if fault := environment_fault(packages=not {"-h", "--help"} & {*words}):
        sys.stderr.write(f"error: {fault}\n")
        return 2
    parser = build_parser()
    try:
        args, args.overrides = parser.parse_known_args(words)
        if args.overrides and not getattr(args.module, "TAKES_OVERRIDES", False):
            parser.error(f"unrecognized arguments: {' '.join(args.overrides)}")
    except SystemExit as stop:  # argparse has printed its message, or the help
        return int(stop.code or 0)
    from jsonargparse import ArgumentError

    from commands._outputs import check_outputs
    from commands._tables import write
    from engine.training.console import calm_console

    try:
        check_outputs(args)
        with calm_console(trains=False):
            record = args.module.run(args)
        write(getattr(args, "out", None), record)
    except (ValueError, OSError, ArgumentError) as error:
        if args.debug:
            raise
        from engine.config.errors import user_message

        print(f"error: {user_message(error, words)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns Ctrl-C into an exit
        if not any(isinstance(one, KeyboardInterrupt) for one in (stop, stop.__context__)):
            raise
        sys.stderr.write("stopped by SIGINT\n")
        return 128 + signal.SIGINT
    return 0 if record.get("passed", True) else 2


def command_modules() -> dict[str, ModuleType]:
    """Import the modules of `commands/` and its subfolders; return them by command name, sorted."""
    found = {}
    for module in pkgutil.walk_packages(commands.__path__, "commands."):
        name = module.name.rpartition(".")[2]
        if not module.ispkg and not name.startswith("_"):
            found[name.replace("_", "-")] = importlib.import_module(module.name)
    return dict(sorted(found.items()))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands, without slow imports.

    The parsed arguments contain the command's module as ``module``.
    """
    parser = argparse.ArgumentParser(prog="evaluate.py", description=_ABOUT, allow_abbrev=False)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in command_modules().items():
        sub = subparsers.add_parser(name, help=module.SUMMARY, allow_abbrev=False)
        sub.set_defaults(module=module)
        sub.add_argument("--debug", action="store_true", help="show a traceback on wrong input")
        module.add_arguments(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
