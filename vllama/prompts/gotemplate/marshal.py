"""Writes values as Go's encoding/json does: keys of maps sorted, <, > and & escaped, Go's numbers."""

from __future__ import annotations

import base64
import math
import re
from json.encoder import encode_basestring

from vllama.prompts.gotemplate.floats import format_float
from vllama.prompts.gotemplate.printing import MAX_OUTPUT, too_long
from vllama.prompts.gotemplate.values import Held, Map, NilPointer, Slice, Struct, Value

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_SPECIAL = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def marshal(value: Value) -> str:
    """The JSON text of a value, "" for what JSON cannot say (NaN, infinity, complex numbers)."""
    parts: list[str] = []
    try:
        _Writer(parts).value(value)
    except (ValueError, RecursionError):
        return ""
    return "".join(parts)


def json_string(text: str) -> str:
    """One string as JSON; bytes that are not UTF-8 become U+FFFD."""
    quoted = encode_basestring(text)
    return _SPECIAL.sub(lambda found: _ESCAPES.get(found[0], "\\ufffd"), quoted)


def _json_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError("unsupported value")
    size = abs(value)
    if size and (size < 1e-6 or size >= 1e21):
        return re.sub(r"e-0(\d)$", r"e-\1", format_float(value, "e", None))
    return format_float(value, "f", None)


class _Writer:
    """Called for every tool of every request, so the kinds that schemas are made of come first."""

    def __init__(self, parts: list[str]) -> None:
        self._parts = parts
        self._length = 0

    def _write(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_OUTPUT:
            raise too_long()
        self._parts.append(text)

    def value(self, value: Value) -> None:
        kind = type(value)
        if kind is Held:
            value = value.value
            kind = type(value)
        if kind is str:
            self._write(json_string(value))
        elif kind is Struct:
            self._struct(value)
        elif kind is Slice:
            self._slice(value)
        elif kind is dict or kind is Map:
            self._map(value)
        elif kind is list:
            self._array(value)
        elif value is None or kind is NilPointer:
            self._write("null")
        elif isinstance(value, bool):
            self._write("true" if value else "false")
        elif isinstance(value, int):
            self._write(str(int(value)))
        elif isinstance(value, float):
            self._write(_json_float(value))
        elif isinstance(value, bytes):
            self._write('"' + base64.b64encode(value).decode() + '"')
        else:
            raise ValueError("unsupported type")

    def _struct(self, value: Struct) -> None:
        if value.type.json is not None:
            self.value(value.type.json(value))
            return
        omit, fields = value.type.omit_empty, value.fields
        mark = "{"
        for name, key in value.type.fields.items():
            member = fields[name]
            if name not in omit or not _is_empty(member):
                self._write(f'{mark}"{key}":')  # names of Go's tags: nothing in them needs an escape
                self.value(member)
                mark = ","
        self._write("}" if mark == "," else "{}")

    def _map(self, value: dict[str, Value]) -> None:
        ordered = False
        if isinstance(value, Map):
            if value.is_nil:
                self._write("null")
                return
            ordered = value.type.keeps_order
        mark = "{"
        for key in value if ordered else sorted(value):
            self._write(f"{mark}{json_string(key)}:")
            self.value(value[key])
            mark = ","
        self._write("}" if mark == "," else "{}")

    def _slice(self, items: Slice) -> None:
        if items.is_nil:
            self._write("null")
        elif items.type.json is not None:
            self.value(items.type.json(items))
        else:
            self._array(items)

    def _array(self, items: list[Value]) -> None:
        mark = "["
        for item in items:
            self._write(mark)
            self.value(item)
            mark = ","
        self._write("]" if mark == "," else "[]")


def _is_empty(value: Value) -> bool:
    if isinstance(value, Held):
        return value.value is None
    if isinstance(value, Struct):
        return False
    return isinstance(value, NilPointer) or not value
