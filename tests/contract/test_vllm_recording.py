"""vLLM is recorded again, and still says what `tests/golden/vllm/served-0.32.0.json` has for the replay.

VLLAMA_RECORD_FRAMES=1 (pytest only, nox passes it on to nobody) writes the file anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract.served import START_S, model_directory, serving, wait_until_loaded
from tests.contract.vllm_frames import close
from tests.tools import vllm_cases, vllm_recorder
from tests.tools.vllm_replay import canonical

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(START_S)]


def test_the_recording_holds(tmp_path: Path, small_model_path: Path) -> None:
    made = record(tmp_path, small_model_path)
    if os.environ.get("VLLAMA_RECORD_FRAMES"):
        kept = json.loads(vllm_cases.FILE.read_text()) if vllm_cases.FILE.exists() else {"failures": {}}
        vllm_cases.FILE.write_text(json.dumps(kept | made, indent=0, ensure_ascii=False) + "\n")
    kept = json.loads(vllm_cases.FILE.read_text())
    assert made["version"] == kept["version"]
    assert {asked(one) for one in made["exchanges"]} == {asked(one) for one in kept["exchanges"]}
    assert set(made["answers"]) == set(kept["answers"]) == set(vllm_cases.CASES)
    for name, answer in kept["answers"].items():
        assert close(made["answers"][name], answer), f"{name}: {made['answers'][name]}"


def record(home: Path, gguf: Path) -> dict[str, Any]:
    """All cases through vLLama to a real vLLM, what passed between the two, and what vLLama answered."""
    folder = vllm_cases.directory(home, gguf, model_directory())
    file = home / "recording.json"
    env = {
        "VLLAMA_VLLM_PYTHON": str(vllm_recorder.interpreter(home / "python")),
        "RECORD_PYTHON": os.environ["VLLAMA_VLLM_PYTHON"],
        "RECORD_FILE": str(file),
    }
    with serving(home, "--model", str(folder), "--vllm-arg=--enforce-eager", env=env) as server:
        wait_until_loaded(server)
        answers = vllm_cases.answers(server.url)
    made: dict[str, Any] = json.loads(file.read_text())
    # One of each, and nothing of the machine.
    made["exchanges"] = list({asked(one): one for one in made["exchanges"]}.values())
    text = json.dumps(made | {"answers": answers}).replace(str(model_directory()), "/models/x")
    text = text.replace(str(folder), f"/models/{vllm_cases.NAME}")
    text = text.replace(str(Path(os.environ["VLLAMA_VLLM_PYTHON"]).parents[1]), "/vllm")
    scrubbed: dict[str, Any] = json.loads(re.sub(r"/tmp/(vllama|vllm_dist)[-_]\w+", "/run/vllama", text))
    return scrubbed


def asked(exchange: dict[str, Any]) -> str:
    """What makes an exchange the same as another."""
    return canonical(exchange["method"], exchange["path"], exchange["body"].encode())
