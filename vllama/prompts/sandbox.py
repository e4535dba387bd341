"""A Jinja environment in which a template cannot run away.

Chat templates come out of model files, so they are code of strangers. Jinja's immutable sandbox keeps them from
Python's internals; this one also bounds what they cost. Every loop turn, call, filter and comparison is paid from a
`Budget`, in proportion to the text or the items it handles, and nothing may build a text longer than the budget's
limit. Jinja compiles templates to Python, so the hooks are put into the syntax tree before compilation (`_Meter`).
No clock is involved: the same template and chat always end the same way.
"""

from __future__ import annotations

import functools
from datetime import datetime
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from vllama.prompts import filters
from vllama.prompts.budget import Budget, BudgetExceeded, Counted, current, spending

_DICT_METHODS = frozenset(["copy", "get", "items", "keys", "values"])


class _Meter(NodeTransformer):
    """Puts the meters into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _call("_counted", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _call("_sized", node.node)
        return node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):
                pair.key = _call("_compared", pair.key)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        operands = [node.expr, *(operand.expr for operand in node.ops)]
        plain = len(operands) == 2 and any(isinstance(operand, nodes.Const) for operand in operands)
        if plain and node.ops[0].op not in ("in", "notin"):
            return node
        node.expr = _call("_compared", node.expr)
        for operand in node.ops:
            # A constant is only looked for among the items; nothing nested is compared.
            operand.expr = _call("_sized" if plain else "_compared", operand.expr)
        return node


def _call(name: str, value: nodes.Node) -> nodes.Filter:
    assert isinstance(value, nodes.Expr)
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: marks the assistant's tokens for training; nothing to do here."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """Keep the body, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(format: str) -> str:
    if len(format) > 200:
        raise BudgetExceeded("the template makes too much text")
    return datetime.now().strftime(format)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox with meters, set up as Hugging Face sets up Jinja for chat templates."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])
    concat = staticmethod(filters.concat)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.binop_table |= {"+": filters.add, "*": filters.multiply, "**": filters.power, "%": filters.percent}
        self.finalize = filters.printed
        builtin: Any = self.filters
        tests: Any = self.tests
        self.filters = dict(filters.OWN_FILTERS)
        self.filters |= {name: filters.metered(builtin[name], Budget.shallow) for name in filters.SHALLOW.split()}
        self.filters |= {name: filters.metered(builtin[name], Budget.deep) for name in filters.DEEP.split()}
        self.tests |= {name: filters.metered(tests[name], Budget.deep) for name in filters.COMPARING_TESTS.split()}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Meter().visit(tree)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Methods of text, numbers, lists and mappings are those on our lists; the rest is up to Jinja."""
        if isinstance(obj, str):
            return attr in filters.STR_METHODS
        if isinstance(obj, dict):
            return attr in _DICT_METHODS
        if isinstance(obj, (list, tuple)):
            return attr in ("count", "index")
        if isinstance(obj, (int, float, bytes, set, frozenset, range)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `str.format`: its field widths cannot be bounded. `%` and the format filter do the same work."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Keys of mappings without Jinja's detour over an AttributeError."""
        if type(obj) is dict and attribute in obj and attribute not in _DICT_METHODS:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As Jinja's; a tuple is paid for before it is hashed."""
        if isinstance(argument, tuple):
            current().deep(argument)
        return super().getitem(obj, argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Pay for a call; methods of text are checked for how much they would make."""
        budget = current()
        if isinstance(__obj, LoopContext):
            args = (Counted(args[0], budget), *args[1:]) if args else args
        budget.spend(4)
        if not isinstance(__obj, (BuiltinMethodType, MethodType)):
            return super().call(__context, __obj, *args, **kwargs)
        for value in (*args, *kwargs.values()):
            budget.deep(value)
        owner = __obj.__self__
        if isinstance(owner, str):
            return filters.call_str_method(budget, owner, __obj.__name__, args, kwargs)
        if __obj.__name__ in ("count", "index"):
            budget.deep(owner)
        return super().call(__context, __obj, *args, **kwargs)


@functools.cache
def _environment() -> BoundedEnvironment:
    return BoundedEnvironment()


def compile_template(text: str) -> jinja2.Template:
    """Compile a template; it must be rendered within `spending(budget)`. Raises whatever Jinja raises."""
    with spending(Budget()):
        return _environment().from_string(text)
