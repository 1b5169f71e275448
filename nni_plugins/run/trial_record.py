"""What a trial was asked to do, as a file in its work folder: wherever the folder goes, the trial can be finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nni_plugins.tools.atomic_files import atomic_write, strict_json

TRIAL_RECORD = "trial.json"


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes
    ----------
    name
        The name of its result folder.
    parameters
        What NNI gave it.
    command
        Its command line.
    result
        Absolute path of its result folder on the machine that it ran on.
    """

    name: str
    parameters: dict[str, Any]
    command: tuple[str, ...]
    result: str

    def write(self, work: Path) -> None:
        """Write the record to the work folder."""
        atomic_write(work / TRIAL_RECORD, strict_json(asdict(self)) + "\n")

    @classmethod
    def read(cls, work: Path) -> TrialRecord | None:
        """Return the record of a work folder; None if it has none.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        path = work / TRIAL_RECORD
        try:
            values = json.loads(path.read_text())
            return cls(values["name"], dict(values["parameters"]), tuple(values["command"]), values["result"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged; restore it from a copy, or delete it.") from error
