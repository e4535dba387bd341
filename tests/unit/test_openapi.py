"""The OpenAPI document is true: every route is in it, and recorded answers are as it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import jsonschema_rs
import pytest

from vllama.api.openapi.answers import ANSWERS, COMPONENTS
from vllama.api.openapi.bodies import BODIES, FIELDS, REQUIRED
from vllama.api.openapi.document import document
from vllama.api.routes import routes
from vllama.api.routing import Route, RouteTable

WIRE = Path(__file__).parents[1] / "golden" / "wire"


async def _page(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


PAGES = (Route(("HEAD", "GET"), "/docs", _page, "ops", ""), Route(("HEAD", "GET"), "/openapi.json", _page, "ops", ""))
# The routes' factories only keep the service; nothing of it is used here.
TABLE = RouteTable((*routes(MagicMock()), *PAGES))
DOCUMENT = document(TABLE.routes)
OPERATIONS = {(method, route.path) for route in TABLE.routes for method in route.methods}


def validator(name: str) -> jsonschema_rs.Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


VALIDATORS = {name: validator(name) for name in DOCUMENT["components"]["schemas"]}


def test_every_route_is_in_the_document_and_the_reverse() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == OPERATIONS
    assert set(ANSWERS) == OPERATIONS
    assert set(BODIES) <= OPERATIONS


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    text = json.dumps(DOCUMENT)
    used = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert used == set(DOCUMENT["components"]["schemas"])
    # What is said of single fields is said of fields that exist.
    structs = DOCUMENT["components"]["schemas"]
    for name, field in FIELDS:
        assert field in structs[name]["properties"]
    for name, fields in REQUIRED.items():
        assert set(fields) <= set(structs["api.Message" if name == "api.Alias" else name]["properties"])


def test_the_document_is_an_openapi_document() -> None:
    jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **DOCUMENT["components"]})
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    names = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


# -- recorded answers ------------------------------------------------------------------------------------------------

CASES = {
    case["id"]: case
    for file in sorted((WIRE / "cases").glob("*.jsonl"))
    for case in map(json.loads, file.read_text("utf-8").splitlines())
}
GOLDEN = [
    json.loads(line)
    for file in sorted((WIRE / "golden").glob("*.jsonl"))
    for line in file.read_text("utf-8").splitlines()
]
NULL_CONTENT = {"v1messages-block-bad", "v1messages-stop"}
"""Where Ollama sends null for an empty list; clients cannot read it, and it is an empty list here."""


def operation(case: dict[str, Any]) -> dict[str, Any] | None:
    """The operation that a recorded request was for; None for one that has no route."""
    method, path = case["method"], case["path"].partition("?")[0]
    for known in DOCUMENT["paths"]:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path):
            found: dict[str, Any] | None = DOCUMENT["paths"][known].get(method.lower())
            return found
    return None


def parts(answer: dict[str, Any], content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(component, value) for everything in an answer that a schema describes."""
    kind = answer["headers"].get("content-type", "").partition(";")[0]
    described = content[kind]
    if "lines" in answer:
        for line in answer["lines"]:
            yield described["x-item-schema"]["$ref"], json.loads(line)
    elif "events" in answer:
        for event in answer["events"]:
            data = event.partition("data: ")[2]
            if data.strip() != "[DONE]":
                yield described["x-item-schema"]["$ref"], json.loads(data)
    elif kind == "application/json":
        yield described["schema"]["$ref"], json.loads(answer["body"])


def recorded() -> list[Any]:
    found = []
    for answer in GOLDEN:
        case = CASES[answer["id"]]
        status = answer["status"]
        shown = operation(case)
        # Redirects, 403 of the Host check and preflights are HTTP's, not an operation's.
        if shown is None or not (answer.get("body") or "lines" in answer or "events" in answer):
            continue
        if status < 300 or (status >= 400 and answer["headers"].get("content-type", "").startswith("application/json")):
            found.append(pytest.param(shown, answer, id=answer["id"]))
    return found


RECORDED = recorded()


def test_most_recordings_are_compared() -> None:
    assert len(RECORDED) > 850


@pytest.mark.parametrize(("shown", "answer"), RECORDED)
def test_a_recorded_answer_is_as_the_document_says(shown: dict[str, Any], answer: dict[str, Any]) -> None:
    status = str(answer["status"])
    response = shown["responses"].get(status) or shown["responses"][f"{status[0]}XX"]
    for reference, value in parts(answer, response["content"]):
        if (
            isinstance(value, dict) and "tensors" in value
        ):  # the recording counts what stands in the middle of a long list
            value["tensors"] = [tensor for tensor in value["tensors"] if "$len" not in tensor]
        if answer["id"] in NULL_CONTENT and isinstance(value, dict) and value.get("content", 0) is None:
            value["content"] = []
        VALIDATORS[reference.rpartition("/")[2]].validate(value)


def test_a_field_that_nobody_knows_is_noticed() -> None:
    for name, schema in COMPONENTS.items():
        if schema.get("additionalProperties") is False:
            assert not VALIDATORS[name].is_valid({"surprise": 1})


def without_nulls(value: Any) -> Any:
    """A body as it is read: null is as if the field was not there."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


CLIENTS = [case for case in CASES.values() if case["id"].startswith("clients-")]


@pytest.mark.parametrize("case", CLIENTS, ids=lambda case: case["id"])
def test_what_clients_send_is_as_the_document_says(case: dict[str, Any]) -> None:
    shown = operation(case)
    if shown is None or not isinstance(case.get("body"), dict):
        return
    reference = shown["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    VALIDATORS[reference.rpartition("/")[2]].validate(without_nulls(case["body"]))
