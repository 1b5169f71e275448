"""An experiment's YAML file, checked before anything is started: by NNI's own class, and every trial by ours."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import shlex
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from nni.common.hpo_utils import deformat_parameters, format_search_space, validate_search_space
from nni.experiment.config import ExperimentConfig, utils
from nni.tools.package_utils import get_algo_meta

from nni_plugins import trial
from nni_plugins.tools.own_code import allow_own_code

TRIAL = "nni_plugins.trial"

MOST_COMBINATIONS = 1000
"""Trials that are checked one by one; of a larger search space, every pair of values is."""


def read_configuration(path: Path) -> dict[str, Any]:
    """Return an experiment's configuration as NNI's REST interface gives it, every trial of it checked.

    Parameters
    ----------
    path
        The YAML file.

    Raises
    ------
    ValueError
        If NNI refuses the file, the experiment would never end, or a trial would end with a mistake in its settings.
    OSError
        If there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; name an experiment's YAML file, such as examples/bnas_v2.yml.")
    try:
        params = _accepted_by_nni(path)
        _refuse_endless(params)
        _refuse_unknown_tuner(params)
        check_trials(params)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return params


def _accepted_by_nni(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"this is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ValueError("this is no configuration of an experiment; see examples/bnas_v2.yml for one.")
    if content.get("trainingService") is None:
        raise ValueError("trainingService is missing; {platform: local} runs the trials on this machine.")
    logging.getLogger("nni.experiment.config").setLevel(logging.ERROR)
    utils.set_base_path(path.parent)
    try:
        config = ExperimentConfig(**content)
    except Exception as error:
        raise ValueError(f"NNI refuses it: {_in_words(error)}.") from None
    finally:
        utils.unset_base_path()
    try:
        return dict(config.canonical_copy().json())
    except Exception as error:
        raise ValueError(f"NNI refuses it: {_in_words(error)}.") from None


def _in_words(error: Exception) -> str:
    """Many of NNI's checks are assertions without a word: then the code that was asserted says what is expected."""
    text = " ".join(str(error).split()).rstrip(".")
    if not text:
        line = traceback.extract_tb(error.__traceback__)[-1].line or type(error).__name__
        text = f"it expects {line.removeprefix('assert ').replace('self.', '')}"
    return text


def _refuse_endless(params: Mapping[str, Any]) -> None:
    if params.get("maxTrialNumber") is None and params.get("maxExperimentDuration") is None:
        raise ValueError("without maxTrialNumber the experiment never ends; set it, or maxExperimentDuration.")


def _refuse_unknown_tuner(params: Mapping[str, Any]) -> None:
    name = params["tuner"].get("name")
    if name is not None and get_algo_meta(name) is None:
        raise ValueError(f"NNI has no tuner {name!r}; nnictl algo list names those that it has.")


def check_trials(params: Mapping[str, Any]) -> None:
    """Refuse a configuration that has a trial whose settings are not valid.

    The trials of a command that does not run :mod:`nni_plugins.trial` itself are left unchecked. Code of the user's own
    that the command names is imported, as the trial would.

    Parameters
    ----------
    params
        The configuration, as NNI's REST interface gives it.

    Raises
    ------
    ValueError
        With the trial's parameters and what is wrong with them.
    """
    try:
        arguments = trial_arguments(params["trialCommand"])
    except ValueError as error:
        raise ValueError(f"trialCommand: {error}") from None
    if arguments is None:
        return
    with _inside(Path(params["trialCodeDirectory"])):
        try:
            allow_own_code(arguments)
        except ValueError as error:
            raise ValueError(f"trialCommand: {error}") from None
        # a trial that evaluates one cell has no settings among its parameters: they are the cell
        space = {} if arguments.evaluate else params["searchSpace"]
        for parameters in combinations(space):
            try:
                trial.planned_epochs(parameters, arguments)
            except (ValueError, OSError) as error:
                shown = ", ".join(f"{name}={value}" for name, value in parameters.items())
                raise ValueError(f"a trial{shown and f' with {shown}'} would fail: {error}") from None


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class _Refusing(argparse.ArgumentParser):
    """A parser whose complaints are errors, and not the end of the process."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise ValueError((message or "it only prints its help").strip())

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see python -m {TRIAL} --help.")

    def print_help(self, file: object = None) -> None:
        """Print nothing: the person has asked for a run."""


def trial_arguments(command: str) -> argparse.Namespace | None:
    """Return the arguments of the trial that a shell command runs; None if it runs none, or a variable decides.

    Raises
    ------
    ValueError
        If they are not those of a trial.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words = list(lexer)
    if TRIAL not in words:
        return None
    of_trial = list(itertools.takewhile(lambda word: not set(word) <= set("();<>|&"), words[words.index(TRIAL) + 1 :]))
    if any("$" in word or "`" in word for word in of_trial):
        return None
    return trial.build_parser(_Refusing).parse_args(of_trial)


def combinations(space: Any) -> Iterator[dict[str, Any]]:
    """Yield parameters of trials: every combination of choices and of the ends of ranges.

    Of a space with more than :data:`MOST_COMBINATIONS`, every pair of values, the other parameters at their first.

    Raises
    ------
    ValueError
        If this is not a search space of NNI.
    """
    if not isinstance(space, Mapping):
        raise ValueError(f"searchSpace has to name parameters, got {space!r}.")
    values = {name: values_of(name, spec) for name, spec in space.items()}
    number = 1
    for each in values.values():
        number *= len(each)
    if number <= MOST_COMBINATIONS or len(values) < 3:
        for combination in itertools.product(*values.values()):
            yield dict(zip(values, combination, strict=True))
        return
    first = {name: each[0] for name, each in values.items()}
    for one, other in itertools.combinations(values, 2):
        for pair in itertools.product(values[one], values[other]):
            yield first | dict(zip((one, other), pair, strict=True))


def values_of(name: str, spec: Any) -> Sequence[Any]:
    """Return the values of a parameter of NNI's search space: all choices, both ends of a range, a distribution's mean.

    Raises
    ------
    ValueError
        If this is no parameter of a search space.
    """
    is_choice = isinstance(spec, Mapping) and spec.get("_type") == "choice"
    if is_choice and isinstance(spec.get("_value"), list) and spec["_value"]:
        return list(spec["_value"])
    if is_choice:
        raise ValueError(f"searchSpace: the choice {name!r} needs a list of values, _value: [...].")
    validate_search_space({name: spec}, raise_exception=True)
    formatted = format_search_space({name: spec})
    ((key, known),) = formatted.items()
    ends: Sequence[float] = (known.low, known.high)
    if known.categorical:
        ends = (0, known.size - 1)
    elif known.normal_distributed:
        ends = (known.mu,)
    return [deformat_parameters({key: end}, formatted)[name] for end in ends]
