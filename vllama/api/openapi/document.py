"""`/openapi.json`: one document for Ollama's, OpenAI's and Anthropic's API as they are served here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllama import __version__
from vllama.api.openapi.answers import ANSWERS, COMPONENTS, ERRORS
from vllama.api.openapi.bodies import BODIES, Bodies
from vllama.api.openapi.schema import Schema, ref
from vllama.api.routing import Route

VERSION = "3.1.0"
DESCRIPTION = """\
Bodies are read as JSON whatever their Content-Type says, keys match in any case, unknown ones are ignored, and null is
as if a field was not there. Streams are described by `x-item-schema`: the schema of each line (NDJSON) or of the data
of each event (Server-Sent Events; on OpenAI's routes the last one is the text `[DONE]`)."""
SUMMARY = "Ollama's, OpenAI's and Anthropic's API on the engine that suits the machine."


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI document of these routes. Raises KeyError for one whose answers are not written down."""
    bodies = Bodies()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        for method in route.methods:
            paths.setdefault(route.path, {})[method.lower()] = _operation(route, method, bodies)
    free: Schema = {"type": "object"}
    return {
        "openapi": VERSION,
        "info": {"title": "vLLama", "version": __version__, "summary": SUMMARY, "description": DESCRIPTION},
        "paths": paths,
        "components": {"schemas": {**bodies.components, **COMPONENTS, "Document": free}},
    }


def _operation(route: Route, method: str, bodies: Bodies) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()} {route.path}",
        "summary": route.summary,
        "tags": [route.api],
        "responses": _responses(route, method),
    }
    if route.path.endswith("}"):
        name = route.path[route.path.rindex("{") + 1 : -1]
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}]
    body = BODIES.get((method, route.path))
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": bodies.of(body)}}}
    elif route.path.startswith("/api/blobs") and method == "POST":
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    return operation


def _responses(route: Route, method: str) -> dict[str, Any]:
    answers = ANSWERS[method, route.path]
    content: dict[str, Any] = {}
    if answers.json:
        content["application/json"] = {"schema": ref(answers.json)}
    if answers.lines:
        content["application/x-ndjson"] = {"schema": {"type": "string"}, "x-item-schema": ref(answers.lines)}
    if answers.events:
        content["text/event-stream"] = {"schema": {"type": "string"}, "x-item-schema": ref(answers.events)}
    if answers.text:
        content[answers.text] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {}
    if answers.status:
        responses[str(answers.status)] = {"description": "As asked for"}
        if content:
            responses[str(answers.status)]["content"] = content
    if route.path.startswith("/api/blobs") and method == "POST":
        responses["200"] = {"description": "The blob was there already"}
    error: dict[str, Any] = {"description": "The request cannot be done; the text says why"}
    if method != "HEAD":
        error["content"] = {"application/json": {"schema": ref(ERRORS[route.api])}}
    return {**responses, "4XX": error, "5XX": {**error, "description": "The server could not do it"}}
