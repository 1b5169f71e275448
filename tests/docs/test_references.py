"""What the documents name exists: paths, tests, sentences of errors, commands, benchmarks and their results."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import generated
import pytest

from nni_plugins.commands import COMMANDS
from nni_plugins.run.lists import list_settings
from tests.docs.blocks import DOCUMENTS, ROOT

FOLDERS = ("benchmarks", "docs", "examples", "nni_plugins", "search_spaces", "tests", "exported/example")


def code_spans(document: Path) -> list[str]:
    """Texts between backquotes, fenced blocks and comments left out."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", document.read_text(), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_of_the_repository_exist(document: Path) -> None:
    paths = [
        word.partition("::")[0]
        for span in code_spans(document)
        for word in span.split()
        if word.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and not re.search(r"[A-Z*<{]{2}|\*", word)
    ]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_tests_of_the_list_of_faults_exist() -> None:
    named = [span for span in code_spans(ROOT / "docs/design/faults.md") if span.startswith(("test_", "::test_"))]
    assert len(named) > 20
    files: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        files[path.name] = files.get(path.name, "") + path.read_text()
    current, missing = "", []
    for span in named:
        file, _, test = span.partition("::")
        current = file or current
        if current not in files or (test and f"def {test}(" not in files[current]):
            missing.append(span)
    assert missing == []


def strings_of_the_code() -> str:
    """All texts of both packages, one a line; what an f-string fills in is a space."""
    found = []
    for package in ("nni_plugins", "search_spaces"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(str(p.value) if isinstance(p, ast.Constant) else " " for p in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_sentences_of_the_page_of_errors_are_those_of_the_code() -> None:
    text = (ROOT / "docs/reference/errors.md").read_text()
    tables = text[text.index("## By kind") :]
    first_cells = re.findall(r"^\| (`[^|]+) \|", tables, re.MULTILINE)
    assert len(first_cells) > 15
    code = strings_of_the_code()
    fragments = [
        fragment.strip()
        for cell in first_cells
        for span in re.findall(r"`([^`]+)`", cell)
        for fragment in span.split("...")
    ]
    assert [fragment for fragment in fragments if fragment not in code] == []


class TestGenerated:
    """What the site takes from the code."""

    def test_every_request_of_a_page_can_be_met(self) -> None:
        for document in DOCUMENTS:
            for name, _ in generated.REQUEST.findall(document.read_text()):
                assert name in generated.GENERATORS, document
        assert sum("<!-- site:" in document.read_text() for document in DOCUMENTS) > 10

    def test_every_command_and_option_is_listed(self) -> None:
        text = generated.commands()
        sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
        assert set(COMMANDS) <= set(sections)
        assert "`--tolerance TOLERANCE`" in sections["check"]
        assert "`--calibration CALIBRATION`" in sections["variants"] and "(default: minmax)" in sections["variants"]
        assert "`--evaluate`" in text

    def test_every_setting_is_listed_with_its_meaning(self) -> None:
        text = generated.settings()
        for listing in list_settings():
            for name, *_ in listing.rows:
                assert f"| `{name}` |" in text, name
        without = re.findall(r"^\| `([\w.]+)` \|.*\|  \|$", text, re.MULTILINE)
        assert without == [], "every setting has a meaning in a docstring"

    def test_meanings_come_from_the_class_and_those_it_derives_from(self) -> None:
        class Base:
            """One.

            Parameters
            ----------
            first, second
                Both
                of them.
            third
                Replaced.
            """

        class Derived(Base):
            """Two.

            Parameters
            ----------
            third
                Its own.

            Raises
            ------
            ValueError
                Never.
            """

        assert generated.parameter_meanings(Derived) == {
            "first": "Both of them.",
            "second": "Both of them.",
            "third": "Its own.",
        }

    def test_published_settings_of_a_method(self) -> None:
        rows = generated.preset("bnas_v2_clr", "bnas_v2_pc").splitlines()
        assert rows[0] == "| setting | `bnas_v2_clr` | `bnas_v2_pc` |"
        assert "| `batch_size` | `256` | `512` |" in rows
        assert "| `arch_lr` | `Confident(power=2.0)` |  |" in rows

    def test_every_module_has_its_place_in_the_api(self) -> None:
        pages = [path.read_text() for path in (ROOT / "docs/reference/api").glob("*.md")]
        requested = [word for page in pages for _, words in generated.REQUEST.findall(page) for word in words.split()]
        listed = [name for package in requested for name in generated.module_names(package)]
        own = {name for package in ("nni_plugins", "search_spaces") for name in generated.module_names(package)}
        assert own - set(listed) == {"nni_plugins"}
        assert len(listed) == len(set(listed))

    def test_every_benchmark_and_every_table_is_on_the_page_of_figures(self) -> None:
        text = (ROOT / "docs/figures.md").read_text()
        runnable = [path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()]
        assert [path.name for path in runnable if f"python benchmarks/{path.name}" not in text] == []
        results = [path for path in (ROOT / "benchmarks/results").iterdir() if path.suffix in (".md", ".png")]
        assert [path.name for path in results if f"benchmarks/results/{path.name}" not in text] == []
