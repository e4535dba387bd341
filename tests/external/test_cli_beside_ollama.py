"""The real `ollama` command with our server and with a real one: what it prints and its exit status are the same.

Masked are digests, ages, durations, rates and paths. The lines of parameters come in any order from Ollama, so they are
sorted. `DIFFERENT` lists what differs on purpose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.external.conftest import Ollama
from tests.integration.conftest import Server

pytestmark = [pytest.mark.external, pytest.mark.model, pytest.mark.timeout(600)]

MODELFILE = """FROM {gguf}
SYSTEM You answer in one word.
PARAMETER temperature 0
PARAMETER num_predict 4
PARAMETER num_ctx 2048
PARAMETER num_thread 1
LICENSE Free for all.
MESSAGE user Is water wet?
MESSAGE assistant Yes.
"""
THINKS = """FROM pear
TEMPLATE \"\"\"{{ range .Messages }}[{{ .Role }}]
{{- if .Thinking }}<think>{{ .Thinking }}</think>{{ end }} {{ .Content }}
{{ end }}[assistant]\"\"\"
"""
INSERTS = """FROM pear
TEMPLATE "{{ if .Suffix }}<A>{{ .Prompt }}<B>{{ .Suffix }}<C>{{ else }}{{ .Prompt }}{{ end }}"
"""

MASKS = (
    (r"sha256[:-][0-9a-f]{6,64}(\.\.\.)?", "DIGEST"),
    (r"\b[0-9a-f]{64}\b", "DIGEST"),
    (r"\b[0-9a-f]{12}\b", "ID"),
    (r"(About a|Less than a|\d+) (second|minute|hour)s?( ago| from now)", "WHEN"),
    (r"\d+(\.\d+)?(ms|µs|s)\b", "TIME"),
    (r"\d+(\.\d+)? tokens/s", "RATE"),
    (r"(/[\w.@%~+-]+)+/(blobs/DIGEST|[\w.-]+\.gguf)", "FILE"),
    (r"127\.0\.0\.1:\d+", "HOST"),
    (r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", ""),
    (r"\d+(\.\d+)? [KMG]B/s", "RATE"),
)


@dataclass(frozen=True)
class Run:
    """A command. `same_output`: False where only the status and the errors must be the same."""

    id: str
    arguments: tuple[str, ...]
    stdin: str = ""
    same_output: bool = True


def run(id: str, line: str, stdin: str = "", *, same_output: bool = True) -> Run:
    return Run(id, tuple(line.split(" ")), stdin, same_output)


RUNS = [
    run("list", "list pear"),
    run("ls-nothing", "ls no-such"),
    run("list-two", "list pear-t"),
    run("show", "show pear"),
    run("show-thinks", "show pear-thinks"),
    run("show-inserts", "show pear-inserts"),
    run("show-license", "show pear --license"),
    run("show-modelfile", "show pear --modelfile"),
    run("show-parameters", "show pear --parameters"),
    run("show-system", "show pear --system"),
    run("show-template", "show pear --template"),
    run("show-no-license", "show pear-thinks --template"),
    run("show-verbose", "show pear --verbose"),
    run("show-verbose-short", "show -v pear-inserts"),
    run("show-two-flags", "show pear --system --template"),
    run("show-missing", "show nosuch"),
    run("show-bad-name", "show a/b/c/d/e"),
    run("show-no-name", "show"),
    run("run", "run pear Salt?"),
    run("run-piped", "run pear", "Name a fish.\n"),
    run("run-both", "run pear Repeat:", "one two\n"),
    run("run-nowordwrap", "run --nowordwrap pear Salt?"),
    run("run-verbose", "run --verbose pear Salt?"),
    run("run-format", "run --format json pear Object?", same_output=False),
    run("run-bad-format", "run --format xml pear Object?"),
    run("run-keepalive", "run --keepalive 5m pear Salt?"),
    run("run-bad-keepalive", "run --keepalive x pear Salt?"),
    run("run-think", "run --think pear Salt?"),
    run("run-think-false", "run --think=false pear-thinks Salt?"),
    run("run-think-true", "run --think pear-thinks Salt?", same_output=False),
    run("run-think-wrong", "run --think=much pear-thinks Salt?"),
    run("run-hidethinking", "run --think --hidethinking pear-thinks Salt?", same_output=False),
    run("ps", "ps"),
    run("stop", "stop pear"),
    run("stop-again", "stop pear-inserts"),
    run("stop-missing", "stop nosuch"),
    run("cp", "cp pear twin"),
    run("cp-over", "cp pear twin"),
    run("cp-tagged", "cp pear:latest twin:two"),
    run("cp-missing", "cp nosuch twin"),
    run("cp-bad", "cp pear a/b/c/d/e"),
    run("cp-one-name", "cp pear"),
    run("list-copies", "list twin"),
    run("rm", "rm twin"),
    run("rm-two", "rm twin:two pear-inserts"),
    run("rm-again", "rm twin"),
    run("rm-some", "rm nosuch pear-thinks"),
    run("rm-none", "rm"),
    run("pull-nowhere", "pull --insecure 127.0.0.1:9/library/nosuch"),
    run("pull-bad", "pull a/b/c/d/e"),
    run("push-missing", "push nosuch"),
    run("push-nowhere", "push --insecure 127.0.0.1:9/library/nosuch"),
    run("create-missing-file", "create other -f no-such-file"),
    run("create-from-missing", "create other -f Modelfile-from-missing"),
    run("create-unknown-command", "create other -f Modelfile-unknown"),
    run("create-bad-parameter", "create other -f Modelfile-parameter"),
    run("create-bad-template", "create other -f Modelfile-template"),
    run("create-empty", "create other -f Modelfile-empty"),
    run("create-quantize", "create other -q q9_z -f Modelfile-pear"),
    run("unknown-command", "nonsense"),
]
FILES = {
    "from-missing": "FROM 127.0.0.1:9/library/nosuch\n",
    "unknown": "FROM pear\nNONSENSE x\n",
    "parameter": "FROM pear\nPARAMETER num_ctx many\n",
    "template": 'FROM pear\nTEMPLATE "{{ if }}"\n',
    "empty": "",
}

DIFFERENT = {
    "ps": "sizes are those of the process, and differ",
    "push-missing": "Ollama's error shows the path of its store",
    "push-nowhere": "Ollama's error shows the path of its store",
    "create-quantize": "Ollama lists only the types that its own engine makes",
}
"""Command -> why its text is not compared; its exit status is."""


def masked(text: str) -> list[str]:
    """The lines of an output without what differs from run to run."""
    for pattern, name in MASKS:
        text = re.sub(pattern, name, text)
    lines = [re.sub(r"\s{2,}", "  ", line.rstrip()) for line in re.split(r"[\r\n]+", text)]
    # A status is drawn again and again, as often as there is time for it.
    lines = [re.sub(r"(\S.*?)(?:  \1)+$", r"\1", line) for line in lines]
    kept = [line for line, before in zip(lines, ["", *lines], strict=False) if line != before and line]
    # Ollama keeps parameters in a Go map, and models that were changed in the same second come in any order.
    unordered = any(line.lstrip().startswith(("PARAMETER", "num_", "NAME  ID")) for line in kept)
    return sorted(kept) if unordered else kept


@pytest.fixture(scope="module")
def pair(real: Ollama, ours: Server, gguf: Path) -> tuple[Ollama, Ollama]:
    """The command pointed at our server, and at the real one; both have the same models."""
    mine = Ollama(real.binary, ours.url, real.home)
    for name, modelfile in {"pear": MODELFILE, "pear-thinks": THINKS, "pear-inserts": INSERTS}.items():
        for cli in (mine, real):
            cli.create(name, modelfile.replace("{gguf}", str(gguf)))
    for name, modelfile in FILES.items():
        (real.home / f"Modelfile-{name}").write_text(modelfile)
    return mine, real


@pytest.mark.parametrize("command", RUNS, ids=lambda command: command.id)
def test_the_command_says_the_same(pair: tuple[Ollama, Ollama], command: Run) -> None:
    us, them = (cli(*command.arguments, stdin=command.stdin) for cli in pair)
    assert us.returncode == them.returncode, (us.stderr, them.stderr)
    if command.id in DIFFERENT:
        assert masked(us.stdout + us.stderr) != masked(them.stdout + them.stderr), "no longer different"
        return
    assert masked(us.stderr) == masked(them.stderr)
    if command.same_output:
        assert masked(us.stdout) == masked(them.stdout)
    else:
        assert bool(us.stdout.strip()) == bool(them.stdout.strip())


def test_create_reports_the_same(pair: tuple[Ollama, Ollama], gguf: Path) -> None:
    """The statuses of a creation. They are drawn one over the other, and some are gone too soon to be seen."""
    passing = ("copying", "gathering", "verifying")
    reports = [masked(cli.create("third", MODELFILE.replace("{gguf}", str(gguf)))) for cli in pair]
    statuses = [{part for line in report for part in line.split("  ")} for report in reports]
    us, them = ({status for status in said if status and not status.startswith(passing)} for said in statuses)
    assert us == them
    assert "success" in us
    for cli in pair:
        assert cli("rm", "third").returncode == 0
