/*
 * Lets node's servers listen on 127.0.0.1 instead of all interfaces: NNI's manager, and, where this file is loaded
 * before it (remote_workers.js), the keeper of trials on a remote machine.
 */
'use strict';

const net = require('net');
const path = require('path');

const LOOPBACK = '127.0.0.1';

function listenOnLoopback() {
    const listen = net.Server.prototype.listen;
    net.Server.prototype.listen = function (where, ...rest) {
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

if ((process.argv[1] ?? '').endsWith(path.join('trial_keeper', 'main.js'))) {
    listenOnLoopback();
    delete process.env.NODE_OPTIONS; // it is not for the trials
}

module.exports = { LOOPBACK, listenOnLoopback };
