"""Requests that mean harm: they may cost their sender an error, and nobody else anything."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from vllama.api.ollama.chat import forbid_files
from vllama.api.ollama.root import status_endpoint
from vllama.config import Settings
from vllama.core.apart import Apart
from vllama.core.conversation import tag_images
from vllama.core.options import MAX_STOPS, OptionError, merge_options
from vllama.core.requests import ChatRequest, GenerateRequest
from vllama.core.service import MAX_BATCH, Service
from vllama.engines.base import Engine, LoadOptions, ModelSource
from vllama.engines.registry import EngineKind
from vllama.engines.scripted import Script, ScriptedEngine, available
from vllama.errors import ForbiddenError, ModelNotFound
from vllama.models.library import Library
from vllama.prompts.messages import Message


class Recording:
    """Makes scripted engines and keeps what each was loaded with."""

    def __init__(self) -> None:
        self.options: list[LoadOptions] = []

    def create(self, source: ModelSource, options: LoadOptions) -> Engine:
        self.options.append(options)
        return ScriptedEngine(source, options, Script(length=3))

    def choose(self, _: object) -> EngineKind:
        return EngineKind("scripted", "scripted", ("gguf", "scripted"), available, self.create)


def service(tmp_path: Path, recording: Recording, **settings: Any) -> Service:
    chosen = Settings(models_dir=tmp_path, engine="scripted", **settings)
    return Service(chosen, Library(tmp_path, overlay=False), recording.choose)


@pytest.mark.parametrize(
    "path",
    ["/a\x00.gguf", "~nobody-of-that-name/x.gguf", "/\ud800.gguf", "/" + "a" * 5000 + ".gguf"],
    ids=["nul", "nobody", "surrogate", "long"],
)
def test_a_path_that_cannot_be_one_is_not_found(tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelNotFound, match="cannot open"):
        Library(tmp_path, overlay=False).resolve(path, allow_path=True)


@pytest.mark.parametrize("path", ["/etc/x.gguf", "./x.gguf", "~/x.gguf"])
def test_a_web_page_cannot_ask_which_files_exist(path: str) -> None:
    forbid_files({"headers": []}, path)
    with pytest.raises(ForbiddenError, match="web page"):
        forbid_files({"headers": [(b"origin", b"http://localhost:3000")]}, path)
    forbid_files({"headers": [(b"origin", b"http://localhost:3000")]}, "smollm2:135m")


async def test_load_options_are_bounded(tmp_path: Path) -> None:
    recording = Recording()
    core = service(tmp_path, recording)
    wild = {"num_thread": 2**40, "num_batch": 2**40, "num_predict": 1}
    for options in (wild, wild | {"num_thread": -7}):
        reply = await core.generate(GenerateRequest("m", prompt="x", options=options))
        await reply.aclose()
    assert recording.options[0].num_thread == os.cpu_count()
    assert recording.options[0].num_batch == MAX_BATCH
    assert recording.options[1].num_thread == 0
    assert core.residency.busy == 0
    await core.stop()


async def test_the_debug_setting_reaches_the_engine(tmp_path: Path) -> None:
    recording = Recording()
    core = service(tmp_path, recording, debug=2)
    await (await core.chat(ChatRequest("m"))).aclose()
    assert recording.options[0].extra == (("debug", "1"),)
    await core.stop()


def test_stop_strings_are_bounded() -> None:
    assert len(merge_options({}, {"stop": ["x"] * MAX_STOPS}).stop) == MAX_STOPS
    with pytest.raises(OptionError, match='"stop" must have at most 1000 strings'):
        merge_options({}, {"stop": ["x"] * (MAX_STOPS + 1)})


def test_image_tags() -> None:
    messages = (
        Message("user", "a [img] b [img] c [img]", images=(b"1", b"2")),
        Message("user", "d [img]", images=(b"3", b"4", b"5")),
        Message("user", "e [img]"),
    )
    assert [m.content for m in tag_images(messages)] == [
        "a [img-0] b [img-1] c [img]",
        "[img-3][img-4]d [img-2]",
        "e [img]",
    ]


def test_many_image_tags_are_put_in_at_once() -> None:
    # One by one each tag copies the whole text: 30 s for this one.
    message = Message("user", "[img]" * 50_000, images=(b"",) * 50_000)
    assert tag_images((message,))[0].content.endswith("[img-49999]")


async def test_what_is_large_is_done_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real = Apart.call

    async def watched(self: Apart, function: Any, *arguments: Any, **named: Any) -> Any:
        done.append(function.__name__)
        return await real(self, function, *arguments, **named)

    monkeypatch.setattr(Apart, "call", watched)
    core = service(tmp_path, Recording())
    short, long = (Message("user", "short"),), (Message("user", "a " * 40_000),)
    few, many = ({"anyOf": [{"const": i} for i in range(n)]} for n in (10, 2000))
    try:
        for messages, schema, expected in (
            (short, few, []),
            (long, few, ["text"]),
            (short, many, ["schema_grammar"]),
        ):
            done.clear()
            await (await core.chat(ChatRequest("m", messages=messages, format=schema))).aclose()
            assert done == expected
    finally:
        await core.stop()


async def test_status_names_what_disabled_the_cloud(tmp_path: Path) -> None:
    bodies = []

    async def send(message: Any) -> None:
        bodies.append(message.get("body"))

    for no_cloud in (False, True):
        core = service(tmp_path, Recording(), no_cloud=no_cloud)
        await status_endpoint(core)({}, None, send)  # type: ignore[arg-type]
    assert bodies[1::2] == [
        b'{"cloud":{"disabled":true,"source":"config"}}',
        b'{"cloud":{"disabled":true,"source":"env"}}',
    ]


async def test_health_has_counters_and_does_not_wait_for_an_engine_that_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import orjson

    from vllama.api.ops import health as module

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def stuck(_: object) -> None:
        await asyncio.Event().wait()

    core = service(tmp_path, Recording())
    await (await core.chat(ChatRequest("m"))).aclose()
    await module.health(core)({}, None, send)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "STATS_TIMEOUT_S", 0.01)
    monkeypatch.setattr(ScriptedEngine, "stats", stuck)
    await module.health(core)({}, None, send)  # type: ignore[arg-type]
    full, short = (orjson.loads(message["body"])["models"][0] for message in sent[1::2])
    assert full["active"] == full["output_tokens"] == 0
    assert short == {"model": "m:latest", "engine": "scripted", "requests": 0}
    await core.stop()
