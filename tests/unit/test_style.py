"""What templates can do."""

from __future__ import annotations

import pytest

from vllama.prompts.style import capabilities

GO_TOOLS = "{{ range .Messages }}{{ .Content }}{{ end }}{{ range .Tools }}{{ . }}{{ end }}"
GO_THINKING = "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}{{ end }}"
GO_HALF = "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}{{ end }}{{ .Content }}{{ end }}"
GO_INSERT = "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .Prompt }}{{ end }}"
JINJA_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
JINJA_THINKING = "{% if enable_thinking is defined %}<think>{% endif %}"


@pytest.mark.parametrize(
    ("go", "jinja", "expected"),
    [
        (None, None, set()),
        ("", "", set()),
        ("{{ .Prompt }}", None, set()),
        (GO_TOOLS, None, {"tools"}),
        (GO_TOOLS.replace(".Tools", "$.Tools"), None, {"tools"}),
        (GO_THINKING, None, {"thinking"}),
        ("{{ range $i, $m := .Messages }}<think>{{ $m.Thinking }}</think>{{ end }}", None, set()),
        (GO_HALF, None, set()),
        (GO_INSERT, None, {"insert"}),
        ("{{ if }}", None, set()),
        (None, JINJA_TOOLS, {"tools"}),
        (None, "{% for c in message.tool_calls %}{% endfor %}", {"tools"}),
        (None, JINJA_THINKING, {"thinking"}),
        (None, "{{ content.split('</think>')[-1] }}", {"thinking"}),
        (None, "{{ messages[0].content }} your toolset", set()),
        (GO_INSERT, JINJA_TOOLS + JINJA_THINKING, {"tools", "insert", "thinking"}),
    ],
)
def test_capabilities(go: str | None, jinja: str | None, expected: set[str]) -> None:
    assert capabilities(go, jinja) == expected
