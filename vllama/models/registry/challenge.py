"""401 and what follows: the registry's challenge, and the address at which a token is asked for."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from dataclasses import dataclass

import httpx

from vllama.goquote import quote
from vllama.models.registry.failures import UnauthorizedError
from vllama.models.registry.keys import Key

_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SAME = ({"hf.co", "huggingface.co", "www.huggingface.co"},)
"""Hosts that are one registry under several names."""
_EMPTY_BODY = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """What `WWW-Authenticate: Bearer ...` asks for."""

    realm: str
    service: str = ""
    scope: str = ""

    @classmethod
    def parse(cls, header: str) -> Challenge:
        """Raises `UnauthorizedError` for any scheme but Bearer and for one without a realm."""
        scheme, _, rest = header.strip().partition(" ")
        found = {m[1].lower(): re.sub(r"\\(.)", r"\1", m[2] or "") or m[3] or "" for m in _PARAMETER.finditer(rest)}
        if scheme.lower() != "bearer" or not found.get("realm"):
            raise UnauthorizedError()
        return cls(found["realm"], found.get("service", ""), found.get("scope", ""))

    def url(self, registry: httpx.URL) -> httpx.URL:
        """Where the token is; with the time and a nonce, so that a signature is good once.

        Raises `UnauthorizedError` for a realm that is not the registry itself: its token, and our
        signature, would be a stranger's.
        """
        try:
            realm = httpx.URL(self.realm)
        except httpx.InvalidURL:
            raise UnauthorizedError("unauthorized: the registry's realm is no address") from None
        if not same_registry(realm, registry) or realm.userinfo:
            hosts = quote(realm.netloc.decode()), quote(registry.netloc.decode())
            raise UnauthorizedError(f"realm host {hosts[0]} does not match original host {hosts[1]}")
        if realm.scheme != "https" and realm.scheme != registry.scheme:
            raise UnauthorizedError("unauthorized: the registry's realm is not encrypted")
        values = [("service", self.service), *(("scope", scope) for scope in self.scope.split(" "))]
        values += [("ts", str(int(time.time()))), ("nonce", secrets.token_urlsafe(16))]
        # Sorted, as Ollama's are: the signature covers the address as it is written.
        return realm.copy_with(params=sorted([*realm.params.multi_items(), *values], key=lambda pair: pair[0]))


def signature(key: Key, url: httpx.URL) -> str:
    """The Authorization header of a GET without a body."""
    return key.authorization(f"GET,{url},{_EMPTY_BODY}")


def same_registry(left: httpx.URL, right: httpx.URL) -> bool:
    """Whether two addresses have the same host and port, or two names of one registry."""
    return left.netloc == right.netloc or any(left.host in names and right.host in names for names in _SAME)
