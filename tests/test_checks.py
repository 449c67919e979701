"""The checks of a commit are those of `make lint`."""

import ast
import re
from collections import defaultdict
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


def _names_no_encoding(call):
    """Whether a call reads or writes text in the encoding of the locale."""
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    match call.func:
        case ast.Attribute(attr="read_text"):
            return not call.args
        case ast.Attribute(attr="write_text"):
            return len(call.args) < 2
        case ast.Name(id="open"):
            return "b" not in "".join(map(ast.unparse, call.args[1:2]))
    return False


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("p.read_text()", True),
        ("p.write_text(t)", True),
        ("p.write_text(t, 'utf-8')", False),
        ("open(p)", True),
        ("open(p, 'rb')", False),
        ("open(p, 'a', encoding='utf-8')", False),
    ],
)
def test_a_call_that_names_no_encoding_is_found(code, expected):
    assert _names_no_encoding(ast.parse(code, mode="eval").body) == expected


def test_text_is_read_and_written_in_an_encoding_of_its_own_and_not_the_locales():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "edufast").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and _names_no_encoding(node)
    ]
    assert found == []


def test_no_duration_is_taken_from_a_clock_that_may_be_set_back():
    found = [
        path.relative_to(ROOT)
        for path in sorted((ROOT / "edufast").rglob("*.py"))
        if re.search(r"\btime\.time\(|date(time)?\.(now|today|utcnow)\(", path.read_text("utf-8"))
    ]
    assert found == []


_OPENS = re.compile(r"namespace ([\w:]*) ?{$")
_DEFINES = re.compile(r"(?:template <.*> )?(?:struct|class|union|enum class) (\w+).*{")


def test_no_name_of_the_kernels_means_two_types():
    """Nothing tells where files of one library disagree about what a name is."""
    places = defaultdict(set)
    for path in sorted((ROOT / "csrc").rglob("*.*")):
        inside = []
        for line in path.read_text("utf-8").splitlines():
            if opened := _OPENS.match(line):
                inside.append(opened[1] or path.name)  # without a name it is the file's own
            elif line.startswith("}  // namespace"):
                inside.pop()
            elif defined := _DEFINES.match(line):
                places["::".join([*inside, defined[1]])].add(path.name)
    assert len(places) > 50
    assert [name for name, files in places.items() if len(files) > 1] == []
