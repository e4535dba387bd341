"""Pulling from a registry on the loopback address, with everything that may go wrong on the way."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from tests.tools import registry as fake
from tests.tools.registry import Registry, digest_of, running_registry
from vllama.errors import ServerError
from vllama.models.names import Name
from vllama.models.registry.limits import Limits
from vllama.models.registry.transfers import Transfers
from vllama.models.store import Store

WEIGHTS = bytes(range(256)) * 4000


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running_registry() as found:
        found.add_model(
            "library/tide", "latest", {"model": WEIGHTS, "template": b"{{ .Prompt }}", "system": b"Be brief."}
        )
        yield found


def name_in(registry: Registry, text: str = "library/tide:latest") -> Name:
    return Name.parse(f"{registry.host}/{text}")


async def pull(transfers: Transfers, registry: Registry, text: str = "library/tide:latest") -> list[dict[str, Any]]:
    return [line async for line in transfers.pull(name_in(registry, text), insecure=True)]


def statuses(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The texts, each run of one only once."""
    found: list[str] = []
    for line in lines:
        if not found or found[-1] != line["status"]:
            found.append(line["status"])
    return found


async def until_true(condition: Callable[[], bool]) -> None:
    """Looks again and again; the test's own limit ends it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def short(data: bytes) -> str:
    return f"pulling {digest_of(data)[7:19]}"


def leftovers(store: Store) -> list[str]:
    return sorted(path.name for path in store.blobs.iterdir() if "partial" in path.name or path.name.startswith("."))


async def test_statuses_blobs_and_manifest(transfers: Transfers, registry: Registry, store: Store) -> None:
    lines = await pull(transfers, registry)
    assert statuses(lines) == [
        "pulling manifest",
        short(WEIGHTS),
        short(b"{{ .Prompt }}"),
        short(b"Be brief."),
        short(b"{}"),
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    weights = [line for line in lines if line["status"] == short(WEIGHTS)]
    assert all(line["digest"] == digest_of(WEIGHTS) and line["total"] == len(WEIGHTS) for line in weights)
    done = [line.get("completed", 0) for line in weights]
    assert done == sorted(done)
    assert done[-1] == len(WEIGHTS)
    model = store.find(name_in(registry))
    assert model is not None
    assert model.gguf is not None
    assert model.gguf.read_bytes() == WEIGHTS
    assert model.system == "Be brief."
    assert store.manifest_bytes(model.name) == registry.manifests["library/tide", "latest"]
    assert leftovers(store) == []
    assert len(registry.requests("GET", digest_of(WEIGHTS))) == 11  # parts of 100,000 bytes
    assert registry.blob_bytes_sent() == sum(map(len, registry.blobs.values()))


async def test_pulled_again_only_the_manifest_is_fetched(
    transfers: Transfers, registry: Registry, store: Store
) -> None:
    await pull(transfers, registry)
    before = registry.blob_bytes_sent()
    lines = await pull(transfers, registry)
    assert registry.blob_bytes_sent() == before
    assert {
        "status": short(WEIGHTS),
        "digest": digest_of(WEIGHTS),
        "total": len(WEIGHTS),
        "completed": len(WEIGHTS),
    } in lines
    assert lines[-1] == {"status": "success"}


async def test_a_new_version_takes_the_place_of_the_old(transfers: Transfers, registry: Registry, store: Store) -> None:
    await pull(transfers, registry)
    registry.add_model("library/tide", "latest", {"model": b"new weights", "system": b"Be brief."})
    lines = await pull(transfers, registry)
    assert statuses(lines)[-3:] == ["writing manifest", "removing unused layers", "success"]
    assert not store.blob_path(digest_of(WEIGHTS)).exists()
    assert store.blob_path(digest_of(b"Be brief.")).exists()


async def test_the_spelling_in_the_store_is_kept(transfers: Transfers, registry: Registry, store: Store) -> None:
    registry.add_model("library/TIDE", "Latest", {"model": b"w"})
    await pull(transfers, registry)
    await pull(transfers, registry, "library/TIDE:Latest")
    assert [path.name for path in (store.manifests / registry.host / "library").iterdir()] == ["tide"]


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_dropped_connection_is_taken_up_where_it_broke(
    transfers: Transfers, registry: Registry, store: Store, ranges: bool
) -> None:
    registry.ranges = ranges
    registry.fault = fake.once(fake.drop_blob(50_000), times=3)
    assert (await pull(transfers, registry))[-1] == {"status": "success"}
    assert store.blob_path(digest_of(WEIGHTS)).read_bytes() == WEIGHTS
    if ranges:
        assert registry.blob_bytes_sent() == sum(map(len, registry.blobs.values()))


async def test_who_always_drops_is_given_up(transfers: Transfers, registry: Registry, store: Store) -> None:
    registry.fault = fake.drop_blob(0)
    with pytest.raises(ServerError, match=r"^max retries exceeded: "):
        await pull(transfers, registry)
    assert store.find(name_in(registry)) is None


async def test_a_registry_without_ranges_that_always_breaks_off_is_given_up(
    transfers: Transfers, registry: Registry
) -> None:
    registry.ranges = False
    registry.fault = fake.drop_blob(700_000)
    with pytest.raises(ServerError, match=r"^max retries exceeded: "):
        await pull(transfers, registry)


async def test_what_came_stays_when_the_pull_ends_and_is_not_fetched_twice(
    transfers: Transfers, registry: Registry, store: Store
) -> None:
    registry.fault = fake.slowly("/blobs/", 0.01)
    async with aclosing(transfers.pull(name_in(registry), insecure=True)) as lines:
        async for line in lines:
            if line.get("completed", 0) > len(WEIGHTS) // 2:
                break
    await until_true(lambda: not asyncio.all_tasks(transfers._loop))
    left = leftovers(store)
    assert f"sha256-{digest_of(WEIGHTS)[7:]}-partial" in left
    assert f"sha256-{digest_of(WEIGHTS)[7:]}-partial-0" in left
    noted = [json.loads(path.read_text()) for path in store.blobs.glob("*-partial-*")]
    there = sum(note["Completed"] for note in noted)
    assert [set(note) for note in noted] == [{"N", "Offset", "Size", "Completed"}] * 11
    registry.seen.clear()
    await pull(transfers, registry)
    small = sum(len(data) for data in registry.blobs.values() if data != WEIGHTS)
    assert registry.blob_bytes_sent() == len(WEIGHTS) - there + small
    assert store.blob_path(digest_of(WEIGHTS)).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "damage",
    [
        lambda partial: partial.with_name(partial.name + "-0").write_text("{"),
        lambda partial: partial.with_name(partial.name + "-0").write_text('{"N":0,"Offset":5,"Size":1,"Completed":0}'),
        lambda partial: partial.with_name(partial.name + "-0").write_text(
            '{"N":0,"Offset":0,"Size":1024000,"Completed":1024001}'
        ),
        lambda partial: partial.unlink(),
        lambda partial: partial.write_bytes(b"x"),
    ],
    ids=["not JSON", "gap", "more than all", "bytes gone", "bytes cut"],
)
async def test_damaged_notes_of_an_unfinished_download_do_no_harm(
    transfers: Transfers, registry: Registry, store: Store, damage: Any
) -> None:
    store.blobs.mkdir(parents=True)
    partial = store.blobs / f"sha256-{digest_of(WEIGHTS)[7:]}-partial"
    partial.write_bytes(WEIGHTS[:500_000])
    note = {"N": 0, "Offset": 0, "Size": len(WEIGHTS), "Completed": 400_000}
    partial.with_name(partial.name + "-0").write_text(json.dumps(note))
    damage(partial)
    await pull(transfers, registry)
    assert store.blob_path(digest_of(WEIGHTS)).read_bytes() == WEIGHTS
    assert leftovers(store) == []


async def test_two_pulls_of_one_model_download_it_once(transfers: Transfers, registry: Registry) -> None:
    registry.fault = fake.slowly("/blobs/", 0.02)
    first, second = await asyncio.gather(pull(transfers, registry), pull(transfers, registry))
    assert first[-1] == second[-1] == {"status": "success"}
    assert registry.blob_bytes_sent() == sum(map(len, registry.blobs.values()))


async def test_one_of_two_pulls_may_leave(transfers: Transfers, registry: Registry, store: Store) -> None:
    registry.fault = fake.slowly("/blobs/", 0.02)
    staying = asyncio.create_task(pull(transfers, registry))
    async with aclosing(transfers.pull(name_in(registry), insecure=True)) as lines:
        async for line in lines:
            if "completed" in line:
                break
    assert (await staying)[-1] == {"status": "success"}
    assert registry.blob_bytes_sent() == sum(map(len, registry.blobs.values()))


async def test_another_process_downloads_and_we_wait(
    transfers: Transfers, registry: Registry, store: Store, limits: Limits
) -> None:
    other = Transfers(Store(store.root), limits=limits)
    try:
        registry.fault = fake.slowly("/blobs/", 0.02)
        await asyncio.gather(pull(transfers, registry), pull(other, registry))
    finally:
        other.close()
    assert sum(seen.sent for seen in registry.requests("GET", digest_of(WEIGHTS))) == len(WEIGHTS)
    assert leftovers(store) == []


async def test_wrong_bytes_are_noticed_and_nothing_is_kept(
    transfers: Transfers, registry: Registry, store: Store
) -> None:
    wrong = bytearray(WEIGHTS)
    wrong[777_777] ^= 1
    registry.blobs[digest_of(WEIGHTS)] = bytes(wrong)
    want = f"want {digest_of(WEIGHTS)}, got {digest_of(bytes(wrong))}"
    with pytest.raises(ServerError, match=f"^digest mismatch, file must be downloaded again: {want}$"):
        await pull(transfers, registry)
    assert not store.blob_path(digest_of(WEIGHTS)).exists()
    assert leftovers(store) == []
    registry.blobs[digest_of(WEIGHTS)] = WEIGHTS
    assert (await pull(transfers, registry))[-1] == {"status": "success"}


@pytest.mark.parametrize("damage", [b"", WEIGHTS[:-1], WEIGHTS + b"x", b"\0" + WEIGHTS[1:], WEIGHTS[:-1] + b"\0"])
async def test_a_damaged_blob_is_mended_by_pulling_again(
    transfers: Transfers, registry: Registry, store: Store, damage: bytes
) -> None:
    await pull(transfers, registry)
    store.blob_path(digest_of(WEIGHTS)).write_bytes(damage)
    lines = await pull(transfers, registry)
    assert lines[-1] == {"status": "success"}
    assert store.blob_path(digest_of(WEIGHTS)).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (fake.status(404, "/manifests/"), "pull model manifest: file does not exist"),
        (fake.status(412, "/manifests/", body=b"newer version"), "pull model manifest: 412: newer version"),
        (fake.status(403, "/manifests/", body=b"go\x1b[31m away"), "pull model manifest: 403: go[31m away"),
        (fake.status(401, "/manifests/"), "pull model manifest: unauthorized: access denied"),
        (fake.status(500, "/manifests/", body=b"oops"), "pull model manifest: 500: oops"),
        (fake.status(404, "/blobs/"), "file does not exist"),
        (fake.status(403, "/blobs/", body=b"no"), "403: no"),
        (fake.status(503, "/blobs/", body=b"later"), "max retries exceeded: 503: later"),
        (fake.status(206, "/blobs/", {"Content-Range": "bytes 5-9/1024000"}), "the registry sent another range"),
        (fake.status(206, "/blobs/"), "the registry sent another range"),
        (
            fake.status(302, "/blobs/", {"Location": "file:///etc/passwd"}),
            "the registry redirects to what is no address",
        ),
        (fake.status(302, "/blobs/", {"Location": "/v2/library/tide/blobs/x"}), "the registry redirects in circles"),
    ],
)
async def test_errors_of_the_registry(
    transfers: Transfers, registry: Registry, store: Store, fault: fake.Fault, text: str
) -> None:
    registry.fault = fault
    with pytest.raises(ServerError) as caught:
        await pull(transfers, registry)
    assert caught.value.text.startswith(text)
    assert store.find(name_in(registry)) is None


async def test_a_busy_registry_gets_time(transfers: Transfers, registry: Registry) -> None:
    registry.fault = fake.once(fake.status(429, "/v2/"), times=4)
    assert (await pull(transfers, registry))[-1] == {"status": "success"}


async def test_a_registry_that_is_silent_is_asked_again(store: Store, registry: Registry) -> None:
    until = threading.Event()
    registry.fault = fake.once(fake.stall(digest_of(WEIGHTS), until), times=2)
    transfers = Transfers(store, limits=Limits(backoff_s=0.001, stall_s=0.2))
    try:
        assert (await pull(transfers, registry))[-1] == {"status": "success"}
    finally:
        until.set()
        transfers.close()


async def test_nobody_there(transfers: Transfers) -> None:
    with pytest.raises(ServerError) as caught:
        _ = [line async for line in transfers.pull(Name.parse("127.0.0.1:9/library/x"))]
    assert caught.value.text == (
        'pull model manifest: Get "https://127.0.0.1:9/v2/library/x/manifests/latest": '
        "dial tcp 127.0.0.1:9: connect: connection refused"
    )


async def test_without_insecure_there_is_no_http(transfers: Transfers, registry: Registry) -> None:
    name = Name.parse(f"http://{registry.host}/library/tide")
    with pytest.raises(ServerError, match=r'^pull model manifest: Get "https://'):
        _ = [line async for line in transfers.pull(name)]
    assert registry.seen == []


def hostile(**change: Any) -> bytes:
    layer = {"mediaType": fake.LAYER + "model", "digest": "sha256:" + "a" * 64, "size": 5} | change
    return json.dumps({"config": layer | {"digest": "sha256:" + "b" * 64, "size": 1}, "layers": [layer]}).encode()


@pytest.mark.parametrize(
    ("manifest", "text"),
    [
        (b"x", "the manifest is not JSON"),
        (b"[" * 200_000, "the manifest is not JSON"),
        (b"[]", "the manifest has no layers"),
        (b'{"layers":[]}', "a layer is not an object"),
        (hostile(digest="sha256:../../../../etc/passwd"), "a layer has no valid digest"),
        (hostile(digest="sha256:" + "A" * 64), "a layer has no valid digest"),
        (hostile(size=-1), "a layer has no size"),
        (hostile(size="5"), "a layer has no size"),
        (hostile(size=1 << 62), "the manifest has a layer of"),
        (hostile(size=1 << 41), "not enough space"),
        (b'{"layers":[' + b",".join([b"{}"] * 2000) + b"]}", "a layer has no valid digest"),
        (
            json.dumps({"config": {}, "layers": [json.loads(hostile())["layers"][0]] * 2000}).encode(),
            "a layer has no valid",
        ),
        (
            json.dumps(json.loads(hostile()) | {"layers": json.loads(hostile())["layers"] * 2000}).encode(),
            "the manifest has more than 1024 layers",
        ),
        (
            json.dumps(
                json.loads(hostile())
                | {"layers": [*json.loads(hostile())["layers"], *json.loads(hostile(size=6))["layers"]]}
            ).encode(),
            "the manifest gives one layer two sizes",
        ),
    ],
)
async def test_hostile_manifests(
    transfers: Transfers, registry: Registry, store: Store, manifest: bytes, text: str
) -> None:
    registry.manifests["library/tide", "latest"] = manifest
    with pytest.raises(ServerError) as caught:
        await pull(transfers, registry)
    assert text in caught.value.text
    assert not store.manifests.exists()
    assert not store.blobs.exists() or list(store.blobs.iterdir()) == []


async def test_a_manifest_without_end(transfers: Transfers, registry: Registry) -> None:
    registry.fault = fake.endless("/manifests/")
    with pytest.raises(ServerError, match="the registry's answer is longer than 4194304 bytes"):
        await pull(transfers, registry)


async def test_a_blob_without_end_is_cut_and_does_not_fit(store: Store, registry: Registry) -> None:
    registry.fault = fake.endless("/blobs/sha256")
    transfers = Transfers(store, limits=Limits(backoff_s=0.001))
    try:
        with pytest.raises(ServerError, match=r"^digest mismatch"):
            await pull(transfers, registry)
    finally:
        transfers.close()
    assert leftovers(store) == []


async def test_an_error_without_end(transfers: Transfers, registry: Registry) -> None:
    registry.fault = fake.status(400, "/manifests/", body=b"x" * 1_000_000)
    with pytest.raises(ServerError) as caught:
        await pull(transfers, registry)
    assert len(caught.value.text) < 9000


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("claimed", [1, 1_023_999, 1_024_001, 5_000_000])
async def test_the_manifest_lies_about_a_size(
    transfers: Transfers, registry: Registry, store: Store, claimed: int, ranges: bool
) -> None:
    registry.ranges = ranges
    manifest = json.loads(registry.manifests["library/tide", "latest"])
    manifest["layers"][0]["size"] = claimed
    registry.manifests["library/tide", "latest"] = json.dumps(manifest).encode()
    with pytest.raises(ServerError, match=f"has 1024000 bytes in the registry, but {claimed} in the manifest"):
        await pull(transfers, registry)
    assert leftovers(store) == []
    assert not store.blob_path(digest_of(WEIGHTS)).exists()


async def test_flipped_bits_anywhere_are_noticed_and_mended(
    transfers: Transfers, registry: Registry, store: Store
) -> None:
    await pull(transfers, registry)
    chance = random.Random(26)
    blob = store.blob_path(digest_of(WEIGHTS))
    for _ in range(30):
        at, bit = chance.randrange(len(WEIGHTS)), 1 << chance.randrange(8)
        with blob.open("r+b") as file:
            file.seek(at)
            file.write(bytes([WEIGHTS[at] ^ bit]))
        before = registry.blob_bytes_sent()
        assert (await pull(transfers, registry))[-1] == {"status": "success"}
        assert registry.blob_bytes_sent() - before == len(WEIGHTS)
        assert blob.read_bytes() == WEIGHTS
    assert leftovers(store) == []


async def test_blobs_of_a_pull_outlive_the_deletion_of_another_model(
    transfers: Transfers, registry: Registry, store: Store
) -> None:
    await pull(transfers, registry)
    registry.add_model("library/other", "latest", {"model": WEIGHTS, "system": b"Be long." * 10_000})
    registry.fault = fake.slowly(digest_of(b"Be long." * 10_000), 0.1)
    lines: AsyncIterator[dict[str, Any]] = transfers.pull(name_in(registry, "library/other"), insecure=True)
    async for line in lines:
        if line.get("digest") == digest_of(b"Be long." * 10_000) and "completed" not in line:
            store.delete(name_in(registry))
    assert store.find(name_in(registry, "library/other")) is not None
    assert store.blob_path(digest_of(WEIGHTS)).read_bytes() == WEIGHTS


def test_for_a_thread_that_may_wait(transfers: Transfers, registry: Registry) -> None:
    lines = list(transfers.pull_blocking(name_in(registry), insecure=True))
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success"}
    with pytest.raises(ServerError, match="file does not exist"):
        list(transfers.pull_blocking(name_in(registry, "library/nosuch"), insecure=True))


async def test_a_server_that_goes_down_ends_its_pulls(store: Store, registry: Registry, limits: Limits) -> None:
    until = threading.Event()
    registry.fault = fake.stall(digest_of(WEIGHTS), until)
    transfers = Transfers(store, limits=limits)
    running = asyncio.create_task(pull(transfers, registry))
    await until_true(lambda: bool(registry.requests("GET", digest_of(WEIGHTS))))
    await asyncio.to_thread(transfers.close)
    until.set()
    with pytest.raises(Exception, match="the server is going down"):
        await running
    with pytest.raises(Exception, match="the server is going down"):
        await pull(transfers, registry)
