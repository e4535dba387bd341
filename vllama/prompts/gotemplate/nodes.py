"""The syntax tree of a Go template: frozen data, made by the parser, read by everybody else.

`pos` is the offset, in characters of the template's text, to which Go's error messages point.
`str(node)` writes the node back as Go does in those messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Plain text between actions, after trimming."""

    pos: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, eq=False)
class Dot:
    """`.`: the current value."""

    pos: int

    def __str__(self) -> str:
        return "."


@dataclass(frozen=True, slots=True, eq=False)
class Nil:
    """`nil`."""

    pos: int

    def __str__(self) -> str:
        return "nil"


@dataclass(frozen=True, slots=True, eq=False)
class Bool:
    """`true` or `false`."""

    pos: int
    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """A numeric or character constant. `value` has the type that Go gives it where no type is asked for:
    int, float or complex; None means that it overflows Go's int."""

    pos: int
    text: str
    value: int | float | complex | None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, eq=False)
class String:
    """A string constant: as written, and its value."""

    pos: int
    quoted: str
    text: str

    def __str__(self) -> str:
        return self.quoted


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """`.A.B`: fields of dot."""

    pos: int
    ident: tuple[str, ...]

    def __str__(self) -> str:
        return "".join("." + name for name in self.ident)


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """`$x` or `$x.A.B`; the first name includes the dollar sign (`$` alone is the template's data)."""

    pos: int
    ident: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.ident)


@dataclass(frozen=True, slots=True, eq=False)
class Identifier:
    """The name of a function."""

    pos: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Fields of a term that is neither a field nor a variable: `(pipeline).A.B`."""

    pos: int
    node: Operand
    fields: tuple[str, ...]

    def __str__(self) -> str:
        inner = f"({self.node})" if isinstance(self.node, Pipe) else str(self.node)
        return inner + "".join("." + name for name in self.fields)


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """One stage of a pipeline: operands, the first of which may be a function."""

    pos: int
    args: tuple[Operand, ...]

    def __str__(self) -> str:
        return " ".join(f"({arg})" if isinstance(arg, Pipe) else str(arg) for arg in self.args)


@dataclass(frozen=True, slots=True, eq=False)
class Pipe:
    """Commands joined by `|`, perhaps declaring (`:=`) or assigning (`=`) variables."""

    pos: int
    commands: tuple[Command, ...]
    declared: tuple[Variable, ...] = ()
    is_assign: bool = False

    def __str__(self) -> str:
        text = " | ".join(str(command) for command in self.commands)
        if self.declared:
            names = ", ".join(str(variable) for variable in self.declared)
            return f"{names} {'=' if self.is_assign else ':='} {text}"
        return text


@dataclass(frozen=True, slots=True, eq=False)
class Action:
    """`{{ pipeline }}`: prints its value, unless it declares or assigns."""

    pos: int
    pipe: Pipe

    def __str__(self) -> str:
        return "{{" + str(self.pipe) + "}}"


@dataclass(frozen=True, slots=True, eq=False)
class NodeList:
    """Nodes in the order of the text."""

    pos: int
    nodes: tuple[Statement, ...]

    def __str__(self) -> str:
        return "".join(str(node) for node in self.nodes)


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """What if, with and range have in common. `else_body` is None where there is no else."""

    pos: int
    pipe: Pipe
    body: NodeList
    else_body: NodeList | None

    def _source(self, keyword: str) -> str:
        otherwise = "" if self.else_body is None else "{{else}}" + str(self.else_body)
        return "{{" + keyword + " " + str(self.pipe) + "}}" + str(self.body) + otherwise + "{{end}}"


@dataclass(frozen=True, slots=True, eq=False)
class If(Branch):
    """`{{ if }}`; an `else if` is an `If` alone in `else_body`."""

    def __str__(self) -> str:
        return self._source("if")


@dataclass(frozen=True, slots=True, eq=False)
class With(Branch):
    """`{{ with }}`: an if that also sets dot."""

    def __str__(self) -> str:
        return self._source("with")


@dataclass(frozen=True, slots=True, eq=False)
class Range(Branch):
    """`{{ range }}`."""

    def __str__(self) -> str:
        return self._source("range")


@dataclass(frozen=True, slots=True, eq=False)
class TemplateCall:
    """`{{ template "name" pipeline }}`, and what remains of a `block` in its place."""

    pos: int
    name: str
    quoted: str
    pipe: Pipe | None

    def __str__(self) -> str:
        argument = "" if self.pipe is None else " " + str(self.pipe)
        return "{{template " + self.quoted + argument + "}}"


@dataclass(frozen=True, slots=True, eq=False)
class Break:
    """`{{ break }}`."""

    pos: int

    def __str__(self) -> str:
        return "{{break}}"


@dataclass(frozen=True, slots=True, eq=False)
class Continue:
    """`{{ continue }}`."""

    pos: int

    def __str__(self) -> str:
        return "{{continue}}"


Operand: TypeAlias = Dot | Nil | Bool | Number | String | Field | Variable | Identifier | Chain | Pipe
Statement: TypeAlias = Text | Action | If | With | Range | TemplateCall | Break | Continue
Node: TypeAlias = Operand | Statement | Command | NodeList
