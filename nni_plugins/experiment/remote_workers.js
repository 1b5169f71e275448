/*
 * Makes NNI's training service for remote machines (platform: remote, reuseMode: false) safe and whole. Loaded by
 * closed_manager.js; NNI 3.0 is archived, so what it lacks is put around it from outside:
 *
 * - a machine has to show a host key that ~/.ssh/known_hosts has of it (NNI takes any);
 * - machines call the manager back through the SSH connection that it has to them: no port is opened to a network. What
 *   comes through is let in to the machines' own channel alone, with a key that each machine is given;
 * - what keeps the trials of a machine listens on 127.0.0.1 there, and its trials end with it (trial_keeper.js);
 * - NNI does not upgrade packages of the machines;
 * - a connection that broke is made again, and a machine that comes back is used again;
 * - a trial whose machine is lost is done again by another, under its name and with its parameters (NNI calls it, and
 *   every trial that has ended on that machine, cancelled).
 */
'use strict';

const childProcess = require('child_process');
const crypto = require('crypto');
const fs = require('fs');
const net = require('net');
const os = require('os');
const path = require('path');
const timers = require('timers/promises');
const { promisify } = require('util');

const { LOOPBACK } = require('./trial_keeper.js');

const KEEP_ALIVE = { keepaliveInterval: 5000, keepaliveCountMax: 3 };
const SECONDS_UNTIL_NEXT_TRY = 10;
const UPGRADE = '-m pip install nni --upgrade';
const LAUNCH = /launch_trial_keeper (.*)$/;
const KEEPER_FILE = 'trial_keeper.js';

const key = crypto.randomBytes(16).toString('hex');
const tunnelled = new Set(); // local ports of connections that come from the machines

/* The status and the sentence of a refusal of what a machine asks, or of what pretends to be one; or null. */
function reasonToRefuseWorker(request, event) {
    const url = new URL(request.url, 'http://localhost');
    const isOfWorker = event === 'upgrade' && /(^|\/)platform\//i.test(decodeURIComponent(url.pathname));
    if (isOfWorker) {
        return url.searchParams.get('key') === key ? null : [403, 'Not a machine of this manager.'];
    }
    return tunnelled.has(request.socket.remotePort) ? [403, 'Not for remote machines.'] : null;
}

/* Changes the classes of the training service; nni is the folder of NNI's manager. */
function makeWhole(nni) {
    const load = (name) => require(path.join(nni, name));
    const { Client } = load('node_modules/ssh2');
    const { Ssh } = load('training_service/remote_v3/ssh');
    const { Worker } = load('training_service/remote_v3/worker');
    const { RemoteTrainingServiceV3 } = load('training_service/remote_v3/remote');
    const { V3asV1 } = load('training_service/v3/compat');
    const log = load('common/log').getLogger('RemoteWorkers');
    checkHostKeys(Client, log);
    prepareMachines(Ssh);
    callBackThroughSsh(Worker);
    const start = V3asV1.prototype.start;
    V3asV1.prototype.start = function () {
        if (this.v3 instanceof RemoteTrainingServiceV3) {
            useMachinesAgain(this.v3, log);
            rerunLostTrials(this, { load, log });
        }
        return start.call(this);
    };
}

function checkHostKeys(Client, log) {
    const connect = Client.prototype.connect;
    Client.prototype.connect = function (config) {
        const name = config.port === 22 ? config.host : `[${config.host}]:${config.port}`;
        const keys = acceptedKeys(name);
        if (keys.length === 0) {
            const command = `ssh -p ${config.port} ${config.username}@${config.host}`;
            throw new Error(`The host key of ${name} is not in ~/.ssh/known_hosts; ${command} shows and accepts it.`);
        }
        const kinds = keys.flatMap(({ kind }) => (kind === 'ssh-rsa' ? ['rsa-sha2-512', 'rsa-sha2-256'] : [kind]));
        // A connection that breaks later would end the manager if nobody listened.
        this.on('error', (error) => log.warning(`Connection to ${name}: ${error.message}`));
        return connect.call(this, {
            ...config,
            ...KEEP_ALIVE,
            algorithms: { serverHostKey: [...new Set(kinds)] },
            hostVerifier: (shown) => keys.some(({ content }) => content.equals(shown)),
        });
    };
}

