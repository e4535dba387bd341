"""/api/create: a new model from another one or from uploaded GGUF files.

What needs other parts of vLLama comes in through `CreateTools`: this package knows no templates, no engine
and no registry. The uploaded GGUF stays the blob that it is (Ollama writes a new file with llama-quantize).
"""

from __future__ import annotations

import dataclasses
import json
import os.path
import re
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vllama.errors import ModelLoadError, ModelNotFound, NotImplementedYet, RequestError, TemplateError
from vllama.models.blobs import checked_blob_path, import_file
from vllama.models.gguf import GGUFError, GGUFMetadata, read_metadata
from vllama.models.gotext import encode_json
from vllama.models.library import Library
from vllama.models.manifest import Layer, Manifest, ManifestError, digest_of
from vllama.models.model import Model, ModelConfig
from vllama.models.names import Name, parse_reference
from vllama.models.shards import shard_paths
from vllama.models.store import Store

Status = dict[str, Any]
"""One line of the answer: {"status": text}."""

QUANTIZATIONS = ("F32", "F16", "BF16", "Q4_K_S", "Q4_K_M", "Q4_K", "Q8_0")
_ADVERTISED = "F32, F16, Q4_K_S, Q4_K_M, Q8_0"
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a client asks for. `name` and `from_` as written; `files` and `adapters` map file names to
    digests; `messages` are (role, content); `license` is decoded JSON: a text or a list of texts."""

    name: str
    from_: str = ""
    files: Mapping[str, str] | None = None
    adapters: Mapping[str, str] | None = None
    draft_files: Mapping[str, str] | None = None
    template: str = ""
    system: str = ""
    license: Any = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[tuple[str, str]] = ()
    quantize: str = ""
    draft_quantize: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DetectedTemplate:
    """A well-known family that a GGUF's Jinja template belongs to, as a Go TEMPLATE with its PARAMETERs."""

    name: str
    template: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreateTools:
    """What creating needs from elsewhere.

    `autodetect` takes a Jinja chat template. `check_template` takes a Go template and raises `TemplateError`.
    `quantize` writes source as target in a type (Q4_K_M). `pull` brings a model into the store and yields
    its statuses. A tool that is None makes the request that needs it fail with a clear text; templates
    are then not detected or not checked.
    """

    autodetect: Callable[[str], DetectedTemplate | None] | None = None
    check_template: Callable[[str], None] | None = None
    quantize: Callable[[Path, Path, str], None] | None = None
    pull: Callable[[Name], Iterator[Status]] | None = None
    prune: bool = True


@dataclass(slots=True)
class _Part:
    """A layer on its way: where its bytes are (memory, or a blob that exists) and what is said about it."""

    layer: Layer
    data: bytes | None = None
    status: str = ""
    metadata: GGUFMetadata | None = None


def create(request: CreateRequest, library: Library, tools: CreateTools | None = None) -> Iterator[Status]:
    """Creates the model; yields the status lines that Ollama sends, {"status": "success"} last.

    Raises `RequestError`, `ModelNotFound`, `NotImplementedYet` or `ServerError`, before the first line or
    in between; until "writing manifest" nothing but blobs has changed.
    """
    tools = tools or CreateTools()
    store = library.store
    for path in (*(request.files or ()), *(request.adapters or ())):
        if not _is_relative(path):
            raise RequestError("file path must be relative")
    name = Name.parse(request.name)
    if not name.valid:
        raise RequestError("invalid model name")
    name = store.existing_name(name)
    if request.draft_quantize:
        raise RequestError("--draft-quantize requires a DRAFT model")

    base = ModelConfig()
    if request.from_:
        parts, base = yield from _parts_of_model(request.from_, library, tools)
    elif request.files is not None:
        parts = yield from _parts_of_files(request.files, store, tools, adapters=False)
    else:
        raise RequestError("neither 'from' or 'files' was specified")
    if request.adapters is not None:
        parts += yield from _parts_of_files(request.adapters, store, tools, adapters=True)
    if request.draft_files is not None:
        if not request.draft_files:
            raise RequestError("unknown type")
        raise NotImplementedYet("draft models are not supported yet")
    if request.quantize:
        yield from _quantize(request.quantize, parts, store, tools)

    parts = _apply(request, parts, store, tools)
    config = _config(request, base, parts)
    yield from _write(name, config, parts, store, prune=tools.prune)
    yield {"status": "success"}


