"""Requests to one registry: token, redirects, refusals. Nothing is read without a bound, nothing followed blindly."""

from __future__ import annotations

import asyncio
import functools
import json
import platform
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote as percent_encode
from urllib.request import getproxies

import httpx

from vllama import __version__
from vllama.models.names import Name
from vllama.models.registry import addresses
from vllama.models.registry.body import send
from vllama.models.registry.challenge import Challenge, same_registry, signature
from vllama.models.registry.failures import (
    FileMissingError,
    RegistryError,
    StatusError,
    UnauthorizedError,
    unreachable,
)
from vllama.models.registry.keys import default_path, load_or_create
from vllama.models.registry.limits import Limits

Content = Callable[[], AsyncIterator[bytes]]
"""Makes the body anew for each try."""
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_API = "0.33.0"
"""Registries decide by the version of Ollama's client which models it can read."""


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _agent() -> str:
    return f"vllama/{__version__} ({platform.machine()} {platform.system().lower()}) ollama/{_API}"


class Access:
    """How one works with one registry: who asks, and what is allowed. Shared by a pull and the downloads it starts."""

    def __init__(
        self,
        name: Name,
        *,
        insecure: bool = False,
        limits: Limits | None = None,
        key_path: Path | None = None,
        resolve: addresses.Resolve = addresses.resolve,
    ) -> None:
        """`insecure` means http, and only then; without it a name's own scheme does not matter, as with Ollama."""
        self.name = name
        self.insecure = insecure
        self.limits = limits or Limits()
        self.base = httpx.URL(f"{'http' if insecure else 'https'}://{name.host}")
        self.token = ""
        self.resolve = resolve
        self.key_path = key_path
        self.proxied = bool(getproxies().keys() & {"http", "https", "all"})
        self._lock = asyncio.Lock()
        self._public: bool | None = None

    def url(self, *parts: str) -> httpx.URL:
        """An address of the model's repository: `/v2/namespace/model/` and the parts."""
        path = "/".join(("v2", self.name.namespace, self.name.model, *parts))
        return self.base.copy_with(path="/" + percent_encode(path, safe="/:"))

    async def public(self) -> bool:
        """Whether the registry is one of the open internet. One that cannot be looked up counts as that."""
        if self._public is None:
            port = self.base.port or (443 if self.base.scheme == "https" else 80)
            try:
                found = await self.resolve(self.base.host, port)
            except OSError:
                return True
            self._public = all(map(addresses.is_public, found))
        return self._public

    async def authorize(self, client: httpx.AsyncClient, header: str, used: str) -> None:
        """Gets a token for a challenge, unless another request has got one since `used` was. Raises `RegistryError`."""
        async with self._lock:
            if self.token != used:
                return
            url = Challenge.parse(header).url(self.base)
            key = await asyncio.to_thread(load_or_create, self.key_path or default_path())
            headers = {"Authorization": signature(key, url)} if key else {}
            try:
                async with asyncio.timeout(self.limits.small_s), client.stream("GET", url, headers=headers) as response:
                    body = await read_small(response, self.limits.token_body)
            except (httpx.HTTPError, TimeoutError) as error:
                raise unreachable(error, "GET", url.copy_with(query=None)) from error
            if response.status_code >= 300:
                if response.status_code in (401, 403):
                    raise UnauthorizedError()
                raise StatusError(response.status_code, _text(body))
            self.token = _token(body)


