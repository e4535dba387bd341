"""`python -m vllama.bench` and `vllama bench`: one module per command, imported when the command is used."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllama.bench.exits import EXIT_INTERRUPTED, EXIT_INVALID, EXIT_MISSED, EXIT_OK, EXIT_USAGE
from vllama.errors import VllamaError

__all__ = ["EXIT_INTERRUPTED", "EXIT_INVALID", "EXIT_MISSED", "EXIT_OK", "EXIT_USAGE", "main"]


@dataclass(frozen=True, slots=True)
class Command:
    """One command. Its module has add_arguments(parser) and main(args, root, say) -> exit status, async or not."""

    name: str
    module: str
    help: str


COMMANDS = (
    Command("run", "vllama.bench.run_command", "measure a profile of scenarios/profiles.toml and write its report"),
    Command("report", "vllama.bench.report_command", "write the reports of result folders again, or check them"),
    Command("export", "vllama.bench.export", "a run's numbers as CSV or as text for benchstat"),
    Command("claims", "vllama.bench.claims", "the verdicts on all claims; write them into a page or check it"),
    Command("gate", "vllama.bench.gate", "judge a run: did a change make it slower?"),
    Command("compare", "vllama.bench.compare", "two runs beside each other"),
    Command("simulate", "vllama.bench.simulate", "how often the gate errs, on simulated runs with a planted change"),
    Command("selfcheck", "vllama.bench.selfcheck", "measure a server whose timings are known"),
    Command("mutate", "vllama.bench.mutate", "inject faults; each must turn its check or the gate red"),
    Command("costs", "vllama.bench.costs", "bytes, calls and modules: costs that do not depend on the machine's mood"),
    Command("overhead", "vllama.bench.overhead", "CPU time of the gateway above a bare ASGI application"),
    Command("hostile", "vllama.bench.hostile", "the gaps of eight streams beside hostile requests"),
    Command("build-llama-server", "vllama.bench.llama_server_build", "build the control from llama-cpp-python's sdist"),
)

EXIT_HELP = (
    "exit status: 0 pass, 1 regression, missed budget or stale page, 2 usage or something missing, 3 noise above what "
    "should be detected, 4 invalid comparison, 5 inconclusive (with --strict), 130 interrupted"
)


def commands() -> list[Command]:
    """The commands whose module is there."""
    return [command for command in COMMANDS if _exists(command.module)]


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def build_parser(words: Sequence[str], prog: str) -> argparse.ArgumentParser:
    """The parser, with the arguments of those commands alone whose name is among the words: the others stay unread."""
    parser = argparse.ArgumentParser(prog=prog, description="The benchmark harness of vLLama.", epilog=EXIT_HELP)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the clone with scenarios/ (default: here)")
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands():
        one = sub.add_parser(command.name, help=command.help, description=command.help)
        if command.name in words:
            importlib.import_module(command.module).add_arguments(one)
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "vllama.bench") -> int:
    """Run one command; its exit status (`exits`). Wrong usage ends in SystemExit(2), as argparse does it."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser(words, prog).parse_args(words)
    module = importlib.import_module(next(c.module for c in COMMANDS if c.name == args.command))
    try:
        status = module.main(args, args.root.absolute(), say)
        return int(asyncio.run(status) if inspect.iscoroutine(status) else status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_MISSED
    except VllamaError as error:
        print(f"error: {error.text}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
    except Exception as error:
        from vllama.bench.systems.base import SystemFailed, Unavailable

        if not isinstance(error, SystemFailed | Unavailable):
            raise
        print(f"error: {error}", file=sys.stderr)
    return EXIT_USAGE


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
