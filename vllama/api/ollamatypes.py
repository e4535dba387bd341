"""Types of Ollama's that decode themselves: messages, tool schemas, think and keep_alive."""

from __future__ import annotations

from typing import Any

from vllama.api.godecoder import Array, DecodeError, Decoder, GoType, Node, Number, Object, Odd
from vllama.api.goscalars import ANY, FLOAT64
from vllama.api.gotypes import STRINGS, Struct
from vllama.goduration import FOREVER_NS, NS_PER_SECOND, parse_duration
from vllama.goquote import quote


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
    """An object whose keys keep their order; null is an empty one."""

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
        if node is None:
            return {}
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
        return STRINGS.fast(value)

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if node is None:
            return [""]
        if isinstance(node, str) and not isinstance(node, Number):
            return [node]
        return Decoder().run(STRINGS, node)


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
            return _seconds(Decoder().run(FLOAT64, node))
        if isinstance(node, str):
            try:
                return _unending(parse_duration(node))
            except ValueError as error:
                raise DecodeError(str(error)) from None
        go_name = "bool"
        if isinstance(node, Object):
            go_name = "map[string]interface {}"
        elif isinstance(node, Array):
            go_name = "[]interface {}"
        raise DecodeError(f"Unsupported type: '{go_name}'")


def _seconds(number: float) -> int:
    if number < 0:
        return FOREVER_NS
    ns = number * NS_PER_SECOND
    # What amd64 makes of a float that does not fit.
    return int(ns) if ns < 2**63 else -(2**63)


def _unending(ns: int) -> int:
    return FOREVER_NS if ns < 0 else ns
