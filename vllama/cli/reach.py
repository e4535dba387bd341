"""Which server a command talks to: the one that was named, the user's own vLLama, or a private one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vllama.cli.client import Client, serves_vllama
from vllama.cli.private import private_server
from vllama.config import Settings, load_settings, parse_host
from vllama.errors import ServerError


@contextlib.contextmanager
def server(
    forced: str | None = None,
    *,
    flags: tuple[str, ...] = (),
    needs_own_files: bool = False,
    settings: Settings | None = None,
) -> Iterator[Client]:
    """A client of a server that answers; a private server, if one was needed, ends with the block.

    `forced` names the server and allows no other. Otherwise the one at OLLAMA_HOST is used if it is vLLama, runs on
    this machine where `needs_own_files`, and nothing in `flags` asks for a server set up differently.
    """
    with contextlib.ExitStack() as stack:
        if forced is not None:
            yield stack.enter_context(named(forced))
            return
        settings = settings or load_settings()
        host = settings.host
        reachable = not flags and (host.connectable.is_loopback or not needs_own_files)
        if not (reachable and serves_vllama(host)):
            host = stack.enter_context(private_server(flags, debug=settings.debug > 0))
        yield stack.enter_context(Client(host))


@contextlib.contextmanager
def running(forced: str | None = None) -> Iterator[Client]:
    """A client of a server that runs already; never a private one. Raises ServerError if there is none."""
    if forced is not None:
        with named(forced) as client:
            yield client
        return
    host = load_settings().host
    with Client(host) as client:
        if not serves_vllama(host):
            client.get("/api/version")
            raise ServerError(
                f"the server at {client.host.url} is not vLLama; --host {host.netloc} would use it anyway"
            )
        yield client


@contextlib.contextmanager
def named(address: str) -> Iterator[Client]:
    """A client of the server at an address, whichever program it is."""
    with Client(parse_host(address)) as client:
        client.get("/api/version")
        yield client
