"""What a model is, wherever it comes from: `Model`, `ModelConfig` and the details that lists show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vllama.errors import ModelLoadError, VllamaError
from vllama.models.gguf import GGUFMetadata
from vllama.models.gotext import human_number
from vllama.models.names import Name
from vllama.models.shards import read_model, weights_size

if TYPE_CHECKING:
    from vllama.models.remote import Place

DEFAULT_TEMPLATE = "{{ .Prompt }}"
"""What a model without a template is prompted with."""

Inspect = Callable[["Model"], tuple[str, ...]]
"""Says what a model can do. Must remember its answers: lists ask it for every model."""

_CONFIG_TEXTS = {
    "format": "model_format",
    "family": "model_family",
    "parameter_size": "model_type",
    "quantization_level": "file_type",
    "renderer": "renderer",
    "parser": "parser",
    "requires": "requires",
    "remote_host": "remote_host",
    "remote_model": "remote_model",
    "base_name": "base_name",
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The config blob of a manifest. Lengths in tokens and numbers, 0 when the blob does not say."""

    format: str = "gguf"
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    remote_model: str = ""
    base_name: str = ""
    capabilities: tuple[str, ...] = ()
    context_length: int = 0
    embedding_length: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Reads a decoded config blob; fields of a wrong type count as absent."""
        fields: dict[str, Any] = {}
        for name, key in _CONFIG_TEXTS.items():
            if isinstance(value := data.get(key), str):
                fields[name] = value
        for name, key in (("families", "model_families"), ("capabilities", "capabilities")):
            if isinstance(value := data.get(key), list):
                fields[name] = tuple(v for v in value if isinstance(v, str))
        for name in ("context_length", "embedding_length"):
            if isinstance(value := data.get(name), int):
                fields[name] = value
        return cls(**fields)

    @classmethod
    def from_metadata(cls, metadata: GGUFMetadata) -> ModelConfig:
        """What the file itself says; the same facts that Ollama writes into a config blob."""
        family = metadata.architecture
        return cls(
            family=family,
            families=(family,) if family else (),
            parameter_size=human_number(metadata.parameter_count),
            quantization_level=metadata.file_type,
            context_length=metadata.arch_int("context_length"),
            embedding_length=metadata.arch_int("embedding_length"),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields for a config blob; empty optional ones are left out."""
        data: dict[str, Any] = {
            "model_format": self.format,
            "model_family": self.family,
            "model_families": list(self.families),
            "model_type": self.parameter_size,
            "file_type": self.quantization_level,
        }
        for name in ("renderer", "parser", "requires", "remote_host", "remote_model", "base_name"):
            if value := getattr(self, name):
                data[name] = value
        if self.capabilities:
            data["capabilities"] = list(self.capabilities)
        for name in ("context_length", "embedding_length"):
            if value := getattr(self, name):
                data[name] = value
        return data


@dataclass(frozen=True, slots=True)
class Model:
    """One model that can be listed, shown and loaded.

    `digest` is 64 hex digits, the sha256 of the manifest. `size` in bytes, all layers and the config.
    `template` is the Go TEMPLATE, None when the model has none; `chat_template` the GGUF's own Jinja
    template. `params` are the PARAMETERs as decoded JSON. `messages` are (role, content) pairs.
    `gguf` is None for a model whose weights are of another format or not here; of one in several files it is the
    first. `directory` holds safetensors with their configuration and tokenizer. `remote` says where a model is that
    another server runs.
    """

    name: Name
    digest: str
    size: int
    modified_at: datetime
    config: ModelConfig = field(default_factory=ModelConfig)
    template: str | None = None
    system: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()
    licenses: tuple[str, ...] = ()
    gguf: Path | None = None
    directory: Path | None = None
    adapters: tuple[Path, ...] = ()
    projector: Path | None = None
    parent: str = ""
    origin: Literal["store", "package", "file", "hub", "upstream"] = "store"
    remote: Place | None = None
    inspect: Inspect | None = field(default=None, compare=False, repr=False)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do: completion, tools, insert, thinking ... () when the file is damaged.

        `inspect` reads the templates and comes from `core`; without it only the weights are asked.
        """
        try:
            return self.inspect(self) if self.inspect else self.metadata_capabilities
        except VllamaError:
            return ()

    @property
    def metadata(self) -> GGUFMetadata:
        """The GGUF's header, read at the first use. Raises `ModelLoadError`."""
        if self.gguf is None:
            raise ModelLoadError(f"model '{self.name.shortest}' has no GGUF file")
        return read_model(self.gguf)

    @property
    def weights_size(self) -> int:
        """Bytes of the GGUF's files. Raises OSError for one that is missing."""
        return weights_size(self.gguf) if self.gguf is not None else 0

    @property
    def chat_template(self) -> str | None:
        """The weights' own Jinja chat template; None when there is none or it cannot be read."""
        if self.directory is not None:
            from vllama.models.directory import chat_template

            return chat_template(self.directory)
        metadata = self._readable_metadata()
        return metadata.chat_template if metadata else None

    @property
    def details(self) -> dict[str, Any]:
        """The `details` object of show and ps. /api/tags adds the two lengths, see `tag_details`."""
        config = self.config
        return {
            "parent_model": self.parent,
            "format": config.format,
            "family": config.family,
            "families": list(config.families) or None,
            "parameter_size": config.parameter_size,
            "quantization_level": config.quantization_level,
        }

    @property
    def tag_details(self) -> dict[str, Any]:
        """`details` with context_length and embedding_length, where they are known."""
        context, embedding = self.config.context_length, self.config.embedding_length
        if not (context and embedding) and (metadata := self._readable_metadata()):
            context = context or metadata.arch_int("context_length")
            embedding = embedding or metadata.arch_int("embedding_length")
        lengths = {"context_length": context, "embedding_length": embedding}
        return self.details | {key: value for key, value in lengths.items() if value}

    @property
    def metadata_capabilities(self) -> tuple[str, ...]:
        """What the weights and the config alone tell; tools, insert and thinking depend on the template."""
        found: list[str] = []
        metadata = self._readable_metadata()
        if (metadata is not None and metadata.arch("pooling_type") is not None) or self._pools:
            found.append("embedding")
        else:
            found.append("completion")
        if self.projector is not None or (metadata is not None and metadata.arch("vision.block_count")):
            found.append("vision")
        if metadata is not None and metadata.arch("audio.block_count"):
            found.append("audio")
        return tuple(dict.fromkeys((*self.config.capabilities, *found)))

    @property
    def _pools(self) -> bool:
        if self.directory is None:
            return False
        from vllama.models.directory import pooling

        return pooling(self.directory)

    def _readable_metadata(self) -> GGUFMetadata | None:
        """None for a damaged file: lists must show the model all the same, loading it says what is wrong."""
        if self.gguf is None:
            return None
        try:
            return read_model(self.gguf)
        except ModelLoadError:
            return None