def _is_relative(path: str) -> bool:
    """Below its directory: no root, no drive, no "..", no empty parts."""
    return bool(path) and "\\" not in path and all(p not in ("", ".", "..") for p in path.split("/"))


def _parts_of_model(
    text: str, library: Library, tools: CreateTools
) -> Generator[Status, None, tuple[list[_Part], ModelConfig]]:
    name = Name.parse(parse_reference(text).base)
    if not name.valid:
        raise RequestError("invalid model name")
    store = library.store
    model = library.find(name)
    if model is None and tools.pull is not None:
        yield from tools.pull(name)
        model = library.find(name)
    if model is None:
        raise ModelNotFound(f"model '{text}' not found")
    if model.origin != "store":
        parts = _import_model(model, store, tools)
        return parts, model.config
    manifest = store.manifest(name)
    if manifest is None:
        raise ModelNotFound(f"model '{text}' not found")
    origin = model.name.shortest
    parts = []
    for layer in manifest.layers:
        part = _Part(dataclasses.replace(layer, origin=origin), status=f"using existing layer {layer.digest}")
        if layer.kind == "model" and model.gguf is not None:
            part.metadata = _metadata_or_none(model.gguf)
        parts.append(part)
    return parts, model.config


def materialise(model: Model, name: Name, store: Store) -> None:
    """Writes a package's model or a plain file into the store under a name, weights and all."""
    for _ in _write(name, model.config, _import_model(model, store, CreateTools()), store, prune=True):
        pass


def _import_model(model: Model, store: Store, tools: CreateTools) -> list[_Part]:
    """The layers of a package's model or of a plain file, its weights copied into the store."""
    if model.gguf is None:
        raise ModelLoadError(f"model '{model.name.shortest}' has no GGUF file")
    if (pieces := len(shard_paths(model.gguf))) > 1:
        raise RequestError(
            f"model '{model.name.shortest}' is a GGUF in {pieces} files, and the store takes one: "
            "join them with llama.cpp's `llama-gguf-split --merge` first"
        )
    part = _import_gguf(model.gguf, store)
    part.layer = dataclasses.replace(part.layer, origin=model.name.shortest)
    parts = [part, *_detected(model.metadata, tools)]
    parts += [_new("license", text.encode()) for text in model.licenses]
    if model.params:
        parts = _with_params(parts, model.params, store)
    return parts


def _import_gguf(path: Path, store: Store) -> _Part:
    digest, size, new = import_file(store, path)
    status = f"{'creating new' if new else 'using existing'} layer {digest}"
    return _Part(Layer("model", digest, size), status=status, metadata=_metadata_or_none(path))


def _metadata_or_none(path: Path) -> GGUFMetadata | None:
    try:
        return read_metadata(path)
    except ModelLoadError:
        return None


def _parts_of_files(
    files: Mapping[str, str], store: Store, tools: CreateTools, *, adapters: bool
) -> Generator[Status, None, list[_Part]]:
    kind = _kind_of_files(files, store)
    if kind == "safetensors":
        yield {"status": "converting adapter" if adapters else "converting model"}
        if not any(PurePosixPath(path).name == "config.json" for path in files):
            raise RequestError("open config.json: no such file or directory")
        raise NotImplementedYet("safetensors files cannot be converted yet: convert them to GGUF first")
    if kind != "gguf":
        raise RequestError("unknown type")
    if adapters and len(files) > 1:
        raise RequestError("only one adapter is currently supported")
    parts: list[_Part] = []
    for path, digest in files.items():
        yield {"status": "parsing GGUF"}
        if _SPLIT.search(path):
            raise NotImplementedYet("a GGUF in several files is not supported yet: merge it with llama-gguf-split")
        part = _parse_gguf(digest, store)
        yield {"status": "verifying conversion"}
        parts.append(part)
    # Ollama's order is that of a Go map; weights before projectors is what its own models have
    parts.sort(key=lambda part: ("model", "adapter", "projector").index(part.layer.kind))
    if adapters:
        for part in parts:
            part.layer = dataclasses.replace(part.layer, kind="adapter")
        return parts
    main = next((part.metadata for part in parts if part.layer.kind == "model"), None)
    return parts + (_detected(main, tools) if main else [])


