"""Which names a template mentions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vllama.errors import TemplateError
from vllama.prompts.gotemplate.nodes import Action, Field, If, Node, NodeList, Pipe, Range, TemplateCall, Variable, With


def variables(roots: Iterable[NodeList]) -> frozenset[str]:
    """Every name in a field or variable, in lower case (Ollama's Template.Vars).

    Fields of parenthesised terms, as in `(index .A 0).B`, are not looked for. Raises TemplateError
    for `{{ template "x" }}` without an argument, which Ollama refuses.
    """
    return frozenset(name.lower() for root in roots for name in _names(root))


def _names(node: Node) -> Iterator[str]:
    match node:
        case NodeList():
            for child in node.nodes:
                yield from _names(child)
        case Action():
            yield from _names(node.pipe)
        case TemplateCall():
            if node.pipe is None:
                raise TemplateError("undefined template specified")
            yield from _names(node.pipe)
        case If() | With() | Range():
            yield from _names(node.pipe)
            yield from _names(node.body)
            if node.else_body is not None:
                yield from _names(node.else_body)
        case Pipe():
            for command in node.commands:
                for argument in command.args:
                    yield from _names(argument)
        case Field() | Variable():
            yield from node.ident
