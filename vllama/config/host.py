"""Where the server is: the text of OLLAMA_HOST, read as Ollama reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

DEFAULT_NAME = "127.0.0.1"
DEFAULT_PORT = 11434

_SCHEME_PORTS = {"http": 80, "https": 443}
_PORT = re.compile(r"[+-]?[0-9]+\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Host:
    """An address to listen on or to connect to. `name` is a host name or an IP address without brackets.

    An empty name means every interface. `path` is the prefix that a proxy puts in front of the routes.
    """

    scheme: str = "http"
    name: str = DEFAULT_NAME
    port: int = DEFAULT_PORT
    path: str = ""

    @property
    def netloc(self) -> str:
        """ "name:port", an IPv6 address in brackets."""
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end unless the path has one."""
        from urllib.parse import quote

        scheme = f"{self.scheme}://" if self.scheme else "//"
        path = self.path if self.path.startswith("/") or not self.path else f"/{self.path}"
        return scheme + quote(self.netloc, safe="!$&'()*+,;=:[]<>\"") + quote(path, safe="/:@!$&'()*+,;=")

    @property
    def connectable(self) -> Host:
        """The same server as a client on this machine reaches it: "every interface" becomes the loopback address."""
        if not self.name:
            return replace(self, name=DEFAULT_NAME)
        address = _ip(self.name)
        if address == "0.0.0.0":
            return replace(self, name=DEFAULT_NAME)
        return replace(self, name="::1") if address == "::" else self

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach a server that listens here."""
        if self.name.lower() == "localhost":
            return True
        import ipaddress

        address = _ip(self.name)
        return bool(address) and ipaddress.ip_address(address).is_loopback

    def __str__(self) -> str:
        return self.url


def parse_host(text: str) -> Host:
    """Reads "host", ":port", "host:port", "[v6]:port", "scheme://host:port/path". Never fails, as Ollama's does not.

    A scheme brings its own default port; a port that is none becomes that default.
    """
    text = text.strip()
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
        if text == "ollama.com":
            return Host("https", text, 443)
    default_port = _SCHEME_PORTS.get(scheme, DEFAULT_PORT) if found else DEFAULT_PORT
    rest, _, path = rest.partition("/")
    split = _split_port(rest)
    if split is None:
        name = _ip(rest.strip("[]")) or rest or DEFAULT_NAME
        return Host(scheme, name, default_port, path)
    name, port = split
    number = int(port) if _PORT.match(port) and len(port) < 12 else -1
    return Host(scheme, name, number if 0 <= number <= 65535 else default_port, path)


def _split_port(text: str) -> tuple[str, str] | None:
    """Name and port of "name:port" and "[name]:port"; None if there is no port or the form is neither."""
    name, colon, port = text.rpartition(":")
    if not colon:
        return None
    if name.startswith("["):
        if not name.endswith("]") or "[" in name[1:] or "]" in name[:-1]:
            return None
        return name[1:-1], port
    return None if any(c in name for c in ":[]") or any(c in port for c in "[]") else (name, port)


def _ip(text: str) -> str:
    """The address in its shortest usual form, "" if the text is no IP address (or carries a zone)."""
    import ipaddress

    if "%" in text:
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
