"""The script of GPU figures: a dry run of every kind of piece on the CPU; how pieces are kept, ended and resumed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch
from gpu import Kept, Piece, Run, all_pieces, do_all, in_a_process, main

GRAPHED = "step nasbench201 RFDARTS, graphed, 32-true"
ONE_OF_EACH_KIND = [
    "step nasbench201 NNI DARTS, eager, 32-true",
    "step nasbench201 RFDARTS, merged, bf16-mixed",
    GRAPHED,
    "training darts_v2, channels last, bf16-mixed",
    "candidates relative_nas, 32-true",
    "nasbench201 rf_darts, 32-true",
    "search bnas_v2_pc, eager, 32-true",
]


def test_pieces_cover_what_can_be_measured() -> None:
    names = [piece.name for piece in all_pieces()]
    assert len(set(names)) == len(names)
    assert set(ONE_OF_EACH_KIND) < set(names)
    of_a_step: dict[str, list[str]] = {}
    for name in names:
        strategy, _, how = name.partition(", ")
        of_a_step.setdefault(strategy, []).append(how)
    both = [f"{mode}, {precision}" for mode in gpu.MODES for precision in gpu.PRECISIONS]
    assert of_a_step["step darts RFPCDARTS"] == of_a_step["step bcnn BNASv2CLR"] == both
    assert of_a_step["step darts NNI DARTS"] == both[:2]
    assert of_a_step["step darts SecondOrderDARTS"] == both[:4]  # the second order is not captured
    assert of_a_step["step darts_any EnTranNASDST"] == both[:2] + both[4:6]  # there is nothing to merge


def outcomes(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "gpu.json").read_text())
    return {f"{each['kind']} {each['row']}, {each['column']}": each for each in found}


def test_a_dry_run(tiny_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [tiny_data, "--toy", "--output", str(tmp_path), "--only", *ONE_OF_EACH_KIND]
    assert main(arguments) == 0
    found = outcomes(tmp_path)
    assert found.keys() == set(ONE_OF_EACH_KIND)
    if not torch.cuda.is_available():
        assert found[GRAPHED].pop("error").startswith("ValueError: cuda_graphs needs a CUDA device")
    figures = {name: each["figures"] for name, each in found.items() if "figures" in each}
    assert len(figures) >= len(ONE_OF_EACH_KIND) - 1
    for name, of_a_piece in figures.items():
        assert all(value > 0 for figure, value in of_a_piece.items() if figure != "peak MB"), name
    candidates = figures["candidates relative_nas, 32-true"]
    assert candidates["candidate epochs"] == 2
    assert candidates["hours of 1,000, extrapolated"] == pytest.approx(candidates["s a candidate epoch"] / 3.6)
    training = figures["training darts_v2, channels last, bf16-mixed"]
    assert training["images a second"] * training["ms a step"] == pytest.approx(1000 * training["batch"])
    assert figures["search bnas_v2_pc, eager, 32-true"]["epochs"] == 2
    assert found[GRAPHED]["machine"].keys() >= {"device", "Python", "torch", "nni", "nni-plugins"}

    page = (tmp_path / "gpu.md").read_text()
    assert all(f"## {title}\n" in page for title in gpu.TITLES.values())
    assert page.endswith(f"7 of {len(list(all_pieces()))} pieces are done.\n")

    capsys.readouterr()
    assert main(arguments) == 0  # all is done
    assert not any(line.startswith(tuple(ONE_OF_EACH_KIND)) for line in capsys.readouterr().out.splitlines())
    assert main([*arguments, "--retry"]) == 0
    done = [line for line in capsys.readouterr().out.splitlines() if line.startswith(tuple(ONE_OF_EACH_KIND))]
    assert [line.partition(":")[0] for line in done] == ([] if torch.cuda.is_available() else [GRAPHED])


def test_a_pattern_without_a_piece_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["digits", "--only", "nothing*"])
    assert "no piece has a name like nothing*; --list names all." in capsys.readouterr().err


# Pieces


def piece(row: str, *, resumes: bool = False) -> Piece:
    def work(run: Run) -> Mapping[str, float]:
        if row == "fails":
            raise RuntimeError("no\nluck")
        return {"steps": run.sizes.steps}

    return Piece("step", row, "eager", work, resumes)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "kept")


def test_a_failure_is_noted_and_the_others_are_done(kept: Kept) -> None:
    pieces = [piece("first"), piece("fails"), piece("last")]
    done = do_all(pieces, kept, lambda each, _: kept.do(each, "digits", gpu.TOY), None)
    assert [each.row for each in done] == ["first", "fails", "last"]
    told = [kept.outcome(each) or {} for each in pieces]
    assert [each.get("figures") for each in told] == [{"steps": 2}, None, {"steps": 2}]
    assert told[1]["error"] == "RuntimeError: no luck"


def test_pieces_end_with_the_minutes_and_what_resumes_is_called_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now)
    calls: list[tuple[str, float]] = []

    def do(each: Piece, seconds: float) -> None:
        nonlocal now
        calls.append((each.row, seconds))
        now += seconds
        if each.row == "short" or len(calls) == 4:
            kept.do(each, "digits", gpu.TOY)

    pieces = [piece("short"), piece("long", resumes=True), piece("never")]
    assert len(list(do_all(pieces, kept, do, minutes=20))) == 3
    assert calls == [("short", 570), ("long", 570), ("long", 60)]
    assert kept.outcome(pieces[1]) is None
    assert len(list(do_all(pieces, kept, do, minutes=9.5))) == 1
    assert calls[3:] == [("long", 570)] and kept.outcome(pieces[1]) is not None


def test_a_process_that_dies_is_noted_with_its_last_words(kept: Kept) -> None:
    code = "import sys; print('warm', file=sys.stderr); sys.exit('out of everything')"
    in_a_process(piece("first"), kept, [sys.executable, "-c", code], 60)
    told = kept.outcome(piece("first")) or {}
    assert told["error"] == "its process ended with status 1: out of everything"


def test_a_process_without_end(kept: Kept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    in_a_process(piece("first"), kept, sleeping, 0.1)
    assert kept.outcome(piece("first")) is None, "it was not given all of its time"
    monkeypatch.setattr(gpu, "LIMIT", 0.1)
    in_a_process(piece("first"), kept, sleeping, 0.1)
    assert (kept.outcome(piece("first")) or {})["error"] == "it was not done after 0 seconds"

    search = piece("search", resumes=True)
    folder = kept.folder(search)
    folder.mkdir(parents=True)
    checkpointing = f"open({str(folder / 'epoch-0001.ckpt')!r}, 'w').close(); import time; time.sleep(60)"
    monkeypatch.setattr(gpu, "LIMIT", 4.0)  # in which Python starts on any machine
    in_a_process(search, kept, [sys.executable, "-c", checkpointing], 4.0)
    assert kept.outcome(search) is None, "it has come an epoch further"
    monkeypatch.setattr(gpu, "LIMIT", 0.1)
    in_a_process(search, kept, [sys.executable, "-c", checkpointing], 0.1)
    assert (kept.outcome(search) or {})["error"] == "it was not done after 0 seconds"
