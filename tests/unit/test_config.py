"""Settings: the readers against Ollama's own answers, precedence, sources, the file, and the documentation."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vllama.config import Host, Settings, load_settings, parse_host
from vllama.config.settings import markdown, specs
from vllama.config.values import ollama_bool, trim
from vllama.errors import ConfigError
from vllama.goduration import FOREVER_NS, NS_PER_SECOND

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "env.jsonl"
CASES = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]

# Go keeps the text of a port and so prints these two as no port and with zeros; we keep a number.
ODD_PORTS = {"h:+5": 5, "h:00080": 80}

BOOLS = {"NoPrune": "noprune", "NoCloudEnv": "no_cloud", "NoHistory": "nohistory"}
NUMBERS = {"MaxRunners": "max_loaded_models", "MaxQueue": "max_queue", "ContextLength": "context_length"}
ELSEWHERE = {"GpuOverhead", "Remotes"}  # settings of Ollama that vLLama does not have


def cases(*funcs: str) -> pytest.MarkDecorator:
    """The recorded cases of these functions."""
    return pytest.mark.parametrize("case", [c for c in CASES if c["func"] in funcs], ids=lambda c: c["id"])


@cases("Host", "ConnectableHost")
def test_host_as_ollama_reads_it(case: dict) -> None:
    host = load_settings(environ=case["env"]).host
    if case["func"] == "ConnectableHost":
        host = host.connectable
    text = case["env"].get("OLLAMA_HOST", "")
    expected = case["expected"]
    if text in ODD_PORTS:
        assert (host.name, host.port) == ("h", ODD_PORTS[text])
        return
    got = {
        "scheme": host.scheme,
        "hostname": host.name,
        "port": str(host.port),
        "path": host.path,
        "host": host.netloc,
        "url": host.url,
    }
    assert got == expected


@cases("AllowedOrigins")
def test_origins_as_ollama_reads_them(case: dict) -> None:
    assert list(load_settings(environ=case["env"]).origins) == case["expected"]


@cases("KeepAlive")
def test_keep_alive_as_ollama_reads_it(case: dict) -> None:
    got = load_settings(environ=case["env"]).keep_alive
    # The recordings hold the largest int64 as a rounded float; a setting without end is -1 here.
    assert got == (-1 if case["expected"] >= FOREVER_NS else case["expected"])


@cases("LoadTimeout")
def test_load_timeout_as_ollama_reads_it(case: dict) -> None:
    assert load_settings(environ=case["env"]).load_timeout == min(case["expected"], FOREVER_NS)


@cases(*BOOLS)
def test_bools_as_ollama_reads_them(case: dict) -> None:
    assert getattr(load_settings(environ=case["env"]), BOOLS[case["func"]]) is case["expected"]


@cases("FlashAttention(true)", "FlashAttention(false)")
def test_flash_attention_as_ollama_reads_it(case: dict) -> None:
    default = case["func"].endswith("(true)")
    got = load_settings(environ=case["env"]).flash_attention
    assert (default if got is None else got) is case["expected"]


@cases("GoTemplate(true)")
def test_go_template_as_ollama_reads_it(case: dict) -> None:
    got = load_settings(environ=case["env"]).go_template
    assert (True if got is None else got) is case["expected"]


@cases("EnableVulkan(true)", "SchedSpread", "UseAuth", "DebugLogRequests")
def test_the_bool_reader_on_variables_without_a_setting(case: dict) -> None:
    text = trim(next(iter(case["env"].values()), ""))
    default = case["func"].endswith("(true)")
    assert (ollama_bool(text) if text else default) is case["expected"]


@cases(*NUMBERS)
def test_numbers_as_ollama_reads_them(case: dict) -> None:
    assert getattr(load_settings(environ=case["env"]), NUMBERS[case["func"]]) == case["expected"]


@cases("NumParallel")
def test_num_parallel_as_ollama_reads_it(case: dict) -> None:
    # Ollama's default is 1, ours 0: the engine chooses.
    settings = load_settings(environ=case["env"])
    assert (settings.num_parallel or 1) == case["expected"]


@cases("LogLevel")
def test_debug_as_ollama_reads_it(case: dict) -> None:
    assert load_settings(environ=case["env"]).debug * -4 == case["expected"]


@cases("KvCacheType")
def test_kv_cache_type_as_ollama_reads_it(case: dict) -> None:
    # Ollama hands on blanks and capitals, and then takes f16 for what it does not know; ours mean what they say.
    assert load_settings(environ=case["env"]).kv_cache_type == (case["expected"].strip().lower() or "f16")


def test_an_unknown_kv_cache_type_is_told() -> None:
    with pytest.raises(ConfigError, match="VLLAMA_KV_CACHE_TYPE: 'q9' must be one of f16, q8_0, q4_0"):
        load_settings(environ={"VLLAMA_KV_CACHE_TYPE": "q9"})
    # As Ollama does: what it does not know becomes f16, and its log says so.
    settings = load_settings(environ={"OLLAMA_KV_CACHE_TYPE": "q9"})
    assert settings.kv_cache_type == "f16"
    assert "q9" in settings.warnings[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("1048576", 1 << 20), ("512M", 512 << 20), ("4 GiB", 4 << 30), ("2kb", 2048), ("1T", 1 << 40)],
)
def test_a_size_counts_in_steps_of_1024(text: str, expected: int) -> None:
    settings = load_settings(environ={"VLLAMA_PREFIX_CACHE_SIZE": text})
    assert settings.prefix_cache_size == expected
    [shown] = [row.value for row in settings.rows() if row.name == "prefix_cache_size"]
    assert load_settings(environ={"VLLAMA_PREFIX_CACHE_SIZE": shown}).prefix_cache_size == expected


@pytest.mark.parametrize("text", ["-1", "1.5G", "G", "1 0", "1e9", "9" * 20])
def test_what_is_no_size_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="VLLAMA_PREFIX_CACHE_SIZE"):
        load_settings(environ={"VLLAMA_PREFIX_CACHE_SIZE": text})


def test_the_prefix_cache_has_no_folder_unless_asked_for(tmp_path: Path) -> None:
    assert load_settings(environ={}).prefix_cache_dir == ""
    toml = tmp_path / "vllama.toml"
    toml.write_text("prefix_cache_dir = '~/prompts'\nprefix_cache_size = '1M'\nmlock = true\n")
    settings = load_settings(environ={}, toml_path=toml)
    assert settings.prefix_cache_dir == os.path.abspath(os.path.expanduser("~/prompts"))
    assert (settings.prefix_cache_size, settings.mlock) == (1 << 20, True)


@cases("Models")
def test_models_as_ollama_reads_it(case: dict) -> None:
    assert str(load_settings(environ=case["env"]).models_dir) == case["expected"]


def test_every_recorded_function_is_tested_or_named_as_absent() -> None:
    tested = {
        *BOOLS,
        *NUMBERS,
        *("Host", "ConnectableHost", "AllowedOrigins", "KeepAlive", "LoadTimeout", "NumParallel", "LogLevel"),
        *("FlashAttention(true)", "FlashAttention(false)", "EnableVulkan(true)", "GoTemplate(true)", "SchedSpread"),
        *("UseAuth", "DebugLogRequests", "KvCacheType", "Models"),
    }
    assert {case["func"] for case in CASES} - tested == ELSEWHERE


def test_precedence_and_sources(tmp_path: Path) -> None:
    toml = tmp_path / "vllama.toml"
    toml.write_text("# ours\nmax_queue = 1\nnum_thread = 1\nnum_parallel = 1\nkeep_alive = '1m'\n")
    environ = {
        "VLLAMA_MAX_QUEUE": "3",
        "OLLAMA_MAX_QUEUE": "2",
        "VLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_NUM_PARALLEL": "2",
        "OLLAMA_KEEP_ALIVE": "2m",
    }
    settings = load_settings({"max_queue": 4, "engine": None}, environ, toml)
    assert (settings.max_queue, settings.source("max_queue")) == (4, "--max-queue")
    assert (settings.num_parallel, settings.source("num_parallel")) == (3, "VLLAMA_NUM_PARALLEL")
    assert (settings.keep_alive, settings.source("keep_alive")) == (120 * NS_PER_SECOND, "OLLAMA_KEEP_ALIVE")
    assert (settings.num_thread, settings.source("num_thread")) == (1, f"{toml}:3")
    assert (settings.engine, settings.source("engine")) == ("", "default")


def test_the_defaults_are_those_of_the_class() -> None:
    assert load_settings(environ={"HOME": str(Path.home())}) == Settings()


def test_rows_name_value_and_source() -> None:
    rows = {row.name: row for row in load_settings({"keep_alive": "-1"}, {"OLLAMA_ORIGINS": "http://a"}).rows()}
    assert list(rows) == list(specs())
    assert (rows["keep_alive"].value, rows["keep_alive"].source) == ("forever", "--keep-alive")
    assert (rows["origins"].value, rows["origins"].source) == ("http://a", "OLLAMA_ORIGINS")
    assert (rows["flash_attention"].value, rows["flash_attention"].source) == ("auto", "default")
    assert rows["shutdown_grace"].value == "10s"


@pytest.mark.parametrize(
    ("flags", "host"),
    [
        ({"port": 8080}, Host("http", "127.0.0.1", 8080)),
        ({"host": "0.0.0.0", "port": "80"}, Host("http", "0.0.0.0", 80)),
        ({"host": "[::1]:9"}, Host("http", "::1", 9)),
    ],
)
def test_host_and_port_flags(flags: dict[str, object], host: Host) -> None:
    assert load_settings(flags, {"OLLAMA_HOST": ":7"} if "host" in flags else {}).host == host


@pytest.mark.parametrize(
    ("flags", "environ", "text"),
    [
        ({"port": 70000}, {}, "--port: 70000 must be a number from 0 to 65535"),
        ({"port": "http"}, {}, "--port: 'http' must be a number"),
        ({"max_queue": "many"}, {}, "--max-queue: 'many' must be a whole number, 0 or more"),
        ({}, {"VLLAMA_NOPRUNE": "perhaps"}, "VLLAMA_NOPRUNE: 'perhaps' must be true or false"),
        ({}, {"VLLAMA_KEEP_ALIVE": "5 m"}, "VLLAMA_KEEP_ALIVE: '5 m' must be a duration"),
        ({}, {"VLLAMA_SHUTDOWN_GRACE": "-1s"}, "VLLAMA_SHUTDOWN_GRACE: '-1s' must not be negative"),
        ({"hots": "x"}, {}, "there is no setting 'hots'; did you mean 'host'?"),
    ],
)
def test_bad_values_are_refused_with_their_source(flags: dict, environ: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        load_settings(flags, environ)


def test_a_bad_value_of_ollama_is_passed_over_with_a_warning() -> None:
    settings = load_settings(environ={"OLLAMA_MAX_QUEUE": "many", "OLLAMA_GPU_OVERHEAD": "7"})
    assert (settings.max_queue, settings.source("max_queue")) == (512, "default")
    assert any("OLLAMA_MAX_QUEUE='many' is not used" in line for line in settings.warnings)
    assert any("OLLAMA_GPU_OVERHEAD has no effect" in line for line in settings.warnings)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("\nmax_queue = 1\nmax_queu = 2\n", ":3: there is no setting 'max_queu'; did you mean 'max_queue'?"),
        ("debug = 0\n[engines.llama]\nx = 1\n", ":2: there is no setting 'engines'"),
        ("max_queue = 1.5\n", ":1: max_queue must be a string, a whole number"),
        ("max_queue = -1\n", ":1: '-1' must be a whole number, 0 or more"),
        ("max_queue = = 1\n", "line 1"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path: Path, content: str, text: str) -> None:
    toml = tmp_path / "vllama.toml"
    toml.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(text)) as caught:
        load_settings(environ={"VLLAMA_CONFIG": str(toml)})
    assert str(toml) in caught.value.text


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(environ={}, toml_path=tmp_path / "absent.toml")


def test_types_of_the_file(tmp_path: Path) -> None:
    toml = tmp_path / "vllama.toml"
    toml.write_text("noprune = true\npreload = ['a', 'b:1']\norigins = ['http://x']\nflash_attention = 'auto'\n")
    settings = load_settings(environ={}, toml_path=toml)
    assert settings.noprune is True
    assert settings.preload == ("a", "b:1")
    assert settings.origins[:2] == ("http://x", "http://localhost")
    assert settings.flash_attention is None


@pytest.mark.parametrize(
    ("name", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("LOCALHOST", True), ("0.0.0.0", False), ("", False), ("example.com", False)],
)
def test_loopback(name: str, loopback: bool) -> None:
    assert Host(name=name).is_loopback is loopback


def test_a_host_survives_printing() -> None:
    for text in ("127.0.0.1:11434", "https://example.com/api", "http://[::1]:9"):
        assert parse_host(parse_host(text).url) == parse_host(text)


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert markdown() in page, "docs/configuration.md is stale: paste the output of `vllama config --docs` into it"


def test_reading_settings_imports_nothing_heavy() -> None:
    heavy = {"llama_cpp", "numpy", "rich", "prompt_toolkit", "httpx", "fastapi", "pydantic", "uvicorn"}
    code = "import sys; from vllama.config import load_settings; load_settings(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
