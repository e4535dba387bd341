"""Models from a hub on the loopback address: which files, what becomes of them, and what errors say."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tools.gguf import gguf_bytes
from tests.tools.hub import Handler, HubServer, Repo, running_hub
from vllama.errors import RequestError, VllamaError
from vllama.models.hub.client import Hub
from vllama.models.hub.files import RepoFile, pick, safetensors, variants
from vllama.models.hub.lookup import candidates
from vllama.models.hub.pull import Wanted
from vllama.models.hub.pull import pull as pull_from_hub
from vllama.models.library import Library
from vllama.models.manage import copy, delete
from vllama.models.names import Name


def gguf(mark: str = "a", tensors: int = 1, **more: Any) -> bytes:
    """A GGUF of about 7 KB; `mark` makes its digest another one."""
    metadata = {"general.architecture": "llama", "general.name": mark, "llama.context_length": 512} | more
    return gguf_bytes(metadata, [(f"w{n}", (32, 50), 0, 6400) for n in range(tensors)])


@pytest.fixture
def server() -> Iterator[HubServer]:
    with running_hub() as found:
        yield found


class Shop:
    """A library and a hub's client with a cache of its own."""

    def __init__(self, server: HubServer, folder: Path, token: str | bool = False, offline: bool = False) -> None:
        self.library = Library(folder / "models", overlay=False)
        self.cache = folder / "cache"
        self.hub = Hub(endpoint=server.url, cache_dir=self.cache, token=token, offline=offline)

    async def pull(self, text: str, **more: str) -> list[dict[str, Any]]:
        name = Name.parse(text)
        wanted = Wanted(replace(name, host="hf.co"), name.namespace_model, name.tag, **more)
        async with aclosing(pull_from_hub(self.hub, self.library.hub, wanted)) as lines:
            return [line async for line in lines]

    async def error(self, text: str) -> VllamaError:
        with pytest.raises(VllamaError) as caught:
            await self.pull(text)
        return caught.value

    def blobs(self) -> list[Path]:
        return [path for path in self.cache.rglob("*") if path.is_file() and path.parent.name == "blobs"]


@pytest.fixture
def shop(server: HubServer, tmp_path: Path) -> Shop:
    return Shop(server, tmp_path)


def files(*paths: str) -> list[RepoFile]:
    return [RepoFile(path, 1) for path in paths]


@pytest.mark.parametrize(
    ("tag", "paths", "chosen"),
    [
        ("latest", ["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf"], ["m-Q4_K_M.gguf"]),
        ("latest", ["m-q8_0.gguf", "m-q5_k_m.gguf"], ["m-q5_k_m.gguf"]),
        ("latest", ["only.gguf", "mmproj-only-f16.gguf", "imatrix.gguf"], ["only.gguf"]),
        ("Q8_0", ["m-Q8_0.gguf", "m-Q4_K_M.gguf"], ["m-Q8_0.gguf"]),
        ("q8_0", ["m.Q8_0.gguf", "m.Q4_K_M.gguf"], ["m.Q8_0.gguf"]),
        ("fp16", ["m-F16.gguf", "m-BF16.gguf"], ["m-F16.gguf"]),
        ("iq4_xs", ["m-IQ4_XS.gguf", "m-Q4_K_S.gguf"], ["m-IQ4_XS.gguf"]),
        ("UD-Q4_K_XL", ["m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf"], ["m-UD-Q4_K_XL.gguf"]),
        ("b-Q4_0.gguf", ["a-Q4_0.gguf", "b-Q4_0.gguf"], ["b-Q4_0.gguf"]),
        ("b-Q4_0", ["a-Q4_0.gguf", "b-Q4_0.gguf"], ["b-Q4_0.gguf"]),
        (
            "q6_k",
            ["Q6_K/m-Q6_K-00002-of-00002.gguf", "Q6_K/m-Q6_K-00001-of-00002.gguf", "m-Q4_0.gguf"],
            ["Q6_K/m-Q6_K-00001-of-00002.gguf", "Q6_K/m-Q6_K-00002-of-00002.gguf"],
        ),
    ],
)
def test_a_tag_picks_a_file(tag: str, paths: list[str], chosen: list[str]) -> None:
    assert [file.path for file in pick(variants(files(*paths)), tag, "o/r").files] == chosen