def _kind_of_files(files: Mapping[str, str], store: Store) -> str:
    """ "safetensors", "gguf" or "": by the names, or by the content where a name says nothing."""
    for path, digest in files.items():
        ending = os.path.splitext(path)[1]
        if ending in (".safetensors", ".gguf"):
            return ending[1:]
        try:
            with store.blob_path(digest).open("rb") as file:
                if file.read(4) == b"GGUF":
                    return "gguf"
        except (OSError, ManifestError):
            continue
    return ""


def _parse_gguf(digest: str, store: Store) -> _Part:
    path = checked_blob_path(store, digest)
    if not path.is_file():
        # the real directory is nobody's business: the path is told as below a root called /models
        raise RequestError(f"open /models/blobs/{path.name}: no such file or directory")
    size = path.stat().st_size
    try:
        metadata = read_metadata(path)
    except GGUFError as error:
        if not error.magic:
            raise RequestError("supplied file was not in GGUF format") from error
        if size <= 4:
            raise RequestError("EOF") from error
        raise RequestError(f"failed to validate GGUF: {error.text}") from error
    kind = "model"
    if metadata.architecture == "clip":
        kind = "projector"
    elif metadata.text("general.type") == "adapter":
        kind = "adapter"
    digest = digest.replace("-", ":", 1)
    return _Part(Layer(kind, digest, size), status=f"using existing layer {digest}", metadata=metadata)


def _detected(metadata: GGUFMetadata, tools: CreateTools) -> list[_Part]:
    if tools.autodetect is None or metadata.chat_template is None:
        return []
    detected = tools.autodetect(metadata.chat_template)
    if detected is None:
        return []
    template = _new("template", detected.template.encode())
    template.status = f"using autodetected template {detected.name}"
    return [template, _new("params", encode_json(dict(detected.params)))] if detected.params else [template]


def _new(kind: str, data: bytes) -> _Part:
    return _Part(Layer(kind, digest_of(data), len(data)), data)


def _quantize(wanted: str, parts: list[_Part], store: Store, tools: CreateTools) -> Iterator[Status]:
    wanted = wanted.upper()
    if wanted not in QUANTIZATIONS:
        raise RequestError(f"unsupported quantization type {wanted} - supported types are {_ADVERTISED}")
    wanted = "Q4_K_M" if wanted == "Q4_K" else wanted
    for index, part in enumerate(parts):
        if part.layer.kind != "model":
            continue
        if part.metadata is None:
            raise RequestError("quantization needs a GGUF that can be read")
        if part.metadata.file_type not in ("F16", "BF16", "F32"):
            raise RequestError("quantization is only supported for F16, BF16 and F32 models")
        if part.metadata.file_type == wanted:
            continue
        if tools.quantize is None:
            raise NotImplementedYet("this server cannot quantize: quantize the GGUF with llama-quantize first")
        with tempfile.TemporaryDirectory(dir=store.blobs, prefix=".vllama-") as directory:
            target = Path(directory) / "quantized.gguf"
            tools.quantize(store.blob_path(part.layer.digest), target, wanted)
            yield {"status": "verifying conversion"}
            new = _import_gguf(target, store)
        new.metadata = _metadata_or_none(store.blob_path(new.layer.digest))
        parts[index] = new


