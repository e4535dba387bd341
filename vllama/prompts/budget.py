"""What rendering a template may cost: operations, and the length of any text it makes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import jinja2

OPERATIONS = 500_000
TEXT_LIMIT = 8 * 1024 * 1024

CONTAINERS = (list, tuple, dict, set, frozenset)
_CHARS_PER_UNIT = 256
_ITEMS_PER_UNIT = 16


class BudgetExceeded(jinja2.TemplateError):
    """The template does more, or makes more text, than any chat template needs."""


class OutOfSteps(BudgetExceeded):
    """Of the two: with a larger budget it may end well."""


class Budget:
    """What one rendering may still spend. `left` is in operations, `limit` the longest text in characters."""

    __slots__ = ("left", "limit")

    def __init__(self, operations: int = OPERATIONS, limit: int = TEXT_LIMIT) -> None:
        self.left = operations
        self.limit = limit

    def spend(self, cost: int) -> None:
        """Pay `cost` operations."""
        self.left -= cost
        if self.left < 0:
            raise OutOfSteps("the template takes too many steps")

    def text(self, length: int) -> None:
        """Pay for a text of `length` characters that is about to be made."""
        if length > self.limit:
            raise BudgetExceeded("the template makes too much text")
        self.spend(length // _CHARS_PER_UNIT)

    def shallow(self, value: Any) -> None:
        """Pay for going over a value once, without going into its items."""
        if isinstance(value, str):
            self.spend(1 + len(value) // _CHARS_PER_UNIT)
        elif isinstance(value, (*CONTAINERS, range)):
            self.spend(1 + len(value) // _ITEMS_PER_UNIT)
        else:
            self.spend(1)

    def deep(self, value: Any, depth: int = 0) -> tuple[int, int]:
        """Pay for every item in a value; return (characters, depth).

        A list that holds another list many times is small in memory and huge to print or compare, so this runs first.
        """
        if isinstance(value, str):
            self.spend(1 + len(value) // _CHARS_PER_UNIT)
            return len(value), depth
        self.spend(1)
        if not isinstance(value, CONTAINERS):
            return 24, depth
        size, deepest = 2, depth
        for item in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            length, below = self.deep(item, depth + 1)
            size += length + 4
            deepest = max(deepest, below)
        return size, deepest


class _Current(threading.local):
    budget = Budget(0, 0)


_current = _Current()


def current() -> Budget:
    """The budget that this thread pays from; an empty one outside of `spending`."""
    return _current.budget


class spending:  # noqa: N801 - reads as a statement: `with spending(budget):`
    """The budget that templates compiled or rendered by this thread pay from."""

    __slots__ = ("_before", "_budget")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __enter__(self) -> Budget:
        self._before, _current.budget = _current.budget, self._budget
        return self._budget

    def __exit__(self, *_: object) -> None:
        _current.budget = self._before


class Counted:
    """An iterable that pays for each item."""

    __slots__ = ("_budget", "_items")

    def __init__(self, items: Iterable[Any], budget: Budget) -> None:
        self._items = items
        self._budget = budget

    def __iter__(self) -> Iterator[Any]:
        budget = self._budget
        for item in self._items:
            budget.left -= 1
            if budget.left < 0:
                budget.spend(0)
            yield item

    def __len__(self) -> int:
        # A TypeError for generators, which is what makes Jinja's loop.length collect them.
        return len(self._items)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return bool(self._items)
