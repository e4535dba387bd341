"""`vllama run`."""

from __future__ import annotations

from typing import Annotated

import typer

from vllama.cli.syntax.arguments import HostOption, InsecureOption, SetOption

app = typer.Typer()


@app.command()
def run(
    model: Annotated[str, typer.Argument(metavar="MODEL|FILE.gguf", help="A model's name, or a GGUF file.")],
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Without one: a conversation.")
    ] = None,
    host: HostOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print counts and rates to standard error.")] = False,
    format: Annotated[str, typer.Option(metavar="json|SCHEMA", help="Answer in JSON.", show_default=False)] = "",
    keepalive: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the model stays.", show_default=False)
    ] = "",
    think: Annotated[
        str, typer.Option(metavar="[=LEVEL]", help="true, false, low, medium, high or max.", show_default=False)
    ] = "",
    hidethinking: Annotated[bool, typer.Option("--hidethinking", help="Do not print thoughts.")] = False,
    nowordwrap: Annotated[bool, typer.Option("--nowordwrap", help="Do not wrap at the terminal's width.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Lay the answer out as Markdown.")] = False,
    truncate: Annotated[
        bool | None, typer.Option("--truncate/--no-truncate", help="Embeddings: cut a text that is too long.")
    ] = None,
    dimensions: Annotated[int, typer.Option(metavar="N", min=0, help="Embeddings: so many numbers.")] = 0,
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="Run on this engine, in a private server.")] = None,
    insecure: InsecureOption = False,
    settings: SetOption = None,
) -> None:
    """Ask a model once, or converse with it.

    Uses the server at OLLAMA_HOST if that is vLLama; otherwise starts a private one that ends with the command.
    """
    from vllama.cli import options
    from vllama.cli.run import Question, run_model

    question = Question(
        model=options.model_name(model),
        # Bytes of the command line that are no UTF-8 arrive as lone surrogates, which JSON cannot hold.
        prompt=" ".join(prompt or ()).encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        verbose=verbose,
        format=options.output_format(format),
        keep_alive=options.keep_alive(keepalive),
        think=options.think(think),
        hide_thinking=hidethinking,
        word_wrap=not nowordwrap,
        insecure=insecure,
        markdown=markdown,
        truncate=truncate,
        dimensions=dimensions,
    )
    raise typer.Exit(run_model(question, host, {"engine": engine}, settings))
