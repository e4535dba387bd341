"""The HTTP client of an OpenAI-compatible server: keys stay secret, retries end with the first byte.

A request that the server has begun to answer is never sent again: the client has seen part of it. Before that, a
connection that cannot be made or ends without a word, and the statuses of an overloaded proxy, are tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from vllama.engines.completions.events import EventSplitter
from vllama.errors import BusyError, EngineCrashed, ModelNotFound, RequestError, ServerError, VllamaError

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("vllama.engines.completions")

RETRY_STATUSES = frozenset({502, 503, 504})
ERROR_BYTES = 64 << 10
"""So much of an error's body is read."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. `url` has no credentials and ends without slash and /v1; `key` is the bearer token.

    `uds` is the path of a Unix socket, then the host of `url` means nothing. Times in seconds: `connect_s` to be
    let in, `read_s` between two bytes of an answer.
    """

    url: str
    key: str = ""
    uds: str = ""
    connect_s: float = 10.0
    read_s: float = 600.0
    retries: int = 2
    title: str = "the model server"

    def __repr__(self) -> str:
        return f"Address({self.url!r}, uds={self.uds!r}, key={'set' if self.key else 'none'})"


class Client:
    """One server. All methods belong to one event loop; each raises `VllamaError` only."""

    def __init__(self, address: Address) -> None:
        import httpx

        # httpx writes every request's line at INFO, and ours are in our own log.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._address = address
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        transport = httpx.AsyncHTTPTransport(uds=address.uds, limits=limits) if address.uds else None
        self._http = httpx.AsyncClient(
            base_url=address.url,
            headers=headers,
            transport=transport,
            limits=limits,
            timeout=httpx.Timeout(address.read_s, connect=address.connect_s),
            # A key must not follow a redirect to another host.
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Drop all connections; answers under way fail."""
        with contextlib.suppress(Exception):
            await self._http.aclose()

    async def healthy(self, path: str, timeout: float) -> bool:
        """Whether a GET is answered with 2xx within `timeout` seconds."""
        import httpx

        try:
            return (await self._http.get(path, timeout=timeout)).is_success
        except (httpx.HTTPError, OSError):
            return False

    async def fetch(self, path: str, body: dict[str, Any] | None = None, *, timeout: float | None = None) -> Any:
        """The JSON of a GET, or of a POST where there is a body."""
        response = await self._open(path, body, timeout=timeout)
        try:
            content = await self._rest(response)
        finally:
            await response.aclose()
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            raise ServerError(f"{self._address.title} answered {path} with something that is no JSON") from None

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[list[dict[str, Any]], None]:
        """The events of a POST, as many at once as came at once. Closing the iterator ends the request."""
        import httpx

        response = await self._open(path, body)
        splitter = EventSplitter()
        try:
            async for data in response.aiter_bytes():
                events = splitter.feed(data)
                if events:
                    yield events
            if not splitter.done:
                raise EngineCrashed(f"{self._address.title} ended its answer in the middle")
        except httpx.TimeoutException:
            raise ServerError(f"{self._address.title} sent nothing for {self._address.read_s:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            raise EngineCrashed(f"the connection to {self._address.title} broke: {self._said(error)}") from None
        finally:
            await response.aclose()

    async def _open(self, path: str, body: dict[str, Any] | None, timeout: float | None = None) -> httpx.Response:
        """A response whose status is 2xx and whose body has not been read."""
        import httpx

        content = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"} if content is not None else {}
        extra: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        for attempt in range(self._address.retries + 1):
            last = attempt == self._address.retries
            request = self._http.build_request(
                "GET" if content is None else "POST", path, content=content, headers=headers, **extra
            )
            try:
                response = await self._http.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError) as error:
                if last:
                    raise EngineCrashed(f"{self._address.title} cannot be reached: {self._said(error)}") from None
            except httpx.TimeoutException:
                raise ServerError(f"{self._address.title} did not answer in time") from None
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                raise ServerError(f"{self._address.title}: {self._said(error)}") from None
            else:
                if response.is_success:
                    return response
                try:
                    if last or response.status_code not in RETRY_STATUSES:
                        raise await self._failure(response, path)
                finally:
                    await response.aclose()
            await asyncio.sleep(0.2 * 4**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _rest(self, response: httpx.Response) -> bytes:
        import httpx

        try:
            return await response.aread()
        except httpx.TimeoutException:
            raise ServerError(f"{self._address.title} sent nothing for {self._address.read_s:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            raise EngineCrashed(f"the connection to {self._address.title} broke: {self._said(error)}") from None

    async def _failure(self, response: httpx.Response, path: str) -> VllamaError:
        body = b""
        with contextlib.suppress(Exception):
            async for data in response.aiter_bytes():
                body += data
                if len(body) > ERROR_BYTES:
                    break
        return self.failure(response.status_code, error_text(body), path)

    def failure(self, status: int, said: str, path: str = "") -> VllamaError:
        """The error that a status and the server's words become."""
        title = self._address.title
        said = self._hide(said)
        if status in (401, 403):
            return ServerError(
                f"{title} refused the key" + (" that it was given" if self._address.key else ": none was given")
            )
        if status == 404:
            return ModelNotFound(said or f"{title} knows no {path}")
        if status == 429:
            return BusyError(f"{title} is busy" + (f": {said}" if said else ""))
        if 400 <= status < 500:
            return RequestError(said or f"{title} refused the request with status {status}")
        if status == 503:
            return BusyError(f"{title} is not available" + (f": {said}" if said else ""))
        return ServerError(f"{title} failed with status {status}" + (f": {said}" if said else ""))

    def _said(self, error: Exception) -> str:
        return self._hide(str(error)) or type(error).__name__

    def _hide(self, text: str) -> str:
        key = self._address.key
        return text.replace(key, "***") if key else text


def error_text(body: bytes) -> str:
    """What the server says is wrong, in the shapes that OpenAI, vLLM and FastAPI use; else the first line of it."""
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        lines = body.decode("utf-8", "replace").strip().splitlines()
        return lines[0][:300] if lines and not lines[0].startswith("<") else ""
    return error_of(decoded)


def error_of(decoded: Any) -> str:
    """The text of a decoded error object, "" when there is none."""
    if not isinstance(decoded, dict):
        return ""
    found = decoded.get("error", decoded)
    if isinstance(found, dict):
        found = found.get("message") or found.get("detail") or ""
    return found if isinstance(found, str) else ""
