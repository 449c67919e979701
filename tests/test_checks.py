"""The checks of a commit are those of `make lint`."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
COMMAND = {  # of each hook, as the Makefile calls it; its first word is the package
    "ruff-check": "ruff check",
    "ruff-format": "ruff format",
    "clang-format": "clang-format",
    "codespell": "codespell",
    "mypy": "mypy",
}


def test_make_lint_runs_every_hook():
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert {hook["id"] for repo in HOOKS for hook in repo["hooks"]} == set(COMMAND)
    assert re.findall(r"\$\(BIN\)/([a-z-]+(?: check| format)?)", lint) == list(COMMAND.values())


@pytest.mark.parametrize(
    "repo", [r for r in HOOKS if r["repo"] != "local"], ids=lambda r: r["repo"]
)
def test_hooks_run_the_versions_of_make_lint(repo):
    requirements = (ROOT / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?==([\d.]+)", requirements, re.MULTILINE))
    for hook in repo["hooks"]:
        assert repo["rev"] == "v" + pins[COMMAND[hook["id"]].split()[0]]


def test_the_pages_that_contributing_links_to_exist():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(links) > 8
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_commands_that_contributing_names_exist():
    targets = re.findall(r"`?make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text())
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) <= set(rules) and {"dev", "build", "test-fast", "lint"} <= set(targets)


@pytest.mark.parametrize("script", sorted((ROOT / "tools").glob("*.sh")), ids=lambda p: p.name)
def test_the_tests_that_a_tool_runs_exist(script):
    paths = re.findall(r"tests/[\w/.]+", script.read_text())
    assert paths and all((ROOT / path).exists() for path in paths)
