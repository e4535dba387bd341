"""What is stored with a run of the hot parts."""

from __future__ import annotations

from typing import Any


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """The kind of machine matters, its name and its build do not."""
    machine_info["node"] = ""
    machine_info["release"] = ".".join(str(machine_info["release"]).split(".")[:2])
    machine_info["cpu"].pop("flags", None)
