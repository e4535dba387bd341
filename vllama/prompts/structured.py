"""Structured output: JSON schemas as GBNF grammars.

The grammar accepts documents of the schema only, and writes properties in the schema's order. What a context-free
grammar cannot say cheaply is either refused by name and place, or, for the keywords in `NOT_ENFORCED`, left to the
client to check. See docs/structured.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any, NoReturn

from vllama.errors import RequestError
from vllama.prompts import merging
from vllama.prompts.gbnf import BASE_RULES, integers, literal, with_references
from vllama.prompts.patterns import PatternError, pattern_grammar

MAX_GRAMMAR = 256 * 1024
"""Longest grammar in characters."""
MAX_REPEAT = 2000
"""Highest count of characters or items that a schema may ask to be limited to."""
MAX_ELEMENTS = 50_000
"""Sum of all repetitions, each of which the engine unrolls."""
MAX_SCHEMAS = 10_000
MAX_DEPTH = 100
MAX_MEMBERS = 1000
"""Properties of one object, or items of one tuple: the engine's parser goes through them recursively."""


class SchemaTooLarge(RequestError):
    """More schemas within the schema than may be."""


NOT_ENFORCED = frozenset(["uniqueItems", "multipleOf", "format", "contentEncoding", "contentMediaType"])
"""Keywords that narrow a schema and are accepted without effect (`format` only where it is not in FORMATS)."""

REFUSED = (
    "not if then else dependentRequired dependentSchemas dependencies patternProperties propertyNames minProperties"
    " maxProperties contains minContains maxContains unevaluatedProperties unevaluatedItems $dynamicRef $recursiveRef"
).split()

FORMATS = {
    "date": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$",
    "time": r"^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$",
    "date-time": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$",
    "uuid": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$",
}

_KEYS_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}


@lru_cache(maxsize=1)
def json_grammar() -> str:
    """GBNF for any JSON object, which is what `"format": "json"` asks for."""
    return _write({}, "object")


def schema_grammar(schema: Mapping[str, Any], *, most: int = MAX_SCHEMAS) -> str:
    """GBNF for the documents of a JSON schema (decoded JSON). Raises `RequestError` naming the place.

    `SchemaTooLarge` is raised at more than `most` schemas within it.
    """
    return _Builder(schema, most).build()


def _write(rules: Mapping[str, str], root: str) -> str:
    used = {name for body in (*rules.values(), root) for name in _words(body)}
    lines = [f"root ::= {root}", *(f"{name} ::= {body}" for name, body in rules.items())]
    lines += [f"{name} ::= {BASE_RULES[name]}" for name in with_references(used)]
    return "\n".join(lines) + "\n"


def _words(body: str) -> set[str]:
    """The base rules that a body may refer to; words within literals do no harm but an unused rule."""
    return {name for name in BASE_RULES if name in body}


