"""The tuner, scripted as NNI's dispatcher would drive it."""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import nni
import numpy as np
import pytest
import yaml
from websockets.sync.server import ServerConnection, serve

from nni_plugins.methods.relative_nas import slow_fast
from nni_plugins.methods.relative_nas import tuner as relative_nas
from nni_plugins.methods.relative_nas.encoding import search_space_encoding
from nni_plugins.methods.relative_nas.tuner import RelativeNASTuner, trial_loss
from nni_plugins.tools.atomic_files import FullDiskError

SPACE = {name: {"_type": "choice", "_value": [0, 1, 2, 3, 4]} for name in "abcdef"}
REPOSITORY = Path(__file__).parents[4]


def accuracy(parameters: dict[str, int]) -> float:
    return -float(sum((value - 2) ** 2 for value in parameters.values())) + parameters["a"] / 10


def fails(parameters: dict[str, int]) -> bool:
    return sum(parameters.values()) % 5 == 0


class Manager:
    """NNI's side: keeps a number of trials running and asks again for each one that ends."""

    def __init__(self, tuner: RelativeNASTuner, concurrency: int, *, first_id: int = 0) -> None:
        self.tuner = tuner
        self.running: dict[int, dict[str, Any]] = {}
        self.finished: list[dict[str, Any]] = []
        self.next_id = first_id
        self.request(concurrency)

    def request(self, count: int) -> None:
        ids = list(range(self.next_id, self.next_id + count))
        self.next_id += count
        given = self.tuner.generate_multiple_parameters(ids, st_callback=self.send)
        self.running.update(zip(ids, given, strict=False))

    def send(self, parameter_id: int, parameters: dict[str, Any]) -> None:
        assert parameter_id not in self.running
        self.running[parameter_id] = parameters

    def end(self, parameter_id: int) -> None:
        parameters = self.running.pop(parameter_id)
        if fails(parameters):
            self.tuner.trial_end(parameter_id, False)
        else:
            value = accuracy(parameters)
            self.finished.append({"parameter": parameters, "value": value})
            self.tuner.receive_trial_result(parameter_id, parameters, value)
            self.tuner.trial_end(parameter_id, True)
        self.request(1)


def new_tuner(**settings: Any) -> RelativeNASTuner:
    tuner = RelativeNASTuner(**{"population_size": 6, "seed": 1, "generations": 6, **settings})
    tuner.update_search_space(SPACE)
    return tuner


def run(tuner: RelativeNASTuner, concurrency: int = 1, order: int = 0) -> Manager:
    manager, shuffle = Manager(tuner, concurrency), random.Random(order)
    while manager.running:
        manager.end(shuffle.choice(list(manager.running)))
    assert tuner.finished
    return manager


def same_search(one: RelativeNASTuner, other: RelativeNASTuner) -> bool:
    return (
        one.state.generation == other.state.generation
        and one.state.population.tobytes() == other.state.population.tobytes()
        and one.state.velocity.tobytes() == other.state.velocity.tobytes()
        and one.state.random_state == other.state.random_state
    )


def test_it_walks_the_path_of_the_core() -> None:
    tuner = new_tuner()
    run(tuner)
    encoding = search_space_encoding(SPACE)
    state = slow_fast.start(encoding.upper, population_size=6, seed=1)
    while state.generation < 6:
        state, asked = slow_fast.ask(state, decode=encoding.decode)
        samples = [encoding.sample(a) for a in asked]
        state = slow_fast.tell(state, [np.inf if fails(s) else -accuracy(s) for s in samples])
    np.testing.assert_array_equal(tuner.state.population, state.population)


@pytest.mark.parametrize("concurrency", [1, 3, 6, 20])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_concurrency_and_order_of_results_change_nothing(concurrency: int, order: int) -> None:
    reference, tuner = new_tuner(), new_tuner()
    run(reference)
    run(tuner, concurrency, order)
    assert same_search(tuner, reference)


def test_what_a_generation_has_too_few_of_is_owed_and_sent_when_the_next_one_opens() -> None:
    tuner, sent = new_tuner(), []
    given = tuner.generate_multiple_parameters(list(range(8)), st_callback=lambda *call: sent.append(call))
    assert len(given) == 6
    for parameter_id in range(5):
        tuner.receive_trial_result(parameter_id, given[parameter_id], float(parameter_id))
        tuner.trial_end(parameter_id, True)
    assert sent == []
    assert tuner.state.generation == 0
    tuner.receive_trial_result(5, given[5], 5.0)
    assert tuner.state.generation == 1
    assert [parameter_id for parameter_id, _ in sent] == [6, 7]
    assert all(parameters not in given for _, parameters in sent)


