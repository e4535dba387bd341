"""The registry of `registry.py` behind TLS, by HTTP/2 for those who can and by HTTP/1.1 for the others."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import httpx
import trustme

from tests.tools.registry import Registry

_NOT_PASSED_ON = ("connection", "content-length", "date", "server", "transfer-encoding", "keep-alive", "host")


@dataclass
class Front:
    """What came in: (protocol, method, path) of each request, and where it listens."""

    port: int
    requests: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def host(self) -> str:
        """As in a model's name."""
        return f"localhost:{self.port}"


@contextmanager
def http2_front(registry: Registry, directory: Path) -> Iterator[tuple[Front, Path]]:
    """The front of a registry and the file of the authority to trust; `registry` answers what is asked there."""
    authority = trustme.CA()
    bundle = directory / "authority.pem"
    authority.cert_pem.write_to_path(bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert("localhost").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listening, httpx.Client(trust_env=False) as behind:
        front = Front(listening.getsockname()[1])

        def accept() -> None:
            while True:
                try:
                    plain, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(plain,), daemon=True).start()

        def serve(plain: socket.socket) -> None:
            with (
                suppress(OSError, ValueError, h2.exceptions.ProtocolError),
                plain,
                context.wrap_socket(plain, server_side=True) as secured,
            ):
                speak = _http2 if secured.selected_alpn_protocol() == "h2" else _http1
                speak(secured, registry, front, behind)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield front, bundle
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _asked(
    registry: Registry, behind: httpx.Client, method: str, path: str, headers: dict[str, str], body: bytes
) -> httpx.Response:
    kept = {name: value for name, value in headers.items() if name not in _NOT_PASSED_ON}
    return behind.request(method, f"{registry.url}{path}", headers=kept, content=body)


def _http2(secured: ssl.SSLSocket, registry: Registry, front: Front, behind: httpx.Client) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    connection.initiate_connection()
    secured.sendall(connection.data_to_send())
    heads: dict[int, dict[str, str]] = {}
    bodies: dict[int, bytes] = {}
    while data := secured.recv(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                heads[event.stream_id] = dict(event.headers)
                bodies[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                head = heads.pop(event.stream_id)
                method, path = head[":method"], head[":path"]
                front.requests.append(("HTTP/2", method, path))
                rest = {name: value for name, value in head.items() if not name.startswith(":")}
                answer = _asked(registry, behind, method, path, rest, bodies.pop(event.stream_id))
                fields = [(name, value) for name, value in answer.headers.items() if name not in _NOT_PASSED_ON]
                connection.send_headers(event.stream_id, [(":status", str(answer.status_code)), *fields])
                # What is asked for by HTTP/2 in these tests fits into a window and a frame.
                connection.send_data(event.stream_id, answer.content, end_stream=True)
        secured.sendall(connection.data_to_send())


def _http1(secured: ssl.SSLSocket, registry: Registry, front: Front, behind: httpx.Client) -> None:
    with secured.makefile("rwb") as stream:
        while line := stream.readline():
            method, path, _ = line.decode().split(" ")
            headers = {}
            while field_line := stream.readline().strip():
                name, _, value = field_line.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = stream.read(int(headers.get("content-length", 0)))
            front.requests.append(("HTTP/1.1", method, path))
            answer = _asked(registry, behind, method, path, headers, body)
            fields = {name: value for name, value in answer.headers.items() if name not in _NOT_PASSED_ON}
            fields["content-length"] = str(len(answer.content))
            head = f"HTTP/1.1 {answer.status_code} \r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields.items())
            stream.write(head.encode() + b"\r\n" + (b"" if method == "HEAD" else answer.content))
            stream.flush()
