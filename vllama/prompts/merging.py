"""Two JSON schemas that must both hold, as one: what allOf, and keywords beside $ref and anyOf, come down to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from vllama.errors import RequestError

_ANNOTATIONS = frozenset(
    """title description default examples example deprecated readOnly writeOnly $comment $schema $id $anchor $defs
    definitions discriminator nullable""".split()
)
_LARGEST = frozenset(["minimum", "exclusiveMinimum", "minLength", "minItems"])
_SMALLEST = frozenset(["maximum", "exclusiveMaximum", "maxLength", "maxItems"])


def constrains(schema: Mapping[str, Any]) -> bool:
    """Whether a schema says anything about documents."""
    return not _ANNOTATIONS.issuperset(schema)


def as_list(value: Any) -> list[Any]:
    """A keyword that may hold one thing or a list of them."""
    return value if isinstance(value, list) else [value]


def merge(left: Mapping[str, Any], right: Mapping[str, Any], at: str) -> dict[str, Any]:
    """A schema for the documents of both. `at` is where `right` stands. Raises `RequestError` where there is none."""
    merged = dict(left)
    if "properties" in left and "properties" in right:
        _close(left, right, merged, at)
    for key, value in right.items():
        if key in _ANNOTATIONS:
            merged.setdefault(key, value)
        elif key not in left:
            merged[key] = value
        elif key in merged and merged[key] != value:
            merged[key] = _both(key, merged[key], value, f"{at}/{key}")
    return merged


def _close(left: Mapping[str, Any], right: Mapping[str, Any], merged: dict[str, Any], at: str) -> None:
    """A part that says additionalProperties: false forbids what only the other part knows."""
    for one, other in ((left, right), (right, left)):
        if one.get("additionalProperties") is False and set(other["properties"]) - set(one["properties"]):
            _refuse("a part with additionalProperties: false forbids another part's properties", at)


def _both(key: str, one: Any, other: Any, at: str) -> Any:
    if key == "properties" and isinstance(one, Mapping) and isinstance(other, Mapping):
        return {
            name: {"allOf": [one[name], other[name]]}
            if name in one and name in other and one[name] != other[name]
            else one.get(name, other.get(name))
            for name in (*one, *(name for name in other if name not in one))
        }
    if key == "required" and isinstance(one, list) and isinstance(other, list):
        return [*one, *(name for name in other if name not in one)]
    if key == "type":
        return _types(as_list(one), as_list(other), at)
    if key == "enum" and isinstance(one, list) and isinstance(other, list):
        return [value for value in one if value in other]
    if key == "additionalProperties":
        if one is False or other is False:
            return False
        if True in (one, other):
            return other if one is True else one
        return {"allOf": [one, other]}
    if key == "items" and not isinstance(one, list) and not isinstance(other, list):
        return {"allOf": [one, other]}
    if key in ("anyOf", "oneOf") and isinstance(one, list) and isinstance(other, list):
        return [{"allOf": [a, b]} for a in one for b in other]
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    if numbers and key in _LARGEST:
        return max(one, other)
    if numbers and key in _SMALLEST:
        return min(one, other)
    return _refuse(f"{key} twice, with different values", at)


def _types(one: list[Any], other: list[Any], at: str) -> Any:
    types = [kind for kind in one if kind in other]
    types += [
        "integer" for a, b in ((one, other), (other, one)) if "integer" in a and "number" in b and "integer" not in b
    ]
    if not types:
        _refuse("no type satisfies all parts", at)
    return types[0] if len(types) == 1 else types


def _refuse(what: str, at: str) -> NoReturn:
    raise RequestError(f"format: {what} (at {at})")