def test_without_a_way_to_pay_later_it_says_that_there_is_no_more_for_now() -> None:
    tuner = new_tuner()
    for parameter_id in range(6):
        tuner.generate_parameters(parameter_id)
    with pytest.raises(nni.NoMoreTrialError):
        tuner.generate_parameters(6)
    for parameter_id in range(6):
        tuner.receive_trial_result(parameter_id, None, 1.0)
    tuner.generate_parameters(7)


def test_a_failed_trial_loses_and_the_generation_ends_without_it() -> None:
    tuner = new_tuner()
    given = tuner.generate_multiple_parameters(list(range(6)), st_callback=lambda *_: None)
    tuner.trial_end(2, False)
    for parameter_id in (0, 1, 3, 4, 5):
        assert tuner.state.generation == 0
        tuner.receive_trial_result(parameter_id, given[parameter_id], 1.0)
    assert tuner.state.generation == 1
    assert np.isinf(tuner.state.losses).sum() == 1
    encoding = search_space_encoding(SPACE)
    assert tuner.state.known[encoding.architecture(given[2])] == np.inf


def test_results_that_come_late_twice_or_from_nowhere_change_nothing() -> None:
    tuner, reference = new_tuner(), new_tuner()
    for t in (tuner, reference):
        given = t.generate_multiple_parameters(list(range(6)), st_callback=lambda *_: None)
        t.receive_trial_result(0, given[0], 1.0)
        if t is tuner:
            t.receive_trial_result(0, given[0], 99.0)
            t.receive_trial_result(77, given[1], 99.0)
            t.trial_end(77, False)
            t.trial_end(None, False)  # type: ignore[arg-type]
        for parameter_id in range(1, 5):
            t.receive_trial_result(parameter_id, given[parameter_id], 1.0 + parameter_id)
        t.trial_end(5, False)
        if t is tuner:
            t.receive_trial_result(5, given[5], 99.0)
            t.trial_end(5, False)
    assert tuner.state.generation == 1
    assert same_search(tuner, reference)


def test_ends_told_under_the_id_of_a_trial_started_together_are_seen_through() -> None:
    """NNI's local service gives parameters to whoever asks first: here trial 4 runs parameters 5 and fails."""
    outcomes = []
    for swapped in (False, True):
        tuner = new_tuner()
        given = tuner.generate_multiple_parameters(list(range(6)), st_callback=lambda *_: None)
        for parameter_id in range(4):
            tuner.receive_trial_result(parameter_id, given[parameter_id], float(parameter_id))
            tuner.trial_end(parameter_id, True)
        if swapped:
            tuner.trial_end(4, False)
            assert tuner.state.generation == 0
            tuner.receive_trial_result(4, given[4], 4.0)
            assert tuner.state.generation == 0
            tuner.trial_end(5, True)
        else:
            tuner.receive_trial_result(4, given[4], 4.0)
            tuner.trial_end(4, True)
            tuner.trial_end(5, False)
        assert tuner.state.generation == 1
        outcomes.append(tuner)
    assert same_search(*outcomes)


def test_a_trial_that_succeeds_without_a_result_loses_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relative_nas, "RESULT_GRACE", 0.05)
    tuner = new_tuner()
    given = tuner.generate_multiple_parameters(list(range(6)), st_callback=lambda *_: None)
    for parameter_id in range(6):
        if parameter_id != 3:
            tuner.receive_trial_result(parameter_id, given[parameter_id], 1.0)
        tuner.trial_end(parameter_id, True)
    assert tuner.state.generation == 0
    end = time.monotonic() + 5
    while tuner.state.generation == 0 and time.monotonic() < end:
        time.sleep(0.01)
    assert tuner.state.known[search_space_encoding(SPACE).architecture(given[3])] == np.inf


def test_minimize_is_maximize_of_the_negative() -> None:
    maximizing, minimizing = new_tuner(generations=3), new_tuner(generations=3, optimize_mode="minimize")
    for tuner, sign in ((maximizing, 1.0), (minimizing, -1.0)):
        parameter_id = 0
        while not tuner.finished:
            parameters = tuner.generate_parameters(parameter_id)
            tuner.receive_trial_result(parameter_id, parameters, {"default": sign * accuracy(parameters), "size": 1})
            parameter_id += 1
    assert same_search(maximizing, minimizing)
    encoding = search_space_encoding(SPACE)
    assert all(loss == -accuracy(encoding.sample(a)) for a, loss in maximizing.state.known.items())


