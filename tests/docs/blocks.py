"""The code blocks of the documents, and a session that runs them at toy size.

A block is run unless a comment right before it says otherwise:

    <!-- not run: REASON -->              it needs what a test has not
    <!-- run by: tests/FILE.py::TEST -->   another test runs it
    <!-- long -->                         run by tests/end_to_end
    <!-- file: NAME -->                   written to this file instead, for the blocks that follow
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from nni_plugins import trial
from nni_plugins.cli import build_parser, main

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(
            ROOT / name
            for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "exported/README.md")
        ),
    ]
)
SHOWN = ("text", "toml")
"""Languages of blocks that are there to be read."""
MARK = re.compile(r"<!-- (not run|run by|long|file)(?:: (.+?))? -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """One fenced or indented block of code."""

    document: Path
    line: int
    language: str
    code: str
    mark: str = ""
    detail: str = ""

    @property
    def place(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    """Code blocks of a document but for Sphinx's directives; an indented one has no language."""
    before = ""
    for token in MarkdownIt("commonmark").enable("table").parse(document.read_text()):
        if token.type in ("fence", "code_block") and not token.info.startswith("{"):
            assert token.map is not None
            found = MARK.search(before)
            mark, detail = (found[1], found[2] or "") if found else ("", "")
            yield Block(document, token.map[0] + 1, token.info.strip(), token.content, mark, detail)
        before = token.content if token.type == "html_block" else ""


def command_lines(code: str) -> list[list[str]]:
    """Words of every command of a shell block, its comments left out."""
    lines = [shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words]


_TRAINING = {
    "epochs": "1", "lr": "0.05", "consistency_batches": "1", "retrain.epochs": "1", "retrain.lr": "0.05",
    "retrain.cutout": "0",
}  # fmt: skip
_ON_DIGITS = {
    "batch_size": "16",
    "weights_fraction": "0.05",
    "architecture_fraction": "0.05",
    "retrain.batch_size": "256",
}
_ON_OWN_DATA = {"batch_size": "8", "retrain.batch_size": "16"}
_BROAD = {"space.channels": "4", "net.channels": "4", "net.deep_cells": "0", "net.enhancement_cells": "1"}
_DARTS = {"space.channels": "4", "space.layers": "3", "net.channels": "4", "net.layers": "3"}
_SIZES = {
    "bcnn": _BROAD,
    "nasbench201": {"space.channels": "4", "space.cells": "1", "net.channels": "4", "net.cells": "1"},
    **dict.fromkeys(("darts", "darts_any", "s2"), _DARTS),
}


def toy(words: Sequence[str]) -> list[str]:
    """Arguments of ``nni-plugins`` with data and sizes of a test; of what the document sets only epochs change."""
    small = ["digits" if word == "cifar10" else word for word in words if word != "--download"]
    small = [re.sub(r"^((?:retrain\.)?epochs)=\d+$", r"\1=1", word) for word in small]
    command, options = small[0], dict(itertools.pairwise(small))
    if command == "variants":
        return [*small, "--runs", "2", "--threads", "1", "--only", "float32", "int8", "float16", "pytorch"]
    if command == "latency":
        small += ["--networks", "6", "--runs", "20"]
        settings = _starting(_BROAD, "net.")
    elif command in ("search", "retrain"):
        settings = _TRAINING | (_ON_DIGITS if options.get("--data", "digits") == "digits" else _ON_OWN_DATA)
        if command == "search":
            settings |= _SIZES.get(options.get("--space", "bcnn"), {})
            if options.get("--strategy") == "relative_nas":
                settings = {**settings, "population_size": "2"}
                del settings["consistency_batches"]
        else:
            published = not Path(small[1]).exists()
            settings = _starting(settings, "retrain.") | (_starting(_BROAD, "net.") if published else {})
            if "--epoch" in options:
                small[small.index("--epoch") + 1] = "1"
    else:
        return small
    given = {value.partition("=")[0] for option, value in itertools.pairwise(small) if option == "--set"}
    for name, value in settings.items():
        if name not in given:
            small += ["--set", f"{name}={value}"]
    return small


def _starting(settings: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name: value for name, value in settings.items() if name.startswith(prefix)}


class Session:
    """A person who types the blocks of one document, from the repository's root.

    Parameters
    ----------
    folder
        An empty folder, which becomes like the root of the repository, with results and data to work on.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        for name in ("benchmarks", "docs", "nni_plugins", "search_spaces"):
            (folder / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("example", "first", "second"):
            shutil.copytree(ROOT / "exported" / "example", folder / "exported" / name)
        _draw_pictures(folder / "flowers")
        monkeypatch.chdir(folder)

    def run(self, block: Block) -> None:
        """Run one block; whatever it leaves is there for the next one."""
        self._monkeypatch.chdir(self.folder)
        if block.mark == "file":
            (self.folder / block.detail).write_text(block.code)
        elif block.language == "bash":
            for words in command_lines(block.code):
                self._run_command(words, block)
        elif block.language == "python":
            exec(compile(block.code, block.place, "exec"), {"__name__": "__main__"})
        elif block.language == "yaml":
            _check_yaml(yaml.safe_load(block.code))
        elif block.language == "json":
            json.loads(block.code)
        else:
            assert block.language in SHOWN, (
                f"{block.place}: no way to run {block.language or 'a block without language'}"
            )

    def _run_command(self, words: list[str], block: Block) -> None:
        shown = f"{block.place}: {shlex.join(words)}"
        if words[0] == "cd":
            self._monkeypatch.chdir(words[1])
        elif words[0] == "nni-plugins":
            small = toy(words[1:])
            if "--out" in small and small[0] in ("search", "retrain", "export"):
                shutil.rmtree(small[small.index("--out") + 1], ignore_errors=True)
            assert main(small) == 0, f"{shown}, as {shlex.join(small)}"
        else:
            words = [sys.executable, *words[1:]] if words[0] == "python" else words
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{shown}\n{done.stderr}"


def _draw_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, number in (("train", 24), ("val", 8)):
        for kind, colour in (("daisy", 200), ("poppy", 60)):
            (folder / split / kind).mkdir(parents=True)
            for each in range(number):
                pixels = np.clip(rng.normal(colour, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / kind / f"{each}.png")


def _check_yaml(content: dict[str, Any]) -> None:
    """An experiment's file, or lines of one: its trial's command is one."""
    words = shlex.split(content["trialCommand"])
    assert words[:3] == ["python", "-m", "nni_plugins.trial"]
    trial.build_parser().parse_args(words[3:])


def check_words(words: Sequence[str]) -> None:
    """Refuse arguments that ``nni-plugins``, a trial or a benchmark does not have; for commands that are not run."""
    words = list(itertools.dropwhile(lambda word: re.match("[A-Z_]+=", word), words))
    if words[:1] == ["nni-plugins"]:
        _parse(build_parser(), words[1:])
    elif words[:3] == ["python", "-m", "nni_plugins.trial"]:
        _parse(trial.build_parser(), [word for word in words[3:] if word != "..."])
    elif words[:1] == ["python"]:
        source = (ROOT / words[1]).read_text()
        # a benchmark may take the arguments of another one that it imports
        for module in ["searching", *re.findall(r"^from (\w+) import", source, re.MULTILINE)]:
            if (file := ROOT / "benchmarks" / f"{module}.py").is_file():
                source += file.read_text()
        unknown = [word for word in words if word.startswith("--") and f'"{word}"' not in source]
        assert not unknown, f"{words[1]} has no {unknown}"


def _parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    try:
        parser.parse_args(words)
    except SystemExit:
        raise AssertionError(f"not a valid command: {shlex.join(words)}") from None
