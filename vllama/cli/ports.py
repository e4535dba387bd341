"""Sockets to listen on, and who already listens there."""

from __future__ import annotations

import errno
import os
import socket

from vllama.config import Host
from vllama.errors import ConfigError

BACKLOG = 2048


def bind(host: Host) -> socket.socket:
    """A listening TCP socket. Raises ConfigError with the reason: the port is in use and by whom, no such name, ..."""
    try:
        if not host.name and socket.has_dualstack_ipv6():
            return socket.create_server(("", host.port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        found = socket.getaddrinfo(host.name or None, host.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name like "localhost" often has both kinds of address; clients try the older kind at the latest.
        family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        return socket.create_server((str(address[0]), host.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(_why_not(host, error)) from None


def _why_not(host: Host, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {host.netloc}: no address of that name"
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {host.port} of {host.name or 'this machine'} is in use by {occupant(host)}: "
            "stop that program, or choose another port with --port or OLLAMA_HOST"
        )
    if error.errno == errno.EACCES:
        return f"cannot listen on {host.netloc}: not allowed (ports below 1024 are the system's)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {host.netloc}: this machine does not have that address"
    return f"cannot listen on {host.netloc}: {os.strerror(error.errno) if error.errno else error}"


def occupant(host: Host) -> str:
    """Who listens at an address: "vLLama 0.1.0 (pid 17)", "Ollama 0.33.0", "nginx (pid 5)" or "another program"."""
    process, pid = _listener(host.port)
    name = _speaks_http(host) or process or "another program"
    return f"{name} (pid {pid})" if pid else name


def _speaks_http(host: Host) -> str:
    """vLLama or Ollama with its version, if one of them answers there; else ""."""
    import http.client
    import json

    connection = http.client.HTTPConnection(host.connectable.name, host.port, timeout=1)
    try:
        connection.request("GET", "/api/version")
        response = connection.getresponse()
        ours = response.getheader("X-vLLama-Version")
        if ours:
            return f"vLLama {ours}"
        version = json.loads(response.read(10_000)).get("version", "")
        return f"Ollama {version}" if isinstance(version, str) and version else ""
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return ""
    finally:
        connection.close()


def _listener(port: int) -> tuple[str, int]:
    """Name and pid of the process that listens on the port, as far as this user may know."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
                continue
            if connection.laddr.port == port:
                return psutil.Process(connection.pid).name(), connection.pid
    except (psutil.Error, OSError):
        pass
    return "", 0


def adopt(fd: int | None) -> socket.socket | None:
    """The listening socket that a parent process left open under this number; None for None."""
    if fd is None:
        return None
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError(f"--fd: {fd} is no socket: {error.strerror}") from None
