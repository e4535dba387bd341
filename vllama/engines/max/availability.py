"""Whether MAX is there: the program that VLLAMA_MAX names, else `max` on the path."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from vllama.engines.base import Reason

VARIABLE = "VLLAMA_MAX"


def program() -> str:
    """The `max` command, "" where there is none."""
    named = os.environ.get(VARIABLE, "").strip()
    return (shutil.which(named) or "") if named else (shutil.which("max") or "")


def available() -> Reason:
    """Says the version and where it is, or what to install."""
    found = program()
    if not found:
        return Reason(False, f"no `max`; experimental: install max[serve] in a place of its own and set {VARIABLE}")
    version = _version(found)
    if not version:
        return Reason(False, f"{found} is not Modular's `max`")
    return Reason(True, f"{version} in {found} (experimental: only with --engine max)")


@functools.lru_cache(maxsize=4)
def _version(found: str) -> str:
    """Its own word, "" where it is another program of that name."""
    try:
        done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("MAX")]
    return lines[-1] if lines else ""
