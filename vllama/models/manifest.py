"""Manifests: the JSON that ties a name to its layers (Docker's manifest v2 with Ollama's media types)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from vllama.errors import ServerError

MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_PREFIX = "application/vnd.ollama.image."
DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
MAX_MANIFEST = 4 << 20


class ManifestError(ServerError):
    """A manifest or a small layer that cannot be read; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a model. `kind` is the media type after Ollama's prefix: model, template, params ...

    `size` in bytes; `origin` is the name that the layer was taken over from ("from" in the JSON).
    """

    kind: str
    digest: str
    size: int
    origin: str = ""

    def to_json(self) -> dict[str, Any]:
        """Ollama's field order."""
        media_type = CONFIG_TYPE if self.kind == "config" else LAYER_PREFIX + self.kind
        data: dict[str, Any] = {"mediaType": media_type, "digest": self.digest, "size": self.size}
        return data | {"from": self.origin} if self.origin else data


@dataclass(frozen=True, slots=True)
class Manifest:
    """A config layer and the model's layers, in order."""

    config: Layer
    layers: tuple[Layer, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Manifest:
        """Reads and checks the shape and every digest. Raises `ManifestError`."""
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"the manifest is not JSON: {error}") from error
        if not isinstance(data, dict) or not isinstance(data.get("layers"), list):
            raise ManifestError("the manifest has no layers")
        layers = tuple(_layer(item) for item in data["layers"])
        return cls(_layer(data.get("config")), layers)

    def encode(self) -> bytes:
        """The bytes of the manifest file."""
        data = {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        return json.dumps(data, separators=(",", ":")).encode()

    @property
    def size(self) -> int:
        """Bytes of all layers and the config."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def digests(self) -> frozenset[str]:
        """Digests of all blobs it needs, the config's too."""
        return frozenset((self.config.digest, *(layer.digest for layer in self.layers)))


def _layer(item: Any) -> Layer:
    if not isinstance(item, dict):
        raise ManifestError("a layer is not an object")
    media_type, digest, size = item.get("mediaType"), item.get("digest"), item.get("size")
    # a digest becomes a file name: nothing but the exact form may pass
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ManifestError("a layer has no valid digest")
    if not isinstance(size, int) or size < 0 or not isinstance(media_type, str):
        raise ManifestError("a layer has no size or no media type")
    kind = "config" if media_type == CONFIG_TYPE else media_type.removeprefix(LAYER_PREFIX)
    origin = item.get("from")
    return Layer(kind, digest.replace("-", ":", 1), size, origin if isinstance(origin, str) else "")


def digest_of(data: bytes) -> str:
    """`sha256:` and the 64 hex digits of the data's hash."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
