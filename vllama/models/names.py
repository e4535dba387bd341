"""Model names: `[scheme://][host/][namespace/]model[:tag]`, and the `:cloud` / `:local` endings.

Parsing never fails: a text that cannot be a name gives a `Name` with `valid` false, as Ollama does, so
that the caller chooses the error text. Only a valid name has a file path, which makes it safe to join.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote as percent_encode

from vllama.errors import RequestError
from vllama.goquote import quote

DEFAULT_SCHEME = "https"
DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
MISSING = "!MISSING!"
"""Stands for a part that a separator promised and the text lacks ("tide:" promises a tag)."""

_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_HOST_SAFE = "!$&'()*+,;=:[]<>\"~"


@dataclass(frozen=True, slots=True)
class Name:
    """A parsed name. `parse` fills absent parts with the defaults, `parse_bare` leaves them empty.

    `valid`: every part is present and has only the characters that it may have. `key` is for lookups: names
    that differ in case only are the same model.
    """

    host: str
    namespace: str
    model: str
    tag: str
    scheme: str = ""
    valid: bool = field(init=False, compare=False, repr=False)
    key: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # worked out once: parsed names are kept, and each request asks
        object.__setattr__(self, "valid", self._is_valid())
        object.__setattr__(self, "key", self.full.lower())

    @classmethod
    def parse(cls, text: str) -> Name:
        """The name in `text` with host, namespace, tag and scheme filled in."""
        return _parse(text)

    @classmethod
    def parse_bare(cls, text: str) -> Name:
        """The name in `text`, absent parts empty."""
        tag = ""
        if text.rfind(":") > text.rfind("/"):
            text, tag = _cut(text, ":")
        if "/" not in text:
            return cls("", "", text, tag)
        text, model = _cut(text, "/")
        if "/" not in text:
            return cls("", text, model, tag)
        text, namespace = _cut(text, "/")
        scheme, found, host = text.partition("://")
        return cls(host, namespace, model, tag, scheme) if found else cls(text, namespace, model, tag)

    def _is_valid(self) -> bool:
        return bool(
            _HOST.fullmatch(self.host)
            and _NAMESPACE.fullmatch(self.namespace)
            and _MODEL.fullmatch(self.model)
            and _MODEL.fullmatch(self.tag)
        )

    @property
    def full(self) -> str:
        """`host/namespace/model:tag`; absent parts and their separators are left out."""
        text = f"{self.host}/" if self.host else ""
        text += f"{self.namespace}/" if self.namespace else ""
        return f"{text}{self.model}" + (f":{self.tag}" if self.tag else "")

    @property
    def shortest(self) -> str:
        """What lists show: without the default host and namespace, always with the tag."""
        text = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{text}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{text}"
        return text

    @property
    def namespace_model(self) -> str:
        """`namespace/model`, as registries name a repository."""
        return f"{self.namespace}/{self.model}"

    @property
    def base_url(self) -> str:
        """Where the registry of this name is."""
        return f"{self.scheme}://{percent_encode(self.host, safe=_HOST_SAFE)}"

    @property
    def filepath(self) -> str:
        """The manifest's path below `manifests/`, "" for a name that is not valid."""
        return f"{self.host}/{self.namespace}/{self.model}/{self.tag}" if self.valid else ""

    def __str__(self) -> str:
        return self.full


def _cut(text: str, separator: str) -> tuple[str, str]:
    before, _, after = text.rpartition(separator)
    return before or MISSING, after or MISSING


@functools.lru_cache(maxsize=1024)
def _parse(text: str) -> Name:
    bare = Name.parse_bare(text)
    return Name(
        bare.host or DEFAULT_HOST,
        bare.namespace or DEFAULT_NAMESPACE,
        bare.model,
        bare.tag or DEFAULT_TAG,
        bare.scheme or DEFAULT_SCHEME,
    )


Source = Literal["unspecified", "local", "cloud"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A name as users write it: `base` without the ending that says where the model is to run."""

    base: str
    source: Source

    @property
    def pull_name(self) -> str:
        """The name that the registry knows it by: cloud models keep a `cloud` or `-cloud` tag there."""
        if self.source != "cloud":
            return self.base
        tagged = self.base.rfind(":") > self.base.rfind("/")
        return self.base + ("-cloud" if tagged else ":cloud")


def parse_reference(text: str) -> Reference:
    """Splits `:local`, `:cloud` and `-cloud` off. Raises `RequestError` for nothing, and for two endings."""
    text = text.strip()
    if not text:
        raise RequestError("model is required")
    base, source = _split_source(text)
    if source != "unspecified" and _split_source(base)[1] != "unspecified":
        raise RequestError(f"use either :local or :cloud, not both: {quote(text)}")
    return Reference(base, source)


def _split_source(text: str) -> tuple[str, Source]:
    head, colon, tail = text.rpartition(":")
    if not colon or "/" in tail:
        return text, "unspecified"
    ending = tail.strip().lower()
    if ending == "cloud":
        return head.strip(), "cloud"
    if ending == "local":
        return head.strip(), "local"
    if ending.endswith("-cloud"):
        return text.rstrip()[: -len("-cloud")], "cloud"
    return text, "unspecified"
