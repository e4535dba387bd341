"""Quantising a GGUF through llama.cpp, in a child process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from vllama.engines.llama.availability import available
from vllama.errors import ServerError

LAST_LINE = 300
"""Characters of the child's last line that an error carries."""


def quantize(source: Path, target: Path, wanted: str, threads: int) -> None:
    """Writes `source` as `target` in a file type (Q4_K_M). Blocks; raises `ServerError` with llama.cpp's reason.

    Whatever happens to the child, this process goes on; the child ends with this process.
    """
    reason = available()
    if not reason.ok:
        raise ServerError(f"this server cannot quantize: {reason.text}")
    # -P: a directory "vllama" where the user happens to be is not the package.
    command = [sys.executable, "-P", "-m", "vllama.engines.llama.quantize", str(source), str(target), wanted]
    done = subprocess.run(
        [*command, str(threads)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode < 0:
        raise ServerError(f"quantizing failed: the process ended by {signal.Signals(-done.returncode).name}")
    if done.returncode or not target.is_file():
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["llama.cpp gave no reason"]
        raise ServerError(f"quantizing failed: {lines[-1][:LAST_LINE]}")
