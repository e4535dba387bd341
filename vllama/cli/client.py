"""The commands' way to a server: Ollama's API over HTTP, errors as one line."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any, Self, cast

# httpx imports its own command line with rich and click if it can, which takes longer than the rest of a short
# command. It takes None, as for every module that cannot be imported, for an answer.
sys.modules.setdefault("httpx._main", cast(Any, None))

import httpx  # noqa: E402

from vllama.config import Host  # noqa: E402
from vllama.errors import ServerError, VllamaError  # noqa: E402

CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 1.5
VERSION_HEADER = "X-vLLama-Version"


class Client:
    """One server. Calls raise VllamaError with the server's own text, or with what to do if none answers."""

    def __init__(self, host: Host) -> None:
        target = host.connectable
        self.host = target
        # A reply may take as long as loading a large model and thinking about a long prompt; only connecting is timed.
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        try:
            # A proxy from the environment is for other machines, never for this one.
            self._http = httpx.Client(
                base_url=target.url, timeout=timeout, trust_env=not target.is_loopback, verify=_tls(target)
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ServerError(f"{target.url!r} is no address of a server: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path."""
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call with one JSON object as its answer; an empty answer is {}."""
        return self._call("POST", path, body)

    def header(self, name: str, path: str, body: dict[str, Any]) -> str:
        """A header of the answer to one call, "" if there is none."""
        try:
            response = self._http.post(path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.status_code >= 400:
            raise _error(response)
        return str(response.headers.get(name, ""))

    def delete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Like `post`."""
        return self._call("DELETE", path, body)

    def text(self, path: str) -> str:
        """The text at a path."""
        return self._answer("GET", path).text

    def head(self, path: str) -> None:
        """Raises VllamaError with the status if there is nothing."""
        self._answer("HEAD", path)

    def send(self, path: str, body: Iterator[bytes]) -> None:
        """POSTs bytes as they come."""
        self._answer("POST", path, body)

    def _answer(self, method: str, path: str, body: Iterator[bytes] | None = None) -> httpx.Response:
        try:
            response = self._http.request(method, path, content=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.status_code >= 400:
            raise _error(response)
        return response

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The JSON objects of a streamed answer, as they come. Closing the iterator ends the request."""
        try:
            with self._http.stream("POST", path, json=body) as response:
                if response.status_code >= 400:
                    response.read()
                    raise _error(response)
                for line in _lines(response):
                    item = _object(line, self.host.url + path)
                    if "error" in item:
                        raise ServerError(str(item["error"]))
                    yield item
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.status_code >= 400:
            raise _error(response)
        return _object(response.content, self.host.url + path) if response.content else {}

    def _unreachable(self, error: httpx.HTTPError) -> ServerError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServerError(f"could not connect to a server at {self.host.url}: start one with `vllama serve`")
        return ServerError(f"the server at {self.host.url} broke off: {str(error) or type(error).__name__}")


def serves_vllama(host: Host) -> str:
    """The version of the vLLama that answers there; "" if nothing does, or another program."""
    target = host.connectable
    try:
        # Only the head: another program's body may be of any length.
        with httpx.stream(
            "GET",
            f"{target.url}/api/version",
            timeout=PROBE_TIMEOUT_S,
            trust_env=not target.is_loopback,
            verify=_tls(target),
        ) as response:
            return str(response.headers.get(VERSION_HEADER, ""))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return ""


def _tls(host: Host) -> ssl.SSLContext | bool:
    """httpx reads all certificate authorities for every client, also where no TLS is spoken: not for those."""
    return True if host.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _object(text: bytes, url: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise ServerError(f"{url} did not answer with a JSON object: is that a server of Ollama's API?")
    return read


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """The lines of a body. httpx's own reader also cuts at U+0085 and the like, which JSON strings may hold."""
    rest = b""
    for chunk in response.iter_bytes():
        *whole, rest = (rest + chunk).split(b"\n")
        yield from filter(None, whole)
    if rest.strip():
        yield rest


def _error(response: httpx.Response) -> VllamaError:
    """The error that a response carries, in either of the two shapes."""
    try:
        text = response.json()["error"]
        if isinstance(text, dict):
            text = text["message"]
    except (ValueError, KeyError, TypeError):
        text = response.text.strip()[:500] or f"the server answered {response.status_code}"
    return VllamaError(str(text), status=response.status_code)