def test_a_tag_that_fits_nothing_or_several_names_the_choices() -> None:
    found = variants(files("m-Q8_0.gguf", "m-Q4_0.gguf"))
    with pytest.raises(VllamaError, match="o/r has no Q3_K_S; ask for one of Q4_0, Q8_0, for instance o/r:Q4_0"):
        pick(found, "Q3_K_S", "o/r")
    with pytest.raises(RequestError, match=r"several files for Q4_0: name one of a-Q4_0.gguf, b-Q4_0.gguf"):
        pick(variants(files("a-Q4_0.gguf", "b-Q4_0.gguf")), "Q4_0", "o/r")
    with pytest.raises(VllamaError, match="it has 1 of 2 pieces of m-Q4_0"):
        pick(variants(files("m-Q4_0-00002-of-00002.gguf")), "Q4_0", "o/r")


def test_paths_that_leave_the_folder_are_no_files() -> None:
    assert variants(files("../m-Q4_0.gguf", "/m-Q4_0.gguf", "a/../../m-Q4_0.gguf", "a\\m-Q4_0.gguf")) == []
    assert safetensors(files("a/model.safetensors", "config.json")) == []


def test_safetensors_come_with_what_an_engine_needs_and_once() -> None:
    listed = files(
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "consolidated.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer.model",
        "README.md",
        "onnx/model.onnx",
        "training.py",
    )
    assert {file.path for file in safetensors(listed)} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "tokenizer.json",
        "tokenizer.model",
    }


async def test_a_pull_has_ollamas_lines_and_makes_a_model(shop: Shop, server: HubServer) -> None:
    data = gguf()
    params = json.dumps({"temperature": 0.5}).encode()
    server.repos["o/r-GGUF"] = Repo({"r-Q4_K_M.gguf": data, "r-Q8_0.gguf": gguf("b"), "params": params})
    digest = hashlib.sha256(data).hexdigest()
    piece = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": len(data)}
    lines = await shop.pull("hf.co/o/r-GGUF")
    assert [line for index, line in enumerate(lines) if line not in lines[:index]] == [
        {"status": "pulling manifest"},
        {"status": "pulling params"},
        piece,
        piece | {"completed": len(data)},
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
        {"status": "success"},
    ]
    for spelling in ("hf.co/o/r-GGUF", "huggingface.co/o/r-GGUF:latest", "o/r-GGUF", "HF.co/O/R-gguf"):
        model = shop.library.resolve(spelling)
        assert (model.name.shortest, model.size) == ("hf.co/o/r-GGUF:latest", len(data) + len(params))
        assert (model.config.family, dict(model.params)) == ("llama", {"temperature": 0.5})
        assert model.gguf is not None
        assert model.gguf.read_bytes() == data
    assert not server.asked("r-Q8_0")
    again = Library(shop.library.store.root, overlay=False)
    assert [found.digest for found in again.models()] == [model.digest]


async def test_what_is_in_the_cache_is_not_fetched_and_not_removed(shop: Shop, server: HubServer) -> None:
    from huggingface_hub import hf_hub_download

    server.repos["o/r"] = Repo({"r-Q4_K_M.gguf": gguf()})
    hf_hub_download("o/r", "r-Q4_K_M.gguf", cache_dir=shop.cache, endpoint=server.url, token=False)
    theirs = hashlib.sha256(gguf()).hexdigest()
    fetched = len(server.asked("/cdn/"))
    await shop.pull("o/r")
    assert len(server.asked("/cdn/")) == fetched
    delete(shop.library, "o/r")
    assert [path.name for path in shop.blobs()] == [theirs]
    assert shop.library.models() == []


async def test_removing_takes_what_was_pulled_unless_another_name_has_it(shop: Shop, server: HubServer) -> None:
    server.repos["o/r"] = Repo({"r-Q4_K_M.gguf": gguf()})
    await shop.pull("o/r")
    copy(shop.library, "o/r", "mine")
    assert shop.library.resolve("mine").gguf == shop.library.resolve("o/r").gguf
    delete(shop.library, "o/r")
    assert [model.name.shortest for model in shop.library.models()] == ["mine:latest"]
    assert len(shop.blobs()) == 1
    delete(shop.library, "mine")
    assert shop.blobs() == []


async def test_a_newer_commit_replaces_the_old_files(shop: Shop, server: HubServer) -> None:
    server.repos["o/r"] = Repo({"r-Q4_K_M.gguf": gguf("old")})
    await shop.pull("o/r")
    old = shop.library.resolve("o/r")
    server.repos["o/r"].files["r-Q4_K_M.gguf"] = gguf("newer")
    lines = await shop.pull("o/r")
    assert {"status": "removing unused layers"} in lines
    assert shop.library.resolve("o/r").digest != old.digest
    assert [path.read_bytes() for path in shop.blobs()] == [gguf("newer")]


