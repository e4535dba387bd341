"""Runs a syntax tree: each node is compiled once into a closure, a template then only calls closures.

What runs is bounded: `Run` counts steps, output and depth, since templates come from clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from vllama.errors import TemplateError, TemplateLimit
from vllama.prompts.gotemplate.functions import CallError, Function
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
    Node,
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
from vllama.prompts.gotemplate.printing import MAX_OUTPUT, sprint, too_long
from vllama.prompts.gotemplate.quoting import clean, quote
from vllama.prompts.gotemplate.values import (
    Byte,
    Held,
    Struct,
    Value,
    elements,
    entry,
    named_type,
    pointed,
    truth,
    type_name,
    unheld,
)

MAX_STEPS: Final = 2_000_000
"""Steps that one execution may take: nodes, turns of loops, calls; long texts count for more."""

MAX_CALLS: Final = 100
"""Templates that may be running within each other."""

_BREAK: Final = 1
_CONTINUE: Final = 2

Evaluate: TypeAlias = "Callable[[Run, Value], Value]"
"""Computes an operand or a pipeline for a value of dot."""

Stage: TypeAlias = "Callable[[Run, Value, Value], Value]"
"""Computes a command: dot, and the value of the command before it in the pipeline."""

Execute: TypeAlias = "Callable[[Run, Value], int]"
"""Executes a statement; 0, or _BREAK or _CONTINUE on their way to the loop."""


class Run:
    """The state of one execution: variables, output, what is being evaluated, what is left to spend."""

    __slots__ = ("calls", "name", "names", "node", "output", "program", "size", "steps", "variables")

    def __init__(self, program: Program, data: Value, steps: int) -> None:
        self.program = program
        self.name = ""
        self.names = ["$"]
        self.variables: list[Value] = [data]
        self.output: list[str] = []
        self.size = 0
        self.node: Node | None = None
        self.steps = steps
        self.calls = 0

    def error(self, message: str) -> TemplateError:
        """An error at the node that is being evaluated."""
        place = self.name
        if self.node is not None:
            where = location(self.program.text, self.node.pos)
            place = f"{where}: executing {quote(self.name)} at <{self.node}>"
        return TemplateError(clean(f"template: {place}: {message}"))

    def spend(self, steps: int) -> None:
        """Takes steps from the budget."""
        self.steps -= steps
        if self.steps < 0:
            raise TemplateLimit(self.error("the template takes too many steps").text)

    def assign(self, name: str, value: Value) -> None:
        """Sets the innermost variable of that name."""
        for number in range(len(self.names) - 1, -1, -1):
            if self.names[number] == name:
                self.variables[number] = value
                return
        raise self.error(f"undefined variable: {name}")

    def declare(self, name: str, value: Value) -> None:
        """Makes a new variable, which hides others of that name."""
        self.names.append(name)
        self.variables.append(value)

    def forget(self, count: int) -> None:
        """Drops all variables but the first `count`."""
        if len(self.names) > count:
            del self.names[count:], self.variables[count:]


def location(text: str, pos: int) -> str:
    """A position as Go writes it: an empty name, the line from 1, the byte in the line from 0."""
    start = text.rfind("\n", 0, pos) + 1
    return f":{text.count(chr(10), 0, pos) + 1}:{len(text[start:pos].encode('utf-8', 'surrogatepass'))}"


class Program:
    """The compiled definitions of one text. Immutable, so threads may share it.

    `zero` is Go's option missingkey=zero: a missing key of a map gives a nil `any` instead of no value,
    which only shows in what may be done with it.
    """

    def __init__(
        self, text: str, trees: Mapping[str, NodeList], functions: Mapping[str, Function], *, zero: bool
    ) -> None:
        self.text = text
        self.functions = functions
        self.zero = zero
        self.bodies: dict[str, Execute] = {}
        for name, root in trees.items():
            self.bodies[name] = _Compiler(self).node_list(root)

    def execute(self, data: Value, steps: int = MAX_STEPS) -> tuple[str, int]:
        """The output for some data, and how many of the steps are left. Raises TemplateError."""
        run = Run(self, data, steps)
        try:
            self.bodies[""](run, data)
        except RecursionError:
            raise run.error("exceeded maximum template depth") from None
        return "".join(run.output), run.steps


class _Compiler:
    """Turns nodes into closures. One method for each kind of node, named as the node is."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._zero = program.zero

    # Statements

    def node_list(self, node: NodeList) -> Execute:
        parts = tuple(self.statement(part) for part in node.nodes)
        cost = len(parts) + 1

        def run_list(run: Run, dot: Value) -> int:
            run.steps -= cost
            if run.steps < 0:
                run.spend(0)
            for part in parts:
                signal = part(run, dot)
                if signal:
                    return signal
            if run.size > MAX_OUTPUT:
                raise too_long()
            return 0

        return run_list

    def statement(self, node: Statement) -> Execute:
        match node:
            case Text():
                return _text(node.text)
            case Action():
                return self.action(node)
            case If() | With():
                return self.if_or_with(node)
            case Range():
                return self.range(node)
            case TemplateCall():
                return self.template_call(node)
            case Break():
                return lambda run, dot: _BREAK
            case Continue():
                return lambda run, dot: _CONTINUE

    def action(self, node: Action) -> Execute:
        pipe = self.pipe(node.pipe)
        if node.pipe.declared:

            def run_declaration(run: Run, dot: Value) -> int:
                pipe(run, dot)
                return 0

            return run_declaration

        def run_action(run: Run, dot: Value) -> int:
            value = pipe(run, dot)
            if type(value) is not str:
                value = "<no value>" if value is None else sprint([pointed(value)])
                run.spend(len(value) >> 4)
            run.output.append(value)
            run.size += len(value)
            return 0

        return run_action

    def if_or_with(self, node: If | With) -> Execute:
        pipe, body = self.pipe(node.pipe), self.node_list(node.body)
        otherwise = None if node.else_body is None else self.node_list(node.else_body)
        sets_dot = isinstance(node, With)

        def run_branch(run: Run, dot: Value) -> int:
            scope = len(run.names)
            value = pipe(run, dot)
            signal = 0
            if value is True or (value is not False and truth(value)):
                signal = body(run, value if sets_dot else dot)
            elif otherwise is not None:
                signal = otherwise(run, dot)
            run.forget(scope)
            return signal

        return run_branch

    def range(self, node: Range) -> Execute:
        pipe, body = self.pipe(node.pipe), self.node_list(node.body)
        otherwise = None if node.else_body is None else self.node_list(node.else_body)
        set_variables = _loop_variables(node.pipe)
        pairs = len(node.pipe.declared) > 1

        def run_range(run: Run, dot: Value) -> int:
            run.node = node
            outer = len(run.names)
            value = pipe(run, dot)
            items = _iterate(run, value, pairs=pairs)
            scope = len(run.names)
            signal = 0
            if items:
                for index, item in items:
                    set_variables(run, index, item)
                    signal = body(run, item)
                    run.forget(scope)
                    if signal == _BREAK:
                        break
                signal = 0
            elif otherwise is not None:
                signal = otherwise(run, dot)
            run.forget(outer)
            return signal

        return run_range

    def template_call(self, node: TemplateCall) -> Execute:
        pipe = None if node.pipe is None else self.pipe(node.pipe)

        def run_template(run: Run, dot: Value) -> int:
            run.node = node
            body = run.program.bodies.get(node.name)
            if body is None:
                raise run.error(f"template {node.quoted} not defined")
            if run.calls == MAX_CALLS:
                raise run.error(f"exceeded maximum template depth ({MAX_CALLS})")
            value = None if pipe is None else pipe(run, dot)
            saved = run.name, run.names, run.variables
            run.name, run.names, run.variables = node.name, ["$"], [value]
            run.calls += 1
            body(run, value)
            run.calls -= 1
            run.name, run.names, run.variables = saved
            return 0

        return run_template

    # Pipelines

    def pipe(self, node: Pipe) -> Evaluate:
        first = self.command(node.commands[0])
        others = tuple(self.stage(command) for command in node.commands[1:])
        names = tuple(variable.ident[0] for variable in node.declared)
        is_assign = node.is_assign

        def run_single(run: Run, dot: Value) -> Value:
            run.node = node
            value = first(run, dot)
            return value.value if type(value) is Held else value

        if not others and not names:
            return run_single

        def run_pipe(run: Run, dot: Value) -> Value:
            value = run_single(run, dot)
            for command in others:
                value = command(run, dot, value)
                if type(value) is Held:
                    value = value.value
            for name in names:
                if is_assign:
                    run.assign(name, value)
                else:
                    run.declare(name, value)
            return value

        return run_pipe

    def stage(self, node: Command) -> Stage:
        """A command that gets a value from the one before it; only functions have a use for that."""
        word = node.args[0]
        if isinstance(word, Identifier):
            return self.piped_call(word, node, node.args[1:])
        refusal = self.operation(word, len(node.args))
        return lambda run, dot, final: refusal(run, dot)

    def command(self, node: Command) -> Evaluate:
        """The first command of a pipeline."""
        word = node.args[0]
        if isinstance(word, Identifier):
            return self.call(word, node, node.args[1:])
        return self.operation(word, len(node.args) - 1)

    def operation(self, word: Operand, extra: int) -> Evaluate:
        """A command that calls no function; with `extra` arguments it can only fail."""
        match word:
            case Field():
                return self.fields(word, None, word.ident, extra)
            case Chain():
                return self.fields(word, self.argument(word.node, "value"), word.fields, extra)
            case Variable():
                return self.variable(word, extra)
        if extra:
            return _failing(None if isinstance(word, Pipe) else word, f"can't give argument to non-function {word}")
        if isinstance(word, Pipe):
            return self.pipe(word)
        if isinstance(word, Nil):
            return _failing(word, "nil is not a command")
        if isinstance(word, Identifier):
            return self.argument(word, "value")
        return self.constant(word)

    def constant(self, node: Dot | Bool | Number | String) -> Evaluate:
        if isinstance(node, Dot):

            def run_dot(run: Run, dot: Value) -> Value:
                run.node = node
                return dot

            return run_dot
        value: Value = node.text if isinstance(node, String) else node.value
        if value is None:
            return _failing(node, f"{node} overflows int")

        def run_constant(run: Run, dot: Value) -> Value:
            run.node = node
            return value

        return run_constant

    def variable(self, node: Variable, extra: int) -> Evaluate:
        name = node.ident[0]

        def look_up(run: Run, dot: Value) -> Value:
            run.node = node
            names = run.names
            for number in range(len(names) - 1, -1, -1):
                if names[number] == name:
                    return run.variables[number]
            raise run.error(f"undefined variable: {name}")

        if len(node.ident) > 1:
            return self.fields(node, look_up, node.ident[1:], extra)
        if not extra:
            return look_up

        def run_refused(run: Run, dot: Value) -> Value:
            look_up(run, dot)
            raise run.error(f"can't give argument to non-function {name}")

        return run_refused

    def fields(self, node: Node, receiver: Evaluate | None, names: Sequence[str], extra: int) -> Evaluate:
        """A chain of fields of `receiver` (None: of dot); `extra` arguments are given to the last one."""
        zero = self._zero
        if receiver is None and len(names) == 1 and not extra:
            name = names[0]

            def run_field(run: Run, dot: Value) -> Value:
                run.node = node
                if type(dot) is Struct and name in dot.fields:
                    return dot.fields[name]
                return _field(run, dot, name, 0, zero)

            return run_field
        if receiver is not None and len(names) == 1 and not extra:
            only, source = names[0], receiver

            def run_field_of(run: Run, dot: Value) -> Value:
                run.node = node
                value = source(run, dot)
                if type(value) is Struct and only in value.fields:
                    return value.fields[only]
                return _field(run, value, only, 0, zero)

            return run_field_of
        path = tuple((name, extra if number == len(names) - 1 else 0) for number, name in enumerate(names))

        def run_fields(run: Run, dot: Value) -> Value:
            run.node = node
            value = dot if receiver is None else receiver(run, dot)
            for name, count in path:
                value = _field(run, value, name, count, zero)
            return value

        return run_fields

    # Calls

    def argument(self, node: Operand, param: str) -> Evaluate:
        """An argument, checked for what the parameter takes."""
        match node:
            case Nil():
                if param == "string":
                    return _failing(node, "cannot assign nil to string")
                return lambda run, dot: _visit(run, node)
            case Bool() | Number() | String():
                if param == "string" and not isinstance(node, String):
                    return _failing(node, f"expected string; found {node}")
                return self.constant(node)
            case Dot():
                evaluate = self.constant(node)
            case Field():
                evaluate = self.fields(node, None, node.ident, 0)
            case Variable():
                evaluate = self.variable(node, 0)
            case Pipe():
                evaluate = self.pipe(node)
            case Identifier():
                evaluate = self.call(node, node, ())
            case Chain():
                evaluate = self.chain_argument(node)
        if param == "value":
            return evaluate

        def run_argument(run: Run, dot: Value) -> Value:
            run.node = node
            return _convert(run, evaluate(run, dot), param)

        return run_argument

    def chain_argument(self, node: Chain) -> Evaluate:
        return self.fields(node, self.argument(node.node, "value"), node.fields, 0)

    def call(self, name: Identifier, whole: Node, args: Sequence[Operand]) -> Evaluate:
        """A call with nothing but its own arguments."""
        function = self._program.functions.get(name.name)
        mistake = _mistake(name.name, function, len(args), piped=False)
        if function is None or mistake:
            return _failing(name, mistake)
        evaluators = self.arguments(function, args)
        if name.name in ("and", "or"):
            logic = _short_circuit(name, evaluators, stops_at=name.name == "or")
            return lambda run, dot: logic(run, dot)[1]
        finish = _finish(function, whole)
        if name.name == "call":
            return lambda run, dot: finish(run, [str(args[0]), *[each(run, dot) for each in evaluators]])
        if len(evaluators) == 1:
            return _call_one(name, finish, evaluators[0])
        if len(evaluators) == 2:
            return _call_two(name, finish, evaluators[0], evaluators[1])

        def run_call(run: Run, dot: Value) -> Value:
            run.node = name
            return finish(run, [evaluate(run, dot) for evaluate in evaluators])

        return run_call

    def piped_call(self, name: Identifier, whole: Node, args: Sequence[Operand]) -> Stage:
        """A call whose last argument comes from the command before it."""
        function = self._program.functions.get(name.name)
        mistake = _mistake(name.name, function, len(args), piped=True)
        if function is None or mistake:
            failing = _failing(name, mistake)
            return lambda run, dot, final: failing(run, dot)
        evaluators = self.arguments(function, args)
        if name.name in ("and", "or"):
            logic = _short_circuit(name, evaluators, stops_at=name.name == "or")

            def run_logic(run: Run, dot: Value, final: Value) -> Value:
                decided, value = logic(run, dot)
                return value if decided else final

            return run_logic
        finish = _finish(function, whole)
        param = function.param(len(args))
        is_call = name.name == "call"

        def run_piped(run: Run, dot: Value, final: Value) -> Value:
            run.node = name
            values = [evaluate(run, dot) for evaluate in evaluators]
            values.append(_convert(run, final, param))
            if is_call:
                values.insert(0, str(args[0]) if args else _described(final))
            return finish(run, values)

        return run_piped

    def arguments(self, function: Function, args: Sequence[Operand]) -> tuple[Evaluate, ...]:
        return tuple(self.argument(arg, function.param(number)) for number, arg in enumerate(args))


