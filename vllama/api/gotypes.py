"""The Go types that request bodies are made of: how each takes a JSON value, and what it says to a wrong one.

Every type reads in two ways. `fast` takes what orjson made of a value and raises `Odd` at anything that is not
plainly right. `decode` takes a node of the exact scanner and follows encoding/json: the first type error is kept
while decoding goes on, an error of a type with its own decoder ends it and wins, a value goes on top of
the one that an earlier, equal key left (`old`), and null changes nothing or unsets.

A field that was not set is absent from the dict of its struct.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

from vllama.goduration import FOREVER_NS, NS_PER_SECOND, parse_duration
from vllama.goquote import quote


class Number(str):
    """A number as it stands in the body."""

    __slots__ = ()


class Array(list["Node"]):
    """A JSON array of the exact scanner."""

    __slots__ = ()


class Object(list[tuple[str, "Node"]]):
    """A JSON object of the exact scanner: all members in order, equal keys included."""

    __slots__ = ()


Node = Object | Array | Number | str | bool | None


class Odd(Exception):
    """The fast way does not decide this body."""


class DecodeError(Exception):
    """An error of Go's decoder. With `go_type` set it is a type error, whose text names the place."""

    def __init__(self, text: str, go_type: str = "") -> None:
        super().__init__(text)
        self.value = text
        self.go_type = go_type
        self.struct = ""
        self.field = ""

    @property
    def text(self) -> str:
        """The text as Go prints it."""
        if not self.go_type:
            return self.value
        place = f"struct field {self.struct}.{self.field}" if self.struct or self.field else "value"
        return f"json: cannot unmarshal {self.value} into Go {place} of type {self.go_type}"


class Decoder:
    """One call of json.Unmarshal: where it is, and the first type error it met."""

    __slots__ = ("saved", "stack", "struct")

    def __init__(self) -> None:
        self.struct: str | None = None
        self.stack: list[str] = []
        self.saved: DecodeError | None = None

    def run(self, go_type: GoType, node: Node, old: Any = None) -> Any:
        """The decoded value. Raises DecodeError."""
        try:
            value = go_type.decode(self, node, old)
        except DecodeError as error:
            self._locate(error)
            raise
        if self.saved is not None:
            raise self.saved
        return value

    def save(self, error: DecodeError) -> None:
        """Keep the first error and go on."""
        if self.saved is None:
            self._locate(error)
            self.saved = error

    def mismatch(self, node: Node, go_type: str) -> None:
        """Keep the error that a value of this kind cannot become `go_type`."""
        self.save(DecodeError(_kind(node), go_type))

    def _locate(self, error: DecodeError) -> None:
        if error.go_type and self.struct is not None:
            error.struct = self.struct
            error.field = ".".join([*self.stack, error.field] if error.field else self.stack)


def _kind(node: Node) -> str:
    if isinstance(node, Object):
        return "object"
    if isinstance(node, Array):
        return "array"
    if isinstance(node, Number):
        return "number"
    return "bool" if isinstance(node, bool) else "string"


class GoType:
    """Base of the types. `name` is what errors call it; `zero` is its zero value."""

    nullable = False
    """null sets it to nil (pointers, slices, maps, interfaces) instead of changing nothing."""
    takes_null = False
    """Its own decoder sees null as well."""
    zero: Any = None

    def __init__(self, name: str) -> None:
        self.name = name

    def fast(self, value: Any) -> Any:
        """`value`, which is not None, as this type. Raises Odd."""
        raise NotImplementedError

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        """`node` as this type, on top of `old`; errors as in encoding/json."""
        raise NotImplementedError


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
        try:
            return binascii.a2b_base64(_FAST_STRING(value), strict_mode=True)
        except ValueError:
            raise Odd from None

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


def decode_base64(text: str) -> bytes:
    """Standard base64 as Go reads it: line breaks are skipped, padding is a must. Raises DecodeError."""
    data = text.encode("utf-8")
    letters = data.translate(None, b"\r\n")
    try:
        return binascii.a2b_base64(letters, strict_mode=True)
    except binascii.Error:
        offset = _illegal_offset(data)
        if offset is not None:
            raise DecodeError(f"illegal base64 data at input byte {offset}") from None
        return binascii.a2b_base64(letters)


