"""The examples of Ollama's Python client, unchanged, against a live server.

They name models of the library; here each name is a model made of the small weights, with a template that has the
capability which the example needs. What it says is luck: the example must run to its end.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.external import programs
from tests.external.conftest import clean_environ
from tests.integration.conftest import MODEL, Server
from tests.integration.minilm import install_minilm, make_minilm
from tests.integration.tooly import TEMPLATE as TOOLS

pytestmark = [pytest.mark.external, pytest.mark.model]

THINKS = (
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"
    "{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n<think>"
)
THINKS_AND_TOOLS = TOOLS.replace(
    "{{ $m.Content }}", "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ $m.Content }}", 1
)
INSERTS = "{{ if .Suffix }}<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>{{ else }}{{ .Prompt }}{{ end }}"
MODELS = {
    "gemma3": "",
    "llama3.1": TOOLS,
    "llama3.1:8b": "",
    "qwen3": THINKS_AND_TOOLS,
    "deepseek-r1": THINKS,
    "gpt-oss:20b": THINKS_AND_TOOLS,
    "codellama:7b-code": INSERTS,
}
"""Name in the examples -> template; "" for the weights' own."""


@dataclass(frozen=True)
class Example:
    """A script. `prints`: a text that must be in its output. `ends`: the error that its end of input is."""

    name: str
    prints: str = ""
    stdin: str = ""
    ends: str = ""


EXAMPLES = [
    Example("chat"),
    Example("chat-stream"),
    Example("chat-with-history", "Chat with history:", "Hello\n", ends="EOFError"),
    Example("chat-logprobs", "alt ->"),
    Example("async-chat"),
    Example("async-generate"),
    Example("async-structured-outputs", "friends="),
    Example("async-tools", "Prompt: What is three plus one?"),
    Example("create", "success"),
    Example("embed", "[["),
    Example("fill-in-middle"),
    Example("generate"),
    Example("generate-logprobs", "alt ->"),
    Example("generate-stream"),
    Example("gpt-oss-tools"),
    Example("gpt-oss-tools-stream"),
    Example("list", "Quantization Level: Q4_1"),
    Example("multi-tool", "----- Prompt:"),
    Example("show", "Capabilities:"),
    Example("structured-outputs", "friends="),
    Example("thinking", "Response:"),
    Example("thinking-generate", "Response:"),
    Example("thinking-levels", "Thinking (high)"),
    Example("tools", "Prompt: What is three plus one?"),
]
NOT_RUN = {
    "pull": "asks the world's registry (tests/integration/test_registry.py pulls from a local one)",
    "ps": "pulls first (tests/integration/test_ollama_methods.py asks for running models)",
    "generate-image": "makes images, which no engine here does",
    "multimodal-chat": "needs a model that sees",
    "multimodal-generate": "needs a model that sees",
    "structured-outputs-image": "needs a model that sees",
    "web-search": "needs the cloud",
    "web-search-gpt-oss": "needs the cloud",
    "web-search-mcp": "needs the cloud",
    "web_search_gpt_oss_helper": "needs the cloud",
}
"""Why an example is not run."""


@pytest.fixture(scope="module")
def examples() -> Path:
    return Path(programs.need("ollama-python")) / "examples"


@pytest.fixture(scope="module")
def models(examples: Path, ours: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The server with everything that the examples name."""
    for name, template in MODELS.items():
        parameters = {"temperature": 0, "num_predict": 24, "stop": ["<|im_end|>"]}
        if name.endswith("8b"):
            parameters["num_predict"] = 600  # its JSON must be whole
        body = {"model": name, "from": MODEL, "stream": False, "parameters": parameters}
        httpx.post(
            f"{ours.url}/api/create", json=body | ({"template": template} if template else {})
        ).raise_for_status()
    install_minilm(ours.url, make_minilm(tmp_path_factory.mktemp("minilm")))
    body = {"source": "all-minilm", "destination": "llama3.2"}
    httpx.post(f"{ours.url}/api/copy", json=body).raise_for_status()
    return ours


def test_no_example_is_forgotten(examples: Path) -> None:
    there = {file.stem for file in examples.glob("*.py")}
    assert there == {example.name for example in EXAMPLES} | set(NOT_RUN)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_example_runs_to_its_end(examples: Path, models: Server, example: Example, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(examples / f"{example.name}.py")],
        env=clean_environ() | {"OLLAMA_HOST": models.url},
        cwd=tmp_path,
        input=example.stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if example.ends:
        assert example.ends in done.stderr
    else:
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert example.prints in done.stdout
