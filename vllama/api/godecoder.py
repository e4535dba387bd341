"""What every Go type of a request body shares: nodes of the exact scanner, errors, and one run of the decoder.

Every type reads in two ways. `fast` takes what orjson made of a value and raises `Odd` at anything that is not
plainly right. `decode` takes a node of the exact scanner and follows encoding/json: the first type error is kept
while decoding goes on, an error of a type with its own decoder ends it and wins, a value goes on top of
the one that an earlier, equal key left (`old`), and null changes nothing or unsets.

A field that was not set is absent from the dict of its struct.
"""

from __future__ import annotations

from typing import Any


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


def fold(key: str) -> str:
    """`key` as Go compares it with field names, which are ASCII: the long s and the Kelvin sign count as s and k."""
    return key.lower().replace("ſ", "s")
