"""What the bodies of the smaller routes become: one frozen dataclass each. None always means "not given"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vllama.prompts.messages import Message


@dataclass(frozen=True, slots=True)
class NameBody:
    """DELETE /api/delete, POST /api/pull and /api/push. `name` is taken from `model`, or else `name`.

    `source` is a pull's "from": "" for what the name says, "hf" or "ollama".
    """

    name: str
    stream: bool | None = None
    insecure: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class CopyBody:
    """POST /api/copy."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class CreateBody:
    """POST /api/create. `files` and `adapters` map file names to digests; `license` is a text, a list or nonsense."""

    name: str
    stream: bool | None = None
    from_: str = ""
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str = ""
    system: str = ""
    license: Any = None
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    draft_files: dict[str, str] | None = None
    draft_quantize: str = ""
    quantize: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenAIExtras:
    """What a /v1 route needs to shape its answer. `include_usage` is stream_options.include_usage."""

    model: str
    stream: bool = False
    include_usage: bool = False
    base64: bool = False
