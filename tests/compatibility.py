"""Writes docs/compatibility.md from the tables that the tests hold vLLama to: `python -m tests.compatibility`."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
PAGE = ROOT / "docs" / "compatibility.md"
TEST = "tests/unit/test_compatibility.py"

HEAD = """\
# Where vLLama differs from Ollama

This page is generated: `python -m tests.compatibility` writes it from the tables below `tests/golden/`, and
`{test}` fails when it is old. Everything else is meant to be equal: what differs and does not
stand here is a bug.

## On purpose, everywhere

| Ollama | vLLama |
|---|---|
{rules}

## Recorded answers of a real Ollama that differ

`tests/golden/wire/` holds {wire_cases} recorded answers. These {wire} differ on purpose:

| case | why |
|---|---|
{wire_rows}

Not compared, for it describes a file that the tests do not have:

| case | why |
|---|---|
{other_rows}

## Recorded tool calls: text that Ollama loses or repeats

In all {tool_cases} recorded streams the calls are Ollama's, and so is the text of every chunk. At the end of the output
the text differs in {tools} of them; vLLama passes every piece on once.

{tool_groups}

## Recorded thoughts: text that Ollama loses

In all {thinking_cases} recorded streams every chunk is split as Ollama splits it. At the end of the output {thinking}
differ.

{thinking_groups}
"""

RULES: tuple[tuple[str, str], ...] = (
    (
        "answers 500 for a client's mistake: a wrong type of an option, a bad `format`, a template error, context ids "
        "that do not exist, an unknown or impossible `quantize`, a damaged GGUF",
        "400, with the same text where Ollama's is clear",
    ),
    (
        "cuts a prompt that is too long, and says nothing",
        "cuts it alike; the header `X-vLLama-Truncated: messages=3, tokens=120` and the log say what is missing",
    ),
    ("passes on its runner's JSON inside of a JSON string", "one clear text in `error`"),
    ("shows the runner's error for images that a model cannot see", "400 `this model does not support images`"),
    ("pads `num_ctx` to a multiple of 256", "takes it as it is"),
    ("`GET /health` is 404", "`GET /health` answers, for probes"),
    ("never refuses a request for a model that is loaded, however many wait", "503 beyond `OLLAMA_MAX_QUEUE`"),
    ("loads a model again for another `num_ctx`", "keeps the weights"),
    ("`max_completion_tokens` on `/v1` is ignored", "read where `max_tokens` is absent"),
    ("loses text behind a tool call, or repeats text before it", "passes every piece on once"),
    (
        "text that could have become a tag is lost when the output ends, and so are blanks that are all a model said "
        "before it could think",
        "passes it on",
    ),
    ("an error in the middle of a `/v1` stream is an empty chunk", 'a line `data: {"error": …}`'),
    ("has no `/v1/messages/count_tokens`", "counts with the model's template and tokenizer"),
    ("`/v1/messages` guesses the tokens of the prompt at the begin of a stream", "counts them"),
    ("`/v1/responses` ignores the format `json_object`", "answers with JSON"),
    ("`/v1/responses` drops text beside a tool call", "keeps it, as an item of its own"),
    ("offers models a web search that runs on ollama.com", "does not offer it; the other tools of the request stay"),
    ("cuts running streams when it is stopped", "lets them end within a grace time"),
    ("error texts of create and push show the store's path", "no paths"),
    ("serves `/debug/pprof`", "nothing of that kind"),
    ("answers 404 or 405 to methods that HTTP does not know", "400, as nobody's client sends them"),
    ("takes a `#` in a request's path as a part of the path", "cuts it off there"),
    ("create: the name in `from` must have the letters' case that it is stored with, else it is pulled", "any case"),
    ("refuses a `pattern` without `^` and `$`", "takes it as a part of the text, as JSON Schema says"),
    ("follows a `pattern` whatever it costs", "follows it in one way; 400 where that takes too much"),
    ("reads a body of any number of values", "400 for one of more than 64 KiB with over 100,000 values"),
    (
        'takes of the parts of an `allOf` their properties alone: of `[{"type": "object"}]` it makes the empty object',
        "what all parts allow, as JSON Schema says: any object",
    ),
    ("ignores what a schema says with `not`, a wrong `required` or an empty `enum`", "400 with the place"),
    ("create: uses `draft_files`", "501 `draft models are not supported yet`"),
    ("starts its runner anew, or breaks it, for `main_gpu` or `num_batch` that make no sense", "bounds them"),
    (
        "copy: refuses a source with a blank at its end or with `:local` behind its tag",
        "takes it, as all other routes do",
    ),
    ("create: makes a model that runs elsewhere of `remote_host`", "ignores it, there is no cloud"),
    (
        "`parser` and `renderer` of a model choose code that is built in",
        "`parser` chooses the format of tool calls only",
    ),
    ("`/api/me` and `/api/signout` ask ollama.com", "answer as if it was disabled"),
)
"""What no single case shows. Each is a flaw of Ollama, or a route of vLLama's own."""


OTHER_FILE: dict[str, str] = {
    "show-verbose": "recorded with the all-minilm of Ollama's library, whose metadata name the data sets of its model "
    "card; the file that the tests make of the same weights has no card",
}
"""Recorded answers about a file that the tests do not have: id to reason. They are not compared."""


def different(name: str) -> dict[str, dict[str, str]]:
    """A table of differing vectors: id to {"why", ...}."""
    table: dict[str, dict[str, str]] = json.loads((GOLDEN / name).read_text("utf-8"))
    return table


def wire_different() -> dict[str, str]:
    """The recorded answers that differ: id to reason."""
    table: dict[str, str] = json.loads((GOLDEN / "wire" / "different.json").read_text("utf-8"))
    return table


def streams(name: str) -> list[str]:
    """The ids of the recorded streams in a file of vectors."""
    rows = map(json.loads, (GOLDEN / name).read_text("utf-8").strip().split("\n"))
    return [row["id"] for row in rows if row["kind"] == "stream"]


def wire_ids() -> list[str]:
    """The ids of all recorded answers."""
    files = sorted((GOLDEN / "wire" / "cases").glob("*.jsonl"))
    return [json.loads(line)["id"] for file in files for line in file.read_text("utf-8").strip().split("\n")]


def grouped(table: dict[str, dict[str, str]]) -> str:
    """A list item for each reason, with the cases that it explains."""
    reasons: dict[str, list[str]] = {}
    for name, row in table.items():
        reasons.setdefault(row["why"], []).append(f"`{name}`")
    return "\n".join(f"- {why}: {', '.join(names)}" for why, names in reasons.items())


def render() -> str:
    """The page."""
    wire = wire_different()
    tools, thinking = different("tools_different.json"), different("thinking_different.json")
    return HEAD.format(
        test=TEST,
        rules="\n".join(f"| {theirs} | {ours} |" for theirs, ours in RULES),
        wire_cases=len(wire_ids()),
        wire=len(wire),
        wire_rows="\n".join(f"| `{name}` | {why} |" for name, why in sorted(wire.items())),
        other_rows="\n".join(f"| `{name}` | {why} |" for name, why in OTHER_FILE.items()),
        tool_cases=len(streams("tools.jsonl")),
        tools=len(tools),
        tool_groups=grouped(tools),
        thinking_cases=len(streams("thinking.jsonl")),
        thinking=len(thinking),
        thinking_groups=grouped(thinking),
    )


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
