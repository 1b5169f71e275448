"""Every code block of the documents is run as it stands there, or says why it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import DOCUMENTS, ROOT, Block, Session, blocks, check_words, command_lines, toy

ALL = [block for document in DOCUMENTS for block in blocks(document)]
WITH_CODE = sorted({block.document for block in ALL if block.mark in ("", "file")})


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    with monkeypatch.context() as patch:
        yield Session(tmp_path, patch)


@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_blocks_of_a_document_run(document: Path, session: Session) -> None:
    for block in blocks(document):
        if block.mark in ("", "file"):
            session.run(block)


@pytest.mark.parametrize("block", [each for each in ALL if each.mark == "not run"], ids=lambda block: block.place)
def test_what_is_not_run_says_why_and_has_valid_arguments(block: Block) -> None:
    assert len(block.detail.split()) > 2
    if block.language == "bash":
        for words in command_lines(block.code):
            check_words(words)


@pytest.mark.parametrize("block", [each for each in ALL if each.mark == "run by"], ids=lambda block: block.place)
def test_what_another_test_runs_is_run_there(block: Block) -> None:
    file, _, test = block.detail.partition("::")
    assert f"def {test}" in (ROOT / file).read_text()
    if block.language == "bash":
        for words in command_lines(block.code):
            check_words(words)


class TestBlocks:
    """The reader of blocks itself."""

    def test_blocks_in_lists_and_marks_are_found(self, tmp_path: Path) -> None:
        document = tmp_path / "page.md"
        document.write_text(
            "text\n\n    indented\n\n- item\n\n  <!-- not run: it needs a GPU -->\n  ```bash\n  one\n  ```\n\n"
            "```{note}\nno code\n```\n\n<!-- long -->\n```python\ntwo\n```\n\n```text\nthree\n```\n"
        )
        found = [(each.line, each.language, each.code, each.mark, each.detail) for each in blocks(document)]
        assert found == [
            (3, "", "indented\n", "", ""),
            (8, "bash", "one\n", "not run", "it needs a GPU"),
            (17, "python", "two\n", "long", ""),
            (21, "text", "three\n", "", ""),
        ]

    def test_a_mark_holds_for_the_next_block_alone(self, tmp_path: Path) -> None:
        document = tmp_path / "page.md"
        document.write_text("<!-- long -->\n\ntext\n\n```bash\none\n```\n")
        assert [each.mark for each in blocks(document)] == [""]

    @pytest.mark.parametrize("language", ["", "perl"])
    def test_a_block_that_cannot_be_run_fails(self, language: str, session: Session) -> None:
        with pytest.raises(AssertionError, match="no way to run"):
            session.run(Block(ROOT / "README.md", 1, language, "code\n"))

    @pytest.mark.parametrize("code", ["false\n", "nni-plugins describe no_such_cell\n", "cd docs\nfalse\n"])
    def test_a_command_that_fails_fails(self, code: str, session: Session) -> None:
        with pytest.raises(AssertionError, match=r"README.md:1"):
            session.run(Block(ROOT / "README.md", 1, "bash", code))

    @pytest.mark.parametrize(
        "command",
        [
            "nni-plugins search --no-such-option",
            "python -m nni_plugins.trial --no-such-option",
            "python benchmarks/faults.py --no-such-option",
        ],
    )
    def test_arguments_that_do_not_exist_are_noticed_without_running(self, command: str) -> None:
        with pytest.raises(AssertionError):
            check_words(command.split())

    def test_what_a_document_sets_stays_at_toy_size_but_for_epochs(self) -> None:
        small = toy(["search", "--data", "cifar10", "--download", "--set", "lr=0.1", "--set", "epochs=3", "--out", "x"])
        assert small[:9] == ["search", "--data", "digits", "--set", "lr=0.1", "--set", "epochs=1", "--out", "x"]
        assert "lr=0.05" not in small and small.count("epochs=1") == 1 and "retrain.epochs=1" in small

    def test_comments_and_continued_lines(self) -> None:
        assert command_lines("one two # three\n\n# four\nfive \\\n  'six seven'\n") == [
            ["one", "two"], ["five", "six seven"],
        ]  # fmt: skip
