"""The HTML report in a real Chromium: opened as a file, nothing on the console, every plot there and visible."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.external import programs
from tests.external.conftest import clean_environ
from vllama.bench.report import write
from vllama.bench.results import Run, read_run

pytestmark = pytest.mark.external

ROOT = Path(__file__).parent.parent.parent

PROBE = """<script>
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("figure")].map(figure => {
    const box = figure.querySelector("svg").getBoundingClientRect();
    const drawn = [...figure.querySelectorAll("svg path")].filter(path => path.getBoundingClientRect().width > 1);
    return `${figure.id} ${box.width > 300 && box.height > 60} ${drawn.length > 3}`;
  });
  const loaded = performance.getEntriesByType("resource").map(entry => entry.name);
  document.body.dataset.seen = seen.join(";");
  document.body.dataset.loaded = loaded.join(";");
  document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth;
});
</script></body>"""
"""Put into a copy of the page: the page itself has no script."""


@pytest.fixture(scope="module")
def real() -> Run:
    folder = next(folder for folder in sorted((ROOT / "results").iterdir()) if (folder / "slots.jsonl").exists())
    return read_run(folder)


def dump(binary: str, page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after loading, and what the console and the page's errors said."""
    command = [binary, "--headless=new", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0", "--window-size=1280,900"]
    command += ["--disable-background-networking", "--disable-component-update", "--timeout=60000"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # which it refuses to set up for root
    env = clean_environ() | {"HOME": str(profile)}
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    # Messages of the page come as ...:CONSOLE(line)] or CONSOLE:line]; the rest is the browser talking of itself.
    return done.stdout, [line for line in done.stderr.splitlines() if re.search(r"CONSOLE[(:]", line)]


def test_no_error_and_every_plot(real: Run, tmp_path: Path) -> None:
    binary = programs.need("chromium")
    page = write(real, tmp_path / "reports", ()).with_suffix(".html")
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    for number, file in enumerate((page, probed)):
        document, said = dump(binary, file, tmp_path / f"profile{number}")
        assert said == []
    seen = re.search(r'data-seen="([^"]*)"', document)
    assert seen is not None
    assert seen[1].split(";") == [
        f"figure-{name} true true"
        for name in ("forest", "curves", "cdf-ttft", "cdf-gaps", "timeline", "order", "memory")
    ]
    assert 'data-loaded=""' in document
    assert 'data-wide="false"' in document


def test_the_console_is_really_read(tmp_path: Path) -> None:
    binary = programs.need("chromium")
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><script>undefinedFunction()</script>")
    _, said = dump(binary, page, tmp_path / "profile")
    assert any("undefinedFunction" in line for line in said)
