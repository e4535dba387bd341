"""Who we are to a registry, where we let it send us, and what its answers may hold."""

from __future__ import annotations

import base64
import hashlib
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.tools import registry as fake
from tests.tools.registry import Registry, running_registry
from vllama.errors import ServerError
from vllama.models.names import Name
from vllama.models.registry import ed25519, keys
from vllama.models.registry.addresses import is_public
from vllama.models.registry.challenge import Challenge
from vllama.models.registry.failures import RegistryError, UnauthorizedError, unreachable
from vllama.models.registry.limits import Limits
from vllama.models.registry.session import Access, Session
from vllama.models.registry.transfers import Transfers
from vllama.models.store import Store

LIMITS = Limits(backoff_s=0.001, tick_s=0.005, stall_s=5.0, connect_s=5.0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running_registry() as found:
        found.add_model("library/tide", "latest", {"model": b"weights"})
        yield found


def access_to(registry: Registry, tmp_path: Path, **more: Any) -> Access:
    name = Name.parse(f"{registry.host}/library/tide")
    return Access(name, insecure=True, limits=LIMITS, key_path=tmp_path / "id_ed25519", **more)


async def manifest(access: Access) -> int:
    async with Session(access) as session, session.open("GET", access.url("manifests", "latest")) as response:
        await response.aread()
        return response.status_code


# -- keys ------------------------------------------------------------------------------------------------------

RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_signatures_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    assert ed25519.public_key(bytes.fromhex(seed)).hex() == public
    assert ed25519.sign(bytes.fromhex(seed), bytes.fromhex(message)).hex() == signature


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".ollama" / "id_ed25519"
    key = keys.load_or_create(path)
    assert key is not None
    assert keys.load_or_create(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.with_name("id_ed25519.pub").read_text() == key.line + "\n"
    assert key.public == ed25519.public_key(key.seed)
    assert sorted(found.name for found in path.parent.iterdir()) == ["id_ed25519", "id_ed25519.pub"]


@pytest.mark.parametrize("cut", [0, 10, 60, 200, 300])
def test_a_damaged_key_is_an_error_and_stays(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "id_ed25519"
    assert keys.load_or_create(path)
    damaged = path.read_text()[:cut]
    path.write_text(damaged)
    with pytest.raises(ServerError, match="cannot use the key"):
        keys.load_or_create(path)
    assert path.read_text() == damaged


def test_where_no_key_can_be_kept_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert keys.load_or_create(tmp_path / "file" / "id_ed25519") is None


# -- tokens ----------------------------------------------------------------------------------------------------


async def test_a_challenge_is_answered_with_a_signed_request(registry: Registry, tmp_path: Path) -> None:
    registry.token = "secret"
    assert await manifest(access_to(registry, tmp_path)) == 200
    (asked,) = registry.requests("GET", "/token")
    query = parse_qs(urlsplit(asked.path).query)
    assert query["service"] == ["fake"]
    assert query["scope"] == ["repository:x:pull,push", "other:y:pull"]
    assert query["ts"][0].isdecimal()
    assert len(query["nonce"][0]) >= 16
    public, signature = asked.headers["authorization"].split(":")
    key = keys.load(tmp_path / "id_ed25519")
    assert base64.b64decode(public).endswith(key.public)
    empty = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    signed = f"GET,{registry.url}{asked.path},{empty}"
    assert base64.b64decode(signature) == ed25519.sign(key.seed, signed.encode())


async def test_one_token_serves_a_whole_pull(registry: Registry, tmp_path: Path) -> None:
    registry.token = "secret"
    transfers = Transfers(Store(tmp_path / "models"), limits=LIMITS, key_path=tmp_path / "id_ed25519")
    try:
        name = Name.parse(f"{registry.host}/library/tide")
        lines = [line async for line in transfers.pull(name, insecure=True)]
    finally:
        transfers.close()
    assert lines[-1] == {"status": "success"}
    assert registry.tokens_given == 1


async def test_a_token_that_does_not_help_is_not_asked_for_again(registry: Registry, tmp_path: Path) -> None:
    registry.token = "secret"
    registry.fault = fake.status(200, "/token", body=b'{"token":"wrong"}')
    with pytest.raises(UnauthorizedError, match=r"^unauthorized: access denied$"):
        await manifest(access_to(registry, tmp_path))
    assert len(registry.requests("GET", "/token")) == 1


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (fake.status(401, "/token"), "unauthorized: access denied"),
        (fake.status(403, "/token"), "unauthorized: access denied"),
        (fake.status(500, "/token", body=b"oops"), "500: oops"),
        (fake.status(302, "/token", {"Location": "/elsewhere"}), "302: no"),
        (fake.status(200, "/token", body=b"[]"), "unauthorized: the registry gave no token"),
        (fake.status(200, "/token", body=b"[" * 60_000), "unauthorized: the registry gave no token"),
        (fake.status(200, "/token", body=b'{"token":7}'), "unauthorized: the registry gave no token"),
        (fake.status(200, "/token", body=b'{"token":"a\\r\\nX: y"}'), "unauthorized: the registry gave no token"),
        (fake.endless("/token"), "the registry's answer is longer than 65536 bytes"),
    ],
)
async def test_tokens_that_are_refused_or_none(
    registry: Registry, tmp_path: Path, fault: fake.Fault, text: str
) -> None:
    registry.token = "secret"
    registry.fault = fault
    with pytest.raises(RegistryError) as caught:
        await manifest(access_to(registry, tmp_path))
    assert caught.value.text == text


@pytest.mark.parametrize("realm", ["http://evil.example/token", "http://127.0.0.1:1/token", "http://u:p@{host}/token"])
async def test_the_realm_must_be_the_registry(registry: Registry, tmp_path: Path, realm: str) -> None:
    registry.token = "secret"
    registry.realm = realm.format(host=registry.host)
    with pytest.raises(UnauthorizedError, match="does not match original host"):
        await manifest(access_to(registry, tmp_path))
    assert registry.requests("GET", "/token") == []
    assert not (tmp_path / "id_ed25519").exists()


@pytest.mark.parametrize("header", ["", "Basic realm=x", "Bearer", 'Bearer service="x"', "Bearer realm="])
def test_challenges_that_cannot_be_met(header: str) -> None:
    with pytest.raises(UnauthorizedError):
        Challenge.parse(header)


def test_challenges() -> None:
    text = 'Bearer realm="https://r.example/t?a=1", service=plain,scope="repository:a/b:pull,push x:y:z"'
    challenge = Challenge.parse(text)
    assert challenge == Challenge("https://r.example/t?a=1", "plain", "repository:a/b:pull,push x:y:z")
    url = challenge.url(httpx.URL("https://r.example"))
    assert url.params.get_list("scope") == ["repository:a/b:pull,push", "x:y:z"]
    assert url.params["a"] == "1"
    with pytest.raises(UnauthorizedError):
        Challenge("http://r.example/t").url(httpx.URL("https://r.example"))
    assert Challenge("https://huggingface.co/t").url(httpx.URL("https://hf.co")).host == "huggingface.co"


# -- redirects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.5.5",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "localhost",
        "",
    ],
)
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def resolver(registry: Registry, registry_is: str, others: str) -> Any:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return [registry_is] if f"{host}:{port}" == registry.host else [others]

    return resolve


