"""``report.html`` of a result and of an experiment, from the committed example."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nni_plugins.cli import main
from nni_plugins.run.report_page import page_of, pages
from search_spaces import Genotype
from tests.nni_plugins.browser import needs_chromium, open_page

EXAMPLE = Path(__file__).parents[3] / "exported" / "example"
SCRIPT = "<script>document.title = 'taken over'</script>"
VARIANTS = {
    "provider": "CPUExecutionProvider",
    "variants": [
        {
            "name": "int8", "file_bytes": 165450, "share_of_float32": 0.343, "accuracy": 96.94, "agreement": 99.72,
            "timings": [
                {"batch_size": 1, "threads": 2, "p50_ms": 0.66}, {"batch_size": 64, "threads": 2, "p50_ms": 171.64},
            ],
            "slower_operators": ["QLinearConv +1.74 ms"], "not_run": None, "notes": [],
        },
        {
            "name": "compiled", "file_bytes": None, "share_of_float32": None, "accuracy": None, "agreement": None,
            "timings": [], "slower_operators": [], "not_run": f"no compiler {SCRIPT}", "notes": [],
        },
    ],
}  # fmt: skip


class Page(HTMLParser):
    """The texts of a page, its ids, the ids that it refers to, and all addresses in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: set[str] = set()
        self.addresses: set[str] = set()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                (self.references if value.startswith("#") else self.addresses).add(value.removeprefix("#"))
            if "url(" in value:
                address = value.partition("url(")[2].partition(")")[0]
                (self.references if address.startswith("#") else self.addresses).add(address.removeprefix("#"))

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\N{NO-BREAK SPACE}", " ")


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


_OF_THE_EXAMPLE = report_of(EXAMPLE)
ACCURACY = f"{_OF_THE_EXAMPLE['test_accuracy']:.2f}"
PARAMETERS = f"{_OF_THE_EXAMPLE['parameters'] / 1e3:.3g} k"
MULTIPLY_ADDS = f"{_OF_THE_EXAMPLE['multiply_adds'] / 1e6:.3g} M"
SIZE = f"{_OF_THE_EXAMPLE['deployment']['file_bytes'] / 1e3:.3g} k"


