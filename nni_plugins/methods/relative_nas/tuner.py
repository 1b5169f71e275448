"""RelativeNAS as a tuner for ``nnictl`` experiments: slow-fast learning with one trial per candidate.

The population lives in :mod:`nni_plugins.methods.relative_nas.slow_fast`; this adapter hands its candidates to NNI and
brings the results back. Trials stand alone and their scores do not drift, so only learners that moved are evaluated,
and nothing is evaluated twice; the paper re-evaluates all candidates because its scores come from a changing weight
set.

The whole search follows from the seed and the results, whatever the order they arrive in. So after ``nnictl resume``
the tuner replays the results and is where it was. Three things of NNI 3.0 shape how it does that:

- Parameters go to whichever trial asks first, unless ``nni-plugins`` has started the manager (``own_parameters.js``).
  Results carry the right parameter id, but the end of a trial may be told under the id of a trial started with it, and
  the finished trials handed back on resume may have their values exchanged.
- Failed trials are not handed back on resume. Those of the generation that was open are run once more.
- Interrupted trials are run again by NNI, which tells the tuner neither so nor, if one fails, that it did.

So the tuner keeps its own list of results, ``results.jsonl`` in the experiment's checkpoint folder, decides who failed
by counting, and asks NNI's manager what it runs again, to hand out the rest only.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
import urllib.request
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nni
from nni.runtime.tuner_command_channel import CommandType, TunerCommandChannel
from nni.tuner import Tuner

from nni_plugins.methods.relative_nas import slow_fast
from nni_plugins.methods.relative_nas.encoding import Encoding, search_space_encoding
from nni_plugins.tools.atomic_files import append_lines, strict_json

_logger = logging.getLogger(__name__)

RESULT_GRACE = 5.0
"""Seconds that a result may come after the end of its trial; the two reach the tuner on different threads."""

MANAGER_CHANNEL = "NNI_TUNER_COMMAND_CHANNEL"
"""Environment variable with the address at which the manager listens to the tuner, ``ws://HOST:PORT/PREFIX/tuner``."""


def trial_loss(value: Any, optimize_mode: str) -> float:
    """Loss of a trial by its final result: a number, or a mapping that has it as ``default``; infinite if not finite.

    Raises
    ------
    ValueError
        If the result is not a number.
    """
    if isinstance(value, Mapping):
        if "default" not in value:
            raise ValueError(
                f"A trial reported {sorted(value)} without 'default'; put the number to search by under 'default'."
            )
        value = value["default"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"A trial reported {value!r} as its final result; report a number.")
    if not math.isfinite(value):
        return math.inf
    return float(-value if optimize_mode == "maximize" else value)


def check_settings(optimize_mode: str, generations: int | None, **settings: Any) -> None:
    """Refuse settings that make no search; ``settings`` are those of :func:`.slow_fast.start`."""
    slow_fast.start([1.0], **settings)
    if optimize_mode not in ("maximize", "minimize"):
        raise ValueError(f"optimize_mode must be 'maximize' or 'minimize', not {optimize_mode!r}.")
    if generations is not None and (type(generations) is not int or generations < 1):
        raise ValueError(f"generations must be at least 1, or left out for no limit, not {generations!r}.")


