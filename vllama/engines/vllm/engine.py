"""`VllmEngine`: vLLM's own OpenAI server on a Unix socket that only this user can reach."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from vllama.engines.base import LoadOptions, ModelSource
from vllama.engines.completions.client import Address
from vllama.engines.completions.directory import Directory
from vllama.engines.completions.requests import Dialect
from vllama.engines.completions.served import Order, ServedEngine
from vllama.engines.completions.startup import Startup
from vllama.engines.vllm.arguments import check_memory, command, environment
from vllama.engines.vllm.availability import python
from vllama.engines.vllm.phases import PHASES
from vllama.hardware import Hardware


class VllmEngine(ServedEngine):
    """See `ServedEngine`."""

    name = "vllm"
    title = "vLLM's server"
    dialect = Dialect("model", vllm=True)

    def __init__(self, source: ModelSource, options: LoadOptions | None = None) -> None:
        super().__init__(source, options)
        self.startup = Startup(PHASES)

    def order(self, model: Directory, home: Path, machine: Hardware) -> Order:
        """A key of its own for each start, though nobody else can open the socket."""
        check_memory(model, machine, self._options)
        socket, key = home / "vllm.sock", secrets.token_urlsafe(32)
        return Order(
            command(python(), model, socket, self._options),
            environment(model, key, machine, os.environ),
            Address("http://vllm", key, uds=str(socket), retries=0, title=self.title),
        )