def copy(folder: Path, **changes: Any) -> Path:
    """The example's report and cell in another folder, with changes in the report."""
    folder.mkdir()
    shutil.copy(EXAMPLE / "genotype.json", folder)
    (folder / "report.json").write_text(json.dumps({**report_of(EXAMPLE), **changes}))
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a script stands wherever a user may write."""
    report = report_of(EXAMPLE)
    settings = {**report["settings"], "data": SCRIPT, "net_arguments": {SCRIPT: SCRIPT}}
    data = {**report["data"], "name": SCRIPT, "class_names": [SCRIPT, "1"]}
    deployment = {**report["deployment"], "passed": False, "failures": [f"It fails: {SCRIPT}"]}
    folder = copy(
        tmp_path_factory.mktemp("hostile") / SCRIPT.replace("/", "|"),
        settings=settings, data=data, deployment=deployment, initial_weights={"folder": SCRIPT},
    )  # fmt: skip
    (folder / "variants").mkdir()
    (folder / "variants" / "variants.json").write_text(json.dumps(VARIANTS))
    return folder


def test_the_page_has_the_figures_of_the_report(tmp_path: Path) -> None:
    report = report_of(EXAMPLE)
    report["best_of_tests"] = {"accuracy": 98.76, "epoch": 5, "tests": 8}
    report["latency"] = {"predicted_ms": 0.44, "measured_ms": 0.4, "error": 0.1}
    report["search"] |= {"decided": 0.375, "alpha_gap": 0.25, "epochs_unchanged": 3}
    text = Page(pages(report, Genotype.load(EXAMPLE / "genotype.json"))["report.html"]).text
    deployment = report["deployment"]
    for figure in (
        f"classifies {report['test_accuracy']:.2f} % of the test images of digits correctly",
        "its ONNX model passed the deployment check",
        "the search has decided: an edge's best operation leads by 0.25 in weight",
        f"{report['parameters']:,}",
        MULTIPLY_ADDS,
        f"{deployment['latency']['p50_ms']:.2f} ms",
        f"{SIZE}B",
        f"{deployment['test_parity']['max_rel_difference']:.4g}",
        f"{report['search']['validation_accuracy']:.2f} %",
        "0.375",
        "predicted 0.44 ms;\n0.40 ms were measured, an error of +10.0 %",
        "98.76 %",
        "optimistic: chosen on the test set",
        "10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        report["weights_sha256"],
        f"onnxruntime {report['versions']['onnxruntime']}",
    ):
        assert figure in text, figure


def test_settings_that_differ_come_first() -> None:
    report = report_of(EXAMPLE)
    report["settings"]["retrain"]["lr"] = 0.123
    report["settings"]["retrain"].pop("test_every", None)  # as in a report from before there was such a setting
    text = Page(pages(report, Genotype.load(EXAMPLE / "genotype.json"))["report.html"]).text
    first, _, others = text.partition("All other settings")
    assert "0.123" in first and "retrain.lr" in first and "retrain.lr" not in others.replace("retrain.lr_", "")
    assert "retrain.test_every" not in text
    assert "retrain.momentum" in others and "retrain.momentum" not in first


def test_pictures_do_not_share_ids_and_nothing_comes_from_elsewhere(hostile: Path) -> None:
    page = Page(page_of(hostile))
    assert len(page.ids) == len(set(page.ids)) > 100
    assert page.references and page.references <= set(page.ids)
    assert page.addresses == set()


def test_what_a_user_writes_is_text(hostile: Path) -> None:
    page = Page(page_of(hostile))
    assert page.tags.isdisjoint({"script", "iframe", "object", "link"})
    assert page.text.count(SCRIPT) >= 8  # title, heading, verdict, failure, setting and value, variant, data, weights


def test_variants_are_a_table(hostile: Path) -> None:
    text = Page(page_of(hostile)).text
    for figure in ("96.94 %", "99.72 %", "165 k", "0.34", "0.66 ms", "171.64 ms", "QLinearConv +1.74 ms"):
        assert figure in text
    assert "Variants" not in Page(page_of(EXAMPLE)).text


def test_a_given_cell_has_no_search(tmp_path: Path) -> None:
    folder = copy(tmp_path / "retrained", search={}, search_history=[])
    text = Page(page_of(folder)).text
    assert (
        f"A given cell of the bcnn space, as a network of {PARAMETERS} parameters classifies {ACCURACY} %" in text
        and "How the search decided" not in text
    )
    assert set(pages(report_of(folder), Genotype.load(folder / "genotype.json"))) == {"report.html"}


def test_a_model_that_does_not_run_is_told(tmp_path: Path) -> None:
    broken = {
        "passed": False, "failures": ["onnxruntime cannot run it."], "parity": [], "latency": None, "file_bytes": 0,
        "test_accuracy": None, "test_parity": None,
    }  # fmt: skip
    text = Page(page_of(copy(tmp_path / "broken", deployment=broken))).text
    assert "failed the deployment check" in text and "onnxruntime cannot run it." in text


@needs_chromium
def test_chromium_opens_it_and_asks_no_host(hostile: Path, tmp_path: Path) -> None:
    assert main(["report", str(hostile), "--out", str(tmp_path / "page.html")]) == 0
    opened = open_page(tmp_path / "page.html", tmp_path)
    assert opened.requests == set()
    assert "<title>taken over</title>" not in opened.dom and ACCURACY in opened.dom
    # What the test would see otherwise.
    (tmp_path / "asks.html").write_text("<img src='http://example.invalid/a.png'>")
    assert open_page(tmp_path / "asks.html", tmp_path).requests == {"http://example.invalid/a.png"}


def test_the_command_writes_the_page_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy(tmp_path / "result", test_accuracy=12.34)
    (folder / "report.html").write_text("old")
    assert main(["report", str(folder)]) == 0
    assert "12.34 %" in Page((folder / "report.html").read_text()).text
    assert str(folder / "report.html") in capsys.readouterr().out


def experiment(folder: Path) -> Path:
    """Three results that differ in seed and accuracy, and one of another learning rate whose model fails."""
    report = report_of(EXAMPLE)
    for seed, accuracy, latency in ((1, 97.0, 0.5), (2, 98.0, 0.75), (3, 96.0, 0.25)):
        changed = {**report["deployment"], "latency": {"p50_ms": latency}}
        settings = {**report["settings"], "seed": seed}
        copy(folder / f"abc-t{seed}", settings=settings, test_accuracy=accuracy, deployment=changed)
    settings = {**report["settings"], "retrain": {**report["settings"]["retrain"], "lr": 0.123}}
    failed = {**report["deployment"], "passed": False, "latency": {"p50_ms": 0.6}}
    copy(folder / "abc-t4", settings=settings, test_accuracy=95.0, deployment=failed)
    (folder / "abc-t5").mkdir()  # a trial that has not ended
    (folder / "abc-t2" / "report.html").write_text("")
    return folder


def test_an_experiment_is_compared_over_seeds(tmp_path: Path) -> None:
    folder = experiment(tmp_path)
    assert main(["report", "abc", "--exported", str(folder)]) == 0
    page = Page((folder / "abc.html").read_text())
    for words in (
        "The best of 4 results is bnas_d with seed 2, 98.00 % on the test set of digits",
        "1 of 4 ONNX models failed the deployment check",
        "1, 2, 397.00 %1.00\n96.00 to 98.00",  # of 96, 97 and 98
        "0.123",
    ):
        assert words in page.text, words
    assert page.addresses == {"abc-t2/report.html"}
    assert [page.text.index(f"abc-t{seed}") for seed in (2, 1, 3, 4)] == sorted(
        page.text.index(f"abc-t{seed}") for seed in (1, 2, 3, 4)
    )
    # On the front are the fastest and all that are more accurate than the faster ones, not the fourth.
    assert [f"{place}*" in page.text for place in (1, 2, 3, 4)] == [True, True, True, False]
    assert len(page.ids) == len(set(page.ids))


def test_results_are_compared_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(folder) for folder in sorted(experiment(tmp_path).glob("abc-t[1-4]"))]
    assert main(["compare", *folders]) == 0
    printed = capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")
    for words in ("98.00", PARAMETERS, MULTIPLY_ADDS, SIZE, "FAILED", "retrain.lr", "0.123"):
        assert words in printed
    assert main(["compare", *folders, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [result["folder"] for result in found["results"]] == [folders[place] for place in (1, 0, 2, 3)]
    report = report_of(Path(folders[1]))
    assert found["results"][0] | {"folder": None} == {
        "folder": None, "strategy": "bnas_d", "space": "bcnn", "data": "digits", "seed": 2, "test_accuracy": 98.0,
        "parameters": report["parameters"], "multiply_adds": report["multiply_adds"], "latency_ms": 0.75,
        "file_bytes": report["deployment"]["file_bytes"], "deployment_passed": True,
        "parity": report["deployment"]["test_parity"]["max_rel_difference"],
        "decided": report["search"].get("decided"),
    }  # fmt: skip
    assert found["differing_settings"] == {"retrain.lr": [0.05, 0.05, 0.05, 0.123]}


@pytest.mark.parametrize("command", ["report", "compare"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no report.json; give a folder that search or retrain has made."),
        ("{", "is damaged"),
        ('{"settings": {}, "search_history": []}', "is damaged: it lacks a figure of a run that has ended"),
    ],
)
def test_a_damaged_report(
    command: str, content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(tmp_path / "result")
    (folder / "report.json").unlink()
    if content is not None:
        (folder / "report.json").write_text(content)
    assert main([command, str(folder)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"search": 3},
        {"search_history": [{"genotype": "{"}, {}]},
        {"retrain_history": [1, 2]},
        {"deployment": {**report_of(EXAMPLE)["deployment"], "failures": 3}},
        {"versions": 3},
    ],
)
def test_a_damaged_field(changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy(tmp_path / "result", **changes)
    assert main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "report.json" in error and "damaged" in error and error.count("\n") == 1


def test_wrong_names_of_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nothing", "--exported", str(tmp_path)]) == 2
    assert "neither a result folder nor the ID of an experiment" in capsys.readouterr().err
    folder = copy(tmp_path / "result")
    (folder / "variants").mkdir()
    (folder / "variants" / "variants.json").write_text("[")
    assert main(["report", str(folder)]) == 2
    assert "variants.json is damaged" in capsys.readouterr().err
    (tmp_path / "mine.html").write_text("mine")
    assert main(["report", str(folder), "--out", str(tmp_path / "mine.html")]) == 2
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_comparing_loads_neither_torch_nor_nni() -> None:
    code = (
        "import sys; sys.modules.update(torch=None, nni=None); from nni_plugins.cli import main; "
        f"sys.exit(main(['compare', {str(EXAMPLE)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=EXAMPLE.parents[1])
    assert done.returncode == 0 and ACCURACY in done.stdout, done.stderr