@pytest.mark.parametrize("ended", range(1, 30, 4))
def test_a_resumed_search_goes_on_exactly_where_it_was(ended: int) -> None:
    """Stop after some trials; a new tuner gets the finished ones and the late results of the interrupted ones."""
    reference = new_tuner()
    run(reference)

    manager, shuffle = Manager(new_tuner(), 3), random.Random(ended)
    for _ in range(ended):
        if manager.running:
            manager.end(shuffle.choice(list(manager.running)))
    interrupted = list(manager.running.values())

    resumed = new_tuner()
    resumed.import_data(manager.finished)
    after = Manager(resumed, 3, first_id=100)
    for parameters in interrupted:
        if not fails(parameters):
            resumed.import_data([{"parameter": parameters, "value": accuracy(parameters)}])
    while after.running:
        after.end(shuffle.choice(list(after.running)))
    assert same_search(resumed, reference)


def test_on_resume_its_own_list_of_results_wins_over_values_exchanged_by_nni(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNI_CHECKPOINT_DIRECTORY", str(tmp_path))
    manager = Manager(new_tuner(), 3)
    while manager.tuner.state.generation < 3:
        manager.end(next(iter(manager.running)))
    values = [trial["value"] for trial in manager.finished]
    exchanged = [{**t, "value": v} for t, v in zip(manager.finished, reversed(values), strict=True)]

    resumed = new_tuner()
    resumed.import_data(exchanged)
    assert same_search(resumed, manager.tuner)
    # failures are on the list too
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    failures = sum(json.loads(line, parse_constant=pytest.fail)[1] is None for line in lines)
    assert failures == sum(loss == np.inf for loss in resumed._losses.values()) > 0


@pytest.mark.parametrize("place", [0, 4, -1], ids=["first", "in the middle", "last"])
@pytest.mark.parametrize(
    "torn",
    [
        pytest.param('[{"a": 1, "b"', id="half"),
        pytest.param("", id="empty"),
        pytest.param("null", id="null"),
        pytest.param('[{"a": 1}, "0.5"]', id="text"),
        pytest.param("3", id="number"),
        pytest.param("\ufffd", id="bytes"),
    ],
)
def test_a_line_of_the_list_that_is_not_whole_is_ignored_and_its_trial_run_again(
    torn: str, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reference = new_tuner()
    run(reference)
    monkeypatch.setenv("NNI_CHECKPOINT_DIRECTORY", str(tmp_path))
    manager = Manager(new_tuner(), 3)
    while manager.tuner.state.generation < 3:
        manager.end(next(iter(manager.running)))
    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines()
    number, lines[place] = range(1, len(lines) + 1)[place], torn
    end = "" if place == -1 else "\n"
    path.write_bytes(("\n".join(lines) + end).encode().replace("\ufffd".encode(), b"\xff\x00"))

    resumed = new_tuner()
    if torn or place != -1:
        assert f"Line {number} of {path} is not whole and is ignored" in caplog.text
    resumed.import_data(manager.finished)
    after = Manager(resumed, 3, first_id=100)
    while after.running:
        after.end(next(iter(after.running)))
    assert same_search(resumed, reference)
    again = new_tuner()
    again.import_data([])
    assert same_search(again, reference)


def test_a_full_disk_leaves_the_list_whole_and_ends_the_experiment_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: Callable[[int], AbstractContextManager[None]]
) -> None:
    monkeypatch.setenv("NNI_CHECKPOINT_DIRECTORY", str(tmp_path))
    path, told = tmp_path / "results.jsonl", queue.Queue[str]()

    def manage(socket: ServerConnection) -> None:
        told.put(str(socket.recv()))

    with serve(manage, "localhost", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NNI_TUNER_COMMAND_CHANNEL", f"ws://localhost:{server.socket.getsockname()[1]}")
        manager = Manager(new_tuner(), 1)
        for _ in range(3):
            manager.end(next(iter(manager.running)))
        before = path.read_bytes()
        with room(len(before) + 20), pytest.raises(FullDiskError, match=f"no room to write {path} "):
            manager.end(next(iter(manager.running)))
        assert path.read_bytes() == before
        assert f"There is no room to write {path}" in told.get(timeout=10)
        server.shutdown()
    assert new_tuner()._losses == manager.tuner._losses


class TrialJobs(BaseHTTPRequestHandler):
    """Answers as NNI's manager does when asked for its trials."""

    status = "ADD_RESUMED"
    unfinished: ClassVar[list[dict[str, int]]] = []

    def do_GET(self) -> None:
        assert self.path == "/prefix/api/v1/nni/trial-jobs"
        jobs = [{"status": self.status, "hyperParameters": [json.dumps({"parameters": s})]} for s in self.unfinished]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps([*jobs, {"status": "WAITING"}]).encode())


def test_what_nni_runs_again_is_kept_back_until_it_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_tuner()
    given = first.generate_multiple_parameters(list(range(5)), st_callback=lambda *_: None)
    done, *unfinished = given[:4]
    last = given[4]
    sent: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    monkeypatch.setattr(relative_nas, "RESULT_GRACE", 0.2)
    with ThreadingHTTPServer(("localhost", 0), TrialJobs) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(relative_nas.MANAGER_CHANNEL, f"ws://localhost:{server.server_port}/prefix/tuner?key=1")
        monkeypatch.setattr(TrialJobs, "unfinished", unfinished)
        resumed = new_tuner()
        resumed.import_data([{"parameter": done, "value": 1.0}])
        new = resumed.generate_multiple_parameters(list(range(9)), st_callback=lambda *trial: sent.put(trial))
        assert new[0] == last and len(new) == 2, "two of six candidates have never been handed out"
        assert all(sample not in new for sample in unfinished)
        monkeypatch.setattr(TrialJobs, "status", "RUNNING")
        resumed.import_data([{"parameter": unfinished[0], "value": 2.0}])
        with pytest.raises(queue.Empty):
            sent.get(timeout=1)
        monkeypatch.setattr(TrialJobs, "unfinished", unfinished[2:])
        assert sent.get(timeout=10) == (2, unfinished[1])
        with pytest.raises(queue.Empty):
            sent.get(timeout=1)
        monkeypatch.setattr(TrialJobs, "unfinished", [])
        assert sent.get(timeout=10) == (3, unfinished[2])
        server.shutdown()


def test_without_an_answer_of_the_manager_all_is_handed_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = new_tuner().generate_multiple_parameters([0, 1, 2], st_callback=lambda *_: None)
    monkeypatch.setenv(relative_nas.MANAGER_CHANNEL, "ws://localhost:9/tuner")  # where nobody listens
    resumed = new_tuner()
    resumed.import_data([{"parameter": given[0], "value": 1.0}])
    assert "NNI's manager does not say what it runs again; that may be run twice" in caplog.text
    again = resumed.generate_multiple_parameters(list(range(9)), st_callback=lambda *_: None)
    assert again[:2] == given[1:] and len(again) == 5


def test_two_threads_at_once() -> None:
    reference, tuner = new_tuner(generations=15), new_tuner(generations=15)
    run(reference)
    lock, running = threading.Lock(), {}

    def send(parameter_id: int, parameters: dict[str, Any]) -> None:
        with lock:
            running[parameter_id] = parameters

    def work(seed: int) -> None:
        shuffle, parameter_id = random.Random(seed), seed * 100_000
        while not tuner.finished:
            parameter_id += 1
            for parameters in tuner.generate_multiple_parameters([parameter_id], st_callback=send):
                send(parameter_id, parameters)
            with lock:
                mine = _pop(running, shuffle)
            if mine is not None:
                identifier, parameters = mine
                if fails(parameters):
                    tuner.trial_end(identifier, False)
                else:
                    tuner.receive_trial_result(identifier, parameters, accuracy(parameters))
                    tuner.trial_end(identifier, True)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert same_search(tuner, reference)


def _pop(running: dict[int, Any], shuffle: random.Random) -> tuple[int, Any] | None:
    if not running:
        return None
    identifier = shuffle.choice(list(running))
    return identifier, running.pop(identifier)


def test_a_search_that_has_come_to_rest_ends_and_one_that_restarts_goes_on() -> None:
    space = {"a": {"_type": "choice", "_value": [0, 1, 2]}, "b": {"_type": "choice", "_value": [0, 1, 2]}}
    found = []
    for restart in (False, True):
        tuner = RelativeNASTuner(population_size=4, restart_on_collapse=restart, optimize_mode="minimize")
        tuner.update_search_space(space)
        parameter_id = 0
        while not tuner.finished:
            parameters = tuner.generate_parameters(parameter_id)
            tuner.receive_trial_result(parameter_id, parameters, parameters["a"] + parameters["b"])
            parameter_id += 1
        assert tuner.generate_multiple_parameters([900], st_callback=pytest.fail) == []
        found.append(parameter_id)
    assert found[0] < found[1] == 9


def test_a_thousand_imported_trials_rebuild_the_population() -> None:
    space = {f"g{i}": {"_type": "choice", "_value": list(range(7))} for i in range(32)}
    encoding = search_space_encoding(space)
    generator = np.random.default_rng(0)
    state = slow_fast.start(encoding.upper, restart_on_collapse=True)
    data: list[dict[str, Any]] = []
    while len(data) < 1000:
        state, asked = slow_fast.ask(state, decode=encoding.decode)
        values = generator.random(len(asked)).tolist()
        data += [{"parameter": encoding.sample(a), "value": v} for a, v in zip(asked, values, strict=True)]
        state = slow_fast.tell(state, values)
    tuner = RelativeNASTuner(optimize_mode="minimize", restart_on_collapse=True)
    tuner.update_search_space(space)
    tuner.import_data(data)
    np.testing.assert_array_equal(tuner.state.population, state.population)


def test_a_generation_in_which_every_trial_fails_ends_the_search_with_the_reason() -> None:
    tuner = new_tuner()
    tuner.generate_multiple_parameters(list(range(6)), st_callback=lambda *_: None)
    for parameter_id in range(5):
        tuner.trial_end(parameter_id, False)
    with pytest.raises(ValueError, match=r"Every trial of generation 1 failed; look into the stderr"):
        tuner.trial_end(5, False)


@pytest.mark.parametrize("value", ["0.9", None, True, [0.9], {"default": "high"}, {"default": None}])
def test_results_that_are_no_numbers_are_refused(value: Any) -> None:
    tuner = new_tuner()
    parameters = tuner.generate_parameters(0)
    with pytest.raises(ValueError, match="as its final result; report a number"):
        tuner.receive_trial_result(0, parameters, value)
    with pytest.raises(ValueError, match="without 'default'; put the number to search by"):
        tuner.receive_trial_result(0, parameters, {"accuracy": 0.9})


def test_losses_of_results() -> None:
    assert trial_loss(3, "minimize") == 3.0
    assert trial_loss({"default": 3, "other": "x"}, "maximize") == -3.0
    for failed in (float("nan"), float("inf"), -float("inf")):
        assert trial_loss(failed, "maximize") == trial_loss(failed, "minimize") == np.inf


def test_imported_trials_of_another_space_are_refused_as_a_whole() -> None:
    tuner = new_tuner()
    good = {"parameter": dict.fromkeys("abcdef", 1), "value": 1.0}
    for parameter in ({"lr": 0.1}, dict.fromkeys("abcdef", 9)):
        with pytest.raises(ValueError, match=r"A trial of another search space: .*; use only trials of this space"):
            tuner.import_data([good, {"parameter": parameter, "value": 1.0}])
    assert tuner._losses == {}


def test_the_search_space_cannot_change() -> None:
    tuner = new_tuner()
    tuner.update_search_space(SPACE)
    with pytest.raises(ValueError, match="cannot change during a search"):
        tuner.update_search_space({**SPACE, "g": {"_type": "choice", "_value": [1, 2]}})
    with pytest.raises(ValueError, match="search space is empty"):
        RelativeNASTuner().update_search_space({})
    with pytest.raises(RuntimeError, match="has no search space yet"):
        _ = RelativeNASTuner().state


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population_size": 7}, "even number of at least 2"),
        ({"population_size": 0}, "even number of at least 2"),
        ({"optimize_mode": "max"}, "'maximize' or 'minimize', not 'max'"),
        ({"generations": 0}, "generations must be at least 1"),
        ({"generations": "many"}, "generations must be at least 1"),
        ({"phi": -1}, "phi must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelativeNASTuner(**settings)


def test_the_registration_names_the_class() -> None:
    (meta,) = yaml.safe_load((REPOSITORY / "nni_plugins" / "algorithms.yml").read_text())["algorithms"]
    assert meta["builtinName"] == "RelativeNAS"
    assert meta["className"] == f"{RelativeNASTuner.__module__}.{RelativeNASTuner.__name__}"
    assert meta["algoType"] == "tuner"
