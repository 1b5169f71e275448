"""What keeps the trials of a remote machine, a node process, as trial_keeper.js changes it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import psutil

from nni_plugins.experiment.doctor import bundled_node
from nni_plugins.experiment.nnictl import CLOSED_MANAGER

KEEPER = """
const childProcess = require('child_process');
const http = require('http');
const options = { env: { ...process.env, NNI_TRIAL_JOB_ID: 'T1' }, shell: '/bin/bash' };
const trial = childProcess.spawn('sleep 600 & sleep 600; true', options);
const other = childProcess.spawn('sleep', ['600'], { detached: true });
const server = http.createServer().listen(0, () => {
    console.log(JSON.stringify([trial.pid, other.pid, server.address().address, process.env.NODE_OPTIONS ?? '']));
});
process.stdin.on('end', () => process.exit(0));
process.stdin.resume();
"""


def test_it_listens_on_loopback_and_its_trials_end_with_it(tmp_path: Path) -> None:
    node, main = bundled_node(), tmp_path / "trial_keeper" / "main.js"
    assert node is not None
    main.parent.mkdir()
    main.write_text(KEEPER)
    keeper = subprocess.Popen(
        [node, "--require", str(CLOSED_MANAGER.with_name("trial_keeper.js")), str(main)],
        env={"PATH": "/usr/bin:/bin", "NODE_OPTIONS": "--no-warnings"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert keeper.stdout is not None and keeper.stdin is not None
    trial, other, address, options = json.loads(keeper.stdout.readline())
    processes = [psutil.Process(trial)]
    deadline = time.monotonic() + 30
    while len(processes) < 3:
        assert time.monotonic() < deadline
        processes = [psutil.Process(trial), *psutil.Process(trial).children(recursive=True)]
    try:
        assert (address, options) == ("127.0.0.1", "")
        keeper.stdin.close()
        assert keeper.wait(30) == 0
        assert psutil.wait_procs(processes, timeout=30)[1] == []
        assert psutil.pid_exists(other), "it is no trial"
    finally:
        keeper.kill()
        psutil.Process(other).kill()
