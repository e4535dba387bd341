"""`vllama list`, `ps`, `top` and `show`."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama.cli.syntax.arguments import HostOption, JsonOption, ModelArgument

app = typer.Typer()


@app.command("list")
def list_(
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only names that begin so.", show_default=False)
    ] = "",
    host: HostOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models that are here."""
    from vllama.cli.listing import list_models

    list_models(prefix, host, as_json)


app.command("ls", hidden=True)(list_)


@app.command()
def ps(
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only names that begin so.", show_default=False)
    ] = "",
    host: HostOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models that are loaded."""
    from vllama.cli.listing import list_loaded

    list_loaded(prefix, host, as_json)


@app.command()
def top(
    interval: Annotated[float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="Between two looks.")] = 1.0,
    host: HostOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch what the loaded models do."""
    from vllama.cli.top import watch

    watch(host, interval, as_json)


@app.command()
def show(
    model: ModelArgument,
    license_: Annotated[bool, typer.Option("--license", help="Print only the licence.")] = False,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="Print only the Modelfile.")] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="Print only the parameters.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Print only the template.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Print only the system message.")] = False,
    engine: Annotated[bool, typer.Option("--engine", help="Print only which engine runs it, and why.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print metadata and tensors too.")] = False,
    host: HostOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model is."""
    from vllama.cli import options
    from vllama.cli.show import show_engine, show_model

    if engine:
        show_engine(options.model_name(model), host)
        return
    asked = {
        "license": license_,
        "modelfile": modelfile,
        "parameters": parameters,
        "template": template,
        "system": system,
    }
    parts = [name for name, wanted in asked.items() if wanted]
    show_model(options.model_name(model), parts, verbose, host, as_json)
