"""Go's scalar types, interface{}, json.RawMessage and []byte; see `godecoder` for how types read."""

from __future__ import annotations

import math
import struct
from typing import Any

from vllama.api.gobase64 import decode_base64, strict_base64
from vllama.api.godecoder import Array, DecodeError, Decoder, GoType, Node, Number, Object, Odd


class _String(GoType):
    zero = ""

    def fast(self, value: Any) -> Any:
        if type(value) is not str:
            raise Odd
        return value

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if isinstance(node, str) and not isinstance(node, Number):
            return node
        if node is not None:
            decoder.mismatch(node, self.name)
        return old or ""


class _Bool(GoType):
    zero = False

    def fast(self, value: Any) -> Any:
        if value is not True and value is not False:
            raise Odd
        return value

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if isinstance(node, bool):
            return node
        if node is not None:
            decoder.mismatch(node, self.name)
        return old or False


class _Int(GoType):
    zero = 0

    def __init__(self, name: str, low: int, high: int) -> None:
        super().__init__(name)
        self.low = low
        self.high = high

    def fast(self, value: Any) -> Any:
        if type(value) is not int or not self.low <= value <= self.high:
            raise Odd
        return value

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if isinstance(node, Number):
            # The length bound keeps int() away from numbers of a million digits.
            if len(node) < 400 and node.lstrip("-").isdigit() and self.low <= int(node) <= self.high:
                return int(node)
            decoder.save(DecodeError(f"number {node}", self.name))
        elif node is not None:
            decoder.mismatch(node, self.name)
        return old or 0


class _Float(GoType):
    zero = 0.0

    def __init__(self, name: str, largest: float) -> None:
        super().__init__(name)
        self.largest = largest

    def fast(self, value: Any) -> Any:
        if (type(value) is not float and type(value) is not int) or abs(value) > self.largest:
            raise Odd
        return float(value)

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if isinstance(node, Number):
            number = float(node)
            if abs(number) <= self.largest:
                return number
            decoder.save(DecodeError(f"number {node}", self.name))
        elif node is not None:
            decoder.mismatch(node, self.name)
        return old or 0.0


class _Any(GoType):
    """interface{}: whatever stands there. Numbers stay int or float as they are written."""

    nullable = True

    def fast(self, value: Any) -> Any:
        return value

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        return _plain(decoder, node, 0)


class _Raw(GoType):
    """json.RawMessage: kept, not looked into."""

    nullable = True

    def fast(self, value: Any) -> Any:
        return value

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        return _plain(Decoder(), node, 0)


MAX_PLAIN_DEPTH = 300
"""How deep a free-form value may nest: Go allows 10,000 levels, but recursion over them would end the process."""


def _plain(decoder: Decoder, node: Node, depth: int) -> Any:
    if depth > MAX_PLAIN_DEPTH:
        raise DecodeError("exceeded max depth")
    if isinstance(node, Object):
        return {key: _plain(decoder, value, depth + 1) for key, value in node}
    if isinstance(node, Array):
        return [_plain(decoder, value, depth + 1) for value in node]
    if isinstance(node, Number):
        if len(node) < 22 and node.lstrip("-").isdigit() and -(2**63) <= int(node) < 2**64:
            return int(node)
        number = float(node)
        if math.isinf(number):
            decoder.save(DecodeError(f"number {node}", "float64"))
        return number
    return node


class Bytes(GoType):
    """[]byte: base64 in a string, or an array of numbers."""

    nullable = True

    def fast(self, value: Any) -> Any:
        decoded = strict_base64(STRING.fast(value).encode())
        if decoded is None:
            raise Odd
        return decoded

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if isinstance(node, Array):
            before = list(old or b"")
            values = [UINT8.decode(decoder, item, before[i] if i < len(before) else 0) for i, item in enumerate(node)]
            return bytes(values)
        if isinstance(node, str) and not isinstance(node, Number):
            try:
                return decode_base64(node)
            except DecodeError as error:
                decoder.save(error)
                return old
        if node is not None:
            decoder.mismatch(node, self.name)
            return old
        return None


_FLOAT32_MAX: float = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]

STRING = _String("string")
BOOL = _Bool("bool")
INT = _Int("int", -(2**63), 2**63 - 1)
UINT8 = _Int("uint8", 0, 255)
FLOAT64 = _Float("float64", 1.7976931348623157e308)
FLOAT32 = _Float("float32", _FLOAT32_MAX)
ANY = _Any("interface {}")
RAW = _Raw("json.RawMessage")