_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def _illegal_offset(data: bytes) -> int | None:
    """Where Go sees the fault, in bytes; it counts line breaks, and names a cut end by the start of its group."""
    letters = 0
    for pos, byte in enumerate(data):
        if byte in _BASE64:
            letters += 1
        elif byte not in b"\r\n":
            return _illegal_padding(data, pos, letters % 4)
    return len(data) - letters % 4 if letters % 4 else None


def _illegal_padding(data: bytes, pos: int, letters: int) -> int | None:
    if data[pos] != 0x3D or letters < 2:
        return pos
    pos = _skip_breaks(data, pos + 1)
    if letters == 2:
        if pos == len(data):
            return pos
        if data[pos] != 0x3D:
            return pos - 1
        pos = _skip_breaks(data, pos + 1)
    return pos if pos < len(data) else None


def _skip_breaks(data: bytes, pos: int) -> int:
    while data[pos : pos + 1] in (b"\r", b"\n"):
        pos += 1
    return pos


class Pointer(GoType):
    """*T: null unsets, everything else is T's."""

    nullable = True

    def __init__(self, element: GoType) -> None:
        super().__init__(element.name)
        self.element = element
        self.fast = element.fast  # type: ignore[method-assign]

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        return None if node is None else self.element.decode(decoder, node, old)


class Slice(GoType):
    """[]T. A later array goes over the elements of an earlier one."""

    nullable = True

    def __init__(self, element: GoType, name: str = "") -> None:
        super().__init__(name or f"[]{element.name}")
        self.element = element

    def fast(self, value: Any) -> Any:
        if type(value) is not list or None in value:
            raise Odd
        element = self.element.fast
        return [element(item) for item in value]

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if isinstance(node, Array):
            before = old or []
            return [
                decode_element(decoder, self.element, item, before[i] if i < len(before) else None)
                for i, item in enumerate(node)
            ]
        if node is not None:
            decoder.mismatch(node, self.name)
            return old
        return None


class Map(GoType):
    """map[string]T. A later object adds to an earlier one."""

    nullable = True

    def __init__(self, element: GoType) -> None:
        super().__init__(f"map[string]{element.name}")
        self.element = element

    def fast(self, value: Any) -> Any:
        if type(value) is not dict:
            raise Odd
        if self.element is ANY:
            return value
        if None in value.values():
            raise Odd
        element = self.element.fast
        return {key: element(item) for key, item in value.items()}

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if isinstance(node, Object):
            result = dict(old or {})
            for key, item in node:
                result[key] = decode_element(decoder, self.element, item, None)
            return result
        if node is not None:
            decoder.mismatch(node, self.name)
            return old
        return None


def decode_element(decoder: Decoder, element: GoType, node: Node, old: Any) -> Any:
    """An element of a container, whose zero value stands where null does."""
    value = element.decode(decoder, node, old)
    return element.zero if value is None else value


def fold(key: str) -> str:
    """`key` as Go compares it with field names, which are ASCII: the long s and the Kelvin sign count as s and k."""
    return key.lower().replace("ſ", "s")


