"""Plans are read strictly, and their id names what is asked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from vllama.bench.plan import CHARS_PER_TOKEN, Plan, plan_from_record, read_corpus, read_plan, read_scenario
from vllama.bench.systems import SYSTEMS
from vllama.errors import ConfigError

SCENARIOS = Path(__file__).parents[2] / "scenarios"

GOOD = """
title = "t"
stream = true
concurrency = [1, 2]
requests = [1, 2]
n_out = 8
prompts = "passages"
"""


def profiles() -> list[str]:
    import tomllib

    return sorted(tomllib.loads((SCENARIOS / "profiles.toml").read_text()))


@pytest.mark.parametrize("profile", profiles())
def test_committed_profiles_are_valid(profile: str) -> None:
    plan = read_plan(SCENARIOS, profile)
    assert set(plan.systems) <= set(SYSTEMS)
    assert plan.model.sha256 or set(plan.systems) == {"golden", "scripted"}
    for cell in plan.cells:
        assert plan.prompts(cell, 0)[: cell.requests] or cell.kind == "idle"


def test_the_id_changes_with_anything_that_is_asked_and_with_nothing_else() -> None:
    plan = read_plan(SCENARIOS, "quick")
    assert read_plan(SCENARIOS, "quick", {"pairs": None}).id == plan.id
    for change in ({"pairs": 3}, {"seed": 5}, {"ctx": 1024}, {"systems": ["llama-server", "vllama"]}):
        assert read_plan(SCENARIOS, "quick", change).id != plan.id
    more = read_plan(SCENARIOS, "quick", {"pairs": 3, "scenarios": ["streaming"]})
    assert more.questions_id(more.scenarios[0]) == plan.questions_id(plan.scenario("streaming"))
    assert plan.questions_id(plan.scenarios[0]) != plan.questions_id(plan.scenarios[1])


def test_committed_results_keep_their_plan_id() -> None:
    folders = [path.parent for path in (SCENARIOS.parent / "results").glob("*/plan.json")]
    assert folders
    for folder in folders:
        raw = json.loads((folder / "plan.json").read_text())
        assert plan_from_record(raw).id == raw["id"]
        with pytest.raises(ConfigError, match="but other was run"):
            plan_from_record({**raw, "id": "other"})


def test_a_plan_survives_its_record() -> None:
    for profile in profiles():
        plan = read_plan(SCENARIOS, profile)
        raw = json.loads(json.dumps({"schema": 1, "id": plan.id, **dataclasses.asdict(plan)}))
        assert plan_from_record(raw) == plan


def slots(plan: Plan) -> list[list[str]]:
    return [plan.prompts(cell, block) for cell in plan.cells for block in range(plan.pairs)]


def test_no_prompt_comes_twice_and_none_begins_like_another() -> None:
    for profile in ("claims", "full"):
        plan = read_plan(SCENARIOS, profile, {"pairs": 3})
        prompts = [
            prompt
            for cell in plan.cells
            for block in range(plan.pairs)
            for prompt in plan.prompts(cell, block)
            if cell.kind != "shared-prefix"
        ]
        assert len(set(prompts)) == len(prompts)
        assert len({prompt[:8] for prompt in prompts}) == len(prompts)


def test_long_prompts_are_about_as_long_as_asked_for_and_shared_prefixes_are_fresh() -> None:
    plan = read_plan(SCENARIOS, "full")
    (prefix,) = plan.scenario("shared-prefix").cells
    first, second = plan.prompts(prefix, 0), plan.prompts(prefix, 1)
    assert len({prompt[: 850 * 4] for prompt in first}) == 1
    assert len(set(first)) == 16
    assert first[0][:8] != second[0][:8]
    (mixed,) = plan.scenario("mixed").cells
    lengths = [len(prompt) for prompt in plan.prompts(mixed, 0)]
    assert max(lengths[:4]) < 400
    assert lengths[4] == pytest.approx(1500 * CHARS_PER_TOKEN, rel=0.02)
    assert plan.screened(mixed) == [0, 1, 2, 3]
    assert plan.screened(prefix) == []
    (batch,) = plan.scenario("embeddings-short").cells
    assert len(plan.prompts(batch, 0)) == 64


def test_prompts_depend_on_the_seed_and_a_refused_one_gets_another_nonce() -> None:
    plan = read_plan(SCENARIOS, "quick")
    assert slots(plan) == slots(read_plan(SCENARIOS, "quick"))
    assert slots(plan) != slots(read_plan(SCENARIOS, "quick", {"seed": 99}))
    cell = plan.cells[0]
    first, second, third = plan.prompts(cell, 0)
    again = plan.prompts(cell, 0, [0, 1, 0])
    assert (again[0], again[2]) == (first, third)
    assert again[1] != second
    assert again[1][9:] == second[9:]


def test_warm_up_passages_are_others() -> None:
    corpus = read_corpus(SCENARIOS / "prompts")
    assert len(corpus["passages"]) >= 8
    assert not set(corpus["warmup"]) & set(corpus["passages"])
    plan = read_plan(SCENARIOS, "quick")
    assert not set(plan.warmup_prompts(50, "x")) & {prompt for slot in slots(plan) for prompt in slot}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("n_outs = 1", "unknown key 'n_outs'"),
        ("stream = 1", "stream must be bool"),
        ("n_out = true", "n_out must be int"),
        ("concurrency = [1.5]", "concurrency must be"),
        ("requests = [1]", "different lengths"),
        ("requests = [1, 1]", "at least its concurrency"),
        ("ceiling = [4]", "ceiling names"),
        ('id = "other"', "differs from the file's name"),
        ("n_out = ", "Invalid value"),
        ('kind = "clozed"', "unknown kind 'clozed'"),
        ("rate = 2.0", "unknown key 'rate' for kind 'closed'"),
        ('kind = "open"', "rate is missing; kind 'open' needs it"),
        ('kind = "mixed"\nprompt_tokens = 5\njoin_after_s = 1.0', "must be the concurrency plus one"),
        ('kind = "cancel"\ncancel_after = 5', "must be at least three"),
        ('kind = "constrained"\njson_schema = "{"', "json_schema is not JSON"),
        ('lanes = ["fast"]', "lanes must be some of"),
        ("slo = { ttft = 5 }", "unknown key 'ttft'"),
        ("slo = { ttft_ms = true }", "ttft_ms must be float"),
    ],
)
def test_bad_scenarios_are_refused_with_file_and_key(tmp_path: Path, change: str, message: str) -> None:
    name = change.partition(" =")[0]
    kept = [line for line in GOOD.splitlines() if not line.startswith(f"{name} ")]
    path = tmp_path / "some.toml"
    path.write_text("\n".join([*kept, change]))
    with pytest.raises(ConfigError) as caught:
        read_scenario(path)
    assert message in caught.value.text
    assert "some.toml" in caught.value.text


def test_missing_keys_profiles_and_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text(GOOD.replace("n_out = 8\n", ""))
    with pytest.raises(ConfigError, match="n_out is missing"):
        read_scenario(path)
    with pytest.raises(ConfigError, match="no profile 'nope'; there are capacity, ci, claims, "):
        read_plan(SCENARIOS, "nope")
    with pytest.raises(ConfigError, match="cannot read"):
        read_plan(tmp_path, "quick")
    with pytest.raises(ConfigError, match="the control 'llama-server' is not among"):
        read_plan(SCENARIOS, "quick", {"systems": ["vllama"]})
    with pytest.raises(ConfigError, match="asleep must be one of resident, paused, stopped"):
        read_plan(SCENARIOS, "quick", {"asleep": "dead"})
    with pytest.raises(ConfigError, match="'vllama' stands twice"):
        read_plan(SCENARIOS, "quick", {"systems": ["vllama", "llama-server", "vllama"]})


def test_rounds_must_divide_the_requests_and_leave_every_stream_its_part(tmp_path: Path) -> None:
    def scenario(requests: int, rounds: int) -> Path:
        path = tmp_path / "turns.toml"
        path.write_text(
            f'title = "t"\nstream = true\nconcurrency = [2]\nrequests = [{requests}]\nn_out = 4\n'
            f'prompts = "passages"\nrounds = {rounds}\n'
        )
        return path

    assert read_scenario(scenario(8, 4)).rounds == 4
    for requests, rounds in ((8, 3), (8, 8), (8, -1)):
        with pytest.raises(ConfigError, match="rounds"):
            read_scenario(scenario(requests, rounds))
