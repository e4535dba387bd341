"""Writes values as Go's encoding/json does: keys of maps sorted, <, > and & escaped, Go's numbers."""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any

from vllama.prompts.gotemplate.floats import format_float
from vllama.prompts.gotemplate.printing import MAX_OUTPUT, too_long
from vllama.prompts.gotemplate.values import Held, Map, NilPointer, Slice, Struct, Value, unheld

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_SPECIAL = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
_encode = json.JSONEncoder(ensure_ascii=False).encode


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
    quoted = _encode(text)
    return _SPECIAL.sub(lambda found: _ESCAPES.get(found[0], "\\ufffd"), quoted)


def _json_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError("unsupported value")
    size = abs(value)
    if size and (size < 1e-6 or size >= 1e21):
        return re.sub(r"e-0(\d)$", r"e-\1", format_float(value, "e", None))
    return format_float(value, "f", None)


class _Writer:
    def __init__(self, parts: list[str]) -> None:
        self._parts = parts
        self._length = 0

    def _write(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_OUTPUT:
            raise too_long()
        self._parts.append(text)

    def value(self, value: Value) -> None:
        value = unheld(value)
        if value is None or isinstance(value, NilPointer):
            self._write("null")
        elif isinstance(value, bool):
            self._write("true" if value else "false")
        elif isinstance(value, int):
            self._write(str(int(value)))
        elif isinstance(value, float):
            self._write(_json_float(value))
        elif isinstance(value, str):
            self._write(json_string(value))
        elif isinstance(value, dict):
            if isinstance(value, Map) and value.is_nil:
                self._write("null")
            else:
                ordered = isinstance(value, Map) and value.type.keeps_order
                self._object({key: value[key] for key in (value if ordered else sorted(value))})
        elif isinstance(value, list):
            self._array(value)
        elif isinstance(value, Struct):
            if value.type.json is not None:
                self.value(value.type.json(value))
            else:
                self._object(_json_fields(value))
        elif isinstance(value, bytes):
            self._write('"' + base64.b64encode(value).decode() + '"')
        else:
            raise ValueError("unsupported type")

    def _object(self, members: dict[str, Any]) -> None:
        self._write("{")
        for number, (key, member) in enumerate(members.items()):
            self._write(("," if number else "") + json_string(key) + ":")
            self.value(member)
        self._write("}")

    def _array(self, items: list[Value]) -> None:
        if isinstance(items, Slice):
            if items.is_nil:
                self._write("null")
                return
            if items.type.json is not None:
                self.value(items.type.json(items))
                return
        self._write("[")
        for number, item in enumerate(items):
            if number:
                self._write(",")
            self.value(item)
        self._write("]")


def _json_fields(value: Struct) -> dict[str, Value]:
    omit = value.type.omit_empty
    return {
        key: value.fields[name]
        for name, key in value.type.fields.items()
        if not (name in omit and _is_empty(value.fields[name]))
    }


def _is_empty(value: Value) -> bool:
    if isinstance(value, Held):
        return value.value is None
    if isinstance(value, Struct):
        return False
    return isinstance(value, NilPointer) or not value
