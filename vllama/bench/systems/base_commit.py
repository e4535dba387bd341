"""Other commits of vLLama beside this one, each from a virtual environment of its own (`vllama.bench.head_base`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import vllama
from vllama.bench.systems.base import Unavailable
from vllama.bench.systems.vllama import Vllama

PYTHON = "VLLAMA_BENCH_BASE_PYTHON"
"""The environment variable with the interpreter of the base commit's environment."""
PLANTED_PYTHON = "VLLAMA_BENCH_PLANTED_PYTHON"
"""The same for the environment in which a commit with a planted change is installed."""

ASK = (
    "import importlib.metadata, json, vllama;print(json.dumps([importlib.metadata.version('vllama'), vllama.__file__]))"
)


class VllamaBase(Vllama):
    """The same settings and the same store as `vllama`; only the interpreter, so only the installed code, differs."""

    key = "vllama@base"
    title = "vLLama (base)"
    variable = PYTHON
    without = "no base commit: `nox -s bench_gate -- --base REF` installs one"

    def find(self) -> None:
        """The other interpreter must import another copy of vllama than ours."""
        python = os.environ.get(self.variable)
        if not python:
            raise Unavailable(self.without)
        try:
            done = subprocess.run(
                [python, "-c", ASK], capture_output=True, text=True, timeout=60, check=False, cwd=self.setup.scratch
            )
            number, file = json.loads(done.stdout)
        except (OSError, subprocess.TimeoutExpired, ValueError) as error:
            raise Unavailable(f"{self.variable}={python} has no vllama: {error}") from error
        package = Path(file).resolve().parent
        if package == Path(vllama.__file__).resolve().parent:
            raise Unavailable(f"{self.variable}={python} imports the vllama that runs the benchmark (PYTHONPATH?)")
        self.described.version = f"{number}{_commit(package.parent)}"
        self.described.model_sha256 = self.setup.sha256

    def command(self) -> tuple[list[str], dict[str, str]]:
        """As `vllama`, under the other interpreter."""
        (_, *rest), env = super().command()
        return [os.environ[self.variable], *rest], env


class VllamaPlanted(VllamaBase):
    """This commit with a change planted in it, to see whether the gate finds it."""

    key = "vllama@planted"
    title = "vLLama (planted change)"
    variable = PLANTED_PYTHON
    without = "no planted commit: `nox -s bench_gate -- --base REF --plant FILE` makes and installs one"


def _commit(tree: Path) -> str:
    """The commit in brackets; empty outside a git clone."""
    try:
        done = subprocess.run(
            ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return f" (commit {done.stdout.strip()})" if done.returncode == 0 else ""
