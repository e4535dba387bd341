"""The documentation names what exists, and links lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in readme, f"README does not lead to docs/{page.name}"


def test_every_route_is_documented() -> None:
    from vllama.api.routes import routes
    from vllama.cli.server import build_service
    from vllama.config import load_settings

    page = (ROOT / "docs" / "http.md").read_text()
    for route in routes(build_service(load_settings({}, environ={"HOME": "/nonexistent"}))):
        path = route.path.split("{")[0].rstrip("/") or "/"
        assert path in page, f"docs/http.md does not name {route.path}"


def test_every_scenario_is_documented() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for file in (ROOT / "scenarios").glob("*.toml"):
        tomllib.loads(file.read_text())
        assert file.stem in page, f"docs/benchmarks.md does not name the scenario {file.stem}"


def test_readme_has_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert (
        'python3 -m venv .venv && .venv/bin/python -m pip install -c constraints.txt ".[demo]" '
        '&& .venv/bin/vllama run smollm2:135m "Why is the sky blue?"' in readme
    )
    second = "python3 -m venv .venv && .venv/bin/python -m pip install nox && .venv/bin/nox -s tests"
    assert second in readme
    assert second in (ROOT / ".ci" / "run").read_text()


def test_readme_numbers_are_those_of_the_results() -> None:
    """The block between the markers is generated; editing it by hand, or forgetting to generate it, fails here."""
    from vllama.bench.report import BEGIN, END, with_summary
    from vllama.bench.results import read_run

    readme = (ROOT / "README.md").read_text()
    name = re.search(r"Run `([^`]+)`", readme.split(BEGIN)[1].split(END)[0])
    assert name is not None, "the README shows no run: python -m vllama.bench report results/RUN --readme README.md"
    assert with_summary(readme, read_run(ROOT / "results" / name[1])) == readme


def test_reports_are_current() -> None:
    from vllama.bench.report import is_current
    from vllama.bench.results import read_run

    runs = [folder for folder in (ROOT / "results").iterdir() if (folder / "plan.json").is_file()]
    assert runs
    for folder in runs:
        assert is_current(read_run(folder), ROOT / "reports"), f"reports/{folder.name}.md is not what its records say"
