"""The commands as a user runs them, with real servers; and that nothing is left when they are gone."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import MODEL, Server, free_port, start_server
from tests.tools.gguf import gguf_bytes

pytestmark = pytest.mark.model

MARK = "VLLAMA_TEST_MARK"


@dataclass
class Shell:
    """Runs commands with an empty home; everything they start carries a mark, so that it can be found."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_", "XDG_"))}
        own = {"HOME": str(self.home), MARK: self.mark, "OLLAMA_HOST": f"127.0.0.1:{free_port()}", "TERM": "xterm"}
        self.env = clean | own | self.env

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that runs on; no standard input."""
        command = [sys.executable, "-m", "vllama", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.env, cwd=self.home, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Status, standard output and standard error of a command."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def left(self) -> list[psutil.Process]:
        """Processes that were started by any of the commands and still run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def nothing_left(self) -> bool:
        """Whether everything is gone, given some seconds."""
        _, alive = psutil.wait_procs(self.left(), timeout=20)
        return not alive


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell whose processes are gone after the test, whatever it did."""
    shell = Shell(tmp_path)
    yield shell
    for process in shell.left():
        with contextlib.suppress(psutil.Error):
            process.kill()


def test_run_without_a_server_answers_and_leaves_nothing(shell: Shell) -> None:
    code, out, err = shell.run("run", MODEL, "Say hello in one short sentence.", "--verbose")
    assert code == 0, err
    assert out.strip()
    assert "eval rate:" in err
    assert shell.left() == []
    assert not (shell.home / ".ollama").exists()


def test_killing_the_command_takes_its_server_and_worker_along(shell: Shell) -> None:
    process = shell.start("run", MODEL, "Tell a very long story about the sea.")
    assert process.stdout is not None
    assert process.stdout.read(1)
    assert len(shell.left()) >= 3, "the command, its server and its worker"
    process.kill()
    process.communicate()
    assert shell.nothing_left()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_command_ends_everything(shell: Shell, sig: signal.Signals) -> None:
    process = shell.start("run", MODEL, "Tell a very long story about the sea.")
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(sig)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + sig
    assert "Traceback" not in err
    assert shell.left() == []


def test_a_reader_that_goes_away(shell: Shell) -> None:
    process = shell.start("run", MODEL, "Tell a very long story about the sea.")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(60)
    process.stderr.close()
    assert shell.left() == []


class NotVllama(BaseHTTPRequestHandler):
    """Another program that answers as Ollama does, without our header."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        body = b'{"version": "0.33.0"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def test_an_ollama_at_the_port_is_left_alone(shell: Shell) -> None:
    handler = type("Seen", (NotVllama,), {"seen": []})
    with HTTPServer(("127.0.0.1", 0), handler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        shell.env["OLLAMA_HOST"] = f"127.0.0.1:{other.server_port}"
        code, out, err = shell.run("list")
        busy, _, complaint = shell.run("serve")
        other.shutdown()
        thread.join()
    assert code == 0, err
    assert MODEL in out
    assert set(handler.seen) == {"/api/version"}
    assert busy == 1
    assert "is in use by Ollama 0.33.0" in complaint
    assert complaint.count("\n") == 1


def test_a_running_vllama_is_used(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> None:
    server = start_server(tmp_path_factory.mktemp("server"), "--model", MODEL, "--engine", "scripted")
    try:
        shell.env["OLLAMA_HOST"] = server.url
        _wait_for(server, "listening on")
        code, out, _ = shell.run("ps")
        assert code == 0
        assert out.splitlines()[1].startswith(MODEL)
        code, out, err = shell.run("run", MODEL, "Hi")
        assert (code, err) == (0, "")
        assert len(out.split()) > 10
        assert shell.run("stop", MODEL)[0] == 0
        assert len(shell.run("ps")[1].splitlines()) == 1
        code, out, _ = shell.run("show", MODEL)
        assert code == 0
        assert "architecture        llama" in out
        code, out, _ = shell.run("show", MODEL, "--engine")
        assert (code, out) == (0, "scripted: --engine says so\n")
        code, out, err = shell.run("doctor")
        assert code == 0
        assert "in use by vLLama" in out
        assert ", engine llama: GGUF" in out
    finally:
        assert server.stop() == 0


def _wait_for(server: Server, text: str) -> None:
    for _ in range(1200):
        if text in server.log.read_text():
            return
        time.sleep(0.05)
    pytest.fail(f"no {text!r} in the log: {server.log.read_text()}")


def test_a_gguf_file_by_its_path(shell: Shell) -> None:
    from vllama.models.library import Library

    gguf = Library(shell.home / "none").resolve(MODEL).gguf
    assert gguf is not None
    (shell.home / "mine.gguf").symlink_to(gguf)
    code, out, err = shell.run("run", "--engine", "scripted", "./mine.gguf", "Hi")
    assert code == 0, err
    assert len(out.split()) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "./nosuch.gguf", "Hi"), "there is no file ./nosuch.gguf"),
        (("run", "./corrupt.gguf", "Hi"), "corrupt.gguf"),
        (("serve", "--model", "nosuch", "--port", "0"), "model 'nosuch' not found"),
        (("serve", "--engine", "nosuch", "--port", "0"), "unknown engine 'nosuch'"),
        (("run", "--engine", "nosuch", MODEL, "Hi"), "unknown engine 'nosuch'"),
        (("show", "nosuch"), "not found"),
    ],
)
def test_failures_are_one_line(shell: Shell, arguments: tuple[str, ...], message: str) -> None:
    (shell.home / "corrupt.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 100)
    code, out, err = shell.run(*arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("Error: ")
    assert message in err
    assert err.count("\n") == 1
    assert shell.left() == []


def test_create_and_import(shell: Shell) -> None:
    gguf = shell.home / "Tiny Model.gguf"
    gguf.write_bytes(gguf_bytes({"general.architecture": "llama", "general.file_type": 1}))
    (shell.home / "Modelfile").write_text(
        f'FROM "./{gguf.name}"\nSYSTEM Be brief.\nPARAMETER stop a\nPARAMETER stop b\nPARAMETER temperature 0.5\n'
    )
    status, out, err = shell.run("create", "tide")
    assert (status, out.splitlines()[-2:]) == (0, ["success", "created 'tide'"]), err
    status, out, err = shell.run("import", gguf.name)
    assert (status, out.splitlines()[-1]) == (0, "created 'tiny-model'"), err
    info = json.loads(shell.run("show", "tide", "--json")[1])
    assert info["system"] == "Be brief."
    assert [line.split() for line in info["parameters"].splitlines()] == [
        ["stop", '"a"'],
        ["stop", '"b"'],
        ["temperature", "0.5"],
    ]
    names = {model["name"] for model in json.loads(shell.run("list", "--json")[1])["models"]}
    assert names >= {"tide:latest", "tiny-model:latest"}
    assert shell.run("import", "nosuch.gguf")[::2] == (1, f"Error: there is no file {shell.home / 'nosuch.gguf'}\n")


def test_a_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    environ = {"VLLAMA_SHUTDOWN_GRACE": "10m", "VLLAMA_SCRIPTED_STEP_US": "100000", "VLLAMA_SCRIPTED_LENGTH": "100000"}
    server = start_server(tmp_path, "--engine", "scripted", env=environ)
    body = json.dumps({"model": MODEL, "prompt": "x"}).encode()
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as sock:
        sock.sendall(
            b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert sock.recv(1000)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_a_conversation_on_a_terminal(shell: Shell) -> None:
    shell.env |= {"VLLAMA_SCRIPTED_LENGTH": "8"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(shell.home)
        command = [sys.executable, "-m", "vllama", "run", "--engine", "scripted", MODEL]
        os.execve(sys.executable, command, shell.env)
    seen = b""

    def until(mark: bytes) -> bytes:
        nonlocal seen
        while mark not in seen:
            assert select.select([terminal], [], [], 60)[0], seen
            seen += os.read(terminal, 4096)
            if b"\x1b[6n" in seen:  # the prompt asks where the cursor is
                seen = seen.replace(b"\x1b[6n", b"")
                os.write(terminal, b"\x1b[1;1R")
        before, _, seen = seen.partition(mark)
        return before

    until(b">>> ")
    os.write(terminal, b"Hi\r")
    until(b"Hi")
    answer = until(b">>> ")
    assert len(answer.split()) >= 8
    os.write(terminal, b"/bye\r")
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass
    assert os.waitpid(pid, 0)[1] == 0
    os.close(terminal)
    assert shell.left() == []