def _mistake(name: str, function: Function | None, args: int, *, piped: bool) -> str:
    """What Go says of a call before it looks at the arguments, "" if nothing."""
    if function is None:
        return f"{quote(name)} is not a defined function"
    if function.variadic and args + piped < function.arity:
        return f"wrong number of args for {name}: want at least {function.arity} got {args}"
    if not function.variadic and args + piped != function.arity:
        return f"wrong number of args for {name}: want {function.arity} got {args + piped}"
    return ""


def _finish(function: Function, whole: Node) -> Callable[[Run, list[Value]], Value]:
    """Calls a function with its computed arguments and takes the cost from the budget."""
    call = function.call

    def finish(run: Run, values: list[Value]) -> Value:
        cost = 1
        if values and type(values[0]) is str:
            cost += len(values[0]) >> 8
        try:
            result = call(values)
        except CallError as error:
            run.node = whole
            raise run.error(f"error calling {function.name}: {error}") from None
        if type(result) is str or isinstance(result, list):
            cost += len(result) >> 4
        run.steps -= cost
        if run.steps < 0:
            run.spend(0)
        return result

    return finish


def _call_one(name: Identifier, finish: Callable[[Run, list[Value]], Value], only: Evaluate) -> Evaluate:
    if name.name == "not":

        def run_not(run: Run, dot: Value) -> Value:
            run.node = name
            return not truth(only(run, dot))

        return run_not

    def run_call(run: Run, dot: Value) -> Value:
        run.node = name
        return finish(run, [only(run, dot)])

    return run_call


