"""Which engine a model gets, with made-up machines: nothing of this asks the machine that the test runs on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vllama.config import ModelSettings, Settings
from vllama.core import choosing
from vllama.core.choosing import choose_engine, explained, prefers_safetensors
from vllama.engines import registry
from vllama.engines.base import Reason
from vllama.errors import ConfigError, ModelLoadError
from vllama.hardware import Gpu, Hardware
from vllama.models.model import Model
from vllama.models.names import Name

GIB = 2**30
PLAIN = Hardware("linux", "x86_64", 8, 16, 32 * GIB, 30 * GIB)
NVIDIA = replace(PLAIN, gpus=(Gpu("NVIDIA H100", "nvidia", 80 * GIB, 79 * GIB, "550"),))
MAC = Hardware("darwin", "arm64", 8, 8, 16 * GIB, 10 * GIB, (Gpu("Apple M2", "apple", 16 * GIB, 0, unified=True),))


def model(*, gguf: bool = False, name: str = "org/some:latest") -> Model:
    """A GGUF, or a directory of safetensors."""
    place = Path("/nowhere")
    made = Model(Name.parse(name), digest="d" * 64, size=1, modified_at=datetime.now(UTC))
    return replace(made, gguf=place / "m.gguf") if gguf else replace(made, directory=place)


@pytest.fixture
def vllm_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if vLLM were installed."""
    have(monkeypatch, vllm=Reason(True, "vLLM 0.32"), llama=Reason(True, "llama-cpp-python"))


@pytest.fixture
def vllm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on most machines."""
    have(monkeypatch, vllm=Reason(False, "vllm is not installed"), llama=Reason(True, "llama-cpp-python"))


def have(monkeypatch: pytest.MonkeyPatch, **reasons: Reason) -> None:
    kinds = tuple(
        replace(kind, available=lambda why=reasons[kind.name]: why) if kind.name in reasons else kind  # type: ignore[misc]
        for kind in registry.KINDS
    )
    monkeypatch.setattr(registry, "KINDS", kinds)
    monkeypatch.setattr(choosing, "KINDS", kinds)


@pytest.mark.usefixtures("vllm_is_here")
@pytest.mark.parametrize(
    ("machine", "where"), [(PLAIN, "on the processor"), (NVIDIA, "on NVIDIA H100"), (MAC, "on Apple M2 by Metal")]
)
def test_a_gguf_is_llama_cpps_on_every_machine(machine: Hardware, where: str) -> None:
    choice = choose_engine(model(gguf=True), Settings(), lambda: machine)
    assert choice.kind.name == "llama"
    assert choice.reason == f"GGUF, which llama.cpp reads, {where}"


@pytest.mark.usefixtures("vllm_is_here")
def test_safetensors_are_vllms_where_it_is() -> None:
    choice = choose_engine(model(), Settings(), lambda: NVIDIA)
    assert choice.kind.name == "vllm"
    assert choice.reason == "safetensors, which vLLM reads, on NVIDIA H100: vLLM 0.32"


@pytest.mark.usefixtures("vllm_is_here")
def test_no_metal_is_claimed_for_vllm() -> None:
    assert "Metal" not in choose_engine(model(), Settings(), lambda: MAC).reason


@pytest.mark.usefixtures("vllm_is_missing")
def test_safetensors_without_vllm_say_what_to_pull() -> None:
    with pytest.raises(ModelLoadError) as error:
        choose_engine(model(), Settings(), lambda: MAC)
    assert "vllama pull hf.co/org/some:Q4_K_M" in error.value.text
    assert "vllm is not installed" in error.value.text
    assert explained(model(), Settings(), lambda: MAC).startswith("none: model 'org/some:latest' is safetensors")


@pytest.mark.usefixtures("vllm_is_here")
def test_the_models_own_table_comes_before_the_servers_setting() -> None:
    own = {"org/some": ModelSettings(engine="scripted")}
    assert explained(model(gguf=True), Settings(engine="llama", models=own), lambda: PLAIN) == (
        "scripted: vllama.toml says so"
    )
    other = {"org/other": ModelSettings(engine="scripted")}
    assert choose_engine(model(gguf=True), Settings(engine="llama", models=other), lambda: PLAIN).kind.name == "llama"


@pytest.mark.usefixtures("vllm_is_here")
def test_an_engine_that_was_named_is_never_replaced() -> None:
    with pytest.raises(ModelLoadError, match="is a GGUF, which vLLM does not read"):
        choose_engine(model(gguf=True), Settings(engine="vllm"), lambda: NVIDIA)
    with pytest.raises(ModelLoadError, match=r"safetensors, which llama\.cpp cannot run"):
        choose_engine(model(), Settings(engine="llama"), lambda: NVIDIA)


@pytest.mark.usefixtures("vllm_is_missing")
def test_one_that_was_named_and_cannot_run_says_why() -> None:
    with pytest.raises(ConfigError, match="engine vllm cannot run here: vllm is not installed"):
        choose_engine(model(), Settings(engine="vllm"), lambda: NVIDIA)


@pytest.mark.usefixtures("vllm_is_here")
@pytest.mark.parametrize(
    ("engine", "machine", "wanted"),
    [
        ("", PLAIN, False),
        ("", NVIDIA, True),
        ("", MAC, False),
        ("llama", NVIDIA, False),
        ("vllm", PLAIN, True),
        ("", replace(NVIDIA, os="windows"), False),
    ],
)
def test_which_form_of_a_repository_is_pulled(engine: str, machine: Hardware, wanted: bool) -> None:
    assert prefers_safetensors(Settings(engine=engine), lambda: machine) is wanted


@pytest.mark.usefixtures("vllm_is_missing")
def test_without_vllm_a_gguf_is_pulled_even_beside_a_gpu() -> None:
    assert not prefers_safetensors(Settings(), lambda: NVIDIA)
