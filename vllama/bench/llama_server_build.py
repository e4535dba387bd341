"""Builds the control: llama-server (and llama-bench) from the sdist of the llama-cpp-python that is installed.

Same source and same build flags as the library that vLLama runs on, so that a difference between the two is
a difference of the servers. Needs a C++ compiler; cmake and ninja may come from pip (the nox session
installs both). The result is cached: a second call returns at once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from vllama.errors import ConfigError

TARGETS = ("llama-server", "llama-bench")

# What scikit-build-core passes for the wheel (Release, shared libraries, no curl), and the parts that
# need a network or are not used switched off. GGML's own flags are left at the defaults, as the wheel does.
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    # Otherwise cmake asks git, and finds the commit of the clone that the cache lies in.
    "-DLLAMA_BUILD_NUMBER=0",
    "-DLLAMA_BUILD_COMMIT=sdist",
)


def cached(root: Path) -> Path | None:
    """The llama-server that an earlier `build` left under `root`/.cache, for the installed llama-cpp-python."""
    try:
        stamp = json.loads((_home(root) / "build.json").read_text())
    except (OSError, ValueError):
        return None
    binary = _home(root) / str(stamp.get("binary", ""))
    return binary if stamp.get("flags") == list(CMAKE_FLAGS) and os.access(binary, os.X_OK) else None


def build(root: Path, *, jobs: int | None = None) -> Path:
    """Download the sdist, compile, return the binary. Raises `ConfigError` that names the missing tool."""
    if found := cached(root):
        return found
    for tool, hint in (("cmake", "pip install cmake"), ("ninja", "pip install ninja")):
        if shutil.which(tool) is None:
            raise ConfigError(f"building llama-server needs {tool}: {hint}")
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "c++", "g++", "clang++")):
        raise ConfigError("building llama-server needs a C++ compiler (Debian, Ubuntu: apt install g++)")
    home = _home(root)
    home.mkdir(parents=True, exist_ok=True)
    source = _source(home)
    tree = home / "build"
    llama = source / "vendor" / "llama.cpp"
    _run(["cmake", "-G", "Ninja", "-S", str(llama), "-B", str(tree), *CMAKE_FLAGS])
    _run(["cmake", "--build", str(tree), "-j", str(jobs or os.cpu_count() or 1), "--target", *TARGETS])
    binary = tree / "bin" / "llama-server"
    if not os.access(binary, os.X_OK):
        raise ConfigError(f"cmake finished but left no {binary}")
    stamp = {
        "binary": str(binary.relative_to(home)),
        "flags": list(CMAKE_FLAGS),
        "llama_cpp_python": _version(),
        "compiler": _first_line([os.environ.get("CXX", "c++"), "--version"]),
        "machine": platform.machine(),
    }
    (home / "build.json").write_text(json.dumps(stamp, indent=1) + "\n")
    return binary


def _version() -> str:
    return version("llama-cpp-python")


def _home(root: Path) -> Path:
    return root / ".cache" / "llama-server" / _version()


def _source(home: Path) -> Path:
    """The unpacked sdist; downloaded by pip, so a user's own index settings apply."""
    source = home / "source"
    if (source / "vendor" / "llama.cpp" / "CMakeLists.txt").exists():
        return source
    spec = f"llama-cpp-python=={_version()}"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-binary",
        "llama-cpp-python",
        "-d",
        str(home),
        spec,
    ]
    _run(pip)
    archive = next(home.glob("llama_cpp_python-*.tar.gz"))
    unpacked = home / "unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    next(unpacked.iterdir()).rename(source)
    unpacked.rmdir()
    archive.unlink()
    return source


def _run(argv: list[str]) -> None:
    print("+", " ".join(argv), flush=True)
    try:
        subprocess.run(argv, check=True)
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"building llama-server: {argv[0]} ended with {error.returncode}") from error


def _first_line(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.partition("\n")[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`build-llama-server` has no arguments."""


def main(_: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Build, and say where the program is."""
    say(str(build(root)))
    return 0
