/*
 * Closes NNI's manager to everything but this machine's own user: node loads this file before the manager's main.js
 * (NODE_OPTIONS='--require FILE', see nnictl.py). NNI 3.0 is archived, so what it lacks is put around it from outside:
 *
 * - servers listen on 127.0.0.1 instead of all interfaces, TensorBoard included;
 * - requests that a web page elsewhere could have caused are refused (foreign Host: DNS rebinding; foreign Origin or
 *   Sec-Fetch-Site: cross-site requests; text/plain bodies: requests that browsers send without asking first);
 * - paths cannot leave the experiment's folder;
 * - only the tuner that this manager has started may speak to it as the tuner: not one that outlived a killed manager;
 * - a tuner that starts slowly is waited for, and one that ends while starting is noticed at once;
 * - trials get the parameters that are noted for them: see own_parameters.js;
 * - remote machines: see remote_workers.js.
 *
 * With the variable NNI_PLUGINS_OPEN_PAGE, NNI's page, and it alone, is served to other machines too, by this machine's
 * name or an IP address: a name of somebody else's (DNS rebinding) is refused as ever. Tuner, trials and remote machines
 * speak to the manager from 127.0.0.1, so that from elsewhere nothing may take their place.
 */
'use strict';

const childProcess = require('child_process');
const crypto = require('crypto');
const http = require('http');
const net = require('net');
const os = require('os');
const path = require('path');

const { LOOPBACK, listenOnLoopback } = require('./trial_keeper.js');
const { giveOwnParameters } = require('./own_parameters.js');
const { makeWhole, reasonToRefuseWorker } = require('./remote_workers.js');

const OWN_NAMES = new Set(['localhost', LOOPBACK, '[::1]']);
const SECONDS_FOR_THE_TUNER = 300;

const main = process.argv[1] ?? '';
const isOpen = process.env.NNI_PLUGINS_OPEN_PAGE === '1';
delete process.env.NNI_PLUGINS_OPEN_PAGE; // it is not for the trials, which may start managers of their own
if (main.endsWith(path.join('nni_node', 'main.js'))) {
    listenOnLoopback(isOpen ? Number(process.argv[process.argv.indexOf('--port') + 1]) : undefined);
    refuseForeignRequests(watchTuner());
    setImmediate(() => {
        // when the manager's own modules are loaded
        giveOwnParameters(path.dirname(main));
        makeWhole(path.dirname(main));
    });
}

/* Replaces emit, and not each server's listeners, so that nothing of NNI's sees a request before it is judged. */
function refuseForeignRequests(tunerKey) {
    const emit = http.Server.prototype.emit;
    http.Server.prototype.emit = function (event, request, reply, ...rest) {
        if (!(request instanceof http.IncomingMessage)) {
            return emit.call(this, event, request, reply, ...rest);
        }
        const refusal =
            reasonToRefuse(request) ??
            (event === 'upgrade' ? reasonToRefuseChannel(request, tunerKey) : null) ??
            reasonToRefuseWorker(request, event);
        if (refusal === null) {
            return emit.call(this, event, request, reply, ...rest);
        }
        const [status, reason] = refusal;
        if (reply instanceof http.ServerResponse) {
            reply.writeHead(status, { 'Content-Type': 'text/plain', Connection: 'close' });
            reply.end(`${reason}\n`);
        } else {
            reply.end(`HTTP/1.1 ${status} ${http.STATUS_CODES[status]}\r\nConnection: close\r\n\r\n`);
        }
        return true;
    };
}