class Session:
    """Connections to a registry and to where it redirects. Use `async with`; from one event loop only."""

    def __init__(self, access: Access) -> None:
        self.access = access
        limits = access.limits
        local = access.base.host in ("localhost", "127.0.0.1", "::1")

        common: dict[str, Any] = {
            "timeout": httpx.Timeout(limits.stall_s, connect=limits.connect_s, pool=None),
            "verify": _tls(),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=limits.streams),
            # Nothing is unpacked: what is hashed is what was sent, and a small answer stays small.
            "headers": {"User-Agent": _agent(), "Accept-Encoding": "identity"},
            "trust_env": not local,
        }
        self._client = httpx.AsyncClient(http2=True, **common)
        # Bytes of blobs go over connections of their own: in one HTTP/2 connection all parts share one window of
        # TCP and get 64 KiB at a time each, whatever the distance, and every frame passes through Python.
        self._bulk = httpx.AsyncClient(**common)
        # And what comes down is read by threads of its own, past the event loop.
        self._blobs = httpx.Client(**common)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()
        await self._bulk.aclose()
        self._blobs.close()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        *,
        follow: bool = True,
        bulk: bool = False,
        blob: bool = False,
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a request, its body unread. Redirects are followed, but for `follow=False`; a 401 is
        answered with a token, once. HTTP/2 is spoken where it is offered, but not for what moves the bytes of a
        blob: to the registry (`bulk`), or from it (`blob`), where the answer's stream is a `Body`.

        Raises `FileMissingError` for 404, `UnauthorizedError`, `StatusError`, or `RegistryError` when no answer comes.
        """
        authorized = False
        hops = 0
        while True:
            token = self.access.token
            client = self._blobs if blob else self._bulk if bulk else self._client
            response = await self._send(client, method, url, headers, content)
            try:
                status = response.status_code
                home = same_registry(url, self.access.base)
                if status in _REDIRECTS and follow and (location := response.headers.get("location")):
                    hops += 1
                    if hops > self.access.limits.redirects:
                        raise RegistryError("the registry redirects in circles")
                    url = self.joined(url, location)
                elif status == 401 and home:
                    if authorized:
                        raise UnauthorizedError()
                    authorized = True
                    await self.access.authorize(self._client, response.headers.get("www-authenticate", ""), token)
                elif status == 404:
                    raise FileMissingError()
                elif status >= 400:
                    refused = StatusError(status, await self._said(response))
                    refused.again |= not home and status in (401, 403)  # a link that is good for some minutes
                    raise refused
                else:
                    yield response
                    return
            except httpx.HTTPError as error:
                raise unreachable(error, method, url) from error
            finally:
                await response.aclose()

    def joined(self, url: httpx.URL, location: str) -> httpx.URL:
        """An address that the registry names. Raises `RegistryError` if it is none of the web, or not encrypted."""
        try:
            target = url.join(location)
        except httpx.InvalidURL:
            raise RegistryError("the registry redirects to what is no address") from None
        if target.scheme not in ("http", "https") or not target.host or target.userinfo:
            raise RegistryError("the registry redirects to what is no address of the web")
        if target.scheme == "http" and not self.access.insecure:
            raise RegistryError(f"the registry redirects to {target.host} without encryption")
        return target

    async def _send(
        self,
        client: httpx.AsyncClient | httpx.Client,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str] | None,
        content: Content | None,
    ) -> httpx.Response:
        given = dict(headers or {})
        if same_registry(url, self.access.base):
            if self.access.token:
                given["Authorization"] = f"Bearer {self.access.token}"
            targets: list[tuple[httpx.URL, dict[str, Any]]] = [(url, {})]
        else:
            targets = await self._elsewhere(url)
        failure: RegistryError | None = None
        for target, extensions in targets:
            if target is not url:
                given["Host"] = url.netloc.decode()
            body = content() if content else None
            request = client.build_request(method, target, headers=given, content=body, extensions=extensions)
            try:
                if isinstance(client, httpx.AsyncClient):
                    return await client.send(request, stream=True)  # noqa: ASYNC212 (it is the other one here)
                return await send(client, request)
            except httpx.HTTPError as error:
                failure = unreachable(error, method, url)
                failure.__cause__ = error
                if not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    break
        raise failure or RegistryError(f"{url.host} has no address")

    async def _elsewhere(self, url: httpx.URL) -> list[tuple[httpx.URL, dict[str, Any]]]:
        """Where to send a request to another host than the registry's.

        A public registry may not send us into a private network. The addresses that were looked at are the
        ones that are connected to: a name may mean another one a moment later.
        """
        if not await self.access.public():
            return [(url, {})]
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = await self.access.resolve(url.host, port)
        except OSError as error:
            if self.access.proxied and url.host != "localhost":
                return [(url, {})]
            raise unreachable(error, "GET", url) from error
        if not all(map(addresses.is_public, found)):
            raise RegistryError(f"the registry redirects to {url.host}, which is an address of a private network")
        if self.access.proxied:
            return [(url, {})]
        names = {"sni_hostname": url.host} if url.scheme == "https" else {}
        return [(url.copy_with(host=address), dict(names)) for address in found]

    async def _said(self, response: httpx.Response) -> str:
        try:
            async with asyncio.timeout(self.access.limits.stall_s):
                return _text(await read_small(response, self.access.limits.error_body, cut=True))
        except (httpx.HTTPError, TimeoutError):
            return ""


async def read_small(response: httpx.Response, limit: int, *, cut: bool = False) -> bytes:
    """A body of at most so many bytes. One that is longer is cut, or raises `RegistryError`."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            if cut:
                break
            raise RegistryError(f"the registry's answer is longer than {limit} bytes")
    return bytes(body[:limit])


def _text(body: bytes) -> str:
    """A registry's words, without what would play with a terminal."""
    text = body.decode("utf-8", "replace").strip()
    return "".join(char for char in text if char.isprintable() or char == "\n")


def _token(body: bytes) -> str:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    found = data.get("token") or data.get("access_token") if isinstance(data, dict) else None
    if not isinstance(found, str) or not found.isascii() or not found.isprintable():
        raise UnauthorizedError("unauthorized: the registry gave no token")
    return found
