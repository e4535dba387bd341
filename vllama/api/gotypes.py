"""Go's compound types: pointers, slices, maps and structs; see `godecoder` for how types read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vllama.api.godecoder import Array, Decoder, GoType, Node, Object, Odd, fold
from vllama.api.goscalars import ANY, BOOL, STRING


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
    def zero(self) -> dict[str, Any]:
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


def nameless(name: str, fields: Mapping[str, GoType]) -> Struct:
    """A struct without a name in Go: errors about it print all of it, those about its fields nothing."""
    struct = Struct(name, fields)
    struct.short = ""
    return struct


STRINGS = Slice(STRING)
ANYS = Slice(ANY)
ANY_MAP = Map(ANY)
STRING_MAP = Map(STRING)
BOOL_POINTER = Pointer(BOOL)
