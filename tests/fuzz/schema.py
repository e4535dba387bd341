"""Requests that schemathesis makes of the OpenAPI document: right ones, and ones that the document forbids.

The rules are those of `tests.fuzz.http`; besides, every answer must be as the document says.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import hypothesis
import jsonschema_rs
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation

from tests.fuzz.http import EXPECTED

TRANSFERS = {"/api/pull", "/api/push", "/api/create"}
"""These answer 500 when a registry cannot be reached and no stream was asked for, as Ollama does."""
MODELS = {"model": "smollm2:135m", "name": "smollm2:135m", "source": "smollm2:135m", "from": "smollm2:135m"}
LIMITS: dict[str, dict[str, Any]] = {
    "/api/generate": {"options": {"num_predict": 1}},
    "/api/chat": {"options": {"num_predict": 1}},
    "/v1/chat/completions": {"max_tokens": 1},
    "/v1/completions": {"max_tokens": 1},
    "/v1/messages": {"max_tokens": 1},
    "/v1/responses": {"max_output_tokens": 1},
}
TIMEOUT_S = 60


def fuzz(url: str, document: dict[str, Any], count: int, seed: int) -> Iterator[tuple[int, str]]:
    """Sends about `count` requests to the server at `url`; yields (status, what) of those that break a rule."""
    schema = schemathesis.openapi.from_dict(_without_streams(document))
    streams = Streams(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    with_input = [operation for operation in operations if operation.body or operation.path_parameters]
    dice = random.Random(seed)
    for operation in operations:
        share = max(1, count // (2 * len(with_input))) if operation in with_input else 1
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if share > 1 else (GenerationMode.POSITIVE,):
            for case in _cases(operation, mode, share, seed):
                _aim(case, operation.path, dice)
                yield from _broken(case, operation, url, streams)


def _cases(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, count: int, seed: int) -> list[Case]:
    cases: list[Case] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def gather(case: Case) -> None:
        cases.append(case)

    try:
        gather()
    except hypothesis.errors.Unsatisfiable:
        return []  # an operation without input has nothing that could be wrong
    return cases


def _aim(case: Case, path: str, dice: random.Random) -> None:
    """Most requests get the name of a model that is there, and an end: else nothing behind the name is reached."""
    if not isinstance(case.body, dict):
        return
    for field, name in MODELS.items():
        if field in case.body and isinstance(case.body[field], str) and dice.random() < 0.8:
            case.body[field] = name
    for field, value in LIMITS.get(path, {}).items():
        found = case.body.get(field)
        if isinstance(value, dict):
            if found is None or isinstance(found, dict):
                case.body[field] = {**(found or {}), **value}
        elif found is None or isinstance(found, int):
            case.body[field] = value


class Streams:
    """Holds each line and event of a stream against the `x-item-schema` that the document gives for it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._validator = lru_cache(self._make)

    def _make(self, reference: str) -> jsonschema_rs.Draft202012Validator:
        return jsonschema_rs.Draft202012Validator({"$ref": reference, "components": self._document["components"]})

    def validate(self, path: str, method: str, kind: str, body: bytes) -> None:
        """Raises ValueError for what is no JSON, `jsonschema_rs.ValidationError` for what is not described."""
        responses = self._document["paths"][path][method.lower()]["responses"]
        described = responses.get("200", {}).get("content", {}).get(kind, {})
        if "x-item-schema" not in described:
            return
        events = kind == "text/event-stream"
        # Not splitlines(): it knows more ends of lines than JSON and events do.
        for line in body.split(b"\n"):
            found = line.partition(b"data: ")[2] if events else line
            # An error may end a stream at any place.
            if found and found != b"[DONE]" and "error" not in (value := json.loads(found)):
                self._validator(described["x-item-schema"]["$ref"]).validate(value)


def _without_streams(document: dict[str, Any]) -> dict[str, Any]:
    """The document without the schemas of event streams as a whole, which schemathesis takes for those of an event."""
    changed = copy.deepcopy(document)
    for methods in changed["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                response.get("content", {}).get("text/event-stream", {}).pop("schema", None)
    return changed


def _broken(
    case: Case, operation: APIOperation[Any, Any, Any, Any], url: str, streams: Streams
) -> Iterator[tuple[int, str]]:
    response = case.call(base_url=url, timeout=TIMEOUT_S, allow_redirects=False)
    status = response.status_code
    what = f"{case.method} {case.path} {str(case.body)[:300]}"
    expected = EXPECTED | ({500} if operation.path in TRANSFERS else set())
    if status == 422 or (status >= 500 and status not in expected):
        yield status, what
    try:
        operation.validate_response(response, case=case)
        kind = response.headers.get("content-type", [""])[0].partition(";")[0]
        if status == 200:
            streams.validate(operation.path, operation.method, kind, response.content)
    except Exception as failure:  # one of schemathesis' many, or of `Streams`
        yield status, f"{what}: {str(failure)[:600]}"
