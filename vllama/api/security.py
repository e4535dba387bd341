"""Who may talk to this server from a browser: CORS, and the Host check against DNS rebinding.

Both look at every request before its endpoint runs. A request without Origin costs one pass over the headers and one
dictionary lookup.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import string
from dataclasses import dataclass

from vllama.api.http import Header
from vllama.config.values import DEFAULT_ORIGINS
from vllama.errors import ConfigError

_SCHEMES = (
    "http://",
    "https://",
    "chrome-extension://",
    "safari-extension://",
    "safari-web-extension://",
    "moz-extension://",
    "ms-browser-extension://",
)

_ALLOW_HEADERS = (
    "Authorization",
    "Content-Type",
    "User-Agent",
    "Accept",
    "X-Requested-With",
    "Openai-Beta",
    *(
        f"X-Stainless-{name}"
        for name in (
            "Arch",
            "Async",
            "Custom-Poll-Interval",
            "Helper-Method",
            "Lang",
            "Os",
            "Package-Version",
            "Poll-Helper",
            "Retry-Count",
            "Runtime",
            "Runtime-Version",
            "Timeout",
        )
    ),
)
_PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (b"access-control-allow-headers", ",".join(_ALLOW_HEADERS).encode()),
    (b"access-control-max-age", b"43200"),
    (b"vary", b"Origin"),
    (b"vary", b"Access-Control-Request-Method"),
    (b"vary", b"Access-Control-Request-Headers"),
)

_PRIVATE = tuple(ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
_LOCAL_DOMAINS = (".localhost", ".local", ".internal")
_MEMORY = 1024
"""Most Host and Origin values that a decision is remembered for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checks say: go on and add `headers` to the answer (status 0), or answer `status` without a body."""

    status: int = 0
    headers: tuple[Header, ...] = ()


PASS = Verdict()
_FORBIDDEN = Verdict(403)
_MALFORMED = Verdict(400)
_HOST_BYTES = frozenset(b"!$%&'()*+,-.:;=[]_~" + (string.ascii_letters + string.digits).encode())
"""What Go's server takes in a Host header; not whether it makes sense."""
_NO_CONTENT = Verdict(204)


class Origins:
    """The Origin values that may read answers. A pattern may hold one `*`."""

    def __init__(self, extra: tuple[str, ...] = ()) -> None:
        """`extra` is what OLLAMA_ORIGINS adds. Raises ConfigError for a value that could never match."""
        self.all = False
        exact: set[str] = set()
        patterns: list[tuple[str, str]] = []
        for text in (*extra, *DEFAULT_ORIGINS):
            origin = text.strip()
            if not origin:
                continue
            if origin == "*":
                self.all = True
            elif "*" in origin:
                before, _, after = origin.partition("*")
                if "*" in after:
                    raise ConfigError(f"OLLAMA_ORIGINS: only one * is allowed in {origin!r}")
                patterns.append((before, after))
            elif origin.startswith(_SCHEMES):
                exact.add(origin.lower())
            else:
                raise ConfigError(
                    f"OLLAMA_ORIGINS: {origin!r} must hold a * or begin with http://, https:// "
                    "or a browser extension's scheme"
                )
        self._exact = frozenset(exact)
        self._patterns = tuple(patterns)

    def allows(self, origin: str) -> bool:
        """Whether a page of that origin may read answers."""
        return (
            self.all
            or origin in self._exact
            or any(origin.startswith(before) and origin.endswith(after) for before, after in self._patterns)
        )


class Guard:
    """Decides about a request by its method, Origin and Host. Has no I/O except the names of this machine."""

    def __init__(self, origins: tuple[str, ...] = (), listen: str = "127.0.0.1") -> None:
        """`listen` is the address that the server listens on: Hosts are only checked if it is loopback."""
        self._origins = Origins(origins)
        self._check_hosts = is_loopback(listen)
        self._hosts: dict[bytes, bool] = {}
        self._verdicts: dict[bytes, Verdict] = {}

    def judge(self, method: str, headers: list[Header]) -> Verdict:
        """What to do with a request that has these headers (lower-case names)."""
        origin = None
        host = b""  # absent and empty are the same to Go, and a name that is allowed
        for name, value in headers:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        verdict = PASS
        if origin:
            verdict = self._judge_origin(method, origin, host)
            if verdict.status:
                return verdict
        if self._check_hosts:
            by_name = self._hosts.get(host)
            if by_name is None:
                try:
                    by_name = self._remember_host(host)
                except PermissionError:
                    return _FORBIDDEN if _HOST_BYTES.issuperset(host) else _MALFORMED
            if by_name and method == "OPTIONS":
                return _NO_CONTENT
        return verdict

    def _judge_origin(self, method: str, origin: bytes, host: bytes) -> Verdict:
        if origin in (b"http://" + host, b"https://" + host):
            return PASS  # a page of this very server: not a cross-origin request
        if not self._origins.allows(origin.decode("latin-1")):
            return _FORBIDDEN
        allowed = (b"access-control-allow-origin", b"*" if self._origins.all else origin)
        if method == "OPTIONS":
            return Verdict(204, (allowed, *_PREFLIGHT))
        verdict = self._verdicts.get(origin)
        if verdict is None:
            verdict = Verdict(0, (allowed, (b"vary", b"Origin")))
            if len(self._verdicts) < _MEMORY:
                self._verdicts[origin] = verdict
        return verdict

    def _remember_host(self, value: bytes) -> bool:
        """True: allowed as a name; False: allowed as an address. Raises PermissionError otherwise."""
        host = split_host(value.decode("latin-1"))
        address = _parse_address(host)
        if address is not None and _is_near(address):
            by_name = False
        elif _is_local_name(host.lower()):
            by_name = True
        else:
            raise PermissionError(host)
        if len(self._hosts) < _MEMORY:
            self._hosts[value] = by_name
        return by_name


def split_host(value: str) -> str:
    """The host of a Host header `host:port` or `[v6]:port`; a value without a port comes back as it is."""
    host, colon, _ = value.rpartition(":")
    if not colon:
        return value
    if host.startswith("[") and host.endswith("]") and host.count("[") == host.count("]") == 1:
        return host[1:-1]
    if any(char in host for char in ":[]"):
        return value
    return host


def is_loopback(listen: str) -> bool:
    """Whether a server on this address or name can be reached from its own machine only."""
    address = _parse_address(listen)
    if address is not None:
        return _unmapped(address).is_loopback
    name = listen.lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(listen, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return bool(found) and all(is_loopback(address) for address in found if _parse_address(address))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _parse_address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _unmapped(address: _Address) -> _Address:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_near(address: _Address) -> bool:
    plain = _unmapped(address)
    return (
        plain.is_loopback
        or address.is_unspecified
        or any(plain in network for network in _PRIVATE if network.version == plain.version)
        or str(plain) in _own_addresses()
    )


def _is_local_name(host: str) -> bool:
    return host in ("", "localhost", socket.gethostname().lower()) or host.endswith(_LOCAL_DOMAINS)


@functools.cache
def _own_addresses() -> frozenset[str]:
    """The addresses of this machine's interfaces, as they are when first asked for."""
    import psutil

    families = (socket.AF_INET, socket.AF_INET6)
    return frozenset(
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in families
    )
