"""Which text opens tool calls, guessed from a model's Go template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vllama.prompts.gotemplate.nodes import Action, Branch, Field, If, NodeList, Range, Statement, Text, With
from vllama.prompts.thinking import GO_SPACE


class _Template(Protocol):
    @property
    def root(self) -> NodeList: ...


def infer_tag(template: _Template | None) -> str:
    """The literal text that follows `{{ if .ToolCalls }}`, up to a `{`; "{" if there is none."""
    branch = None if template is None else _find_branch(template.root.nodes)
    text = None if branch is None else _first_text(branch.body.nodes)
    if text is None:
        return "{"
    return text.replace("\r\n", "\n").partition("{")[0].strip(GO_SPACE) or "{"


def _find_branch(nodes: Sequence[Statement]) -> If | None:
    """The first `if` that names a field ToolCalls directly: not as a variable, not in parentheses."""
    for node in nodes:
        if not isinstance(node, Branch):
            continue
        if isinstance(node, If) and any(
            isinstance(arg, Field) and "ToolCalls" in arg.ident
            for command in node.pipe.commands
            for arg in command.args
        ):
            return node
        for body in (node.body, node.else_body):
            found = None if body is None else _find_branch(body.nodes)
            if found is not None:
                return found
    return None


def _first_text(nodes: Sequence[Statement]) -> str | None:
    """The first text that is not blank, before anything that prints a value."""
    for node in nodes:
        if isinstance(node, Text):
            if node.text.strip(GO_SPACE):
                return node.text
        elif isinstance(node, If | Range):
            for body in (node.body, node.else_body):
                found = None if body is None else _first_text(body.nodes)
                if found is not None:
                    return found
            return None
        elif isinstance(node, With | Action):
            return None
    return None
