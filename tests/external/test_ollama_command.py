"""The real `ollama` command works with our server: OLLAMA_HOST is all that a user changes."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.external.conftest import Ollama
from tests.integration.conftest import MODEL

pytestmark = [pytest.mark.external, pytest.mark.model]

MODELFILE = """FROM {gguf}
TEMPLATE \"\"\"{{{{ if .System }}}}<|im_start|>system
{{{{ .System }}}}<|im_end|>
{{{{ end }}}}<|im_start|>user
{{{{ .Prompt }}}}<|im_end|>
<|im_start|>assistant
\"\"\"
SYSTEM You answer in one word.
PARAMETER temperature 0
PARAMETER num_predict 8
PARAMETER num_thread 1
PARAMETER stop <|im_end|>
LICENSE Free for all.
"""


def rows(table: str) -> list[list[str]]:
    """The cells of a printed table, its header first."""
    return [re.split(r"\s{2,}|\t", line.strip()) for line in table.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def mine(cli: Ollama, gguf: Path) -> str:
    """A model that the command line made from a Modelfile."""
    report = cli.create("mine", MODELFILE.format(gguf=gguf))
    for status in ("copying file sha256:", "parsing GGUF", "writing manifest", "success"):
        assert status in report
    return "mine:latest"


def test_version(cli: Ollama) -> None:
    done = cli("-v")
    assert done.returncode == 0
    version = httpx.get(f"{cli.url}/api/version").json()["version"]
    assert done.stdout.splitlines()[0] == f"ollama version is {version}"
    assert "could not connect" not in done.stdout + done.stderr


def test_list(cli: Ollama) -> None:
    done = cli("list")
    assert done.returncode == 0, done.stderr
    header, *models = rows(done.stdout)
    assert header == ["NAME", "ID", "SIZE", "MODIFIED"]
    packaged = next(model for model in models if model[0] == MODEL)
    tags = httpx.get(f"{cli.url}/api/tags").json()["models"]
    digest = next(model["digest"] for model in tags if model["name"] == MODEL)
    assert packaged[1] == digest[:12]
    assert packaged[2] == "98 MB"
    assert cli("list", "no-such").stdout.strip().count("\n") == 0


def test_show(cli: Ollama) -> None:
    done = cli("show", MODEL)
    assert done.returncode == 0, done.stderr
    facts = {row[0]: row[1] for row in rows(done.stdout) if len(row) == 2}
    assert facts["architecture"] == "llama"
    assert facts["parameters"] == "134.52M"
    assert facts["context length"] == "8192"
    assert facts["embedding length"] == "576"
    assert facts["quantization"] == "Q4_1"
    assert ["completion"] in rows(done.stdout)


def test_show_parts(cli: Ollama, mine: str) -> None:
    modelfile = cli("show", "--modelfile", mine).stdout
    assert re.search(r"^FROM /.+$", modelfile, re.MULTILINE)
    assert "SYSTEM You answer in one word." in modelfile
    assert "PARAMETER num_predict 8" in modelfile
    assert "Free for all." in modelfile
    template = cli("show", "--template", mine).stdout
    assert template.startswith("{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}<|im_start|>user")
    parameters = sorted(line.split(maxsplit=1) for line in cli("show", "--parameters", mine).stdout.splitlines())
    assert parameters == [
        ["num_predict", "8"],
        ["num_thread", "1"],
        ["stop", '"<|im_end|>"'],
        ["temperature", "0"],
    ]
    assert cli("show", "--system", mine).stdout.strip() == "You answer in one word."
    assert cli("show", "--license", mine).stdout.strip() == "Free for all."


def test_show_verbose_lists_metadata_and_tensors(cli: Ollama) -> None:
    done = cli("show", "--verbose", MODEL)
    assert done.returncode == 0, done.stderr
    assert "llama.attention.head_count" in done.stdout
    assert re.search(r"token_embd\.weight\s+\S+\s+\[576 49152\]", done.stdout)


def test_a_modelfile_made_from_show_makes_the_same_model(cli: Ollama, mine: str) -> None:
    cli.create("again", cli("show", "--modelfile", mine).stdout)
    for part in ("--template", "--system", "--license"):
        assert cli("show", part, "again").stdout == cli("show", part, mine).stdout
    assert cli("rm", "again").returncode == 0


def test_run_one_shot(cli: Ollama, mine: str) -> None:
    done = cli("run", mine, "What is the capital of France?", "--verbose")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    counts = dict(re.findall(r"^(prompt eval count|eval count):\s+(\d+) token", done.stderr, re.MULTILINE))
    # The system message, the question and the template's marks; at most num_predict tokens of answer.
    assert int(counts["prompt eval count"]) > 15
    assert 1 <= int(counts["eval count"]) <= 8
    assert re.search(r"total duration:\s+\d", done.stderr)


def test_run_says_what_the_api_says(cli: Ollama, mine: str) -> None:
    question = "Name a fruit."
    body = {"model": mine, "prompt": question, "stream": False}
    answer = httpx.post(f"{cli.url}/api/generate", json=body, timeout=120).json()["response"]
    assert cli("run", "--nowordwrap", mine, question).stdout.strip() == answer.strip()


def test_run_piped(cli: Ollama, mine: str) -> None:
    done = cli("run", mine, stdin="Name a colour.\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    # A prompt beside piped text: both are sent, the argument first.
    both = cli("run", mine, "Repeat this:", "--verbose", stdin="one two three four five six\n")
    alone = cli("run", mine, "Repeat this:", "--verbose")
    count = [int(re.findall(r"^prompt eval count:\s+(\d+)", d.stderr, re.MULTILINE)[0]) for d in (both, alone)]
    assert count[0] >= count[1] + 6


def test_run_with_a_format(cli: Ollama, mine: str) -> None:
    done = cli("run", mine, "An empty object, please.", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()[0] in "{["


def test_run_of_a_model_that_cannot_think(cli: Ollama, mine: str) -> None:
    done = cli("run", mine, "Hi", "--think")
    assert done.returncode == 1
    assert "does not support thinking" in done.stderr


def test_ps_and_stop(cli: Ollama, mine: str) -> None:
    assert cli("run", "--keepalive", "10m", mine, "Hi").returncode == 0
    header, *models = rows(cli("ps").stdout)
    assert header == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    loaded = next(model for model in models if model[0] == mine)
    assert loaded[3].endswith(("CPU", "GPU"))
    assert loaded[4] == "4096"
    assert loaded[5].endswith("minutes from now")
    assert cli("stop", mine).returncode == 0
    assert mine not in {row[0] for row in rows(cli("ps").stdout)}


def test_copy_and_remove(cli: Ollama) -> None:
    done = cli("cp", MODEL, "twin")
    assert done.returncode == 0
    assert "copied 'smollm2:135m' to 'twin'" in done.stdout + done.stderr
    assert "twin:latest" in {row[0] for row in rows(cli("list").stdout)}
    assert cli("run", "twin", "Hi").returncode == 0
    removed = cli("rm", "twin")
    assert removed.returncode == 0
    assert "deleted 'twin'" in removed.stdout + removed.stderr
    assert "twin:latest" not in {row[0] for row in rows(cli("list").stdout)}
    assert MODEL in {row[0] for row in rows(cli("list").stdout)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nosuch"), "model 'nosuch:latest' not found"),
        (("stop", "nosuch"), 'couldn\'t find model "nosuch" to stop'),
        (("rm", "nosuch"), "model 'nosuch' not found"),
        (("cp", "nosuch", "other"), 'model "nosuch" not found'),
        (("rm", MODEL), "belongs to an installed Python package"),
    ],
)
def test_failures(cli: Ollama, arguments: tuple[str, ...], message: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 1
    assert f"Error: {message}" in done.stderr or message in done.stderr.partition("Error: ")[2]


def test_create_from_a_damaged_file(cli: Ollama) -> None:
    broken = cli.home / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 64)
    (cli.home / "Modelfile").write_text(f"FROM {broken}\n")
    done = cli("create", "broken")
    assert done.returncode == 1
    assert "Error: " in done.stderr
    assert "broken:latest" not in {row[0] for row in rows(cli("list").stdout)}
