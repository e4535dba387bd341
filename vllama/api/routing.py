"""The route table: which path and method is which endpoint, and what everything else is answered.

A known path costs two dictionary lookups. Unknown ones go through Ollama's rules in its order: a path that is not clean
is redirected, then one slash too many, then 405 with `Allow`, then 404. Paths are compared decoded and with their case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from posixpath import normpath
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from vllama.api.http import Endpoint, Header, Scope

Api = Literal["ollama", "openai", "anthropic", "ops"]
"""Whose error shape a route answers with."""

_METHOD_ORDER = ("HEAD", "GET", "POST", "DELETE")


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table. A path may end in one `{parameter}`, which is one non-empty segment."""

    methods: tuple[str, ...]
    path: str
    endpoint: Endpoint
    api: Api
    summary: str


@dataclass(frozen=True, slots=True)
class Path:
    """All routes of one path. `allow` is the header of a 405, ready to send."""

    methods: dict[str, Endpoint] = field(default_factory=dict)
    api: Api = "ollama"
    allow: list[Header] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where a path that is not clean, or has a slash too many, is sent. `location` is percent-encoded."""

    status: Literal[301, 307]
    location: str


NOWHERE = Path()
"""What an unknown path resolves to: no methods, no Allow."""


class RouteTable:
    """All routes. `static` may be read directly by the caller that counts microseconds."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = routes
        self.static: dict[str, Path] = {}
        self._prefixes: list[tuple[str, str, Path]] = []
        prefixes: dict[str, Path] = {}
        for route in routes:
            if route.path.endswith("}"):
                prefix, _, name = route.path[:-1].rpartition("{")
                if prefix not in prefixes:
                    prefixes[prefix] = Path(api=route.api)
                    self._prefixes.append((prefix, name, prefixes[prefix]))
                path = prefixes[prefix]
            else:
                path = self.static.setdefault(route.path, Path(api=route.api))
            for method in route.methods:
                if method in path.methods:
                    raise ValueError(f"two routes for {method} {route.path}")
                path.methods[method] = route.endpoint
        for path in self._all_paths():
            allowed = ", ".join(sorted(path.methods, key=_METHOD_ORDER.index))
            path.allow.append((b"allow", allowed.encode()))

    def _all_paths(self) -> Iterator[Path]:
        yield from self.static.values()
        for _, _, path in self._prefixes:
            yield path

    def resolve(self, scope: Scope) -> Path | Redirect:
        """The path of a request that is not in `static`; puts the parameter into `scope["path_params"]`."""
        raw = _raw_path(scope)
        clean = _clean(raw)
        if clean != raw:
            location = quote(unquote_to_bytes(clean), safe="/:@&=+$,;") + _query(scope)
            return Redirect(307, location)
        path: str = scope["path"]
        found = self._find(path, scope)
        if found is not None:
            return found
        if len(path) > 1 and path.endswith("/"):
            shorter = self._find(path[:-1], scope)
            method = scope["method"]
            if shorter is not None and method in shorter.methods:
                location = quote(path[:-1], safe="/:@&=+$,;") + _query(scope)
                return Redirect(301 if method == "GET" else 307, location)
        return NOWHERE

    def _find(self, path: str, scope: Scope) -> Path | None:
        found = self.static.get(path)
        if found is not None:
            return found
        for prefix, name, routes in self._prefixes:
            if path.startswith(prefix):
                value = path[len(prefix) :]
                if value and "/" not in value:
                    scope["path_params"] = {name: value}
                    return routes
        return None


def _raw_path(scope: Scope) -> str:
    """The path as it was sent, without the query. Servers may leave `raw_path` out."""
    raw = scope.get("raw_path")
    if raw is None:
        return quote(str(scope["path"]), safe="/:@&=+$,;%")
    return bytes(raw).partition(b"?")[0].decode("latin-1")


def _clean(path: str) -> str:
    """No empty, `.` or `..` segments; a slash at the end stays. Encoded dots and slashes count as text."""
    if not path.startswith("/"):
        path = "/" + path
    clean = normpath(path)
    if clean.startswith("//"):  # POSIX gives exactly two leading slashes a meaning; URLs do not
        clean = clean[1:]
    if path.endswith("/") and clean != "/":
        clean += "/"
    return clean


def _query(scope: Scope) -> str:
    query = scope.get("query_string") or b""
    return "?" + bytes(query).decode("latin-1") if query else ""
