"""Chat messages and tools as the APIs hand them on: plain frozen data, no JSON and no template in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made. `arguments` keeps the order of its keys; numbers are as JSON had them."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is lower case; `images` are decoded bytes."""

    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class ToolFunction:
    """What a tool is. `parameters` is the part of the JSON schema that Ollama reads, as decoded JSON
    (keys type, $defs, items, required, properties; unknown keys are already gone)."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `type` is "function" nearly always."""

    function: ToolFunction
    type: str = "function"
    items: Any = None


@dataclass(frozen=True, slots=True)
class Think:
    """The think setting: on or off, perhaps with a level ("low", "medium", "high", "max")."""

    enabled: bool
    level: str = ""
