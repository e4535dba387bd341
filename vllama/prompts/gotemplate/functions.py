"""The functions that templates may call: Go's own, and the four that Ollama adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote_plus

from vllama.prompts.gotemplate.marshal import marshal
from vllama.prompts.gotemplate.printing import sprint, sprintf, sprintln
from vllama.prompts.gotemplate.quoting import from_bytes, to_bytes
from vllama.prompts.gotemplate.values import (
    Byte,
    Held,
    NilPointer,
    Slice,
    Struct,
    Value,
    elements,
    entry,
    is_nil,
    pointed,
    truth,
    type_name,
    unheld,
)


class CallError(Exception):
    """A function refuses its arguments; the text is Go's, without where."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function and what it takes.

    `arity` is the number of arguments, the least number if `variadic`. `params` say what the parameters
    are ("value": anything as it is; "any": taken out of an `any`; "string"), the last one repeating.
    """

    name: str
    call: Callable[[Sequence[Value]], Value]
    arity: int
    variadic: bool = False
    params: tuple[str, ...] = ("value",)

    def param(self, number: int) -> str:
        return self.params[min(number, len(self.params) - 1)]


# Comparison


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, Byte):
        return "uint"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return "string"
    return "complex" if isinstance(value, complex) else ""


def _shape(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, Struct | NilPointer):
        return "struct" if value.type.target is None else "pointer"
    return "map" if isinstance(value, dict) else "slice"


def _equal_composite(left: Value, right: Value) -> bool:
    shapes = _shape(left), _shape(right)
    if shapes[0] != shapes[1] and "" not in shapes:
        raise CallError(
            f"non-comparable types {sprintf('%s', [left])}: {type_name(left)}, "
            f"{type_name(right)}: {sprintf('%v', [right])}"
        )
    if is_nil(left) or is_nil(right):
        return is_nil(left) == is_nil(right)
    if shapes[1] != "pointer":
        raise CallError(f"non-comparable type {sprintf('%s', [right])}: {type_name(right)}")
    return left is right


def _eq(args: Sequence[Value]) -> bool:
    if len(args) < 2:
        raise CallError("missing argument for comparison")
    left = unheld(args[0])
    kind = _kind(left)
    for other in args[1:]:
        right = unheld(other)
        other_kind = _kind(right)
        if kind == other_kind:
            if left == right if kind else _equal_composite(left, right):
                return True
        elif {kind, other_kind} == {"int", "uint"}:
            if left == right:
                return True
        elif left is not None and right is not None:
            raise CallError(f"incompatible types for comparison: {type_name(left)} and {type_name(right)}")
    return False


def _less(args: Sequence[Value]) -> bool:
    left, right = unheld(args[0]), unheld(args[1])
    kinds = _kind(left), _kind(right)
    if "" in kinds:
        raise CallError("invalid type for comparison")
    if kinds[0] != kinds[1] and set(kinds) != {"int", "uint"}:
        raise CallError(f"incompatible types for comparison: {type_name(left)} and {type_name(right)}")
    if kinds[0] in ("bool", "complex"):
        raise CallError("invalid type for comparison")
    if kinds[0] == "string" and not (left.isascii() and right.isascii()):
        return to_bytes(left) < to_bytes(right)
    return bool(left < right)


def _less_or_equal(args: Sequence[Value]) -> bool:
    return _less(args) or _eq(args)


# Parts of strings, slices and maps


def _position(index: Value, limit: int) -> int:
    if index is None:
        raise CallError("cannot index slice/array with nil")
    if not isinstance(index, int) or isinstance(index, bool):
        raise CallError(f"cannot index slice/array with type {type_name(index)}")
    if not 0 <= index <= limit:
        raise CallError(f"index out of range: {index:d}")
    return int(index)


def _index(args: Sequence[Value]) -> Value:
    item = unheld(args[0])
    if item is None:
        raise CallError("index of untyped nil")
    for argument in args[1:]:
        index, item = unheld(argument), unheld(item)
        if item is None or isinstance(item, NilPointer):
            raise CallError("index of nil pointer")
        if isinstance(item, str):
            data = to_bytes(item)
            position = _position(index, len(data))
            if position == len(data):
                raise CallError("reflect: string index out of range")
            item = Byte(data[position])
        elif isinstance(item, list | bytes):
            position = _position(index, len(item))
            if position == len(item):
                raise CallError("reflect: slice index out of range")
            item = elements(_sub(item, position, position + 1))[0]
        elif isinstance(item, dict):
            if index is None:
                raise CallError("value is nil; should be of type string")
            if not isinstance(index, str):
                raise CallError(f"value has type {type_name(index)}; should be string")
            item = entry(item, index, zero=True)
        else:
            raise CallError(f"can't index item of type {type_name(pointed(item))}")
    return item


def _sub(item: Any, start: int, end: int) -> Any:
    return Slice(item.type, item[start:end]) if isinstance(item, Slice) else item[start:end]


def _slice(args: Sequence[Value]) -> Value:
    item, indexes = unheld(args[0]), args[1:]
    if item is None:
        raise CallError("slice of untyped nil")
    if isinstance(item, NilPointer):
        raise CallError("slice of nil pointer")
    if len(indexes) > 3:
        raise CallError(f"too many slice indexes: {len(indexes)}")
    if isinstance(item, str):
        if len(indexes) == 3:
            raise CallError("cannot 3-index slice a string")
        data: Any = item if item.isascii() else to_bytes(item)
    elif isinstance(item, list | bytes):
        data = item
    else:
        raise CallError(f"can't slice item of type {type_name(pointed(item))}")
    bounds = [0, len(data), len(data)]
    for number, index in enumerate(indexes):
        bounds[number] = _position(index, len(data))
    if bounds[0] > bounds[1]:
        raise CallError(f"invalid slice index: {bounds[0]} > {bounds[1]}")
    if bounds[1] > bounds[2]:
        raise CallError(f"invalid slice index: {bounds[1]} > {bounds[2]}")
    part = _sub(data, bounds[0], bounds[1])
    return from_bytes(part) if data is not item else part


def _len(args: Sequence[Value]) -> int:
    item = args[0]
    if type(item) is Held:
        item = item.value
        if item is None:
            raise CallError("len of nil pointer")
    if item is None:
        raise CallError("reflect: call of reflect.Value.Type on zero Value")
    if isinstance(item, str):
        return len(item) if item.isascii() else len(to_bytes(item))
    if isinstance(item, list | dict | bytes):
        return len(item)
    if isinstance(item, NilPointer):
        raise CallError("len of nil pointer")
    raise CallError(f"len of type {type_name(pointed(item))}")


# Text


def _joined(args: Sequence[Value]) -> str:
    if len(args) == 1 and isinstance(args[0], str):
        return args[0]
    return sprint(["<no value>" if arg is None else pointed(arg) for arg in args])


_HTML: Final = str.maketrans({'"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": "\ufffd"})
_JS: Final = {
    "\\": "\\\\",
    "'": "\\'",
    '"': '\\"',
    "<": "\\u003C",
    ">": "\\u003E",
    "&": "\\u0026",
    "=": "\\u003D",
}


def _html(args: Sequence[Value]) -> str:
    return _joined(args).translate(_HTML)


def _js_char(char: str) -> str:
    if char in _JS:
        return _JS[char]
    if "\udc80" <= char <= "\udcff":
        return char  # a byte that is not UTF-8
    if char < " " or (char > "\x7f" and not char.isprintable()):
        return f"\\u{ord(char):04X}"
    return char


def _js(args: Sequence[Value]) -> str:
    return "".join(map(_js_char, _joined(args)))


def _urlquery(args: Sequence[Value]) -> str:
    return quote_plus(to_bytes(_joined(args)))


def _today() -> str:
    return datetime.now().astimezone().strftime("%Y-%m-%d")


def _yesterday() -> str:
    return (datetime.now().astimezone().date() - timedelta(days=1)).isoformat()


def _to_typescript(args: Sequence[Value]) -> str:
    value = args[0]
    method = value.type.methods.get("ToTypeScriptType") if isinstance(value, Struct) else None
    return "any" if method is None else str(method(value))


def _refuse_call(args: Sequence[Value]) -> Value:
    """`call`, which the interpreter hands the written name first: no value of ours is a function."""
    callee = unheld(args[1])
    if callee is None:
        raise CallError("call of nil")
    raise CallError(f"non-function {args[0]} of type {type_name(callee)}")


GO_FUNCTIONS: Final[dict[str, Function]] = {
    function.name: function
    for function in (
        Function("and", lambda args: args[-1], 1, True),
        Function("or", lambda args: args[-1], 1, True),
        Function("not", lambda args: not truth(args[0]), 1),
        Function("call", _refuse_call, 1, True),
        Function("html", _html, 0, True, ("any",)),
        Function("js", _js, 0, True, ("any",)),
        Function("urlquery", _urlquery, 0, True, ("any",)),
        Function("index", _index, 1, True),
        Function("slice", _slice, 1, True),
        Function("len", _len, 1),
        Function("print", sprint, 0, True, ("any",)),
        Function("printf", lambda args: sprintf(args[0], args[1:]), 1, True, ("string", "any")),
        Function("println", sprintln, 0, True, ("any",)),
        Function("eq", _eq, 1, True),
        Function("ne", lambda args: not _eq(args), 2),
        Function("lt", _less, 2),
        Function("le", _less_or_equal, 2),
        Function("gt", lambda args: not _less_or_equal(args), 2),
        Function("ge", lambda args: not _less(args), 2),
    )
}
"""What every Go template has."""

OLLAMA_FUNCTIONS: Final[dict[str, Function]] = GO_FUNCTIONS | {
    function.name: function
    for function in (
        Function("json", lambda args: marshal(args[0]), 1, False, ("any",)),
        Function("currentDate", lambda args: _today(), 0, True, ("string",)),
        Function("yesterdayDate", lambda args: _yesterday(), 0, True, ("string",)),
        Function("toTypeScriptType", _to_typescript, 1, False, ("any",)),
    )
}
"""What Ollama's templates have."""
