"""Finding the programs that pip does not install, and keeping count of those that are not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from vllama.bench.llama_server_build import cached

ROOT = Path(__file__).parent.parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

missing: dict[str, str] = {}
"""Program -> how to get it, for every one that a test of this run had to go without."""


def ollama() -> str | None:
    """OLLAMA_BIN, else `ollama` on PATH."""
    return _program("OLLAMA_BIN", ("ollama",))


def llama_server() -> str | None:
    """LLAMA_SERVER_BIN, else the build in .cache. One on PATH is of another source, so it cannot be compared with."""
    built = cached(ROOT)
    return _program("LLAMA_SERVER_BIN", (str(built),) if built else ())


def browser() -> str | None:
    """BROWSER_BIN, else a browser of Chromium's family on PATH."""
    return _program("BROWSER_BIN", BROWSERS)


def go() -> str | None:
    """GO_BIN, else `go` on PATH."""
    return _program("GO_BIN", ("go",))


def registry() -> str | None:
    """REGISTRY_BIN, else `docker-registry` (Debian's name for Distribution) on PATH."""
    return _program("REGISTRY_BIN", ("docker-registry",))


def node() -> str | None:
    """NODE_BIN, else `node` on PATH."""
    return _program("NODE_BIN", ("node", "nodejs"))


def ollama_js() -> str | None:
    """The folder of the npm package: OLLAMA_JS, else the one of `npm install ollama` in the checkout."""
    named = os.environ.get("OLLAMA_JS")
    folder = Path(named) if named else ROOT / "node_modules" / "ollama"
    if (folder / "dist" / "index.mjs").is_file():
        return str(folder.absolute())
    if named:
        pytest.fail(f"OLLAMA_JS={named} is not the package ollama of npm")
    return None


def ollama_python() -> str | None:
    """A checkout of github.com/ollama/ollama-python, for its examples: OLLAMA_PYTHON."""
    named = os.environ.get("OLLAMA_PYTHON")
    if named and not (Path(named) / "examples").is_dir():
        pytest.fail(f"OLLAMA_PYTHON={named} has no folder examples")
    return str(Path(named).absolute()) if named else None


FINDERS: dict[str, tuple[Callable[[], str | None], str]] = {
    "ollama": (ollama, "install it or set OLLAMA_BIN"),
    "llama-server": (llama_server, "run `nox -s build_llama_server` or set LLAMA_SERVER_BIN"),
    "chromium": (browser, "install it (or google-chrome) or set BROWSER_BIN"),
    "docker-registry": (registry, "install Debian's package docker-registry or set REGISTRY_BIN"),
    "node": (node, "install it or set NODE_BIN"),
    "ollama-js": (ollama_js, "run `npm install --no-save ollama` or set OLLAMA_JS to node_modules/ollama"),
    "ollama-python": (ollama_python, "clone github.com/ollama/ollama-python and set OLLAMA_PYTHON to the folder"),
    "go": (go, "install it or set GO_BIN"),
}


def need(name: str) -> str:
    """The program's path. Skips the test, and remembers why, if it is not there."""
    find, hint = FINDERS[name]
    found = find()
    if found is None:
        missing[name] = hint
        pytest.skip(f"needs {name}: {hint}")
    return found


def _program(variable: str, names: Iterable[str]) -> str | None:
    # A variable that names something else than a program is an error to report, not a reason to look elsewhere.
    if named := os.environ.get(variable):
        if shutil.which(named) is None:
            pytest.fail(f"{variable}={named} is not a program")
        return str(Path(str(shutil.which(named))).absolute())
    found = next(filter(None, map(shutil.which, names)), None)
    return str(Path(found).absolute()) if found else None
