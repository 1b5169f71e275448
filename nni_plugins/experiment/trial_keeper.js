/*
 * What keeps the trials of a remote machine, NNI's trial_keeper/main.js there, loads this file first (remote_workers.js
 * brings it along): it listens on 127.0.0.1 alone, and its trials end with it. It ends when its manager has been out of
 * reach for 15 s; a trial that lived on would work for nobody, and in the way of the one that does it again.
 *
 * NNI's manager listens on 127.0.0.1 by the same function.
 */
'use strict';

const childProcess = require('child_process');
const net = require('net');
const path = require('path');

const LOOPBACK = '127.0.0.1';

/* But for the port `open`, which may be none. */
function listenOnLoopback(open) {
    const listen = net.Server.prototype.listen;
    net.Server.prototype.listen = function (where, ...rest) {
        if (open !== undefined && Number(where?.port ?? where) === open) {
            return listen.call(this, where, ...rest);
        }
        const callback = [where, ...rest].find((argument) => typeof argument === 'function');
        if (where !== null && typeof where === 'object') {
            return listen.call(this, 'port' in where ? { ...where, host: LOOPBACK } : where, ...rest);
        }
        if (typeof where === 'string' && Number.isNaN(Number(where))) {
            return listen.call(this, where, ...rest); // a local socket's path
        }
        return listen.call(this, { port: Number(where === callback ? 0 : where ?? 0), host: LOOPBACK }, callback);
    };
}

function endTrialsAtExit() {
    const groups = new Set();
    const spawn = childProcess.spawn;
    childProcess.spawn = function (command, ...rest) {
        const options = rest.at(-1);
        if (options?.env?.NNI_TRIAL_JOB_ID === undefined) {
            return spawn.call(this, command, ...rest);
        }
        // A group of its own: its command may be a shell with processes below it.
        const trial = spawn.call(this, command, ...rest.slice(0, -1), { ...options, detached: true });
        groups.add(trial.pid);
        trial.once('close', () => groups.delete(trial.pid));
        return trial;
    };
    process.once('exit', () => {
        for (const group of groups) {
            try {
                process.kill(-group, 'SIGTERM'); // a search keeps its last checkpoint
            } catch {
                // it has ended
            }
        }
    });
}

if ((process.argv[1] ?? '').endsWith(path.join('trial_keeper', 'main.js'))) {
    listenOnLoopback();
    endTrialsAtExit();
    delete process.env.NODE_OPTIONS; // it is not for the trials
}

module.exports = { LOOPBACK, listenOnLoopback };
