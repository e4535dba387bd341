"""`vllama run`: one question and its answer, or the way into the interactive prompt."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllama.cli import humanize, options, reach
from vllama.cli.attachments import attached, named
from vllama.cli.client import Client
from vllama.cli.console import AnswerView, spinning
from vllama.cli.transfer import with_pull
from vllama.errors import ConfigError, ServerError, VllamaError


@dataclass(frozen=True, slots=True)
class Question:
    """What the command line asked. `format`, `keep_alive` and `think` are the request's fields, None for unset.

    `truncate` and `dimensions` (0 for all) are for models that make embeddings.
    """

    model: str
    prompt: str
    verbose: bool = False
    format: Any = None
    keep_alive: str | int | None = None
    think: bool | str | None = None
    hide_thinking: bool = False
    word_wrap: bool = True
    insecure: bool = False
    markdown: bool = False
    truncate: bool | None = None
    dimensions: int = 0

    def body(self) -> dict[str, Any]:
        """The fields that generate and chat have in common."""
        given = {"format": self.format, "keep_alive": self.keep_alive, "think": self.think}
        return {"model": self.model} | {name: value for name, value in given.items() if value is not None}


def run_model(
    question: Question, host: str | None, overrides: Mapping[str, str | None], pairs: Sequence[str] | None
) -> int:
    """Answers the question; returns the exit status. `overrides` and `pairs` set up a private server."""
    given = [f"{name}={value}" for name, value in overrides.items() if value is not None] + list(pairs or ())
    if given and host is not None:
        raise ConfigError("--engine and --set are for a private server: they cannot change the one that --host names")
    settings = options.settings({}, given)
    flags = tuple(part for pair in given for part in ("--set", pair))
    prompt = _with_stdin(question.prompt)
    if not prompt and not _interactive():
        raise ConfigError("there is no prompt: give one as an argument or on standard input")
    with spinning("starting") as spinner:
        own_files = options.is_path(question.model)
        with reach.server(host, flags=flags, needs_own_files=own_files, settings=settings) as client:
            spinner.stop()
            if prompt:
                with_pull(client, question.model, question.insecure, lambda: _ask(client, question, prompt))
                return 0
            from vllama.cli.repl import converse

            return converse(client, question, settings)


def _ask(client: Client, question: Question, prompt: str) -> None:
    """One answer, or one embedding from a model that makes those."""
    if question.truncate is not None or question.dimensions:
        _embed(client, question, prompt)
        return
    try:
        _generate(client, question, prompt)
    except VllamaError as error:
        # What a model can do is asked only now: for nearly every prompt that would be a request too many.
        if not error.text.endswith("does not support generate"):
            raise
        if "embedding" not in (client.post("/api/show", {"model": question.model}).get("capabilities") or ()):
            raise
        _embed(client, question, prompt)


def _generate(client: Client, question: Question, prompt: str) -> None:
    asked: dict[str, Any] = {"prompt": prompt}
    if named(prompt):
        capabilities = client.post("/api/show", {"model": question.model}).get("capabilities") or ()
        asked["prompt"], asked["images"], lines = attached(prompt, capabilities, question.model)
        print("\n".join(lines), file=sys.stderr)
    view = AnswerView(word_wrap=question.word_wrap, hide_thinking=question.hide_thinking, markdown=question.markdown)
    last: dict[str, Any] = {}
    with spinning(f"loading {question.model}") as spinner:
        for item in client.stream("/api/generate", question.body() | asked):
            spinner.stop()
            view.show(item.get("thinking", ""), item.get("response", ""))
            last = item
    view.end()
    if question.verbose:
        print(humanize.rates(last), end="", file=sys.stderr)


def _embed(client: Client, question: Question, text: str) -> None:
    """Prints the vector of a text as one line of JSON."""
    given = {
        "keep_alive": question.keep_alive,
        "truncate": question.truncate,
        "dimensions": question.dimensions or None,
    }
    body = {"model": question.model, "input": text} | {name: v for name, v in given.items() if v is not None}
    with spinning(f"loading {question.model}"):
        vectors = client.post("/api/embed", body).get("embeddings") or []
    if not vectors:
        raise ServerError("the server gave no embedding")
    print(json.dumps(vectors[0], separators=(",", ":")))


def _with_stdin(prompt: str) -> str:
    """The prompt with what was piped in put before it. Terminals and /dev/null are not read."""
    if sys.stdin is None or stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode):
        return prompt
    with spinning("reading standard input"):
        piped = sys.stdin.buffer.read().decode("utf-8", "replace").strip("\n")
    return "\n\n".join(filter(None, (piped, prompt)))


def _interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
