"""The commands against a small made-up server: what they send, what they print, how they fail."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vllama.cli import ports, private
from vllama.cli.console import Printer
from vllama.cli.main import MODULES, commands, main
from vllama.config import Host
from vllama.errors import ConfigError, ServerError

DIGEST = "0123456789abcdef" * 4


class Fake(ThreadingHTTPServer):
    """Answers from `replies` (path to status and text); keeps what was sent in `calls`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[tuple[str, str, Any]] = []
        self.replies: dict[str, tuple[int, str]] = {"/api/version": (200, '{"version": "0.33.0"}')}
        self.headers = {"X-vLLama-Version": "9.9.9"}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def sent(self, path: str) -> Any:
        """The body of the last call of a path."""
        return next(body for _, called, body in reversed(self.calls) if called == path)


class Handler(BaseHTTPRequestHandler):
    server: Fake

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.calls.append((self.command, self.path, body))
        status, text = self.server.replies.get(self.path, (404, "404 page not found"))
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(text.encode())

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fake]:
    """A server that OLLAMA_HOST names and that says it is vLLama; nothing of the user's environment."""
    for name in list(os.environ):
        if name.startswith(("OLLAMA_", "VLLAMA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VLLAMA_CONFIG", str(tmp_path / "vllama.toml"))
    (tmp_path / "vllama.toml").touch()
    server = Fake()
    monkeypatch.setenv("OLLAMA_HOST", server.address)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def vllama(*arguments: str, stdin: str | None = None) -> int:
    """Runs a command in this process; its exit status."""
    source = Path(os.devnull) if stdin is None else _piped(stdin)
    with pytest.MonkeyPatch.context() as patch, source.open() as file:
        patch.setattr(sys, "stdin", file)
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
    code = left.value.code
    assert isinstance(code, int | None)
    return code or 0


def _piped(text: str) -> Path:
    path = Path(os.environ["VLLAMA_CONFIG"]).with_name("stdin")
    path.write_text(text)
    return path


def lines(*items: dict[str, Any]) -> tuple[int, str]:
    """A stream's reply."""
    return 200, "".join(json.dumps(item) + "\n" for item in items)


# -- run --------------------------------------------------------------------------------------------------


def test_run_prints_the_answer_and_sends_the_question(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    fake.replies["/api/generate"] = lines(
        {"response": "Blue\u0085light", "done": False},
        {"response": " scatters", "done": False},
        {"response": "", "done": True},
    )
    assert vllama("run", "m", "Why is", "the sky blue?", "--keepalive", "1h", "--format", '{"type": "object"}') == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("Blue\u0085light scatters\n", "")
    assert fake.sent("/api/generate") == {
        "model": "m",
        "prompt": "Why is the sky blue?",
        "keep_alive": "1h",
        "format": {"type": "object"},
    }


def test_run_puts_standard_input_before_the_prompt(fake: Fake) -> None:
    fake.replies["/api/generate"] = lines({"response": "ok", "done": True})
    assert vllama("run", "m", "Sum up", stdin="a text\n") == 0
    assert fake.sent("/api/generate")["prompt"] == "a text\n\nSum up"
    assert vllama("run", "m", stdin="only a text\n") == 0
    assert fake.sent("/api/generate")["prompt"] == "only a text"


def test_run_verbose_prints_rates_to_standard_error(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    fake.replies["/api/generate"] = lines(
        {"response": "ok", "done": True, "total_duration": 10**9, "eval_count": 5, "eval_duration": 10**9}
    )
    assert vllama("run", "--verbose", "m", "x") == 0
    out, err = capsys.readouterr()
    assert out == "ok\n"
    assert "total duration:       1s\n" in err
    assert "eval rate:            5.00 tokens/s\n" in err


def test_thoughts_are_set_apart_or_hidden(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    fake.replies["/api/generate"] = lines(
        {"thinking": "Hm.", "response": ""}, {"response": "Yes"}, {"response": "", "done": True}
    )
    assert vllama("run", "--think", "m", "x") == 0
    assert capsys.readouterr().out == "Thinking...\nHm.\n...done thinking.\n\nYes\n"
    assert fake.sent("/api/generate")["think"] is True
    assert vllama("run", "--think=high", "--hidethinking", "m", "x") == 0
    assert capsys.readouterr().out == "Yes\n"
    assert fake.sent("/api/generate")["think"] == "high"


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (
            404,
            '{"error": "model \'m\' not found"}',
            "Error: model 'm' not found, and it cannot be pulled: 404 page not found\n",
        ),
        (500, '{"error": "a\\nb"}', "Error: a b\n"),
        (200, '{"response": "x"}\n{"error": "the worker died"}\n', "Error: the worker died\n"),
        (404, "404 page not found", "Error: 404 page not found\n"),
        (200, "hello", "did not answer with a JSON object"),
    ],
)
def test_an_error_is_one_line_and_status_1(
    fake: Fake, capsys: pytest.CaptureFixture, status: int, text: str, message: str
) -> None:
    fake.replies["/api/generate"] = (status, text)
    assert vllama("run", "m", "x") == 1
    assert message in capsys.readouterr().err


def test_debug_shows_the_traceback(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_DEBUG", "1")
    with pytest.raises(ConfigError):
        main(["run", "--think=perhaps", "m", "x"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "m"), "there is no prompt"),
        (("run", "m", "x", "--format", "yaml"), "--format: 'yaml' must be json or a JSON schema"),
        (("run", "m", "x", "--keepalive", "5 m"), "--keepalive: time: unknown unit"),
        (("run", "./absent.gguf", "x"), "there is no file ./absent.gguf"),
        (("run", "--host", "127.0.0.1:1", "m", "x"), "could not connect to a server at http://127.0.0.1:1"),
        (("run", "--host", "127.0.0.1:1", "--engine", "llama", "m", "x"), "are for a private server"),
        (("show", "m", "--license", "--system"), "only one of"),
        (("serve", "--set", "max_queue"), "--set: 'max_queue' must be NAME=VALUE"),
        (("serve", "--set", "max_queu=1"), "did you mean 'max_queue'?"),
        (("config", "--config", "absent.toml"), "absent.toml: No such file"),
    ],
)
def test_wrong_use_is_one_line(
    fake: Fake, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    assert vllama(*arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nosuch",), "Error: No such command 'nosuch'."),
        (("list", "--nosuch"), "Error: No such option: --nosuch"),
        (("show",), "Error: Missing argument 'MODEL'."),
        (("pull", "a", "b"), "Error: Got unexpected extra argument"),
    ],
)
def test_words_that_no_command_knows_are_status_1_as_with_ollama(
    capsys: pytest.CaptureFixture, arguments: tuple[str, ...], message: str
) -> None:
    assert vllama(*arguments) == 1
    assert message in capsys.readouterr().err


def test_a_file_is_sent_as_an_absolute_path(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.replies["/api/generate"] = lines({"response": "ok", "done": True})
    (tmp_path / "m.gguf").touch()
    monkeypatch.chdir(tmp_path)
    assert vllama("run", "m.gguf", "x") == 0
    assert fake.sent("/api/generate")["model"] == str((tmp_path / "m.gguf").resolve())


# -- which server -----------------------------------------------------------------------------------------


@pytest.fixture
def no_private(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Private servers are not started, only noted."""
    asked: list[tuple[str, ...]] = []

    @contextlib.contextmanager
    def refuse(flags: tuple[str, ...], *, debug: bool) -> Iterator[Host]:
        asked.append(flags)
        raise ServerError("a private server was asked for")
        yield Host()

    monkeypatch.setattr("vllama.cli.reach.private_server", refuse)
    return asked


def test_another_program_at_the_host_means_a_private_server(fake: Fake, no_private: list) -> None:
    fake.headers.clear()
    assert vllama("run", "m", "x") == 1
    assert no_private == [()]
    assert {path for _, path, _ in fake.calls} == {"/api/version"}


def test_an_engine_means_a_private_server(fake: Fake, no_private: list) -> None:
    assert vllama("run", "--engine", "llama", "m", "x") == 1
    assert no_private == [("--set", "engine=llama")]


def test_a_named_host_is_used_whatever_it_is(fake: Fake, no_private: list, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.headers.clear()
    fake.replies["/api/generate"] = lines({"response": "ok", "done": True})
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    assert vllama("run", "--host", fake.address, "m", "x") == 0
    assert no_private == []


def test_ps_needs_a_running_vllama(
    fake: Fake, no_private: list, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.headers.clear()
    assert vllama("ps") == 1
    assert "is not vLLama" in capsys.readouterr().err
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    assert vllama("ps") == 1
    assert (
        "could not connect to a server at http://127.0.0.1:1: start one with `vllama serve`" in capsys.readouterr().err
    )
    assert no_private == []


def test_a_proxy_is_not_used_for_this_machine(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.replies["/api/tags"] = (200, '{"models": []}')
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert vllama("list") == 0


# -- lists ------------------------------------------------------------------------------------------------


def test_list(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    ago = (datetime.now(UTC) - timedelta(days=15)).isoformat().replace("+00:00", "Z")
    models = [
        {"name": "long-name:7b", "digest": DIGEST, "size": 4_700_000_000, "modified_at": ago},
        {"name": "a:latest", "digest": DIGEST, "size": 45_960_000, "modified_at": ago},
    ]
    fake.replies["/api/tags"] = (200, json.dumps({"models": models}))
    assert vllama("list") == 0
    out = capsys.readouterr().out
    assert [line.rstrip() for line in out.splitlines()] == [
        "NAME            ID              SIZE      MODIFIED",
        "long-name:7b    0123456789ab    4.7 GB    2 weeks ago",
        "a:latest        0123456789ab    45 MB     2 weeks ago",
    ]
    assert vllama("ls", "A") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["NAME", "a:latest"]
    assert vllama("list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"models": models}


def test_ps(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    now = datetime.now(UTC)
    common = {"digest": DIGEST, "size": 2_000_000_000, "context_length": 4096}
    models = [
        common | {"name": "a", "size_vram": 0, "expires_at": (now + timedelta(minutes=4, seconds=30)).isoformat()},
        common | {"name": "b", "size_vram": 2_000_000_000, "expires_at": (now + timedelta(days=365 * 290)).isoformat()},
        common | {"name": "c", "size_vram": 1_500_000_000, "expires_at": (now - timedelta(seconds=1)).isoformat()},
    ]
    fake.replies["/api/ps"] = (200, json.dumps({"models": models}))
    assert vllama("ps") == 0
    out = capsys.readouterr().out
    assert [line.rstrip() for line in out.splitlines()] == [
        "NAME    ID              SIZE    PROCESSOR          CONTEXT    UNTIL",
        "a       0123456789ab    2 GB    100% CPU           4096       4 minutes from now",
        "b       0123456789ab    2 GB    100% GPU           4096       Forever",
        "c       0123456789ab    2 GB    25%/75% CPU/GPU    4096       Stopping...",
    ]


SHOWN = {
    "modelfile": "FROM x\n",
    "parameters": 'stop                           "<|im_end|>"\ntemperature                    0.5',
    "system": "Be kind.\n\nBe brief.\nBe quick.",
    "license": "MIT",
    "details": {"family": "llama", "parameter_size": "134.52M", "quantization_level": "Q4_1"},
    "model_info": {
        "general.architecture": "llama",
        "general.parameter_count": 134515008,
        "llama.context_length": 2048,
        "llama.embedding_length": 576,
    },
    "capabilities": ["completion", "tools"],
}


def test_show(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    fake.replies["/api/show"] = (200, json.dumps(SHOWN))
    assert vllama("show", "m") == 0
    shown = capsys.readouterr().out
    # Each line of a table is as long as the others, as Ollama pads them.
    assert len({len(line) for line in shown.splitlines()[1:6]}) == 1
    assert "".join(line.rstrip() + "\n" for line in shown.splitlines()) == (
        "  Model\n"
        "    architecture        llama\n"
        "    parameters          134.52M\n"
        "    context length      2048\n"
        "    embedding length    576\n"
        "    quantization        Q4_1\n"
        "\n"
        "  Capabilities\n"
        "    completion\n"
        "    tools\n"
        "\n"
        "  Parameters\n"
        '    stop           "<|im_end|>"\n'
        "    temperature    0.5\n"
        "\n"
        "  System\n"
        "    Be kind.\n"
        "    Be brief.\n"
        "    ...\n"
        "\n"
        "  License\n"
        "    MIT\n"
        "\n"
    )
    assert vllama("show", "--system", "m") == 0
    assert capsys.readouterr().out == "Be kind.\n\nBe brief.\nBe quick."  # not on a terminal: the text alone
    assert fake.sent("/api/show") == {"model": "m", "verbose": False}


def test_stop_cp_rm(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    fake.replies["/api/generate"] = (200, '{"done": true, "done_reason": "unload"}')
    fake.replies |= {"/api/copy": (200, ""), "/api/delete": (200, "")}
    assert vllama("stop", "m") == 0
    assert fake.sent("/api/generate") == {"model": "m", "keep_alive": 0, "stream": False}
    assert vllama("cp", "a", "b") == 0
    assert fake.sent("/api/copy") == {"source": "a", "destination": "b"}
    assert vllama("rm", "a", "b") == 0
    assert capsys.readouterr().out == "copied 'a' to 'b'\ndeleted 'a'\ndeleted 'b'\n"
    fake.replies["/api/generate"] = (404, '{"error": "model \'m\' not found"}')
    assert vllama("stop", "m") == 1
    assert capsys.readouterr().err == 'Error: couldn\'t find model "m" to stop\n'


def test_version(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    assert vllama("version") == 0
    out = capsys.readouterr().out
    assert out.startswith("vllama version is ")
    assert "has version 9.9.9" in out
    assert vllama("--version") == 0
    assert capsys.readouterr().out == out.splitlines()[0] + "\n"


def test_config_prints_value_and_source(
    fake: Fake, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", "7")
    assert vllama("config", "--json", "--set", "keep_alive=-1") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["max_queue"] == {"name": "max_queue", "value": "7", "source": "OLLAMA_MAX_QUEUE"}
    assert rows["keep_alive"] == {"name": "keep_alive", "value": "forever", "source": "--keep-alive"}
    assert vllama("config") == 0
    assert "OLLAMA_HOST" in capsys.readouterr().out


def test_doctor(fake: Fake, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("VLLAMA_ENGINE", "scripted")
    assert vllama("doctor", "--json") == 0
    findings = {(f["area"], f["name"]): f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["Port", fake.address]["text"].startswith("in use by vLLama 9.9.9")
    assert findings["Engines", "scripted"]["verdict"] == "ok"
    assert "VLLAMA_ENGINE" in findings["Settings", "engine"]["text"]
    fake.headers.clear()
    assert vllama("doctor") == 0
    assert "is in use by Ollama 0.33.0" in capsys.readouterr().out
    monkeypatch.setenv("VLLAMA_ENGINE", "nosuch")
    assert vllama("doctor") == 1
    assert "unknown engine 'nosuch'" in capsys.readouterr().out


# -- ports ------------------------------------------------------------------------------------------------


def test_a_busy_port_is_an_error_that_names_the_other(fake: Fake) -> None:
    host = Host(port=fake.server_port)
    with pytest.raises(ConfigError, match=rf"port {host.port} of 127\.0\.0\.1 is in use by vLLama 9\.9\.9"):
        ports.bind(host)
    fake.headers.clear()
    with pytest.raises(ConfigError, match=r"in use by Ollama 0\.33\.0.*--port or OLLAMA_HOST"):
        ports.bind(host)


def test_a_port_of_a_program_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError, match="is in use by"):
        ports.bind(Host(port=other.getsockname()[1]))


@pytest.mark.parametrize(
    ("host", "message"),
    [(Host(name="no.such.name.invalid"), "no address of that name"), (Host(name="203.0.113.7"), "does not have that")],
)
def test_addresses_that_cannot_be_listened_on(host: Host, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ports.bind(host)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", ""])
def test_binding_a_free_port(name: str) -> None:
    with ports.bind(Host(name=name, port=0)) as sock:
        socket.create_connection(("127.0.0.1", sock.getsockname()[1])).close()


def test_a_private_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLLAMA_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(ServerError, match=r"ended at once.*absent\.toml: No such file"), private.private_server():
        pytest.fail("it should not have started")


# -- printing ---------------------------------------------------------------------------------------------


def screen(text: str, columns: int) -> list[str]:
    """What a terminal of that width shows, if it only knows line feeds and the two sequences that Printer uses."""
    rows, row = [], ""
    position = 0
    while position < len(text):
        if text.startswith("\x1b[", position):
            end = next(i for i in range(position + 2, len(text)) if text[i].isalpha())
            if text[end] == "D":
                row = row[: len(row) - int(text[position + 2 : end])]
            position = end + 1
            continue
        if text[position] == "\n":
            rows.append(row)
            row = ""
        else:
            row += text[position]
        position += 1
    assert all(len(r) <= columns for r in rows)
    return [*rows, row]


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_words_are_not_cut_at_the_edge(cut: int) -> None:
    text = "the quick brown fox\njumps over it"
    out = io.StringIO()
    printer = Printer(out, columns=12)
    for start in range(0, len(text), cut):
        printer.write(text[start : start + cut])
    assert [row.rstrip() for row in screen(out.getvalue(), 13)] == ["the quick", "brown fox", "jumps over", "it"]


def test_without_a_width_text_stays_as_it_is() -> None:
    out = io.StringIO()
    printer = Printer(out)
    printer.write("a " * 100)
    assert out.getvalue() == "a " * 100


# -- the program ------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    heavy = {
        "llama_cpp",
        "numpy",
        "rich",
        "prompt_toolkit",
        "httpx",
        "fastapi",
        "uvicorn",
        "pydantic",
        "jinja2",
        "psutil",
    }
    code = (
        "import sys\nfrom vllama.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Start the server." in done.stdout
    assert "vllama.cli.main" in done.stderr.split()
    assert not heavy & set(done.stderr.split())


def test_a_reader_that_goes_away_ends_it_quietly(fake: Fake) -> None:
    fake.replies["/api/generate"] = lines(*[{"response": "word " * 200} for _ in range(400)])
    command = [sys.executable, "-m", "vllama", "run", "--host", fake.address, "m", "x"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(5)
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 1


def test_every_command_and_flag_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    from typer.main import get_command

    group = get_command(commands())
    missing = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if not command.hidden and f"## vllama {name}" not in page:
            missing.append(name)
        for parameter in command.params:
            if getattr(parameter, "hidden", False) or parameter.param_type_name != "option":
                continue
            missing += [f"{name} {flag}" for flag in parameter.opts if flag.startswith("--") and f"`{flag}" not in page]
    assert not missing


def test_each_command_can_be_built_alone() -> None:
    from typer.main import get_command

    names = [name for module in MODULES.values() for name in module]
    whole = get_command(commands())
    assert list(whole.commands) == names  # type: ignore[attr-defined]
    for name in names:
        alone = get_command(commands(name))
        assert list(alone.commands) == [name]  # type: ignore[attr-defined]
        assert [p.opts for p in alone.commands[name].params] == [p.opts for p in whole.commands[name].params]  # type: ignore[attr-defined]
    assert list(get_command(commands("nothing")).commands) == names  # type: ignore[attr-defined]


def test_every_line_of_help_is_whole() -> None:
    done = subprocess.run([sys.executable, "-m", "vllama", "--help"], capture_output=True, text=True, check=True)
    assert "..." not in done.stdout.partition("Commands:")[2]


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A child in which a test may close and change what belongs to the whole process."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "VLLAMA_CONFIG": os.devnull, **env},
        check=False,
    )


def test_closed_standard_streams_become_dev_null() -> None:
    code = (
        "import os, sys\n"
        "for n in (0, 1, 2): os.close(n)\n"
        "sys.stdin = sys.stdout = sys.stderr = None\n"
        "from vllama.cli.main import main\n"
        "try: main(['config'])\n"
        "except SystemExit as end: assert not end.code\n"
        # The next file must not become anybody's standard input.
        "os._exit(0 if os.open(os.devnull, os.O_RDONLY) > 2 else 7)\n"
    )
    assert python(code, HOME="/nonexistent").returncode == 0


def test_text_that_a_stream_cannot_encode_is_no_error() -> None:
    code = (
        "from vllama.cli.main import main\n"
        "import vllama.cli.listing as listing\n"
        "listing.print_settings = lambda *a, **k: print('caf\\xe9 \\u6771')\n"
        "main(['config'])\n"
    )
    for env in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = python(code, HOME="/nonexistent", **env)
        assert (done.returncode, done.stdout) == (0, "caf? ?\n"), done.stderr


def test_a_user_without_a_home_can_use_every_command() -> None:
    code = (
        "import pwd\n"
        "def nobody(who): raise KeyError(who)\n"
        "pwd.getpwuid = pwd.getpwnam = nobody\n"
        "from vllama.cli.main import main\n"
        "main(['config', '--json'])\n"
    )
    done = python(code, VLLAMA_CONFIG="")
    assert done.returncode == 0, done.stderr
    assert "/nonexistent/.ollama/models" in done.stdout


def test_a_prompt_of_bytes_that_are_no_text_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllama.cli import main as module
    from vllama.cli import run

    asked: list[run.Question] = []

    def ask(question: run.Question, *_: object) -> int:
        asked.append(question)
        return 0

    monkeypatch.setattr(run, "run_model", ask)
    with pytest.raises(SystemExit):
        module.main(["run", "m", "a\udcffb"])
    assert asked[0].prompt == "a\ufffdb"


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_pull_and_push_print_each_step_once(fake: Fake, capsys: pytest.CaptureFixture, verb: str) -> None:
    blob = {"status": f"{verb}ing 0123456789ab", "digest": "sha256:0123456789ab", "total": 5_000_000}
    lines = [{"status": "begin"}, blob, blob | {"completed": 7}, {"status": "end"}, {"status": "success"}]
    fake.replies[f"/api/{verb}"] = (200, "\n".join(map(json.dumps, lines)))
    assert vllama(verb, "--insecure", "m") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["begin", f"{verb}ing 0123456789ab (5 MB)", "end", "success"]
    assert fake.sent(f"/api/{verb}") == {"model": "m", "insecure": True}


def test_a_pull_that_just_ends_is_an_error(fake: Fake, capsys: pytest.CaptureFixture) -> None:
    fake.replies["/api/pull"] = (200, '{"status": "pulling manifest"}\n')
    assert vllama("pull", "m") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "Error: the pull of m ended before its end"
