"""Whether the llama engine can run here, found out without loading the library."""

from __future__ import annotations

import importlib.util
from importlib import metadata

from vllama.engines.base import Reason


def available() -> Reason:
    """Looks for the installed package only: importing it would load the library into the caller's process."""
    if importlib.util.find_spec("llama_cpp") is None:
        return Reason(False, "llama-cpp-python is not installed (pip install llama-cpp-python)")
    try:
        version = metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        version = "of unknown version"
    return Reason(True, f"llama-cpp-python {version}")
