"""`vllama serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vllama.cli.syntax.arguments import ConfigOption, SetOption

app = typer.Typer()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Listen on host or host:port.")] = None,
    port: Annotated[int | None, typer.Option(metavar="PORT", help="Listen on this port; 0 takes a free one.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME|PATH", help="Load this model at the start; repeatable.")
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="Run every model on this engine.")] = None,
    keep_alive: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long an idle model stays loaded: 5m, 0, -1.")
    ] = None,
    num_parallel: Annotated[int | None, typer.Option(metavar="N", help="Sequences per model at once.")] = None,
    max_queue: Annotated[int | None, typer.Option(metavar="N", help="Requests that may wait.")] = None,
    context_length: Annotated[int | None, typer.Option(metavar="N", help="Default context in tokens.")] = None,
    num_thread: Annotated[int | None, typer.Option(metavar="N", help="Threads that compute.")] = None,
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="Offer the models of this OpenAI-compatible server too.")
    ] = None,
    vllm_arg: Annotated[
        list[str] | None, typer.Option("--vllm-arg", metavar="ARG", help="Add to vLLM's command line; repeatable.")
    ] = None,
    origins: Annotated[str | None, typer.Option(metavar="LIST", help="Web origins that may call too.")] = None,
    models_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="The model store.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    until_eof: Annotated[bool, typer.Option("--until-eof", hidden=True)] = False,
) -> None:
    """Start the server."""
    from vllama.cli import options

    flags: dict[str, object] = {
        "host": host,
        "port": port,
        "preload": tuple(map(options.model_name, model)) if model else None,
        "engine": engine,
        "keep_alive": keep_alive,
        "num_parallel": num_parallel,
        "max_queue": max_queue,
        "context_length": context_length,
        "num_thread": num_thread,
        "upstream": upstream,
        "vllm_args": " ".join(vllm_arg) if vllm_arg else None,
        "origins": origins,
        "models_dir": models_dir,
    }
    loaded = options.settings(flags, settings, config)

    from vllama.cli.ports import adopt
    from vllama.cli.server import run_server

    raise typer.Exit(run_server(loaded, adopt(fd), until_eof=until_eof))


app.command("start", hidden=True)(serve)
