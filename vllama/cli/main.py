"""The `vllama` command: reads arguments and hands over. What is heavy is imported inside the commands."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vllama import __version__

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

HostOption = Annotated[
    str | None,
    typer.Option("--host", metavar="ADDRESS", help="Use the server there, and no other.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting of `vllama config`; repeatable.", show_default=False),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Read this vllama.toml.", show_default=False)
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Use http: for a registry on this machine or in a trusted network.")
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.", show_default=False)]


def _version(value: bool) -> None:
    if value:
        print(f"vllama version is {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", "-v", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """A local LLM server with Ollama's API, on the engine that suits the machine."""


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


QuantizeOption = Annotated[
    str, typer.Option("--quantize", "-q", metavar="TYPE", help="Quantize F16, BF16 or F32 weights.", show_default=False)
]


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
    """Print a shell's completion script: eval "$(vllama completion bash)"."""
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


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; every error on purpose is one line and exit status 1."""
    from vllama.errors import VllamaError

    given = sys.argv[1:] if arguments is None else arguments
    _mend_standard_streams()
    if os.path.expanduser("~") == "~":  # a user without a home: what would be there is not found and not kept
        os.environ["HOME"] = "/nonexistent"
    try:
        try:
            app(args=_bare_think(given), prog_name="vllama")
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