class _Builder:
    """Turns one schema into rules. Expressions are GBNF that may be used inside of a sequence."""

    def __init__(self, root: Mapping[str, Any], most: int) -> None:
        self._root = root
        self._most = most
        self._rules: dict[str, str] = {}
        self._by_pointer: dict[str, str] = {}
        self._starts: dict[str, set[str]] = {}
        self._size = 0
        self._elements = 0
        self._schemas = 0

    def build(self) -> str:
        try:
            expression = self._expression(self._root, "#", 0, ())
        except RecursionError:
            _refuse("the schema is nested too deeply", "#")
        try:
            TopologicalSorter(self._starts).prepare()
        except CycleError as error:
            # A rule that can begin with itself: the engine's parser would never come to an end.
            _refuse(f"{error.args[1][0]} refers to itself and nothing else", "#")
        grammar = _write(self._rules, expression)
        if len(grammar) > MAX_GRAMMAR:
            _refuse(f"the grammar would have more than {MAX_GRAMMAR} characters", "#")
        return grammar

    def _count(self, at: str) -> None:
        self._schemas += 1
        if self._schemas > self._most:
            raise SchemaTooLarge(f"format: more than {self._most} schemas (at {at})")

    def _rule(self, body: str, name: str | None = None) -> str:
        """Give an expression a name, so that it is written once."""
        name = name or f"r{len(self._rules)}"
        self._size += len(name) + len(body) + 6
        if self._size > MAX_GRAMMAR:
            _refuse(f"the grammar would have more than {MAX_GRAMMAR} characters", "#")
        self._rules[name] = body
        return name

    def _expression(self, schema: Any, at: str, depth: int, chain: tuple[str, ...]) -> str:
        """`chain` holds the references that were followed since the last character of the document."""
        self._count(at)
        if depth > MAX_DEPTH:
            _refuse("the schema is nested too deeply", at)
        if schema is True:
            return "value"
        if schema is False:
            _refuse("false allows nothing", at)
        if not isinstance(schema, Mapping):
            _refuse("a schema must be an object", at)
        for key in REFUSED:
            if key in schema and schema[key] is not True and not (key == "not" and schema[key] is False):
                _refuse(f"{key} is not supported", f"{at}/{key}")
        if "$ref" in schema:
            return self._reference(schema, at, depth, chain)
        if "allOf" in schema:
            return self._expression(self._merge_all(schema, at, chain), at, depth + 1, chain)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._any_of(schema, key, at, depth, chain)
        if "const" in schema:
            return literal(_json(schema["const"], at))
        if "enum" in schema:
            return self._enum(schema, at)
        return self._typed(schema, at, depth, chain)

    def _reference(self, schema: Mapping[str, Any], at: str, depth: int, chain: tuple[str, ...]) -> str:
        pointer = schema["$ref"]
        target = self._resolve(pointer, f"{at}/$ref")
        if pointer in chain:
            _refuse(f"{pointer} refers to itself and nothing else", f"{at}/$ref")
        if chain:
            self._starts.setdefault(chain[-1], set()).add(pointer)
        chain = (*chain, pointer)
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        if merging.constrains(rest):
            merged = merging.merge(self._open(target, pointer, chain), rest, at)
            return self._expression(merged, at, depth + 1, chain)
        if pointer not in self._by_pointer:
            name = self._by_pointer[pointer] = f"ref{len(self._by_pointer)}"
            # The name is known before the body is made: that is how a schema refers to itself.
            self._rules[name] = ""
            self._rule(self._expression(target, pointer, depth + 1, chain), name)
        return self._by_pointer[pointer]

    def _resolve(self, pointer: Any, at: str) -> Any:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            _refuse("only references within the schema (#/…) are supported", at)
        target: Any = self._root
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target = target[int(key)]
            else:
                _refuse(f"{pointer} does not exist", at)
        return target

    def _open(self, schema: Any, at: str, chain: tuple[str, ...]) -> Mapping[str, Any]:
        """A schema without $ref and allOf at its top, to be merged with another."""
        if schema is True:
            return {}
        if not isinstance(schema, Mapping):
            _refuse("a schema must be an object", at)
        self._count(at)
        if "$ref" in schema:
            pointer = schema["$ref"]
            target = self._resolve(pointer, f"{at}/$ref")
            if pointer in chain:
                _refuse(f"{pointer} refers to itself and nothing else", f"{at}/$ref")
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = merging.merge(self._open(target, pointer, (*chain, pointer)), rest, at)
        return self._merge_all(schema, at, chain) if "allOf" in schema else schema

    def _merge_all(self, schema: Mapping[str, Any], at: str, chain: tuple[str, ...]) -> Mapping[str, Any]:
        merged: Mapping[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
        for index, part in enumerate(_list(schema["allOf"], f"{at}/allOf")):
            place = f"{at}/allOf/{index}"
            merged = merging.merge(merged, self._open(part, place, chain), place)
        return merged

    def _any_of(self, schema: Mapping[str, Any], key: str, at: str, depth: int, chain: tuple[str, ...]) -> str:
        base = {name: value for name, value in schema.items() if name != key}
        options = []
        for index, part in enumerate(_list(schema[key], f"{at}/{key}")):
            place = f"{at}/{key}/{index}"
            if part is False:
                continue
            if merging.constrains(base):
                part = merging.merge(base, self._open(part, place, chain), place)
            options.append(self._expression(part, place, depth + 1, chain))
        if not options:
            _refuse("nothing is allowed", f"{at}/{key}")
        return "(" + " | ".join(dict.fromkeys(options)) + ")"

    def _enum(self, schema: Mapping[str, Any], at: str) -> str:
        values = _list(schema["enum"], f"{at}/enum")
        types = schema.get("type")
        allowed = [value for value in values if types is None or _has_type(value, types)]
        if not allowed:
            _refuse("no value is allowed", f"{at}/enum")
        return "(" + " | ".join(dict.fromkeys(literal(_json(value, f"{at}/enum")) for value in allowed)) + ")"

    def _typed(self, schema: Mapping[str, Any], at: str, depth: int, chain: tuple[str, ...]) -> str:
        kind = schema.get("type")
        if kind is None:
            kind = next((name for name, keys in _KEYS_OF_TYPE.items() if any(key in schema for key in keys)), None)
            if kind is None:
                return "value" if schema.get("format") not in FORMATS else self._string(schema, at)
        if isinstance(kind, list):
            if not kind:
                _refuse("no type is allowed", f"{at}/type")
            options = [self._expression({**schema, "type": one}, at, depth + 1, chain) for one in kind]
            return "(" + " | ".join(dict.fromkeys(options)) + ")"
        if kind == "object":
            return self._object(schema, at, depth)
        if kind == "array":
            return self._array(schema, at, depth)
        makers: dict[Any, Callable[[Mapping[str, Any], str], str]] = {
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda *_: "boolean",
            "null": lambda *_: "null",
        }
        if not isinstance(kind, str) or kind not in makers:
            _refuse(f"unknown type {json.dumps(kind)}", f"{at}/type")
        return makers[kind](schema, at)

    def _object(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        properties = schema.get("properties", {})
        if not isinstance(properties, Mapping):
            _refuse("properties must be an object", f"{at}/properties")
        required = _list(schema.get("required") or [], f"{at}/required")
        if not all(isinstance(key, str) for key in required):
            _refuse("required must hold names", f"{at}/required")
        more = schema.get("additionalProperties", "properties" not in schema)
        if not properties and not required and more is True:
            return "object"
        keys = [key for key, value in properties.items() if value is not False or key in required]
        keys += dict.fromkeys(key for key in required if key not in properties)
        if len(keys) > MAX_MEMBERS:
            _refuse(f"more than {MAX_MEMBERS} properties", f"{at}/properties")
        # White space ends each member rather than standing before the "}": after the blanks that follow a "{" the
        # model must still be free to choose between a first member and the end.
        members = []
        for key in keys:
            place = f"{at}/properties/{_pointer(key)}"
            if key not in properties and more is False:
                _refuse(f"{key} is required and not allowed", f"{at}/required")
            value = self._expression(properties.get(key, more), place, depth + 1, ())
            members.append((f"{literal(_json(key, place) + ':')} ws {value} ws", key in required))
        extra = None
        if more is not False:
            value = self._expression(more, f"{at}/additionalProperties", depth + 1, ())
            extra = self._rule(f'{self._other_key(keys)} ":" ws {value} ws')
        return self._rule('"{" ws ' + self._sequence(members, extra) + ' "}"')

    def _sequence(self, members: list[tuple[str, bool]], extra: str | None) -> str:
        """The members in their order, the optional ones perhaps left out, with a comma between two that are there."""
        rest = f'("," ws {extra})*' if extra else '""'
        first = f"({extra} {rest})?" if extra else '""'
        for member, required in reversed(members):
            if len(member) > 40:
                member = self._rule(member)
            if required:
                first = f"{member} {rest}"
                rest = f'"," ws {member} {rest}'
            else:
                first = self._rule(f"{member} {rest} | {first}")
                rest = f'("," ws {member})? {rest}'
            if len(rest) > 40:
                rest = self._rule(rest)
        return first

    def _other_key(self, keys: list[str]) -> str:
        """A key that is none of `keys`. Escapes are left out, which could write a known key in another way."""
        if not keys:
            return "string"
        tree: dict[str, Any] = {}
        for key in keys:
            node = tree
            for char in key:
                node = node.setdefault(char, {})
            node[""] = {}
        return f'"\\"" {self._other(tree, 0)} "\\""'

    def _other(self, tree: dict[str, Any], depth: int) -> str:
        """The text that leaves `tree` somewhere, or ends where no key ends."""
        if depth > MAX_DEPTH:
            _refuse("a property's name is too long to be kept apart from additional ones", "#")
        branches = [char for char in tree if char]
        excluded = "".join(_excluded(char) for char in branches)
        plain = r'[^"\\\x00-\x1F\x7F]'
        options = [f"{plain[:-1]}{excluded}] {plain}*"]
        options += [f"{literal(char)} {self._other(tree[char], depth + 1)}" for char in branches if char not in '"\\']
        if "" not in tree:
            options.append('""')
        return self._rule(" | ".join(options))

    def _array(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        items = schema.get("items", True)
        prefix = schema.get("prefixItems")
        if isinstance(items, list):
            # Drafts before 2020 wrote tuples so.
            items, prefix = schema.get("additionalItems", False), items
        elif prefix is not None and "items" not in schema:
            items = False
        prefix = [] if prefix is None else _list(prefix, f"{at}/prefixItems")
        low = _count(schema, "minItems", at)
        high = _count(schema, "maxItems", at)
        if low is None:
            low = len(prefix) if items is False else 0
        if high is not None and high < low:
            _refuse("maxItems is below minItems", f"{at}/maxItems")
        if items is False:
            if low > len(prefix):
                _refuse("more items are required than are described", f"{at}/minItems")
            high = min(len(prefix), len(prefix) if high is None else high)
        if high is not None:
            prefix = prefix[:high]
        if len(prefix) > MAX_MEMBERS:
            _refuse(f"more than {MAX_MEMBERS} items", f"{at}/prefixItems")
        members = []
        for index, part in enumerate(prefix):
            value = self._expression(part, f"{at}/prefixItems/{index}", depth + 1, ())
            members.append((value, index < low))
        rest = '""'
        if items is not False and (high is None or high > len(prefix)):
            item = self._rule(self._expression(items, f"{at}/items", depth + 1, ()) + " ws")
            rest = self._repeat(
                item, max(low - len(prefix), 0), None if high is None else high - len(prefix), not prefix
            )
        for index, (value, needed) in reversed(list(enumerate(members))):
            comma = '"," ws ' if index else ""
            rest = self._rule(f"{comma}{value} ws {rest}")
            if not needed:
                rest = f"({rest})?"
        return self._rule(f'"[" ws {rest} "]"')

    def _repeat(self, item: str, low: int, high: int | None, first: bool) -> str:
        """From `low` to `high` items; `first` says that no item stands in front of them."""
        if high == 0:
            return '""'
        self._spend(max(low, high or 1))
        more = self._rule(f'"," ws {item}')
        if not first:
            return f"{more}{{{low},{'' if high is None else high}}}"
        rest = f"{item} {more}{{{max(low - 1, 0)},{'' if high is None else high - 1}}}"
        return rest if low else f"({rest})?"

    def _string(self, schema: Mapping[str, Any], at: str) -> str:
        low = _count(schema, "minLength", at)
        high = _count(schema, "maxLength", at)
        pattern = schema.get("pattern")
        place = f"{at}/pattern"
        if pattern is None:
            pattern, place = FORMATS.get(schema.get("format", "")), f"{at}/format"
            if pattern is not None and "format" in schema and (low is not None or high is not None):
                low = high = None
        if pattern is not None:
            if not isinstance(pattern, str):
                _refuse("pattern must be a string", place)
            if low or high is not None:
                _refuse("pattern together with minLength or maxLength is not supported", place)
            try:
                grammar = pattern_grammar(pattern, f"p{len(self._rules)}")
            except PatternError as error:
                _refuse(f"the pattern {json.dumps(pattern)} is not supported: {error}", place)
            self._spend(grammar.cost)
            for name, body in grammar.rules.items():
                self._rule(body, name)
            return self._rule(f'"\\"" {grammar.body} "\\""')
        if not low and high is None:
            return "string"
        if high is not None and high < (low or 0):
            _refuse("maxLength is below minLength", f"{at}/maxLength")
        self._spend(max(low or 0, high or 1))
        return self._rule(f'"\\"" char{{{low or 0},{"" if high is None else high}}} "\\""')

    def _integer(self, schema: Mapping[str, Any], at: str) -> str:
        low, high = _bounds(schema, at)
        if low is None and high is None:
            return "integer"
        if low is not None and high is not None and low > high:
            _refuse("no whole number is between the bounds", at)
        return self._rule(integers(low, high))

    def _number(self, schema: Mapping[str, Any], at: str) -> str:
        # Of the bounds of a number that may have a fraction only the sign is enforced.
        lows = [_number_at(schema, key, at) for key in ("minimum", "exclusiveMinimum")]
        return "unsigned" if any(low is not None and low >= 0 for low in lows) else "number"

    def _spend(self, elements: int) -> None:
        self._elements += elements
        if self._elements > MAX_ELEMENTS:
            _refuse(f"more than {MAX_ELEMENTS} repetitions in all", "#")


def _refuse(what: str, at: str) -> NoReturn:
    raise RequestError(f"format: {what} (at {at})")


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _excluded(char: str) -> str:
    return "" if char in '"\\' else f"\\U{ord(char):08X}"


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        _refuse("a list is expected", at)
    return value


def _json(value: Any, at: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except ValueError:
        _refuse("a value that JSON cannot carry", at)
    return text


def _has_type(value: Any, types: Any) -> bool:
    kinds: dict[str, Callable[[], bool]] = {
        "object": lambda: isinstance(value, Mapping),
        "array": lambda: isinstance(value, list),
        "string": lambda: isinstance(value, str),
        "boolean": lambda: isinstance(value, bool),
        "null": lambda: value is None,
        "number": lambda: isinstance(value, int | float) and not isinstance(value, bool),
        "integer": lambda: isinstance(value, int | float) and not isinstance(value, bool) and value == int(value),
    }
    return any(isinstance(kind, str) and kind in kinds and kinds[kind]() for kind in merging.as_list(types))


def _count(schema: Mapping[str, Any], key: str, at: str) -> int | None:
    value = schema.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        _refuse(f"{key} must be a whole number", f"{at}/{key}")
    if value > MAX_REPEAT:
        _refuse(f"{key} must not be above {MAX_REPEAT}", f"{at}/{key}")
    return int(value)


def _number_at(schema: Mapping[str, Any], key: str, at: str) -> float | None:
    value = schema.get(key)
    # Draft 4 wrote exclusive bounds as a flag beside the bound.
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, int | float) or not abs(value) < 10**18:
        _refuse(f"{key} must be a number below 10^18", f"{at}/{key}")
    return value


def _bounds(schema: Mapping[str, Any], at: str) -> tuple[int | None, int | None]:
    """The whole numbers that are allowed: (lowest, highest)."""
    lows, highs = [], []
    if (value := _number_at(schema, "minimum", at)) is not None:
        lows.append(-int(-value // 1) + (schema.get("exclusiveMinimum") is True and value == value // 1))
    if (value := _number_at(schema, "exclusiveMinimum", at)) is not None:
        lows.append(int(value // 1) + 1)
    if (value := _number_at(schema, "maximum", at)) is not None:
        highs.append(int(value // 1) - (schema.get("exclusiveMaximum") is True and value == value // 1))
    if (value := _number_at(schema, "exclusiveMaximum", at)) is not None:
        highs.append(-int(-value // 1) - 1)
    return max(lows, default=None), min(highs, default=None)
