"""`vllama top` between two readings of /metrics."""

from __future__ import annotations

from vllama.cli.top import read_samples, table


def test_rates_are_what_grew_between_two_readings() -> None:
    before = read_samples('vllama_generation_tokens_total{model="tide:1b"} 100\nvllama_build_info{version="1"} 1\n')
    now = read_samples(
        'vllama_generation_tokens_total{model="tide:1b"} 160\n'
        'vllama_num_requests_running{model="tide:1b",engine="llama"} 3\n'
        'vllama_kv_cells{model="tide:1b",engine="llama"} 4096\n'
        'vllama_kv_cells_used{model="tide:1b",engine="llama"} 1024\n'
    )
    models = [{"name": "tide:1b", "size": 10, "expires_at": ""}, {"name": "new:1b", "size": 20, "expires_at": ""}]
    tide, new = table(models, before, now, 2.0)
    assert (tide["running"], tide["waiting"], tide["tokens_per_s"], tide["context_used"]) == (3, 0, 30.0, 0.25)
    assert (new["running"], new["tokens_per_s"], new["context_used"]) == (0, 0.0, 0.0)
