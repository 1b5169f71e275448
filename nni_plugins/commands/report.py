"""``nni-plugins report``: what was found, as a page for a browser."""

from __future__ import annotations

import argparse
import os.path
from pathlib import Path

from nni_plugins.deploy.result_folder import PAGE_FILE, REPORT_FILE
from nni_plugins.tools.atomic_files import atomic_write, refuse_existing

HELP = "write what was found as a page that any browser opens"
PARSER = {
    "description": "Of one result folder, write its report.html anew, with what has been measured since. Of several, "
    "or of an experiment, write a page that compares them. No page needs a network.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", nargs="+", metavar="FOLDER_OR_ID", type=os.path.expanduser, help="result folder, or experiment's ID"
    )
    parser.add_argument(
        "--exported",
        type=os.path.expanduser,
        default="exported",
        help="where an experiment's results lie, as ID-TRIAL (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=os.path.expanduser,
        help="file to write (default: report.html in the folder; of an experiment EXPORTED/ID.html; else results.html)",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(arguments: argparse.Namespace) -> int:
    folders = [folder for result in arguments.results for folder in _folders(result, Path(arguments.exported))]
    single = len(arguments.results) == 1
    if single and folders == [Path(arguments.results[0])]:
        own = folders[0] / PAGE_FILE
        # The folder's own page is part of the result, made to be replaced.
        out = refuse_existing(arguments.out or own, force=arguments.force or not arguments.out)
        from nni_plugins.run.report_page import page_of

        page = page_of(folders[0])
    else:
        title = f"Experiment {arguments.results[0]}" if single else f"{len(folders)} results"
        default = Path(arguments.exported, f"{arguments.results[0]}.html") if single else Path("results.html")
        out = refuse_existing(arguments.out or default, force=arguments.force)
        from nni_plugins.run.report_page import experiment_page_of

        page = experiment_page_of(title, folders, beside=out)
    atomic_write(out, page)
    print(f"the page lies in {out}")
    return 0


def _folders(result: str, exported: Path) -> list[Path]:
    """Return the result folder of this name, or those of the experiment with this ID."""
    if Path(result).is_dir():
        return [Path(result)]
    entries = exported.iterdir() if exported.is_dir() else ()
    found = sorted(each for each in entries if each.name.startswith(f"{result}-") and (each / REPORT_FILE).is_file())
    if not found:
        raise FileNotFoundError(
            f"{result} is neither a result folder nor the ID of an experiment with results in {exported}; give a "
            "folder that search, retrain or a trial has made, or say with --exported where those of the experiment lie."
        )
    return found