class RelativeNASTuner(Tuner):
    """Slow-fast learning over any flat NNI search space.

    Use it in an experiment as ``tuner: {name: RelativeNAS}`` after ``nnictl algo register --meta
    nni_plugins/algorithms.yml``, or as ``tuner: {className: nni_plugins.methods.relative_nas.tuner.RelativeNASTuner,
    codeDirectory: .}``. Set ``maxTrialNumber``.

    Parameters
    ----------
    optimize_mode
        Whether trials report something to ``maximize`` (an accuracy) or to ``minimize`` (a loss).
    population_size
        Number of learners, even. The paper has 20.
    seed
        Seed of all randomness. It is fixed unless given, because a resumed experiment needs the same one again.
    generations
        Generations after which the search ends; None for as many as ``maxTrialNumber`` allows. The paper has 50.
    phi
        Pull of slow learners towards the mean of the population; 0 is the paper's update.
    restart_on_collapse
        Redraw a population that has come to rest, all but its best; without it the search ends there.

    Raises
    ------
    ValueError
        If a setting or the search space is of no use, a result is not a number, an imported trial is not of this
        search space, or every trial fails. Under NNI the experiment then ends with status ERROR and the reason.
    OSError
        If a result cannot be written to disk; the list of results is left whole, and the experiment ends as above.
    """

    def __init__(
        self,
        optimize_mode: str = "maximize",
        population_size: int = 20,
        seed: int = 0,
        generations: int | None = None,
        phi: float = 0.0,
        restart_on_collapse: bool = False,
    ) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._settings: dict[str, Any] = {
            "population_size": population_size,
            "seed": seed,
            "phi": phi,
            "restart_on_collapse": restart_on_collapse,
        }
        check_settings(optimize_mode, generations, **self._settings)
        self._optimize_mode = optimize_mode
        self._generations = generations

        self._search_space: Mapping[str, Any] | None = None
        self._encoding: Encoding | None = None
        self._state: slow_fast.SlowFastState | None = None
        self._losses: dict[Hashable, float] = {}
        self._waiting: list[Hashable] = []
        self._unresolved: dict[int, Hashable] = {}
        self._running: set[int] = set()
        self._run_by_nni: set[Hashable] = set()
        self._failed = 0
        self._recalled = False
        self._owed: list[int] = []
        self._send: Callable[[int, dict[str, Any]], None] | None = None

    @property
    def state(self) -> slow_fast.SlowFastState:
        """The population and all else the search knows, with the results of finished generations."""
        if self._state is None:
            raise RuntimeError("The tuner has no search space yet; call update_search_space(search_space) first.")
        return self._state

    @property
    def finished(self) -> bool:
        """Whether the search has run all its generations, or come to rest."""
        return self.state.generation == self._generations or slow_fast.exhausted(self.state)

    def update_search_space(self, search_space: Mapping[str, Any]) -> None:
        """Take the search space and draw the first population.

        Raises
        ------
        ValueError
            If the space cannot be searched (see :func:`~.encoding.search_space_encoding`), or is another one than
            before: a population cannot move to another space.
        """
        with self._lock, _ending_the_experiment():
            if self._search_space is not None:
                if search_space != self._search_space:
                    raise ValueError("The search space cannot change during a search; start a new experiment for it.")
                return
            self._encoding = search_space_encoding(search_space)
            self._search_space = search_space
            self._recall()
            self._state = slow_fast.start(self._encoding.upper, **self._settings)
            self._open_generation()
            self._continue()

    def generate_multiple_parameters(self, parameter_id_list: list[int], **kwargs: Any) -> list[dict[str, Any]]:
        """Hand out candidates of the open generation; what it has too few of is owed and sent once there are more."""
        with self._lock:
            self._send = kwargs.get("st_callback")
            finished = self.finished
            count = min(len(parameter_id_list), len(self._waiting))
            if self._send is not None and not finished:
                self._owed += parameter_id_list[count:]
            return [self._hand_out(parameter_id) for parameter_id in parameter_id_list[:count]]

    def generate_parameters(self, parameter_id: int, **kwargs: Any) -> dict[str, Any]:
        """Hand out one candidate.

        Raises
        ------
        nni.NoMoreTrialError
            If the open generation has none left.
        """
        parameters = self.generate_multiple_parameters([parameter_id], **kwargs)
        if not parameters:
            raise nni.NoMoreTrialError("All candidates of this generation are running.")
        return parameters[0]

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any) -> None:
        """Take the final result of a trial: a number, or a mapping with the number as ``default``."""
        with self._lock, _ending_the_experiment():
            loss = trial_loss(value, self._optimize_mode)
            if parameter_id in self._unresolved:
                self._settle({self._unresolved[parameter_id]: loss})
                self._judge()

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        """Count the trials that end; one that failed or was stopped loses."""
        with self._lock, _ending_the_experiment():
            if parameter_id in self._running:
                self._running.remove(parameter_id)
                self._failed += not success
                self._judge()

    def import_data(self, data: list[dict[str, Any]]) -> None:
        """Take results of trials that this tuner object did not start, above all those before ``nnictl resume``.

        Raises
        ------
        ValueError
            If a trial is not one of this search space; none of ``data`` is used then.
        """
        with self._lock, _ending_the_experiment():
            assert self._encoding is not None
            if self._recalled:
                # The first import after a resume: the same trials, but values may be exchanged.
                self._recalled = False
                data = []
            losses: dict[Hashable, float] = {}
            for trial in data:
                architecture = self._encoding.architecture(trial["parameter"])
                losses.setdefault(architecture, trial_loss(trial["value"], self._optimize_mode))
            self._settle(losses)
            if self._send is None and not self._running:
                self._leave_to_nni(self._trials("ADD_RESUMED", "WAITING", "RUNNING"))
            _logger.info("%d results imported; now in generation %d.", len(data), self.state.generation)

    def _hand_out(self, parameter_id: int) -> dict[str, Any]:
        assert self._encoding is not None
        architecture = self._waiting.pop(0)
        self._unresolved[parameter_id] = architecture
        self._running.add(parameter_id)
        return self._encoding.sample(architecture)

    def _leave_to_nni(self, unfinished: set[Hashable]) -> None:
        """Keep back the candidates that NNI runs again, until they have a result or their trials are gone."""
        self._run_by_nni = unfinished.intersection(self._waiting)
        self._waiting = [a for a in self._waiting if a not in self._run_by_nni]
        if self._run_by_nni:
            _in_a_while(self._look_after_trials_of_nni, set())

    def _look_after_trials_of_nni(self, gone: set[Hashable]) -> None:
        """Hand out what NNI ran again and is ``gone`` since the last look, for its result would have come."""
        with self._lock, _ending_the_experiment():
            self._run_by_nni = {a for a in self._run_by_nni if a not in self._losses}
            failed = gone & self._run_by_nni
            self._run_by_nni -= failed
            self._waiting += [a for a in self.state.asked if a in failed]
            self._settle({})
            if self._run_by_nni:
                # ADD_RESUMED by now: left over from an earlier resume, and forgotten by NNI.
                _in_a_while(self._look_after_trials_of_nni, self._run_by_nni - self._trials("WAITING", "RUNNING"))

    def _trials(self, *statuses: str) -> set[Hashable]:
        """Return the candidates of NNI's trials with such a status; of none if its manager does not answer."""
        assert self._encoding is not None
        if MANAGER_CHANNEL not in os.environ:
            return set()
        channel = urlsplit(os.environ[MANAGER_CHANNEL])
        address = f"http://{channel.netloc}{channel.path.removesuffix('/tuner')}/api/v1/nni/trial-jobs"
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                trials = json.load(answer)
        except OSError as error:
            _logger.warning("NNI's manager does not say what it runs again; that may be run twice: %s", error)
            return set()
        records = [json.loads(each) for t in trials if t["status"] in statuses for each in t.get("hyperParameters", [])]
        return {self._encoding.architecture(record["parameters"]) for record in records}

    def _judge(self, waited: bool = False) -> None:
        """Let the candidates without a result lose once it is certain that they failed.

        That is when none of them is still running under its own id and as many trials have failed as there are
        candidates without a result; or when nothing has been running for a while.
        """
        if not self._unresolved or not self._running.isdisjoint(self._unresolved):
            return
        if waited or self._failed == len(self._unresolved):
            _logger.warning("Trials with parameter ids %s gave no result and lose.", list(self._unresolved))
            self._failed = 0
            self._settle(dict.fromkeys(self._unresolved.values(), math.inf))
        elif not self._running:
            _in_a_while(self._judge_after_waiting)

    def _judge_after_waiting(self) -> None:
        with self._lock, _ending_the_experiment():
            if not self._running:
                self._judge(waited=True)

    def _settle(self, losses: Mapping[Hashable, float]) -> None:
        """Take the first outcome of each candidate; a second one changes nothing."""
        new = {a: loss for a, loss in losses.items() if a not in self._losses}
        self._keep(new)
        self._losses.update(new)
        self._unresolved = {i: a for i, a in self._unresolved.items() if a not in self._losses}
        self._continue()
        while self._owed and self._waiting and self._send is not None:
            parameter_id = self._owed.pop(0)
            self._send(parameter_id, self._hand_out(parameter_id))

    def _continue(self) -> None:
        """Finish every generation whose results are all there, and open the next one."""
        while not self.finished and all(a in self._losses for a in self.state.asked):
            self._state = slow_fast.tell(self.state, [self._losses[a] for a in self.state.asked])
            if slow_fast.every_trial_fails(self._state):
                raise ValueError(
                    f"Every trial of generation {self._state.generation} failed; look into the stderr of one of them, "
                    f"and start the experiment anew once trials run."
                )
            _logger.info(
                "Generation %d: lowest loss %g, diversity %g.",
                self._state.generation,
                self._state.losses.min(),
                slow_fast.diversity(self._state),
            )
            self._open_generation()
        self._waiting = [a for a in self._waiting if a not in self._losses]

    def _open_generation(self) -> None:
        assert self._encoding is not None
        if self.finished:
            self._owed.clear()
            _logger.info("The search has ended after %d generations.", self.state.generation)
            return
        self._state, asked = slow_fast.ask(self.state, decode=self._encoding.decode)
        self._waiting = list(asked)
        self._failed = 0

    def _keep(self, losses: Mapping[Hashable, float]) -> None:
        assert self._encoding is not None
        path = self._results_file()
        if path is not None and losses:
            append_lines(path, [strict_json([self._encoding.sample(a), x], indent=None) for a, x in losses.items()])

    def _recall(self) -> None:
        assert self._encoding is not None
        path = self._results_file()
        if path is None or not path.exists():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                sample, loss = _result_of(line)
            except ValueError:
                _logger.warning("Line %d of %s is not whole and is ignored; its trial is run again.", number, path)
                continue
            self._losses.setdefault(self._encoding.architecture(sample), loss)
        self._recalled = bool(lines)

    def _results_file(self) -> Path | None:
        folder = self.get_checkpoint_path()
        return None if folder is None else Path(folder) / "results.jsonl"


def _result_of(line: str) -> tuple[dict[str, Any], float]:
    """Return sample and loss of a line of ``results.jsonl``, where null is the infinite loss of a failed trial.

    Raises
    ------
    ValueError
        If the line is not a whole result.
    """
    match json.loads(line):
        case [dict(sample), None]:
            return sample, math.inf
        case [dict(sample), int() | float() as loss]:
            return sample, float(loss)
    raise ValueError("not a sample and a loss")


def _in_a_while(do: Callable[..., None], *arguments: Any) -> None:
    timer = threading.Timer(RESULT_GRACE, do, arguments)
    timer.daemon = True
    timer.start()


@contextlib.contextmanager
def _ending_the_experiment() -> Iterator[None]:
    """Tell NNI's manager about an error; by itself NNI leaves the experiment RUNNING with a dead tuner."""
    try:
        yield
    except (ValueError, OSError) as error:
        url = os.environ.get(MANAGER_CHANNEL)
        if url is not None:
            channel = TunerCommandChannel(url)
            channel.connect()
            channel._send(CommandType.Error, str(error))
        raise
