"""A model with tools on the small weights, and a format that makes it call one: what it would do by itself is luck."""

from __future__ import annotations

from typing import Any

import httpx

from tests.integration.conftest import MODEL

NAME = "tooly"
TEMPLATE = """{{- if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Tools }}<|im_start|>system
Functions you may call:{{ range .Tools }} {{ json .Function }}{{ end }}<|im_end|>
{{ end }}{{ range $n, $m := .Messages }}{{ if eq $m.Role "assistant" }}<|im_start|>assistant
{{ $m.Content }}{{ range $m.ToolCalls }}
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}<|im_end|>
{{ else }}<|im_start|>{{ $m.Role }}{{ with $m.ToolName }} {{ . }}{{ end }}
{{ $m.Content }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
"""
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "The name of the city"}},
    "required": ["city"],
}
DESCRIPTION = "Get the weather of a city"
CALL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"enum": ["get_weather"]},
        "arguments": {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]},
    },
    "required": ["name", "arguments"],
}
"""The schema of a call of get_weather for Paris."""


def install_tooly(url: str) -> None:
    """Make the model on a server."""
    body = {
        "model": NAME,
        "from": MODEL,
        "template": TEMPLATE,
        "parameters": {"temperature": 0, "stop": ["<|im_end|>"]},
        "stream": False,
    }
    httpx.post(f"{url}/api/create", json=body, timeout=60).raise_for_status()