def _call_two(
    name: Identifier, finish: Callable[[Run, list[Value]], Value], first: Evaluate, second: Evaluate
) -> Evaluate:
    if name.name in ("eq", "ne"):
        # Nearly every template compares roles for every message.
        wanted = name.name == "eq"

        def run_equal(run: Run, dot: Value) -> Value:
            run.node = name
            left, right = first(run, dot), second(run, dot)
            if type(left) is str and type(right) is str:
                run.steps -= 1 + (len(left) >> 8)
                return (left == right) is wanted
            if type(left) is int and type(right) is int:
                return (left == right) is wanted
            return finish(run, [left, right])

        return run_equal

    def run_call(run: Run, dot: Value) -> Value:
        run.node = name
        return finish(run, [first(run, dot), second(run, dot)])

    return run_call


def _text(text: str) -> Execute:
    length = len(text)

    def run_text(run: Run, dot: Value) -> int:
        run.output.append(text)
        run.size += length
        return 0

    return run_text


def _visit(run: Run, node: Node) -> None:
    run.node = node


def _failing(node: Node | None, message: str) -> Evaluate:
    """What can only fail: Go finds the mistake when it gets there, not before."""

    def run_failing(run: Run, dot: Value) -> Value:
        if node is not None:
            run.node = node
        raise run.error(message)

    return run_failing


