"""Whether the llama engine can run here, found out without loading the library."""

from __future__ import annotations

import importlib.util
import os
from importlib import metadata
from pathlib import Path

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


def openmp() -> bool | None:
    """Whether the library's threads are OpenMP's; None where that cannot be told. Reads its file, and loads nothing."""
    spec = importlib.util.find_spec("llama_cpp")
    named = os.environ.get("LLAMA_CPP_LIB_PATH")
    places = (
        [Path(named)] if named else [Path(place) / "lib" for place in (spec and spec.submodule_search_locations) or ()]
    )
    for place in places:
        for file in (*place.glob("*ggml-cpu*.so"), *place.glob("*ggml-cpu*.dylib"), *place.glob("*ggml-cpu*.dll")):
            try:
                content = file.read_bytes()
            except OSError:
                continue
            # The names of the libraries that it needs, of GCC, LLVM and Microsoft.
            return any(name in content for name in (b"libgomp", b"libomp", b"vcomp"))
    return None
