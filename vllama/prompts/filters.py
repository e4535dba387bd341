"""Jinja's filters and operators for chat templates, each paying from the current budget before it works."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from vllama.prompts.budget import CONTAINERS, Budget, BudgetExceeded, Counted, current

STR_METHODS = frozenset(
    """capitalize casefold center count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric
    isspace istitle isupper join ljust lower lstrip partition removeprefix removesuffix replace rfind rindex rjust
    rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill""".split()
)


def _counted(items: Any) -> Counted:
    return Counted(items, current())


def _compared(value: Any) -> Any:
    if isinstance(value, CONTAINERS):
        current().deep(value)
    elif isinstance(value, str):
        current().shallow(value)
    return value


def _sized(value: Any) -> Any:
    current().shallow(value)
    return value


def concat(parts: Iterable[Any]) -> str:
    texts = [part if isinstance(part, str) else str(printed(part)) for part in parts]
    current().text(sum(map(len, texts)))
    return "".join(texts)


def printed(value: Any) -> Any:
    if isinstance(value, str):
        current().shallow(value)
    elif isinstance(value, CONTAINERS):
        current().deep(value)
    return value


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Hugging Face's templates expect it: nothing escaped for HTML, keys in their order."""
    size, depth = current().deep(value)
    current().text(size * (1 + (0 if indent is None else int(indent) * depth)))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _join_length(separator: str, items: list[Any]) -> int:
    return sum(current().deep(item)[0] for item in items) + len(separator) * len(items)


@jinja2.pass_environment
def _join(
    environment: SandboxedEnvironment, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    items = list(_counted(value))
    if attribute is not None:
        items = [environment.getitem(item, attribute) for item in items]
    current().text(_join_length(str(d), items))
    return str(d).join(map(str, items))


def _replace(value: str, old: str, new: str, count: int | None = None) -> str:
    value, old, new = str(value), str(old), str(new)
    times = value.count(old) if old else len(value) + 1
    current().text(len(value) + times * len(new))
    return value.replace(old, new, -1 if count is None else count)


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    prefix = width if isinstance(width, str) else " " * min(int(width), 1000)
    lines = str(value).splitlines() or [""]
    current().text(len(value) + (len(prefix) + 1) * len(lines))
    indented = [prefix + line if (line or blank) and (at or first) else line for at, line in enumerate(lines)]
    return "\n".join(indented)


def percent(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        if "*" in left or re.search(r"\d{4}", left):
            raise BudgetExceeded("the template makes too much text")
        size, _ = current().deep(right)
        current().text(left.count("%") * (1000 + 4 * size) + len(left))
    return left % right


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    return str(percent(str(value), kwargs or args))


def multiply(left: Any, right: Any) -> Any:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, (str, list, tuple)) and isinstance(other, int):
            current().text(len(one) * max(other, 0))
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 4096:
        raise BudgetExceeded("the template makes too large numbers")
    return left * right


def power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > 4096:
        raise BudgetExceeded("the template makes too large numbers")
    return left**right


def add(left: Any, right: Any) -> Any:
    if isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
        current().text(len(left) + len(right))
    return left + right


def _int(value: Any, default: int = 0, base: int = 10) -> int:
    if isinstance(value, str) and len(value) > 400:
        return default
    try:
        return int(value, base) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        try:
            return int(float(value))
        except (TypeError, ValueError, OverflowError):
            return default


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    precision = max(-300, min(300, precision))
    rounded: float = jinja2.filters.do_round(value, precision, method)  # type: ignore[arg-type]
    return rounded


@jinja2.pass_environment
def _sum(
    environment: SandboxedEnvironment, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0
) -> Any:
    if not isinstance(start, (int, float)):
        raise BudgetExceeded("sum adds up numbers only")
    items = _counted(iterable)
    return sum((item if attribute is None else environment.getitem(item, attribute) for item in items), start)


OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "_compared": _compared,
    "_concat": concat,
    "_counted": _counted,
    "_sized": _sized,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "safe": str,
    "sum": _sum,
    "tojson": _tojson,
}
# Jinja's filters that only go over a value once, and those that look into its items.
SHALLOW = (
    "abs count d default first float items last length list map random reject rejectattr reverse select selectattr"
)
DEEP = """capitalize dictsort e escape groupby lower max min sort string striptags title trim truncate unique upper
    wordcount"""
COMPARING_TESTS = "== != > >= < <= eq equalto ne gt greaterthan ge lt lessthan le in"


def metered(function: Callable[..., Any], pay: Callable[[Budget, Any], object]) -> Callable[..., Any]:
    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        budget = current()
        for value in (*args, *kwargs.values()):
            pay(budget, value)
        result = function(*args, **kwargs)
        # map, select and their like are lazy: their items are paid for when they are taken.
        return Counted(result, budget) if isinstance(result, Iterator) else result

    return metered


def call_str_method(budget: Budget, owner: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    budget.shallow(owner)
    owner = str(owner)
    if name == "replace" and len(args) in (2, 3) and not kwargs:
        return _replace(owner, *args)
    if name == "join" and len(args) == 1:
        items = list(_counted(args[0]))
        budget.text(_join_length(owner, items))
        return owner.join(items)
    if name in ("center", "ljust", "rjust", "zfill") and args and isinstance(args[0], int):
        budget.text(args[0])
    if name not in STR_METHODS:
        raise jinja2.TemplateError(f"text has no method {name!r} here")
    return getattr(owner, name)(*args, **kwargs)