async def test_a_public_registry_may_not_send_us_into_a_private_network(registry: Registry, tmp_path: Path) -> None:
    with running_registry() as inner:
        target = inner.url.replace("127.0.0.1", "cdn.example")
        registry.fault = fake.status(302, "/manifests/", {"Location": f"{target}/secret"})
        access = access_to(registry, tmp_path, resolve=resolver(registry, "93.184.216.34", "127.0.0.1"))
        with pytest.raises(RegistryError, match=r"cdn\.example, which is an address of a private network"):
            await manifest(access)
        assert inner.seen == []


async def test_a_private_registry_may(registry: Registry, tmp_path: Path) -> None:
    with running_registry() as inner:
        registry.token = "secret"
        registry.fault = fake.status(307, "/manifests/", {"Location": f"{inner.url}/v2/library/tide/manifests/latest"})
        inner.add_model("library/tide", "latest", {"model": b"weights"})
        access = access_to(registry, tmp_path)
        access.token = "secret"
        assert await manifest(access) == 200
        assert "authorization" not in inner.seen[0].headers


async def test_an_address_that_was_looked_at_is_the_one_that_is_used(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With loopback taken for public, so that the test has something to connect to."""
    monkeypatch.setattr("vllama.models.registry.addresses.is_public", lambda address: True)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with running_registry() as inner:
        inner.add_model("library/tide", "latest", {"model": b"weights"})
        target = inner.url.replace("127.0.0.1", "cdn.invalid")
        path = f"{target}/v2/library/tide/manifests/latest"
        registry.fault = fake.status(307, "/manifests/", {"Location": path})
        access = access_to(registry, tmp_path, resolve=resolver(registry, "127.0.0.1", "127.0.0.1"))
        assert await manifest(access) == 200
        assert inner.seen[0].headers["host"] == target.removeprefix("http://")


@pytest.mark.parametrize(
    "location",
    ["ftp://x/y", "http://user:pw@x/y", "file:///etc/passwd", "gopher://127.0.0.1/"],
)
async def test_places_that_are_not_followed(registry: Registry, tmp_path: Path, location: str) -> None:
    registry.fault = fake.status(302, "/manifests/", {"Location": location})
    with pytest.raises(RegistryError, match="redirects to what is no address"):
        await manifest(access_to(registry, tmp_path))


def test_from_https_never_to_http() -> None:
    access = Access(Name.parse("r.example/a/b"))
    session = Session(access)
    assert session.joined(access.base, "/x") == httpx.URL("https://r.example/x")
    with pytest.raises(RegistryError, match="without encryption"):
        session.joined(access.base, "http://r.example/x")


# -- words -----------------------------------------------------------------------------------------------------


async def test_a_host_without_an_address(tmp_path: Path) -> None:
    access = Access(Name.parse("nosuch.invalid/a/b"), limits=LIMITS)
    error = httpx.ConnectError("x")
    error.__cause__ = socket.gaierror(-2, "Name or service not known")
    failed = unreachable(error, "GET", access.url("manifests", "latest"))
    assert (
        failed.text
        == 'Get "https://nosuch.invalid/v2/a/b/manifests/latest": dial tcp: lookup nosuch.invalid: no such host'
    )


def test_addresses_of_a_repository() -> None:
    access = Access(Name.parse("hf.co/Org/Repo-GGUF:Q4_K_M"))
    assert str(access.url("manifests", access.name.tag)) == "https://hf.co/v2/Org/Repo-GGUF/manifests/Q4_K_M"
    assert str(access.url("blobs", "sha256:" + "a" * 64)).endswith("/v2/Org/Repo-GGUF/blobs/sha256:" + "a" * 64)
    assert str(access.url("blobs", "uploads", "")) == "https://hf.co/v2/Org/Repo-GGUF/blobs/uploads/"
    assert str(Access(Name.parse("tide")).url("manifests", "latest")) == (
        "https://registry.ollama.ai/v2/library/tide/manifests/latest"
    )
