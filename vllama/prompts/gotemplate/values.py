"""Go's values, as far as templates see them.

| Go                          | here                                              |
|-----------------------------|---------------------------------------------------|
| no value (invalid), nil     | None                                              |
| bool, int, float64, string  | bool, int, float, str (see `quoting` for bytes)   |
| uint8 (a byte of a string)  | Byte                                              |
| []any, map[string]any       | list, dict                                        |
| []byte of an image          | bytes                                             |
| other slices and maps       | Slice, Map: they know their type, and may be nil  |
| structs, pointers to them   | Struct                                            |
| a nil pointer               | NilPointer                                        |
| a value held in an `any`    | Held, until a pipeline or a function takes it out |

`Held` exists because Go's templates treat `any` apart from the thing in it: in error texts
("in type interface {}") and in `slice`, which takes no number out of an `any`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Value: TypeAlias = Any
"""Anything of the table above."""


class Byte(int):
    """A uint8."""

    __slots__ = ()


class Held:
    """The content of a variable of type `any`; `Held(None)` is a nil one."""

    __slots__ = ("value",)

    def __init__(self, value: Value) -> None:
        self.value = value


HELD_NIL: Final = Held(None)


def unheld(value: Value) -> Value:
    """The value itself, taken out of an `any`."""
    return value.value if type(value) is Held else value


@dataclass(frozen=True, slots=True, eq=False)
class Type:
    """A named or composite Go type.

    `name` is what error texts call it. A pointer has a `target`. `holds_any` says that the elements of a
    slice or map are `any`. `fields` are a struct's, Go name to JSON name; those in `omit_empty` vanish
    from JSON when empty. `string` is the String method; `json` gives what stands for a value in JSON;
    a map with `keeps_order` is written there in its own order, not in that of its keys. `methods` are
    all that a template may call, without arguments. `zero` makes the zero value of a map's elements.
    """

    name: str
    holds_any: bool = False
    target: Type | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    omit_empty: frozenset[str] = frozenset()
    string: Callable[[Any], str] | None = None
    json: Callable[[Any], Value] | None = None
    keeps_order: bool = False
    methods: Mapping[str, Callable[[Any], Value]] = field(default_factory=dict)
    zero: Callable[[], Value] | None = None


class Slice(list[Value]):
    """A slice of another type than []any."""

    __slots__ = ("is_nil", "type")

    def __init__(self, type_: Type, items: list[Value] | None) -> None:
        super().__init__(items or ())
        self.type = type_
        self.is_nil = items is None


class Map(dict[str, Value]):
    """A map of another type than map[string]any."""

    __slots__ = ("is_nil", "type")

    def __init__(self, type_: Type, items: Mapping[str, Value] | None) -> None:
        super().__init__(items or {})
        self.type = type_
        self.is_nil = items is None


class Struct:
    """A struct, or a pointer to one if its type says so. Fields of type `any` are Held."""

    __slots__ = ("fields", "type")

    def __init__(self, type_: Type, fields: dict[str, Value]) -> None:
        self.type = type_
        self.fields = fields


class NilPointer:
    """A pointer that points nowhere."""

    __slots__ = ("type",)

    def __init__(self, type_: Type) -> None:
        self.type = type_


STRINGS: Final = Type("[]string")


def named_type(value: Value) -> Type | None:
    """The type of a value that has one of its own."""
    return value.type if isinstance(value, Slice | Map | Struct | NilPointer) else None


def type_name(value: Value) -> str:
    """Go's name for the type of a value (reflect.Value.Type); not for None."""
    match value:
        case Held():
            return "interface {}"
        case bool():
            return "bool"
        case Byte():
            return "uint8"
        case int():
            return "int"
        case float():
            return "float64"
        case complex():
            return "complex128"
        case str():
            return "string"
        case Struct() | NilPointer() | Slice() | Map():
            return value.type.name
        case list():
            return "[]interface {}"
        case bytes():
            return "api.ImageData"
        case _:
            return "map[string]interface {}"


def is_nil(value: Value) -> bool:
    """True for nil of any type."""
    match value:
        case None | NilPointer():
            return True
        case Held():
            return value.value is None
        case Slice() | Map():
            return value.is_nil
    return False


def pointed(value: Value) -> Value:
    """What a pointer points to; any other value as it is."""
    if isinstance(value, Struct) and value.type.target is not None:
        return Struct(value.type.target, value.fields)
    return value


def truth(value: Value) -> bool:
    """Whether a value counts as true: not the zero of its type; structs always do."""
    if type(value) is Held:
        value = value.value
    kind = type(value)
    return kind is Struct or (kind is not NilPointer and bool(value))


def elements(sequence: list[Value] | bytes) -> list[Value]:
    """The elements of a slice as `range` and `index` hand them out."""
    if isinstance(sequence, bytes):
        return [Byte(byte) for byte in sequence]
    if isinstance(sequence, Slice) and not sequence.type.holds_any:
        return sequence
    return [HELD_NIL if item is None else Held(item) for item in sequence]


def entry(mapping: dict[str, Value], key: str, *, zero: bool) -> Value:
    """The value of a key as a template sees it; for a missing key the zero value if `zero`, else None."""
    if isinstance(mapping, Map) and not mapping.type.holds_any:
        if key in mapping:
            return mapping[key]
        return mapping.type.zero() if zero and mapping.type.zero is not None else None
    if key in mapping:
        return Held(mapping[key])
    return HELD_NIL if zero else None
