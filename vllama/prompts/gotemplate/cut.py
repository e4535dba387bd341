"""Cuts a template after its response, so that a prompt ends where the model is to go on."""

from __future__ import annotations

from dataclasses import replace

from vllama.prompts.gotemplate.nodes import (
    Action,
    Command,
    Field,
    If,
    NodeList,
    Operand,
    Pipe,
    Range,
    Statement,
    With,
)


def cut_after_response(root: NodeList) -> NodeList:
    """The tree without anything that comes after the first field `.Response`, in the order of the text.

    As in Ollama, conditions of branches are not searched, `$.Response` does not count, and an action
    goes away as a whole if a later stage of its pipeline is cut.
    """
    return _Cutter().node_list(root)


class _Cutter:
    def __init__(self) -> None:
        self._found = False

    def node_list(self, node: NodeList) -> NodeList:
        kept: list[Statement] = []
        for child in node.nodes:
            if self._found:
                break
            statement = self._statement(child)
            if statement is not None:
                kept.append(statement)
        return replace(node, nodes=tuple(kept))

    def _statement(self, node: Statement) -> Statement | None:
        match node:
            case If() | With() | Range():
                body = self.node_list(node.body)
                # Ollama crashes where the response stands before an else; cutting that is the same idea.
                otherwise = None if node.else_body is None or self._found else self.node_list(node.else_body)
                return replace(node, body=body, else_body=otherwise)
            case Action():
                pipe = self._pipe(node.pipe)
                return None if pipe is None else replace(node, pipe=pipe)
        return node

    def _pipe(self, node: Pipe) -> Pipe | None:
        commands: list[Command] = []
        for command in node.commands:
            args = [arg for arg in map(self._operand, command.args) if arg is not None]
            if not args:
                return None
            commands.append(replace(command, args=tuple(args)))
        return replace(node, commands=tuple(commands))

    def _operand(self, node: Operand) -> Operand | None:
        if isinstance(node, Field) and "Response" in node.ident:
            self._found = True
            return node
        if self._found:
            return None
        return self._pipe(node) if isinstance(node, Pipe) else node