async def test_a_cache_that_somebody_emptied_hides_the_model(shop: Shop, server: HubServer) -> None:
    server.repos["o/r"] = Repo({"r-Q4_K_M.gguf": gguf()})
    await shop.pull("o/r")
    for blob in shop.blobs():
        blob.unlink()
    assert shop.library.find(Name.parse("o/r")) is None
    assert shop.library.models() == []


async def test_damage_in_the_cache_is_mended(shop: Shop, server: HubServer) -> None:
    data = gguf()
    server.repos["o/r"] = Repo({"r-Q4_K_M.gguf": data})
    await shop.pull("o/r")
    (blob,) = shop.blobs()
    blob.write_bytes(data[:-1] + b"!")
    await shop.pull("o/r")
    assert [path.read_bytes() for path in shop.blobs()] == [data]


async def test_a_hub_that_sends_something_else_is_found_out(shop: Shop, server: HubServer) -> None:
    data = gguf()
    server.repos["o/r"] = Repo({"r-Q4_K_M.gguf": data})

    def wrong(handler: Handler, path: str) -> bool:
        if path.startswith("/cdn/"):
            handler.answer(200, {}, data[:-1] + b"!")
        return path.startswith("/cdn/")

    server.fault = wrong
    error = await shop.error("o/r")
    assert error.text == ("digest mismatch: r-Q4_K_M.gguf of o/r is not what the hub says; it was removed, pull again")
    assert shop.blobs() == []
    assert shop.library.models() == []