def _convert(run: Run, value: Value, param: str) -> Value:
    """A value as a parameter takes it; see `Function.params`."""
    if param == "value":
        return value
    inner = unheld(value)
    if param == "any":
        return inner
    if isinstance(inner, str):
        return inner
    if value is None:
        raise run.error("invalid value; expected string")
    got = type_name(value if inner is None else inner)
    raise run.error(f"wrong type for value; expected string; got {got}")


def _short_circuit(
    name: Identifier, evaluators: Sequence[Evaluate], *, stops_at: bool
) -> Callable[[Run, Value], tuple[bool, Value]]:
    """`and` and `or` over their own arguments: whether one of them decides, and the last one looked at."""

    def run_logic(run: Run, dot: Value) -> tuple[bool, Value]:
        run.node = name
        value: Value = None
        for evaluate in evaluators:
            value = evaluate(run, dot)
            if (value is True or (value is not False and truth(value))) is stops_at:
                return True, value
        return False, value

    return run_logic


def _described(value: Value) -> str:
    return (
        value if isinstance(value, str) else f"<{type_name(value)} Value>" if value is not None else "<invalid Value>"
    )


def _field(run: Run, receiver: Value, name: str, extra: int, zero: bool) -> Value:
    """A field of a struct, a key of a map, or what a method returns."""
    value = receiver.value if type(receiver) is Held else receiver
    if type(value) is dict and not extra:
        return Held(value[name]) if name in value else entry(value, name, zero=zero)
    if value is None:
        if receiver is None:
            return None
        raise run.error(f"nil pointer evaluating interface {{}}.{name}")
    owner = named_type(value)
    if owner is not None and name in owner.methods:
        if extra:
            raise run.error(f"wrong number of args for {name}: want 0 got {extra}")
        return owner.methods[name](value)
    if isinstance(value, Struct):
        if name in value.fields:
            if extra:
                raise run.error(f"{name} has arguments but cannot be invoked as function")
            return value.fields[name]
    elif isinstance(value, dict):
        if extra:
            raise run.error(f"{name} is not a method but has arguments")
        return entry(value, name, zero=zero)
    raise run.error(f"can't evaluate field {name} in type {type_name(receiver)}")