class Struct(GoType):
    """A struct: the table of its fields by JSON name."""

    def __init__(self, name: str, fields: Mapping[str, GoType]) -> None:
        super().__init__(name)
        self.short = name.rpartition(".")[2]
        self.fields = dict(fields)
        self._fast: dict[str, Callable[[Any], Any]] = {}
        self._folded: dict[str, str] = {}
        self._takes_null: frozenset[str] = frozenset()
        for key, kind in fields.items():
            self.add(key, kind)

    @property
    def zero(self) -> dict[str, Any]:  # type: ignore[override]
        """A struct with nothing set."""
        return {}

    def add(self, name: str, kind: GoType) -> None:
        """One more field; for types that contain themselves."""
        self.fields[name] = kind
        self._fast[name] = kind.fast
        self._folded[name.lower()] = name
        if kind.takes_null:
            self._takes_null |= {name}

    def fast(self, value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Odd
        result: dict[str, Any] = {}
        fast = self._fast
        for key, item in value.items():
            take = fast.get(key)
            if take is None:
                if fold(key) in self._folded:
                    raise Odd
            elif item is not None:
                result[key] = take(item)
            elif key in self._takes_null:
                raise Odd
        return result

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        result: dict[str, Any] = dict(old or {})
        if not isinstance(node, Object):
            if node is not None:
                decoder.mismatch(node, self.name)
            return result
        outer, depth = decoder.struct, len(decoder.stack)
        for key, item in node:
            name = key if key in self.fields else self._folded.get(fold(key))
            if name is None:
                continue
            kind = self.fields[name]
            if item is None and not kind.takes_null:
                if kind.nullable:
                    result.pop(name, None)
                continue
            decoder.stack.append(name)
            decoder.struct = self.short
            # No finally: an error that ends the decoding is named by where it happened.
            result[name] = kind.decode(decoder, item, result.get(name))
            decoder.struct = outer
            del decoder.stack[depth:]
        return result


class SelfDecoded(GoType):
    """A struct that decodes itself into a copy of its type, so that errors name it by the place outside."""

    takes_null = True

    def __init__(self, name: str, alias: Struct) -> None:
        super().__init__(name)
        self.alias = alias
        self.fast = alias.fast  # type: ignore[method-assign]

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        return Decoder().run(self.alias, node)


class OrderedMap(GoType):
    """An object whose keys keep their order; only objects will do, null does not."""

    takes_null = True

    def __init__(self, element: GoType) -> None:
        super().__init__("")
        self.element = element

    def fast(self, value: Any) -> Any:
        if type(value) is not dict:
            raise Odd
        if self.element is ANY:
            return value
        if None in value.values():
            raise Odd
        element = self.element.fast
        return {key: element(item) for key, item in value.items()}

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if not isinstance(node, Object):
            raise DecodeError("Value looks like object, but can't find closing '}' symbol")
        result: dict[str, Any] = {}
        for key, item in node:
            value = Decoder().run(self.element, item)
            result[key] = self.element.zero if value is None else value
        return result


class PropertyType(GoType):
    """The type of a tool's parameter: one name or a list of names. Decoded: a list."""

    takes_null = True

    def fast(self, value: Any) -> Any:
        if type(value) is str:
            return [value]
        return _STRINGS.fast(value)

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if node is None:
            return [""]
        if isinstance(node, str) and not isinstance(node, Number):
            return [node]
        return Decoder().run(_STRINGS, node)


class ThinkValue(GoType):
    """`think`: a bool or one of four levels. Decoded: bool or str."""

    def fast(self, value: Any) -> Any:
        if value is True or value is False or (type(value) is str and value in THINK_LEVELS):
            return value
        raise Odd

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if isinstance(node, bool):
            return node
        if isinstance(node, str) and not isinstance(node, Number):
            if node not in THINK_LEVELS:
                raise DecodeError(
                    f'invalid think value: {quote(node)} (must be "high", "medium", "low", "max", true, or false)'
                )
            return node
        raise DecodeError('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


THINK_LEVELS = frozenset({"high", "medium", "low", "max"})


class Duration(GoType):
    """`keep_alive`: seconds, or a text with units. Decoded: nanoseconds; any negative time is FOREVER_NS."""

    def fast(self, value: Any) -> Any:
        kind = type(value)
        try:
            if kind is int or kind is float:
                return _seconds(float(value))
            if kind is str:
                return _unending(parse_duration(value))
        except ValueError:
            pass
        raise Odd

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if isinstance(node, Number):
            return _seconds(Decoder().run(_FLOAT64, node))
        if isinstance(node, str):
            try:
                return _unending(parse_duration(node))
            except ValueError as error:
                raise DecodeError(str(error)) from None
        go_name = {Object: "map[string]interface {}", Array: "[]interface {}"}.get(type(node), "bool")
        raise DecodeError(f"Unsupported type: '{go_name}'")


def _seconds(number: float) -> int:
    if number < 0:
        return FOREVER_NS
    ns = number * NS_PER_SECOND
    # What amd64 makes of a float that does not fit.
    return int(ns) if ns < 2**63 else -(2**63)


def _unending(ns: int) -> int:
    return FOREVER_NS if ns < 0 else ns


_FLOAT32_MAX: float = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]

STRING = _String("string")
BOOL = _Bool("bool")
INT = _Int("int", -(2**63), 2**63 - 1)
UINT8 = _Int("uint8", 0, 255)
FLOAT64 = _Float("float64", 1.7976931348623157e308)
FLOAT32 = _Float("float32", _FLOAT32_MAX)
ANY = _Any("interface {}")
RAW = _Raw("json.RawMessage")
STRINGS = Slice(STRING)
ANYS = Slice(ANY)
ANY_MAP = Map(ANY)
STRING_MAP = Map(STRING)
BOOL_POINTER = Pointer(BOOL)
_STRINGS = STRINGS
_FLOAT64 = FLOAT64
_FAST_STRING = STRING.fast