async def test_a_connection_that_breaks_goes_on_where_it_was(
    shop: Shop, server: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    data = gguf(tensors=40)
    server.repos["o/r"] = Repo({"r-Q4_K_M.gguf": data})
    broken: list[str] = []

    def cut(handler: Handler, path: str) -> bool:
        if path.startswith("/cdn/") and handler.command == "GET" and not broken:
            broken.append(path)
            handler.answer(200, {}, data, cut=100_000)
            return True
        return False

    server.fault = cut
    with caplog.at_level(logging.CRITICAL, "huggingface_hub"):
        await shop.pull("o/r")
    assert [path.read_bytes() for path in shop.blobs()] == [data]
    assert broken


async def test_finished_pieces_stay_when_a_later_one_fails(shop: Shop, server: HubServer) -> None:
    split = {"split.count": 2, "split.tensors.count": 1}
    first, second = gguf("1", tensors=1, **split, **{"split.no": 0}), gguf("2", tensors=0, **split, **{"split.no": 1})
    second += bytes(2000)
    names = [f"r-Q4_K_M-0000{n}-of-00002.gguf" for n in (1, 2)]
    server.repos["o/r"] = Repo(dict(zip(names, (first, second), strict=True)))
    digest = hashlib.sha256(second).hexdigest()

    def down(handler: Handler, path: str) -> bool:
        if path == f"/cdn/{digest}":
            handler.answer(404)
        return path == f"/cdn/{digest}"

    server.fault = down
    error = await shop.error("o/r")
    assert "404" in error.text
    assert "pull again" in error.text
    server.fault = None
    once = len(server.asked(hashlib.sha256(first).hexdigest()))
    await shop.pull("o/r")
    assert shop.library.resolve("o/r").size == len(first) + len(second)
    assert len(server.asked(hashlib.sha256(first).hexdigest())) == once


async def test_a_gate_says_where_to_go(server: HubServer, tmp_path: Path) -> None:
    server.repos["o/r"] = Repo({"r-Q4_K_M.gguf": gguf()}, token="hf_right")
    without = await Shop(server, tmp_path / "a").error("o/r")
    assert (without.status, without.text) == (
        403,
        f"o/r is gated: accept its terms at {server.url}/o/r, then set HF_TOKEN or run `hf auth login`, and pull again",
    )
    wrong = await Shop(server, tmp_path / "b", token="hf_wrong").error("o/r")
    assert wrong.text == f"o/r is gated, and your token has no access: ask for it at {server.url}/o/r, then pull again"
    await Shop(server, tmp_path / "c", token="hf_right").pull("o/r")


async def test_what_is_missing_or_hidden(server: HubServer, tmp_path: Path) -> None:
    server.repos["o/secret"] = Repo({"r-Q4_K_M.gguf": gguf()}, token="hf_right", hidden=True)
    for repo in ("o/nobody", "o/secret"):
        error = await Shop(server, tmp_path).error(repo)
        assert (error.status, error.text) == (
            404,
            f"there is no {repo} at {server.url}, or it is private: set HF_TOKEN or run `hf auth login`",
        )
    assert "your token cannot see it" in (await Shop(server, tmp_path, token="hf_x").error("o/secret")).text
    await Shop(server, tmp_path, token="hf_right").pull("o/secret")


async def test_a_hub_that_is_not_there(server: HubServer, tmp_path: Path) -> None:
    shop = Shop(server, tmp_path)
    shop.hub = Hub(endpoint="http://127.0.0.1:9", cache_dir=shop.cache, token=False)
    error = await shop.error("o/r")
    assert error.text.startswith("cannot reach http://127.0.0.1:9: ")
    assert "HF_HUB_OFFLINE=1" in error.text


async def test_offline_uses_the_cache_and_nothing_else(server: HubServer, tmp_path: Path) -> None:
    data = gguf()
    server.repos["o/r"] = Repo({"r-Q4_K_M.gguf": data})
    online = Shop(server, tmp_path)
    await online.pull("o/r")
    (tmp_path / "models" / "hub" / "hf.co" / "o" / "r" / "latest").unlink()
    asked = len(server.seen)
    shop = Shop(server, tmp_path, offline=True)
    await shop.pull("o/r")
    assert shop.library.resolve("o/r").size == len(data)
    error = await shop.error("o/other")
    assert error.text == ("o/other is not in the Hugging Face cache, and HF_HUB_OFFLINE is set: pull it without that")
    assert len(server.seen) == asked


async def test_without_a_gguf_its_quantisers_are_asked(shop: Shop, server: HubServer) -> None:
    weights = b"\x02\0\0\0\0\0\0\0{}" + bytes(2000)
    server.repos["o/r"] = Repo({"model.safetensors": weights, "config.json": b"{}"})
    server.repos["unsloth/r-GGUF"] = Repo({"r-Q4_K_M.gguf": gguf("of another r")}, tags=["base_model:someone/r"])
    server.repos["bartowski/r-GGUF"] = Repo({"r-Q4_K_M.gguf": gguf()}, tags=["gguf", "base_model:quantized:o/r"])
    lines = await shop.pull("o/r")
    assert {"status": "o/r has no GGUF, taking bartowski/r-GGUF"} in lines
    model = shop.library.resolve("o/r")
    assert (model.name.shortest, model.parent) == ("hf.co/o/r:latest", "hf.co/bartowski/r-GGUF")

    del server.repos["bartowski/r-GGUF"]
    error = await shop.error("o/r:Q8_0")
    assert error.status == 404
    assert all(candidate in error.text for candidate in candidates("o/r"))
    assert f"{server.url}/models?library=gguf&search=r" in error.text
    assert "o/r:safetensors pulls the weights for vLLM" in error.text


async def test_an_engine_for_safetensors_gets_them(shop: Shop, server: HubServer) -> None:
    header = json.dumps({"w": {"dtype": "F16", "shape": [30, 40], "data_offsets": [0, 2400]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(2400)
    config = {"model_type": "qwen3", "text_config": {"hidden_size": 40, "max_position_embeddings": 99}}
    server.repos["o/r"] = Repo({"model.safetensors": weights, "config.json": json.dumps(config).encode()})
    await shop.pull("o/r", prefer="safetensors")
    model = shop.library.resolve("o/r")
    assert model.directory is not None
    assert (model.gguf, (model.directory / "config.json").is_file()) == (None, True)
    assert model.tag_details == {
        "parent_model": "",
        "format": "safetensors",
        "family": "qwen3",
        "families": ["qwen3"],
        "parameter_size": "1K",
        "quantization_level": "F16",
        "context_length": 99,
        "embedding_length": 40,
    }


async def test_a_pull_that_nobody_wants_any_more_ends(shop: Shop, server: HubServer) -> None:
    server.repos["o/r"] = Repo({"r-Q4_K_M.gguf": gguf()})
    name = Name.parse("hf.co/o/r")
    lines = pull_from_hub(shop.hub, shop.library.hub, Wanted(name, "o/r", "latest"))
    assert await anext(lines) == {"status": "pulling manifest"}
    await anext(lines)
    await lines.aclose()
    assert shop.library.models() == []


@pytest.mark.parametrize("text", ["{}", "no json", '{"version": 1}', "[1]"])
def test_a_damaged_record_hides_its_model_only(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hub" / "hf.co" / "o" / "r" / "latest"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert Library(tmp_path, overlay=False).models() == []
