"""`vllama stop`, `cp` and `rm`."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama.cli.syntax.arguments import HostOption, ModelArgument

app = typer.Typer()


@app.command()
def stop(model: ModelArgument, host: HostOption = None) -> None:
    """Unload a model."""
    from vllama.cli.manage import stop_model

    stop_model(model, host)


@app.command()
def cp(
    source: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False)],
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", show_default=False)],
    host: HostOption = None,
) -> None:
    """Copy a model."""
    from vllama.cli.manage import copy_model

    copy_model(source, destination, host)


@app.command()
def rm(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", show_default=False)], host: HostOption = None
) -> None:
    """Remove models."""
    from vllama.cli.manage import remove_models

    remove_models(models, host)