def _apply(request: CreateRequest, parts: list[_Part], store: Store, tools: CreateTools) -> list[_Part]:
    """The base's layers with those of the request put in their places, in Ollama's order."""
    if request.template:
        if tools.check_template is not None:
            try:
                tools.check_template(request.template)
            except TemplateError as error:
                raise RequestError(f"template error: {error.text}") from error
        parts = [*_without(parts, "template", "prompt"), _new("template", request.template.encode())]
    if request.system:
        parts = [*_without(parts, "system"), _new("system", request.system.encode())]
    parts = parts + [_new("license", text.encode()) for text in _licenses(request.license)]
    parts = _with_params(parts, request.parameters, store)
    if request.messages:
        data = encode_json([{"role": role, "content": content} for role, content in request.messages])
        parts = [*_without(parts, "messages"), _new("messages", data)]
    return parts


def _without(parts: list[_Part], *kinds: str) -> list[_Part]:
    return [part for part in parts if part.layer.kind not in kinds]


def _licenses(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise RequestError(f"json: cannot unmarshal {_json_type(value)} into Go value of type []string")
    for item in value:
        if not isinstance(item, str) and item is not None:
            raise RequestError(f"json: cannot unmarshal {_json_type(item)} into Go value of type string")
    return [item or "" for item in value]


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "string"


def _with_params(parts: list[_Part], params: Mapping[str, Any], store: Store) -> list[_Part]:
    """One params layer at the end: those given, over those that the layers so far have."""
    merged = dict(params)
    for part in parts:
        if part.layer.kind == "params":
            existing = store.read_params(part.layer) if part.data is None else _decode(part.data)
            merged = {**existing, **merged}
    if not merged:
        return parts
    return [*_without(parts, "params"), _new("params", encode_json(merged))]


def _decode(data: bytes) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(data)
    return decoded


def _config(request: CreateRequest, base: ModelConfig, parts: list[_Part]) -> ModelConfig:
    """What the weights say, else what the base said; renderer, parser, requires and `info` as asked for."""
    config = base
    for part in parts:
        if part.metadata is None:
            continue
        own = ModelConfig.from_metadata(part.metadata)
        if part.layer.kind == "model":
            config = dataclasses.replace(
                own,
                renderer=base.renderer,
                parser=base.parser,
                requires=base.requires,
                capabilities=base.capabilities,
                base_name=base.base_name,
            )
        elif own.family not in config.families:
            config = dataclasses.replace(config, families=(*config.families, own.family))
    changes: dict[str, Any] = {
        key: value
        for key, value in (("renderer", request.renderer), ("parser", request.parser), ("requires", request.requires))
        if value
    }
    told = ModelConfig.from_json(
        {
            "model_family": request.info.get("model_family"),
            "base_name": request.info.get("base_name"),
            "file_type": request.info.get("quantization_level"),
            "model_type": request.info.get("parameter_size"),
            "capabilities": request.info.get("capabilities"),
            "context_length": request.info.get("context_length"),
            "embedding_length": request.info.get("embedding_length"),
        }
    )
    if told.family:
        changes["families"] = tuple(dict.fromkeys((told.family, *config.families)))
    for item in dataclasses.fields(told):
        if item.name != "format" and (value := getattr(told, item.name)):
            changes[item.name] = value
    return dataclasses.replace(config, **changes)


def _write(name: Name, config: ModelConfig, parts: list[_Part], store: Store, *, prune: bool) -> Iterator[Status]:
    lines: list[str] = []
    layers: list[Layer] = []
    for part in parts:
        layer, status = part.layer, part.status
        if part.data is not None:
            _, new = store.write_blob(part.data)
            status = status or f"{'creating new' if new else 'using existing'} layer {layer.digest}"
        layers.append(layer)
        lines.append(status)
    for line in lines:
        yield {"status": line}
    yield {"status": "writing manifest"}
    rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
    config_data = encode_json(config.to_json() | {"architecture": "amd64", "os": "linux", "rootfs": rootfs})
    config_digest, _ = store.write_blob(config_data)
    with store.lock:
        # a delete in another thread may have removed what this model was about to share
        for layer in layers:
            if not store.blob_path(layer.digest).exists():
                raise RequestError(f"the layer {layer.digest} was removed while the model was created")
        old = store.manifest(name)
        manifest = Manifest(Layer("config", config_digest, len(config_data)), tuple(layers))
        store.write_manifest(name, manifest.encode())
        if prune and old is not None:
            store.remove_unreferenced(old.digests)
