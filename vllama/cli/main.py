"""The `vllama` command: reads arguments and hands over. What is heavy is imported inside the commands."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Annotated, Any

import typer

from vllama import __version__

MODULES = {
    "serving": ("serve", "start"),
    "asking": ("run",),
    "transfers": ("pull", "push"),
    "making": ("create", "import"),
    "looking": ("list", "ls", "ps", "top", "show"),
    "managing": ("stop", "cp", "rm"),
    "machine": ("logs", "completion", "complete", "doctor", "bench", "config", "version"),
}
"""Modules of vllama.cli.syntax with their commands, in the order of `vllama --help`."""


def _version(value: bool) -> None:
    if value:
        print(f"vllama version is {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", "-v", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """A local LLM server with Ollama's API, on the engine that suits the machine."""


def commands(only: str = "") -> typer.Typer:
    """The program with its commands. `only`: with that one alone if there is one of that name, because building all
    of them takes as long as a short command's work."""
    app = typer.Typer(
        name="vllama",
        help="A local LLM server with Ollama's API, on the engine that suits the machine.",
        # Rich costs more time than everything else that --help needs.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(root)
    wanted = [module for module, names in MODULES.items() if only in names] or list(MODULES)
    for module in wanted:
        found = importlib.import_module(f"vllama.cli.syntax.{module}").app.registered_commands
        alone = [info for info in found if only == (info.name or info.callback.__name__)]
        app.registered_commands += alone or found
    return app


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; every error on purpose is one line and exit status 1."""
    from vllama.errors import VllamaError

    given = sys.argv[1:] if arguments is None else arguments
    _mend_standard_streams()
    if os.path.expanduser("~") == "~":  # a user without a home: what would be there is not found and not kept
        os.environ["HOME"] = "/nonexistent"
    try:
        try:
            commands(given[0] if given else "")(args=_bare_think(given), prog_name="vllama")
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        # Wrong use is 1 with Ollama, whose scripts ask for it; the harness has statuses of its own.
        if end.code != 2 or given[:1] == ["bench"]:
            raise
        raise SystemExit(1 if given else 0) from None
    except VllamaError as error:
        _fail(error.text, error)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        _leave_pipe()
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), error)


def _mend_standard_streams() -> None:
    """Standard streams that the caller closed become /dev/null, and text that a stream cannot encode becomes "?".

    A file or socket that is opened next would get the number of the closed one, and a child process would
    take it for its standard input.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="replace")


def _bare_think(arguments: list[str]) -> list[str]:
    """A --think without a value means true and must not take the next word for one."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return ["--think=true" if word == "--think" else word for word in arguments[:end]] + arguments[end:]


def _fail(text: str, error: BaseException) -> Any:
    if os.environ.get("VLLAMA_DEBUG", "").strip() not in ("", "0", "false"):
        raise error
    print(f"Error: {' '.join(text.splitlines())}", file=sys.stderr)
    raise SystemExit(1) from None


def _leave_pipe() -> Any:
    """The reader of our output has gone. Python would complain once more when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(1) from None
