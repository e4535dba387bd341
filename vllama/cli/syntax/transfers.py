"""`vllama pull` and `push`."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama.cli.syntax.arguments import HostOption, InsecureOption, ModelArgument

app = typer.Typer()


@app.command()
def pull(
    model: ModelArgument,
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="hf|ollama", help="Take it from there, whatever the name says.", show_default=False
        ),
    ] = "",
    insecure: InsecureOption = False,
    host: HostOption = None,
) -> None:
    """Pull a model from a registry or from Hugging Face."""
    from vllama.cli.transfer import pull_model

    pull_model(model, host, insecure, source)


@app.command()
def push(model: ModelArgument, insecure: InsecureOption = False, host: HostOption = None) -> None:
    """Push a model to a registry."""
    from vllama.cli.transfer import push_model

    push_model(model, host, insecure)
