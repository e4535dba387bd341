"""Builds the syntax tree of a template, by the grammar of Go's text/template and with its error texts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from vllama.errors import TemplateError
from vllama.prompts.gotemplate.lexer import Kind, Lexer, Token
from vllama.prompts.gotemplate.nodes import (
    Action,
    Bool,
    Break,
    Chain,
    Command,
    Continue,
    Dot,
    Field,
    Identifier,
    If,
    Nil,
    NodeList,
    Number,
    Operand,
    Pipe,
    Range,
    Statement,
    String,
    TemplateCall,
    Text,
    Variable,
    With,
)
from vllama.prompts.gotemplate.numbers import parse_number
from vllama.prompts.gotemplate.quoting import clean, quote, unquote

MAX_DEPTH = 100
"""Blocks or parentheses within each other. Go allows 10000; no template that means well comes near."""

MAX_VARIABLES = 1000
"""Variables in one scope: each use looks through them."""

MAX_CHARS = 1 << 17
"""The longest template that is read at all."""

_OPERANDS = frozenset(
    {
        Kind.BOOL,
        Kind.CHAR_CONSTANT,
        Kind.COMPLEX,
        Kind.DOT,
        Kind.FIELD,
        Kind.IDENTIFIER,
        Kind.NUMBER,
        Kind.NIL,
        Kind.RAW_STRING,
        Kind.STRING,
        Kind.VARIABLE,
        Kind.LEFT_PAREN,
    }
)


@dataclass(frozen=True, slots=True)
class Stop:
    """What ended a list of nodes: `{{end}}`, or `{{else}}` with the keyword of an `else if`/`else with`."""

    pos: int
    is_end: bool
    chained: str = ""

    def __str__(self) -> str:
        return "{{end}}" if self.is_end else "{{else}}"


@dataclass(slots=True)
class _Source:
    """The tokens, and how far they are read; shared by the parsers of all definitions in one text."""

    text: str
    tokens: list[Token]
    index: int = 0
    furthest: int = -1


@dataclass(slots=True)
class _Parser:
    """The parser of one definition. Variables, loops and nesting do not reach from one into another."""

    name: str
    source: _Source
    functions: Collection[str]
    trees: dict[str, NodeList]
    variables: list[str] = field(default_factory=lambda: ["$"])
    loops: int = 0
    blocks: int = 0
    parens: int = 0
    last: Token | None = None
    action_start: Token | None = None

    # Tokens

    def next(self) -> Token:
        source = self.source
        token = source.tokens[min(source.index, len(source.tokens) - 1)]
        if source.index > source.furthest:
            # Go names the line of the token that was cut last, not of the one it looks at.
            source.furthest = source.index
            self.last = token
        source.index += 1
        return token

    def peek(self) -> Token:
        token = self.next()
        self.source.index -= 1
        return token

    def next_non_space(self) -> Token:
        while (token := self.next()).kind is Kind.SPACE:
            pass
        return token

    def peek_non_space(self) -> Token:
        token = self.next_non_space()
        self.source.index -= 1
        return token

    # Errors

    def line(self, token: Token | None) -> int:
        """The line in which a token begins, from 1."""
        return 0 if token is None else self.source.text.count("\n", 0, token.pos) + 1

    def fail(self, message: str) -> TemplateError:
        return TemplateError(clean(f"template: :{self.line(self.last)}: {message}"))

    def unexpected(self, token: Token, context: str) -> TemplateError:
        if token.kind is Kind.ERROR:
            where = ""
            started = self.line(self.action_start)
            if started not in (0, self.line(token)):
                where = f" started at :{started}"
                if not token.text.endswith(" action"):
                    where = " in action" + where
            return self.fail(f"{token}{where}")
        return self.fail(f"unexpected {token} in {context}")

    def expect(self, kind: Kind, context: str) -> Token:
        token = self.next_non_space()
        if token.kind is not kind:
            raise self.unexpected(token, context)
        return token

    # Definitions

    def parse(self) -> None:
        nodes: list[Statement] = []
        pos = self.peek().pos
        while self.peek().kind is not Kind.EOF:
            if self.peek().kind is Kind.LEFT_DELIM:
                before = self.source.index
                self.next()
                keyword = self.next_non_space()
                if keyword.kind is Kind.KEYWORD and keyword.text == "define":
                    self.definition()
                    continue
                self.source.index = before
            node = self.text_or_action()
            if isinstance(node, Stop):
                raise self.fail(f"unexpected {node}")
            nodes.append(node)
        self.add(NodeList(pos, tuple(nodes)))

    def add(self, root: NodeList) -> None:
        old = self.trees.get(self.name)
        if old is None or is_empty(old):
            self.trees[self.name] = root
        elif not is_empty(root):
            raise self.fail(f"template: multiple definition of template {quote(self.name)}")

    def inner(self, name: str) -> _Parser:
        return _Parser(name, self.source, self.functions, self.trees, blocks=self.blocks + 1)

    def definition(self) -> None:
        context = "define clause"
        parser = self.inner("definition")
        token = parser.next_non_space()
        if token.kind not in (Kind.STRING, Kind.RAW_STRING):
            raise parser.unexpected(token, context)
        parser.name = parser.string_value(token)
        parser.expect(Kind.RIGHT_DELIM, context)
        root, stop = parser.node_list()
        if not stop.is_end:
            raise parser.fail(f"unexpected {stop} in {context}")
        parser.add(root)

    def string_value(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueError as error:
            raise self.fail(str(error)) from None

    # Statements

    def node_list(self) -> tuple[NodeList, Stop]:
        nodes: list[Statement] = []
        pos = self.peek_non_space().pos
        if self.blocks > MAX_DEPTH:
            raise self.fail(f"blocks are nested deeper than {MAX_DEPTH}")
        while self.peek_non_space().kind is not Kind.EOF:
            node = self.text_or_action()
            if isinstance(node, Stop):
                return NodeList(pos, tuple(nodes)), node
            nodes.append(node)
        raise self.fail("unexpected EOF")

    def text_or_action(self) -> Statement | Stop:
        token = self.next_non_space()
        if token.kind is Kind.TEXT:
            return Text(token.pos, token.text)
        if token.kind is not Kind.LEFT_DELIM:
            raise self.unexpected(token, "input")
        self.action_start = token
        node = self.action()
        self.action_start = None
        return node

    def action(self) -> Statement | Stop:
        token = self.next_non_space()
        if token.kind is Kind.KEYWORD:
            match token.text:
                case "block":
                    return self.block()
                case "break" | "continue":
                    return self.loop_control(token)
                case "else":
                    return self.otherwise()
                case "end":
                    return Stop(self.expect(Kind.RIGHT_DELIM, "end").pos, True)
                case "if" | "range" | "with":
                    return self.control(token.text)
                case "template":
                    return self.template_call()
        self.source.index -= 1
        pos = self.peek().pos
        return Action(pos, self.pipeline("command", Kind.RIGHT_DELIM))

    def loop_control(self, token: Token) -> Statement:
        context = "{{" + token.text + "}}"
        after = self.next_non_space()
        if after.kind is not Kind.RIGHT_DELIM:
            raise self.unexpected(after, context)
        if not self.loops:
            raise self.fail(f"{context} outside {{{{range}}}}")
        return Break(token.pos) if token.text == "break" else Continue(token.pos)

    def otherwise(self) -> Stop:
        token = self.peek_non_space()
        if token.kind is Kind.KEYWORD and token.text in ("if", "with"):
            return Stop(token.pos, False, token.text)
        return Stop(self.expect(Kind.RIGHT_DELIM, "else").pos, False)

    def control(self, keyword: str) -> Statement:
        scope = len(self.variables)
        pipe = self.pipeline(keyword, Kind.RIGHT_DELIM)
        self.blocks += 1
        self.loops += keyword == "range"
        body, stop = self.node_list()
        self.loops -= keyword == "range"
        else_body: NodeList | None = None
        if not stop.is_end:
            following = self.peek()
            if stop.chained and stop.chained == keyword and following.text == keyword:
                # "else if" reads as an if of its own, which takes the {{end}} of the whole.
                self.next()
                else_body = NodeList(stop.pos, (self.control(keyword),))
            else:
                else_body, stop = self.node_list()
                if not stop.is_end:
                    raise self.fail(f"expected end; found {stop}")
        self.blocks -= 1
        del self.variables[scope:]
        if keyword == "if":
            return If(pipe.pos, pipe, body, else_body)
        if keyword == "with":
            return With(pipe.pos, pipe, body, else_body)
        return Range(pipe.pos, pipe, body, else_body)

    def template_call(self) -> TemplateCall:
        context = "template clause"
        token = self.next_non_space()
        name = self.template_name(token, context)
        pipe = None
        if self.next_non_space().kind is not Kind.RIGHT_DELIM:
            self.source.index -= 1
            pipe = self.pipeline(context, Kind.RIGHT_DELIM)
        return TemplateCall(token.pos, name, quote(name), pipe)

    def block(self) -> TemplateCall:
        context = "block clause"
        token = self.next_non_space()
        name = self.template_name(token, context)
        pipe = self.pipeline(context, Kind.RIGHT_DELIM)
        parser = self.inner(name)
        root, stop = parser.node_list()
        if not stop.is_end:
            raise self.fail(f"unexpected {stop} in {context}")
        parser.add(root)
        return TemplateCall(token.pos, name, quote(name), pipe)

    def template_name(self, token: Token, context: str) -> str:
        if token.kind not in (Kind.STRING, Kind.RAW_STRING):
            raise self.unexpected(token, context)
        return self.string_value(token)

    # Expressions

    def pipeline(self, context: str, end: Kind) -> Pipe:
        pos = self.peek_non_space().pos
        declared, is_assign = self.declarations(context)
        commands: list[Command] = []
        while (token := self.next_non_space()).kind is not end:
            if token.kind not in _OPERANDS:
                raise self.unexpected(token, context)
            self.source.index -= 1
            commands.append(self.command())
        if not commands:
            raise self.fail(f"missing value for {context}")
        for stage, command in enumerate(commands[1:], start=2):
            if isinstance(command.args[0], Bool | Dot | Nil | Number | String):
                raise self.fail(f"non executable command in pipeline stage {stage}")
        return Pipe(pos, tuple(commands), declared, is_assign)

    def declarations(self, context: str) -> tuple[tuple[Variable, ...], bool]:
        declared: list[Variable] = []
        while self.peek_non_space().kind is Kind.VARIABLE:
            token = self.next_non_space()
            before = self.source.index - 1
            following = self.peek_non_space()
            if following.kind in (Kind.ASSIGN, Kind.DECLARE):
                self.next_non_space()
                self.declare(token, declared)
                return tuple(declared), following.kind is Kind.ASSIGN
            if following.kind is not Kind.CHAR or following.text != ",":
                self.source.index = before
                break
            self.next_non_space()
            self.declare(token, declared)
            if context != "range" or len(declared) > 1:
                raise self.fail(f"too many declarations in {context}")
            if self.peek_non_space().kind not in (Kind.VARIABLE, Kind.RIGHT_DELIM, Kind.RIGHT_PAREN):
                raise self.fail("range can only initialize variables")
        return tuple(declared), False

    def declare(self, token: Token, declared: list[Variable]) -> None:
        if len(self.variables) > MAX_VARIABLES:
            raise self.fail(f"more than {MAX_VARIABLES} variables")
        declared.append(Variable(token.pos, (token.text,)))
        self.variables.append(token.text)

    def command(self) -> Command:
        pos = self.peek_non_space().pos
        args: list[Operand] = []
        while True:
            self.peek_non_space()
            operand = self.operand()
            if operand is not None:
                args.append(operand)
            token = self.next()
            if token.kind is Kind.SPACE:
                continue
            if token.kind in (Kind.RIGHT_DELIM, Kind.RIGHT_PAREN):
                self.source.index -= 1
            elif token.kind is not Kind.PIPE:
                raise self.unexpected(token, "operand")
            break
        if not args:
            raise self.fail("empty command")
        return Command(pos, tuple(args))

    def operand(self) -> Operand | None:
        node = self.term()
        if node is None or self.peek().kind is not Kind.FIELD:
            return node
        pos = self.peek().pos
        fields: list[str] = []
        while self.peek().kind is Kind.FIELD:
            fields.append(self.next().text[1:])
        if isinstance(node, Field):
            return Field(pos, (*node.ident, *fields))
        if isinstance(node, Variable):
            return Variable(pos, (*node.ident, *fields))
        if isinstance(node, Bool | String | Number | Nil | Dot):
            raise self.fail(f"unexpected . after term {quote(str(node))}")
        return Chain(pos, node, tuple(fields))

    def term(self) -> Operand | None:
        token = self.next_non_space()
        pos, text = token.pos, token.text
        match token.kind:
            case Kind.IDENTIFIER:
                if text not in self.functions:
                    raise self.fail(f"function {quote(text)} not defined")
                return Identifier(pos, text)
            case Kind.DOT:
                return Dot(pos)
            case Kind.NIL:
                return Nil(pos)
            case Kind.VARIABLE:
                if text not in self.variables:
                    raise self.fail(f"undefined variable {quote(text)}")
                return Variable(pos, (text,))
            case Kind.FIELD:
                return Field(pos, (text[1:],))
            case Kind.BOOL:
                return Bool(pos, text == "true")
            case Kind.CHAR_CONSTANT | Kind.COMPLEX | Kind.NUMBER:
                try:
                    return Number(pos, text, parse_number(text))
                except ValueError as error:
                    raise self.fail(str(error)) from None
            case Kind.LEFT_PAREN:
                if self.parens >= MAX_DEPTH:
                    raise self.fail("max expression depth exceeded")
                self.parens += 1
                pipe = self.pipeline("parenthesized pipeline", Kind.RIGHT_PAREN)
                self.parens -= 1
                return pipe
            case Kind.STRING | Kind.RAW_STRING:
                return String(pos, text, self.string_value(token))
        self.source.index -= 1
        return None


def is_empty(root: NodeList) -> bool:
    """True for a definition that holds nothing but blanks: it may be defined again."""
    return all(isinstance(node, Text) and not node.text.strip() for node in root.nodes)


def parse_trees(text: str, functions: Collection[str]) -> dict[str, NodeList]:
    """Every definition in `text` by its name; the text's own is "". Raises TemplateError with Go's words."""
    if len(text) > MAX_CHARS:
        raise TemplateError(f"template: longer than {MAX_CHARS} characters")
    trees: dict[str, NodeList] = {}
    try:
        _Parser("", _Source(text, Lexer(text).tokens()), functions, trees).parse()
    except RecursionError:
        raise TemplateError("template: nested too deeply") from None
    return trees
