"""Requests that schemathesis makes of the OpenAPI document: right ones, and ones that the document forbids.

The rules are those of `tests.fuzz.http`; besides, every answer must be as the document says.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import hypothesis
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
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    with_input = [operation for operation in operations if operation.body or operation.path_parameters]
    dice = random.Random(seed)
    for operation in operations:
        share = max(1, count // (2 * len(with_input))) if operation in with_input else 1
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if share > 1 else (GenerationMode.POSITIVE,):
            for case in _cases(operation, mode, share, seed):
                _aim(case, operation.path, dice)
                yield from _broken(case, operation, url)


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


def _broken(case: Case, operation: APIOperation[Any, Any, Any, Any], url: str) -> Iterator[tuple[int, str]]:
    response = case.call(base_url=url, timeout=TIMEOUT_S, allow_redirects=False)
    status = response.status_code
    what = f"{case.method} {case.path} {str(case.body)[:300]}"
    expected = EXPECTED | ({500} if operation.path in TRANSFERS else set())
    if status == 422 or (status >= 500 and status not in expected):
        yield status, what
    try:
        operation.validate_response(response, case=case)
    except Exception as failure:  # one of schemathesis' many
        yield status, f"{what}: {str(failure)[:600]}"
