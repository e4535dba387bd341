"""`vllama create` and `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vllama.cli.syntax.arguments import HostOption, ModelArgument, QuantizeOption

app = typer.Typer()


@app.command()
def create(
    model: ModelArgument,
    file: Annotated[Path, typer.Option("--file", "-f", metavar="FILE", help="The Modelfile.")] = Path("Modelfile"),
    quantize: QuantizeOption = "",
    host: HostOption = None,
) -> None:
    """Create a model from a Modelfile."""
    from vllama.cli.create import create_model

    create_model(model, file, quantize, host)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A GGUF file, or a directory.", show_default=False)],
    name: Annotated[str, typer.Option("--name", metavar="MODEL", help="Its name.", show_default=False)] = "",
    quantize: QuantizeOption = "",
    host: HostOption = None,
) -> None:
    """Create a model from weights alone."""
    from vllama.cli.create import import_model

    import_model(path, name, quantize, host)