/* The status and the sentence of a refusal, or null. */
function reasonToRefuse(request) {
    const headers = request.headers;
    const host = headers.host ?? '';
    // Any port, as an SSH tunnel may begin at another one: a foreign page on this machine is told by its Origin.
    if (!isOwnName(host.replace(/:\d+$/, '').toLowerCase())) {
        return [403, `NNI's page is at http://localhost:${request.socket.localPort}, not at ${host}.`];
    }
    if (headers.origin !== undefined && headers.origin.toLowerCase() !== `http://${host.toLowerCase()}`) {
        return [403, `Requests of pages of ${headers.origin} are refused.`];
    }
    const site = headers['sec-fetch-site'] ?? 'none';
    const isLink = request.method === 'GET' && headers['sec-fetch-dest'] === 'document';
    if (site !== 'none' && site !== 'same-origin' && !isLink) {
        return [403, 'Requests of other pages are refused.'];
    }
    const type = headers['content-type'];
    const mayHaveNoBody = ['GET', 'HEAD', 'OPTIONS', 'DELETE'].includes(request.method);
    if (type === undefined ? !mayHaveNoBody : !/^application\/json\s*(;|$)/i.test(type)) {
        return [415, 'Content-Type has to be application/json.'];
    }
    const folders = decodedPath(request)?.split(/[/\\]/);
    if (folders === undefined || folders.includes('..')) {
        return [403, 'A path has to stay inside the experiment.'];
    }
    return null;
}

function isOwnName(name) {
    const isAddress = net.isIP(name.replace(/^\[(.*)\]$/, '$1')) !== 0;
    return OWN_NAMES.has(name) || (isOpen && (isAddress || name === os.hostname().toLowerCase()));
}

/* The page itself opens no channel: tuner, trials and, through SSH, remote machines do, from 127.0.0.1. */
function reasonToRefuseChannel(request, tunerKey) {
    const from = (request.socket.remoteAddress ?? '').replace(/^::ffff:/, '');
    if (from !== LOOPBACK && from !== '::1') {
        return [403, 'Not from another machine.'];
    }
    const isForTuner = /(^|\/)tuner(\/|$)/i.test(decodedPath(request));
    const key = new URLSearchParams(request.url.split('?')[1]).get('key');
    return isForTuner && tunerKey !== null && key !== tunerKey ? [403, 'Not the tuner of this manager.'] : null;
}

/* The path that a request asks for; undefined if it is no valid one. */
function decodedPath(request) {
    try {
        return decodeURIComponent(request.url.split('?')[0]);
    } catch {
        return undefined;
    }
}

/* Returns what the tuner has to show to be let in; null if the experiment is driven from Python, without a key. */
function watchTuner() {
    const key = process.argv.includes('--tuner-command-channel') ? null : crypto.randomBytes(16).toString('hex');
    const spawn = childProcess.spawn;
    childProcess.spawn = function (command, ...rest) {
        const [words, options] = rest;
        if (!Array.isArray(words)) {
            return spawn.call(this, command, ...rest);
        }
        const isTuner = words.includes('--exp_params');
        if (isTuner) {
            options.env.NNI_TUNER_COMMAND_CHANNEL += `?key=${key}`;
        }
        const closed = words.map((word) => word.replace(/^--bind_all /, `--host=${LOOPBACK} `)); // TensorBoard's
        const child = spawn.call(this, command, closed, options);
        if (isTuner) {
            child.on('exit', () => giveUp('The tuner ended before it could connect; log/dispatcher.log says why.'));
        }
        return child;
    };
    // When the manager's modules are loaded, and long before it waits for the tuner.
    setImmediate(() => {
        tunerServer().init = () => {
            const message = `The tuner did not connect in ${SECONDS_FOR_THE_TUNER} seconds; see log/dispatcher.log.`;
            setTimeout(() => giveUp(message), 1000 * SECONDS_FOR_THE_TUNER);
            return tunerServer().connect.promise;
        };
    });
    return key;
}

function giveUp(message) {
    const connection = tunerServer().connect;
    if (!connection.settled) {
        connection.reject(new Error(message));
    }
}

function tunerServer() {
    return require(path.join(path.dirname(main), 'core', 'tuner_command_channel')).getTunerServer();
}