function acceptedKeys(name) {
    const file = path.join(os.homedir(), '.ssh', 'known_hosts');
    const found = childProcess.spawnSync('ssh-keygen', ['-F', name, '-f', file], { encoding: 'utf8' });
    const lines = (found.stdout ?? '').split('\n').filter((line) => line !== '' && !/^[#@]/.test(line));
    return lines.map((line) => {
        const [, kind, content] = line.split(/\s+/);
        return { kind, content: Buffer.from(content, 'base64') };
    });
}

function prepareMachines(Ssh) {
    const run = Ssh.prototype.run;
    Ssh.prototype.run = async function (command) {
        if (command.endsWith(UPGRADE)) {
            return '';
        }
        const folder = LAUNCH.exec(command)?.[1];
        if (folder === undefined) {
            return await run.call(this, command);
        }
        const file = path.join(folder, KEEPER_FILE);
        await this.writeFile(file, fs.readFileSync(path.join(__dirname, KEEPER_FILE)));
        return await run.call(this, `NODE_OPTIONS='--require "${file}"' ${command}`);
    };
}

function callBackThroughSsh(Worker) {
    const launch = Worker.prototype.launchTrialKeeperDaemon;
    Worker.prototype.launchTrialKeeperDaemon = async function () {
        const url = new URL(this.channelUrl);
        this.tunnel = { there: 0, here: Number(url.port) };
        await openTunnel(this);
        url.hostname = LOOPBACK;
        url.port = this.tunnel.there;
        url.searchParams.set('key', key);
        this.channelUrl = url.href;
        await launch.call(this);
    };

    // Asked when a machine's channel broke: with its SSH connection, mostly.
    const checkAlive = Worker.prototype.checkAlive;
    Worker.prototype.checkAlive = async function () {
        try {
            this.ssh.disconnect();
            await this.ssh.connect();
            await openTunnel(this);
        } catch (error) {
            this.log.error('The connection cannot be made again:', error.message);
            return false;
        }
        this.log.info(`${this.config.host} is connected again.`);
        return await checkAlive.call(this);
    };
}

/* Lets the machine reach the manager at port worker.tunnel.there of its own 127.0.0.1; 0 for any that is free. */
async function openTunnel(worker) {
    const { client } = worker.ssh;
    const { host } = worker.config;
    const forwardIn = promisify(client.forwardIn.bind(client));
    try {
        const port = await forwardIn(LOOPBACK, worker.tunnel.there);
        worker.tunnel.there = port ?? worker.tunnel.there;
    } catch (error) {
        const reason = `${host} opens no way back (${error.message}); its sshd_config has to say AllowTcpForwarding yes.`;
        throw new Error(reason);
    }
    client.on('tcp connection', (_info, accept, reject) => {
        const local = net.connect(worker.tunnel.here, LOOPBACK);
        local.once('error', () => reject());
        local.once('connect', () => {
            const port = local.localPort;
            tunnelled.add(port);
            const remote = accept();
            local.removeAllListeners('error');
            local.on('error', () => remote.destroy());
            remote.on('error', () => local.destroy());
            remote.on('close', () => local.destroy());
            local.on('close', () => {
                tunnelled.delete(port);
                remote.end();
            });
            remote.pipe(local).pipe(remote);
        });
    });
}

function useMachinesAgain(service, log) {
    service.restartWorker = async (lost) => {
        service.stopWorker(lost, true);
        for (let tries = 1; ; tries += 1) {
            try {
                const worker = await service.launchWorker(lost.config);
                for (const name of service.uploadedDirs) {
                    await worker.upload(name, tarball(name));
                }
                service.emitEnvUpdate();
                log.info(`${lost.config.host} is back.`);
                return;
            } catch (error) {
                if (tries === 1) {
                    log.error(`${lost.config.host} is lost; trying again every ${SECONDS_UNTIL_NEXT_TRY} s:`, error);
                }
                for (const worker of service.workers.filter((one) => one.config === lost.config)) {
                    service.stopWorker(worker, true);
                }
            }
            await timers.setTimeout(1000 * SECONDS_UNTIL_NEXT_TRY, undefined, { ref: false });
        }
    };
}

function tarball(name) {
    return require(path.join(path.dirname(process.argv[1]), 'common', 'tarball')).getTarballPath(name);
}

function rerunLostTrials(manager, { load, log }) {
    const { getRpcHelper } = load('common/command_channel/rpc_util');
    const records = load('common/ioc_shim').IocShim.get(load('common/datastore').DataStore);
    const service = manager.v3;
    const sent = new Map();

    const sendParameter = service.sendParameter;
    service.sendParameter = (trial, parameter) => {
        sent.set(trial, parameter); // not always what NNI shows as the trial's
        return sendParameter.call(service, trial, parameter);
    };

    const stopWorker = service.stopWorker;
    service.stopWorker = (worker, tells) => {
        const trials = [...service.workersByTrial.keys()].filter((id) => service.workersByTrial.get(id) === worker);
        trials.forEach((id) => service.workersByTrial.delete(id));
        stopWorker.call(service, worker, tells);
        if (worker.channel) {
            getRpcHelper(worker.channel).responses.forEach((answer) => {
                if (!answer.settled) {
                    answer.reject(new Error(`${worker.config.host} is lost.`)); // NNI would wait for it for ever
                }
            });
        }
        for (const id of trials) {
            const trial = manager.trialJobs[id];
            if (['WAITING', 'RUNNING'].includes(trial?.status) && trial.isEarlyStopped === undefined) {
                log.warning(`Trial ${id} was on ${worker.config.host}, which is lost, and is done again.`);
                rerun(trial);
            }
        }
    };

    async function rerun(trial) {
        trial.status = 'WAITING';
        if (sent.has(trial.id)) {
            manager.allocatedParameters.set(trial.id, sent.get(trial.id));
        }
        while (trial.isEarlyStopped === undefined) {
            const environment = manager.schedule();
            try {
                const { trialCommand } = manager.config;
                const { sequenceId } = trial.form;
                if (
                    environment !== null &&
                    (await service.createTrial(environment, trialCommand, 'trial_code', sequenceId, trial.id))
                ) {
                    const { host } = manager.environments.find(({ id }) => id === environment);
                    const folder = trial.url.replace(/^.*?:/, '').replace(trial.envId, environment);
                    trial.envId = environment;
                    trial.url = `${host}:${folder}`;
                    // NNI records a change of status alone.
                    await records.storeTrialJobEvent('RUNNING', trial.id, undefined, trial);
                    return;
                }
            } catch (error) {
                log.error(`Trial ${trial.id} cannot be done again yet:`, error);
            }
            await timers.setTimeout(1000);
        }
        trial.status = 'USER_CANCELED'; // meanwhile, by the person
    }
}

module.exports = { makeWhole, reasonToRefuseWorker };
