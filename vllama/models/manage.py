"""/api/copy and /api/delete."""

from __future__ import annotations

from dataclasses import replace

from vllama.errors import ModelNotFound, NotFoundError, RequestError
from vllama.goquote import quote
from vllama.models.create import materialise
from vllama.models.hub.records import canonical
from vllama.models.library import Library
from vllama.models.model import Model
from vllama.models.names import Name, parse_reference


def copy(library: Library, source: str, destination: str) -> None:
    """Gives a model a second name. A package's model is copied into the store, weights and all; one of Hugging Face
    stays in its cache.

    Raises `RequestError` for a bad name, `NotFoundError`, or `ServerError` when the store cannot be written.
    """
    found = _source(library, source)
    target = Name.parse(destination)
    if not target.valid:
        raise RequestError(f"destination {quote(destination)} is invalid")
    if found is None:
        raise NotFoundError(f"model {quote(source)} not found")
    store = library.store
    target = store.existing_name(target)
    if found.origin == "hub":
        _copy_record(library, found, target)
    elif found.origin != "store":
        materialise(found, target, store)
    elif found.name.key != target.key:
        with store.lock:
            store.write_manifest(target, store.manifest_bytes(found.name))


def _copy_record(library: Library, found: Model, target: Name) -> None:
    record = library.hub.record(found.name)
    if library.store.find(target) or library.overlay.find(target):
        raise RequestError(f"destination {quote(target.shortest)} is a model already: remove it first")
    if record is not None and found.name.key != canonical(target).key:
        library.hub.add(replace(record, name=canonical(target)))


def _source(library: Library, text: str) -> Model | None:
    name = Name.parse(text)
    if name.valid and (model := library.find(name)):
        return model
    try:
        name = Name.parse(parse_reference(text).base)
    except RequestError:
        name = Name.parse("")
    if not name.valid:
        raise RequestError(f"source {quote(text)} is invalid")
    return library.find(name)


def delete(library: Library, text: str) -> None:
    """Removes a model of the store, or of the Hugging Face cache, and the files that no other model needs. A running
    copy goes on.

    Raises `RequestError` for a bad name, a package's model or a file's, `ModelNotFound`, or `ServerError` when the
    store cannot be written.
    """
    literal = Name.parse(text)
    if literal.valid and library.store.delete(literal):
        return
    name = Name.parse(parse_reference(text).base)
    if not name.valid:
        raise RequestError(f"name {quote(text)} is invalid")
    if name != literal and library.store.delete(name):
        return
    if library.hub.delete(literal) or library.hub.delete(name):
        return
    if library.overlay.find(name):
        raise RequestError(
            f"model '{text}' belongs to an installed Python package and cannot be deleted; uninstall the package"
        )
    found = library.find(literal) or library.find(name)
    if found is not None and found.origin == "file":
        raise RequestError(
            f"model '{text}' is a file that the server was started with (--model) and is not deleted: "
            "start the server without it"
        )
    raise ModelNotFound(f"model '{text}' not found")
