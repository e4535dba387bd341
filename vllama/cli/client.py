"""The commands' way to a server: Ollama's API over HTTP, errors as one line."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from vllama.cli import local
from vllama.config import Host
from vllama.errors import ServerError, VllamaError

if TYPE_CHECKING:
    import ssl
    from email.message import Message

    import httpx

CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 1.5
VERSION_HEADER = "X-vLLama-Version"


@dataclass(frozen=True, slots=True)
class _Answer:
    """A whole answer, whoever fetched it."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Client:
    """One server. Calls raise VllamaError with the server's own text, or with what to do if none answers."""

    def __init__(self, host: Host) -> None:
        target = host.connectable
        self.host = target
        if not local.is_local(target):
            _ = self._http  # an address that is none is said at once

    @cached_property
    def _http(self) -> httpx.Client:
        """For streams, uploads and other machines."""
        module = _httpx()
        # A reply may take as long as loading a large model and thinking about a long prompt; only connecting is timed.
        timeout = module.Timeout(None, connect=CONNECT_TIMEOUT_S)
        try:
            # A proxy from the environment is for other machines, never for this one.
            client: httpx.Client = module.Client(
                base_url=self.host.url, timeout=timeout, trust_env=not self.host.is_loopback, verify=_tls(self.host)
            )
            return client
        except (module.InvalidURL, ValueError) as error:
            raise ServerError(f"{self.host.url!r} is no address of a server: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        if "_http" in self.__dict__:
            self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path."""
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call with one JSON object as its answer; an empty answer is {}."""
        return self._call("POST", path, body)

    def header(self, name: str, path: str, body: dict[str, Any]) -> str:
        """A header of the answer to one call, "" if there is none."""
        return self._answer("POST", path, _encoded(body)).headers.get(name.lower(), "")

    def delete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Like `post`."""
        return self._call("DELETE", path, body)

    def text(self, path: str) -> str:
        """The text at a path."""
        return self._answer("GET", path).content.decode("utf-8", "replace")

    def head(self, path: str) -> None:
        """Raises VllamaError with the status if there is nothing."""
        self._answer("HEAD", path)

    def send(self, path: str, body: Iterator[bytes]) -> None:
        """POSTs bytes as they come."""
        httpx = _httpx()
        try:
            response = self._http.post(path, content=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        _check(_read(response))

    def _answer(self, method: str, path: str, body: bytes | None = None) -> _Answer:
        if local.is_local(self.host):
            answer = self._local_answer(method, path, body)
        else:
            httpx = _httpx()
            headers = {} if body is None else {"Content-Type": "application/json"}
            try:
                answer = _read(self._http.request(method, path, content=body, headers=headers))
            except httpx.HTTPError as error:
                raise self._unreachable(error) from None
        return _check(answer)

    def _local_answer(self, method: str, path: str, body: bytes | None) -> _Answer:
        try:
            with local.response(self.host, method, path, body, connect_s=CONNECT_TIMEOUT_S) as response:
                return _Answer(response.status, _lower(response.headers), response.read())
        except local.NoConnectionError:
            raise self._nobody() from None
        except (OSError, HTTPException) as error:
            raise self._broken_off(error) from None

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The JSON objects of a streamed answer, as they come. Closing the iterator ends the request."""
        httpx = _httpx()
        try:
            headers = {"Content-Type": "application/json"}
            with self._http.stream("POST", path, content=_encoded(body), headers=headers) as response:
                if response.status_code >= 400:
                    response.read()
                    _check(_read(response))
                for line in _lines(response):
                    item = _object(line, self.host.url + path)
                    if "error" in item:
                        raise ServerError(str(item["error"]))
                    yield item
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        content = self._answer(method, path, None if body is None else _encoded(body)).content
        return _object(content, self.host.url + path) if content else {}

    def _unreachable(self, error: httpx.HTTPError) -> ServerError:
        httpx = _httpx()
        connecting = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        return self._nobody() if connecting else self._broken_off(error)

    def _nobody(self) -> ServerError:
        return ServerError(f"could not connect to a server at {self.host.url}: start one with `vllama serve`")

    def _broken_off(self, error: Exception) -> ServerError:
        return ServerError(f"the server at {self.host.url} broke off: {str(error) or type(error).__name__}")


def serves_vllama(host: Host) -> str:
    """The version of the vLLama that answers there; "" if nothing does, or another program."""
    target = host.connectable
    if local.is_local(target):
        timeout = PROBE_TIMEOUT_S
        try:
            with local.response(target, "GET", "/api/version", connect_s=timeout, read_s=timeout) as answer:
                return answer.headers.get(VERSION_HEADER, "")
        except (OSError, HTTPException, ValueError):
            return ""
    httpx = _httpx()
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


def _httpx() -> Any:
    """httpx, without its own command line: it imports that with rich and click if it can, which takes longer than the
    rest of a short command. It takes None, as for every module that cannot be imported, for an answer."""
    import sys

    sys.modules.setdefault("httpx._main", cast(Any, None))
    import httpx

    return httpx


def _tls(host: Host) -> ssl.SSLContext | bool:
    """httpx reads all certificate authorities for every client, also where no TLS is spoken: not for those."""
    import ssl

    return True if host.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _encoded(body: dict[str, Any]) -> bytes:
    """JSON. Bytes of the command line that are no UTF-8 arrive as lone surrogates, which it cannot hold."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _read(response: httpx.Response) -> _Answer:
    return _Answer(response.status_code, dict(response.headers), response.content)


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


def _check(answer: _Answer) -> _Answer:
    """The answer, or the error that it carries, in either of the two shapes."""
    if answer.status < 400:
        return answer
    try:
        text = json.loads(answer.content)["error"]
        if isinstance(text, dict):
            text = text["message"]
    except (ValueError, KeyError, TypeError):
        text = answer.content.decode("utf-8", "replace").strip()[:500] or f"the server answered {answer.status}"
    raise VllamaError(str(text), status=answer.status)
