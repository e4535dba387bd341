"""A commit with a change planted in it, to prove that the gate finds what it should (`head_base --plant FILE`).

The planted text lies outside the product: nothing in vllama/ knows of it. Its first line says which module it goes to,
`# append to: vllama/....py`; the rest is put at the end of that module as it stands in the commit. Only git's object
store is written: no branch moves and no work tree changes.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vllama.errors import ConfigError

MARK = "# append to: "
WHO = ("-c", "user.name=vllama bench", "-c", "user.email=bench@localhost")


def planted_commit(root: Path, commit: str, file: Path) -> str:
    """The id of a commit whose parent is `commit` and whose only change is the planted text."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    first, _, rest = text.partition("\n")
    if not first.startswith(MARK) or not rest.strip():
        raise ConfigError(f"{file.name}: the first line must be {MARK!r} and a file of the project; code follows")
    target = first.removeprefix(MARK).strip()
    before = _git(root, "show", f"{commit}:{target}")
    blob = _git(root, "hash-object", "-w", "--stdin", given=f"{before}\n\n{rest}").strip()
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(root, "read-tree", commit, environ=index)
        _git(root, "update-index", "--cacheinfo", f"100644,{blob},{target}", environ=index)
        tree = _git(root, "write-tree", environ=index).strip()
    return _git(root, *WHO, "commit-tree", tree, "-p", commit, "-m", f"Planted: {file.name}").strip()


def _git(root: Path, *words: str, given: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environ or {})},
    )
    if done.returncode:
        raise ConfigError(f"cannot plant: {done.stderr.strip() or words[0]}")
    return done.stdout
