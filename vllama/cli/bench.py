"""`vllama bench`: the harness, as far as its libraries are installed."""

from __future__ import annotations

import importlib.util

from vllama.errors import ConfigError

NEEDED = ("matplotlib", "pandas")


def bench(arguments: list[str]) -> int:
    """Run a command of the harness; its exit status. Raises ConfigError if the extra `bench` is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"`vllama bench` needs {', '.join(missing)}: install the extra `bench` "
            '(in a clone: pip install -c constraints.txt -e ".[bench,demo]")'
        )

    from vllama.bench.__main__ import main

    return main(arguments, "vllama bench")
