"""The library itself, its log and its devices."""

from __future__ import annotations

import ctypes
import importlib.util
import signal
import sys
from collections import deque
from typing import Any


def _low_level() -> Any:
    """llama_cpp.llama_cpp without running the package's __init__, which imports a chat stack and numpy (0.2 s)."""
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None:
            raise ImportError("llama-cpp-python is not installed")
        sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("llama_cpp.llama_cpp")


lib: Any = _low_level()

_LOG_LEVELS = {1: "debug", 2: "info", 3: "warning", 4: "error"}

_GPU, _INTEGRATED_GPU = 1, 2
"""ggml's kinds of devices (ggml-backend.h)."""


def die_with_parent() -> None:
    """Linux: the kernel kills this process when the thread that started it ends. A watcher in here could not do so
    while the process is stopped."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


class LoadError(Exception):
    """The model or its context could not be made; the text is llama.cpp's reason."""


class Log:
    """llama.cpp's log: problems go to stderr and are kept, the rest is dropped unless `debug`."""

    def __init__(self, debug: bool) -> None:
        self.problems: deque[str] = deque(maxlen=20)
        self._debug = debug
        self._level = 0
        self._callback = lib.llama_log_callback(self._write)
        lib.llama_log_set(self._callback, None)

    def _write(self, level: int, text: bytes, _: object) -> None:
        if level == 5:  # continues the line before
            level = self._level
        self._level = level
        if level < 3 and not self._debug:
            return
        line = text.decode("utf-8", "replace").rstrip("\n")
        if not line.strip(". "):
            return
        if level == 4:
            self.problems.append(line)
        sys.stderr.write(f"llama.cpp {_LOG_LEVELS.get(level, '')}: {line}\n")

    def reason(self) -> str:
        """The first problem noted: the later ones only say that the caller failed too."""
        for line in self.problems:
            return line.split(": ", 1)[-1] if ": " in line else line
        return "llama.cpp gave no reason"


def offloads(gpu_layers: int) -> bool:
    """Whether this build would put layers on a GPU."""
    return bool(lib.llama_supports_gpu_offload()) and gpu_layers != 0


def free_device_memory() -> tuple[int, ...]:
    """Bytes that each GPU has free which the library would use, whatever drives it; () in a build without any.

    A GPU that shares the processor's memory counts only where there is no other: so the library does it.
    """
    if not lib.llama_supports_gpu_offload():
        return ()
    lib.llama_backend_init()
    ggml = lib._lib
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    sizes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)]
    ggml.ggml_backend_dev_memory.argtypes, ggml.ggml_backend_dev_memory.restype = sizes, None
    found: dict[int, list[int]] = {}
    for index in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        found.setdefault(ggml.ggml_backend_dev_type(device), []).append(free.value)
    return tuple(found.get(_GPU) or found.get(_INTEGRATED_GPU) or ())
