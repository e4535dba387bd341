"""/api/create: statuses, layers and errors as recorded from Ollama."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllama.errors import ModelNotFound, NotImplementedYet, RequestError, TemplateError
from vllama.goquote import quote
from vllama.models.blobs import BlobWriter
from vllama.models.create import CreateRequest, CreateTools, DetectedTemplate, create
from vllama.models.gotext import encode_json, format_value
from vllama.models.library import Library
from vllama.models.names import Name

MakeGGUF = Callable[..., Path]
DETECTED = DetectedTemplate("chatml", "T {{ .Prompt }}", {"stop": ["<a>", "<b>"]})


def refuse(text: str) -> None:
    if "bad" in text:
        raise TemplateError("template: :1: unclosed action")


TOOLS = CreateTools(autodetect=lambda _: DETECTED, check_template=refuse)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "store", overlay=False)


def upload(library: Library, data: bytes) -> str:
    with BlobWriter(library.store) as writer:
        writer.write(data)
        return writer.commit()


def run(library: Library, tools: CreateTools = TOOLS, **fields: Any) -> list[str]:
    """The statuses with digests cut off."""
    return [line["status"].split(" sha256:")[0] for line in create(CreateRequest(**fields), library, tools)]


@pytest.fixture
def base(library: Library, make_gguf: MakeGGUF) -> str:
    digest = upload(library, make_gguf().read_bytes())
    run(library, name="base", files={"m.gguf": digest})
    return digest


def test_from_a_gguf_with_a_known_template(library: Library, make_gguf: MakeGGUF) -> None:
    digest = upload(library, make_gguf().read_bytes())
    assert run(library, name="m", files={"m.gguf": digest}) == [
        "parsing GGUF",
        "verifying conversion",
        "using existing layer",
        "using autodetected template chatml",
        "creating new layer",
        "writing manifest",
        "success",
    ]
    model = library.resolve("m")
    assert (model.template, model.params) == ("T {{ .Prompt }}", {"stop": ["<a>", "<b>"]})
    assert model.gguf == library.store.blob_path(digest)
    config = json.loads(library.store.blob_path(library.store.manifest(model.name).config.digest).read_bytes())  # type: ignore[union-attr]
    assert config["model_family"] == "llama"
    assert config["file_type"] == "F16"
    assert config["context_length"] == 512


def test_an_own_template_keeps_the_detected_stops(library: Library, base: str) -> None:
    files = {"m.gguf": base}
    run(library, name="own", files=files, template="{{ .Prompt }}", parameters={"seed": 7})
    model = library.resolve("own")
    assert (model.template, model.params) == ("{{ .Prompt }}", {"seed": 7, "stop": ["<a>", "<b>"]})
    run(library, name="own", files=files, parameters={"stop": ["x"]})
    assert library.resolve("own").params == {"stop": ["x"]}


def test_from_a_model_merges(library: Library, base: str) -> None:
    run(
        library, name="one", from_="base", system="one", license="L1", parameters={"top_k": 3}, messages=[("user", "u")]
    )
    lines = run(library, name="two", from_="ONE", license=["L2", "L3"], parameters={"top_k": 4})
    assert lines[-2:] == ["writing manifest", "success"]
    model = library.resolve("two")
    assert (model.system, model.licenses, model.parent) == ("one", ("L1", "L2", "L3"), "one:latest")
    assert (model.params["top_k"], model.messages) == (4, (("user", "u"),))


def test_a_new_name_keeps_the_spelling_of_the_old(library: Library, base: str) -> None:
    run(library, name="BASE", from_="base", system="changed")
    assert [m.name.shortest for m in library.models()] == ["base:latest"]
    assert library.resolve("base").system == "changed"


def test_replacing_a_model_removes_its_own_layers(library: Library, base: str) -> None:
    run(library, name="base", from_="base", system="first")
    before = set(library.store.blobs.iterdir())
    run(library, name="base", from_="base", system="second")
    assert len(set(library.store.blobs.iterdir())) == len(before)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "", "from_": "base"}, "invalid model name"),
        ({"name": "a b", "from_": "base"}, "invalid model name"),
        ({"name": "x", "from_": "a b"}, "invalid model name"),
        ({"name": "x"}, "neither 'from' or 'files' was specified"),
        ({"name": "x", "files": {}}, "unknown type"),
        ({"name": "x", "files": {"/etc/passwd": "sha256:" + "0" * 64}}, "file path must be relative"),
        ({"name": "x", "files": {"../m.gguf": "sha256:" + "0" * 64}}, "file path must be relative"),
        ({"name": "x", "from_": "base", "adapters": {"a/../b.gguf": "d"}}, "file path must be relative"),
        ({"name": "x", "files": {"m.gguf": "sha256:12"}}, "invalid digest format"),
        (
            {"name": "x", "files": {"m.gguf": "sha256:" + "0" * 64}},
            f"open /models/blobs/sha256-{'0' * 64}: no such file or directory",
        ),
        ({"name": "x", "from_": "base", "template": "bad"}, "template error: template: :1: unclosed action"),
        ({"name": "x", "from_": "base", "license": 5}, "json: cannot unmarshal number into Go value of type []string"),
        ({"name": "x", "from_": "base", "draft_quantize": "q4_0"}, "--draft-quantize requires a DRAFT model"),
        (
            {"name": "x", "from_": "base", "quantize": "q9_z"},
            "unsupported quantization type Q9_Z - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0",
        ),
        ({"name": "x", "files": {"m.safetensors": "d"}}, "open config.json: no such file or directory"),
    ],
)
def test_client_mistakes(library: Library, base: str, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError) as caught:
        run(library, **fields)
    assert caught.value.text == text
    assert [m.name.model for m in library.models()] == ["base"]


def test_files_that_are_no_gguf(library: Library) -> None:
    for data, text in (
        (b"this is text", "supplied file was not in GGUF format"),
        (b"GG", "supplied file was not in GGUF format"),
        (b"GGUF", "EOF"),
    ):
        with pytest.raises(RequestError) as caught:
            run(library, name="x", files={"m.gguf": upload(library, data)})
        assert caught.value.text == text
    with pytest.raises(RequestError, match=r"failed to validate GGUF: .*version 9"):
        run(library, name="x", files={"m.gguf": upload(library, b"GGUF\x09" + bytes(40))})
    with pytest.raises(RequestError, match="unknown type"):
        run(library, name="x", files={"readme": upload(library, b"text")})


def test_quantizing_needs_a_tool_and_a_float_model(library: Library, base: str, make_gguf: MakeGGUF) -> None:
    with pytest.raises(NotImplementedYet):
        run(library, name="q", from_="base", quantize="q8_0")
    small = make_gguf("small.gguf", general__file_type=7).read_bytes()

    def quantize(source: Path, target: Path, kind: str) -> None:
        assert source == library.store.blob_path(base)
        assert kind == "Q8_0"
        target.write_bytes(small)

    lines = run(library, CreateTools(quantize=quantize), name="q", from_="base", quantize="q8_0")
    assert lines[:2] == ["verifying conversion", "creating new layer"]
    assert library.resolve("q").config.quantization_level == "Q8_0"
    with pytest.raises(RequestError, match="only supported for F16, BF16 and F32"):
        run(library, name="q2", from_="q", quantize="q4_K_M")


def test_a_missing_base_is_pulled_if_somebody_can(library: Library, base: str) -> None:
    with pytest.raises(ModelNotFound):
        run(library, name="x", from_="far")

    def pull(name: Name) -> Iterator[dict[str, Any]]:
        yield {"status": "pulling manifest"}
        library.store.write_manifest(name, library.store.manifest_bytes(Name.parse("base")))

    assert run(library, CreateTools(pull=pull), name="x", from_="far")[0] == "pulling manifest"
    assert library.resolve("x").parent == "far:latest"


def test_projectors_and_adapters_get_their_layers(library: Library, base: str, make_gguf: MakeGGUF) -> None:
    clip = upload(library, make_gguf("clip.gguf", general__architecture="clip").read_bytes())
    run(library, name="v", files={"mmproj.gguf": clip, "m.gguf": base})
    assert library.resolve("v").projector == library.store.blob_path(clip)
    assert "vision" in library.resolve("v").capabilities
    lora = upload(library, make_gguf("lora.gguf", general__type="adapter").read_bytes())
    run(library, name="l", from_="base", adapters={"l.gguf": lora})
    assert library.resolve("l").adapters == (library.store.blob_path(lora),)


def test_go_text_forms() -> None:
    assert [format_value(v, syntax=True) for v in (0, 0.25, 1e6, 131072, 1e-05, True, None, "a\n\x7f\u200b")] == [
        "0",
        "0.25",
        "1e+06",
        "131072",
        "1e-05",
        "true",
        "<nil>",
        '"a\\n\\x7f\\u200b"',
    ]
    assert format_value(123456789.0) == "1.23456789e+08"
    assert format_value({"b": [1, "x"], "a": None}) == "map[a:<nil> b:[1 x]]"
    assert quote('"\\\U000e0001') == '"\\"\\\\\\U000e0001"'
    assert encode_json({"b": 1.0, "a": "<&>"}) == b'{"a":"\\u003c\\u0026\\u003e","b":1}\n'
