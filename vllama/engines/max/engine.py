"""`MaxEngine`: `max serve` on a free port of the loopback address. Experimental."""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path

from vllama.engines.base import LoadOptions, ModelSource
from vllama.engines.completions.client import Address
from vllama.engines.completions.directory import Directory
from vllama.engines.completions.requests import Dialect
from vllama.engines.completions.served import Order, ServedEngine
from vllama.engines.completions.startup import Startup
from vllama.engines.max.availability import program
from vllama.errors import ModelLoadError
from vllama.hardware import Hardware

ARGUMENTS = "VLLAMA_MAX_ARGS"
PARALLEL = 8
"""Requests at once when nobody says otherwise."""

CONTEXT = 8192
"""Tokens of a request at most on a processor, where each sequence's memory is set aside at the start."""

PHASES = (
    (re.compile(r"Starting server"), 0.05, "starting"),
    (re.compile(r"Starting subprocess: Model Worker"), 0.1, "starting the engine"),
    (re.compile(r"Building, compiling, and initializing model"), 0.2, "compiling the model"),
    (re.compile(r"Compiling model took"), 0.7, "reserving the cache"),
    (re.compile(r"Building, compiling, and initializing sampler"), 0.75, "compiling the sampler"),
    (re.compile(r"Model worker ready"), 0.95, "warming up"),
    (re.compile(r"Server ready"), 1.0, "ready"),
)
"""The phases of MAX's start. The words are those of MAX 26.7; what was compiled before is taken from its cache."""


class MaxEngine(ServedEngine):
    """See `ServedEngine`. Its server has no tokenizer to ask, so num_ctx bounds answers only, and takes no format."""

    name = "max"
    title = "MAX's server"
    dialect = Dialect("model", max=True)

    def __init__(self, source: ModelSource, options: LoadOptions | None = None) -> None:
        super().__init__(source, options)
        self.startup = Startup(PHASES)
        self._tokenizes = False

    def order(self, model: Directory, home: Path, machine: Hardware) -> Order:
        """It knows no Unix socket and no key: whoever has an account on this machine can reach it."""
        port = free_port()
        return Order(
            command(program(), model, port, machine, self._options, os.environ),
            environment(os.environ),
            Address(f"http://127.0.0.1:{port}", retries=0, title=self.title),
        )


def command(
    found: str, model: Directory, port: int, machine: Hardware, options: LoadOptions, environ: Mapping[str, str]
) -> list[str]:
    """The program. What the user adds in VLLAMA_MAX_ARGS comes last, so that it wins."""
    argv = [found, "serve", "--model", str(model.path), "--served-model-name", "model"]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--max-batch-size", str(options.num_parallel or PARALLEL)]
    # Without it penalties in a request are passed over, with a warning in its log only.
    argv += ["--enable-penalties"]
    if not machine.gpus:
        # Its kernels for processors compute in float32 only.
        argv += ["--devices", "cpu", "--quantization-encoding", "float32"]
        argv += ["--max-length", str(min(model.context or CONTEXT, max(CONTEXT, options.num_ctx)))]
    try:
        return argv + shlex.split(environ.get(ARGUMENTS, ""))
    except ValueError as error:
        raise ModelLoadError(f"{ARGUMENTS} cannot be read: {error}") from None


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Ours without our own settings; nothing is sent home, nothing is downloaded."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("VLLAMA_", "OLLAMA_"))}
    kept.pop("PYTHONPATH", None)
    kept |= {"MAX_SERVE_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    kept.setdefault("HF_HUB_OFFLINE", "1")
    return kept


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