def _loop_variables(pipe: Pipe) -> Callable[[Run, Value, Value], None]:
    """What sets the variables of a `range` for each turn."""
    names = [variable.ident[0] for variable in pipe.declared]
    if not names:
        return lambda run, index, item: None
    if pipe.is_assign:

        def assign(run: Run, index: Value, item: Value) -> None:
            if len(names) > 1:
                run.assign(names[0], index)
            run.assign(names[-1], item)

        return assign

    def set_top(run: Run, index: Value, item: Value) -> None:
        run.variables[-1] = item
        if len(names) > 1:
            run.variables[-2] = index

    return set_top


def _iterate(run: Run, value: Value, *, pairs: bool) -> Sequence[tuple[Value, Value]]:
    """The turns of a `range`: index or key, and element. Empty where `else` is due."""
    if value is None:
        return ()
    if isinstance(value, list | bytes):
        run.spend(len(value))
        return list(enumerate(elements(value)))
    if isinstance(value, dict):
        run.spend(len(value))
        return [(key, entry(value, key, zero=False)) for key in sorted(value)]
    if isinstance(value, int) and not isinstance(value, bool):
        if pairs:
            raise run.error(f"can't use {value:d} to iterate over more than one variable")
        if value > 0:
            run.spend(value)
        return [(None, Byte(number) if isinstance(value, Byte) else number) for number in range(value)]
    raise run.error(f"range can't iterate over {sprint([pointed(value)])}")
