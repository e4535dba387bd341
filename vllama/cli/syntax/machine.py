"""`vllama logs`, `completion`, `doctor`, `bench`, `config` and `version`."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama.cli.syntax.arguments import ConfigOption, HostOption, JsonOption, SetOption

app = typer.Typer()


@app.command()
def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print what comes, until Ctrl+C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the last lines.")] = 200,
    settings: SetOption = None,
) -> None:
    """Print the log of the server on this machine."""
    from vllama.cli import options
    from vllama.cli.logs import print_log

    print_log(options.settings({}, settings), lines, follow)


@app.command()
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell.", show_default=False)],
) -> None:
    """Print a shell's completion script.

    In ~/.bashrc or ~/.zshrc: eval "$(vllama completion bash)", with zsh there.
    """
    from vllama.cli.completion import print_script

    print_script(shell)


@app.command(
    hidden=True, context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
)
def complete(words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """What the last of the words may become; the scripts of `completion` ask this."""
    from vllama.cli.completion import print_candidates

    print_candidates(words or [])


@app.command()
def doctor(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Say what works on this machine and what does not, and why."""
    from vllama.cli import options
    from vllama.cli.doctor import examine

    raise typer.Exit(examine(options.settings({}, None, config), as_json=as_json))


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
def bench(context: typer.Context) -> None:
    """Measure this and other servers, and judge what was measured."""
    from vllama.cli.bench import bench as run_bench

    raise typer.Exit(run_bench(context.args))


@app.command("config")
def config_(
    as_json: JsonOption = False,
    docs: Annotated[
        bool, typer.Option("--docs", help="Print the table of docs/configuration.md.", hidden=True)
    ] = False,
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """Print every setting, its value and where that comes from."""
    from vllama.cli import options
    from vllama.cli.listing import print_settings

    print_settings(options.settings({}, settings, config), as_json=as_json, docs=docs)


@app.command("version")
def version_(host: HostOption = None, as_json: JsonOption = False) -> None:
    """Print the version, and the server's if it is another."""
    from vllama.cli.manage import print_version

    print_version(host, as_json)
