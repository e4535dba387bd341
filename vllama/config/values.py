"""Texts to values. Ollama's readers are lenient in odd ways, ours say what is wrong; both are here, side by side."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vllama.config.host import Host, parse_host
from vllama.goduration import FOREVER_NS, NS_PER_SECOND, format_duration, parse_duration

FOREVER = -1
"""A keep_alive setting that never ends."""

DEFAULT_ORIGINS = (
    *(
        f"{scheme}://{name}{port}"
        for name in ("localhost", "127.0.0.1", "0.0.0.0")
        for port in ("", ":*")
        for scheme in ("http", "https")
    ),
    *("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"),
)
"""Web origins that may always call: this machine's pages and the shells of desktop programs."""

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_INT = re.compile(r"[+-]?[0-9]+\Z", re.ASCII)
_UINT = re.compile(r"[0-9]+\Z", re.ASCII)


def trim(text: str) -> str:
    """An environment value without the blanks around it and, inside those, without quotes around it."""
    return text.strip().strip("\"'")


def ollama_bool(text: str) -> bool:
    """Only Go's spellings of false are false: "no" and "off" are true."""
    return text not in _FALSE


def strict_bool(text: str) -> bool:
    """true, false, yes, no, on, off, 1, 0 in any case."""
    word = text.strip().lower()
    if word in ("1", "t", "true", "yes", "on"):
        return True
    if word in ("0", "f", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def tristate(text: str) -> bool | None:
    """true, false or auto."""
    return None if text.strip().lower() == "auto" else strict_bool(text)


def count(text: str) -> int:
    """A whole number, not negative."""
    if not _UINT.match(text) or len(text) > 20 or int(text) >= 2**64:
        raise ValueError("must be a whole number, 0 or more")
    return int(text)


def debug_level(text: str) -> int:
    """0 nothing extra, 1 debug, 2 trace; true means 1."""
    if text in _TRUE:
        return 1
    if text in _FALSE:
        return 0
    if _INT.match(text) and len(text) < 20:
        return int(text)
    raise ValueError("must be a number or true or false")


def keep_alive(text: str) -> int:
    """A Go duration or whole seconds, in ns; `FOREVER` for anything negative or out of range."""
    ns = _duration_or_seconds(text)
    return FOREVER if ns < 0 or ns >= FOREVER_NS else ns


def timeout(text: str) -> int:
    """A Go duration or whole seconds, in ns; 0 and less mean no limit, which is `FOREVER_NS`."""
    ns = _duration_or_seconds(text)
    return FOREVER_NS if ns <= 0 or ns >= FOREVER_NS else ns


def period(text: str) -> int:
    """A Go duration or whole seconds, in ns, not negative; 0 is 0."""
    ns = _duration_or_seconds(text)
    if ns < 0:
        raise ValueError("must not be negative")
    return min(ns, FOREVER_NS)


def host(text: str) -> Host:
    """See `parse_host`."""
    return parse_host(text)


def text(text: str) -> str:
    """The text as it is."""
    return text


def address(text: str) -> str:
    """The base address of an OpenAI-compatible server: http(s), without /v1, slashes at its end and credentials."""
    from urllib.parse import urlsplit

    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must begin with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise SecretError("must not hold a key: that is a setting of its own")
    if parts.query or parts.fragment:
        raise ValueError("must end with its path")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1').rstrip('/')}"


class SecretError(ValueError):
    """The value holds something that no message may repeat."""


def show_secret(value: object) -> str:
    """Only whether there is one."""
    return "(set)" if value else ""


KV_CACHE_TYPES = ("f16", "q8_0", "q4_0", "bf16", "f32", "q4_1", "q5_0", "q5_1")
"""Number formats of the key/value cache that llama.cpp has and every model may be asked for."""


def kv_cache_type(text: str) -> str:
    """One of `KV_CACHE_TYPES`, in any case; nothing is the default."""
    word = text.strip().lower()
    if word and word not in KV_CACHE_TYPES:
        raise ValueError(f"must be one of {', '.join(KV_CACHE_TYPES)}")
    return word or KV_CACHE_TYPES[0]


_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,15})\s*([kmgt]?)(?:i?b)?\Z", re.ASCII | re.I)


def size(text: str) -> int:
    """Bytes: a whole number, perhaps with K, M, G or T behind it, which count in steps of 1024."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise ValueError('must be a number of bytes like 2G, 512M or "1048576"')
    return int(match[1]) * _UNITS[match[2].lower()]


def show_size(value: object) -> str:
    """Bytes in the largest unit that leaves a whole number."""
    assert isinstance(value, int)
    for unit in ("T", "G", "M", "K"):
        if value and value % _UNITS[unit.lower()] == 0:
            return f"{value // _UNITS[unit.lower()]}{unit}"
    return str(value)


def folder(text: str) -> str:
    """A folder's path; a leading ~ is the user's home. Empty stays empty."""
    return os.path.abspath(os.path.expanduser(text)) if text else ""


def path(text: str) -> Path:
    """A path as it is: as in Ollama a ~ that the shell left alone is a directory of that name."""
    return Path(text)


def user_path(text: str) -> Path:
    """A path; a leading ~ is the user's home, if there is one."""
    return Path(os.path.expanduser(text))


def origins(text: str) -> tuple[str, ...]:
    """A comma-separated list, put in front of `DEFAULT_ORIGINS`."""
    return (*(text.split(",") if text else ()), *DEFAULT_ORIGINS)


def words(text: str) -> tuple[str, ...]:
    """A comma-separated list, blanks around its members removed."""
    return tuple(word for part in text.split(",") if (word := part.strip()))


def show(value: object) -> str:
    """A value as `vllama config` prints it: what one could write into the setting again, where that is possible."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def show_duration(ns: object) -> str:
    """A duration as Go prints it; "forever" for one without an end."""
    assert isinstance(ns, int)
    return "forever" if ns < 0 or ns == FOREVER_NS else format_duration(ns)


def show_origins(value: object) -> str:
    """Only what was added to the origins that are always allowed."""
    assert isinstance(value, tuple)
    return ",".join(value[: len(value) - len(DEFAULT_ORIGINS)])


def _duration_or_seconds(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError:
        if not _INT.match(text) or not -(2**63) <= int(text[:25]) < 2**63:
            raise ValueError('must be a duration like "5m" or a number of seconds') from None
        return int(text) * NS_PER_SECOND
