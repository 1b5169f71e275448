/*
 * Gives every trial the parameters that NNI's manager has noted for it. NNI 3.0 keeps them in a queue and gives the first
 * to whichever trial asks first: of trials that start together it shows the parameters exchanged, and after a resume it
 * may run again what has ended, and not what has not. Loaded by closed_manager.js.
 */
'use strict';

const path = require('path');
const timers = require('timers/promises');

const SECONDS_UNTIL_NOTED = 60;

/* Changes the class that all training services of the manager share; nni is the folder of NNI's manager. */
function giveOwnParameters(nni) {
    const { V3asV1 } = require(path.join(nni, 'training_service/v3/compat'));
    const submitTrialJob = V3asV1.prototype.submitTrialJob;
    V3asV1.prototype.submitTrialJob = async function (form) {
        const trial = await submitTrialJob.call(this, form);
        const { value } = form.hyperParameters;
        const place = this.parameters.indexOf(value); // they carry an id, so that no two are alike
        if (place >= 0) {
            this.parameters.splice(place, 1);
            this.allocatedParameters.set(trial.id, value);
        }
        return trial;
    };
    const start = V3asV1.prototype.start;
    V3asV1.prototype.start = function () {
        const onRequestParameter = this.v3.onRequestParameter;
        this.v3.onRequestParameter = (give) =>
            onRequestParameter.call(this.v3, async (trialId) => {
                // A trial that is quick asks before its id is known to the manager.
                for (let waited = 0; !this.allocatedParameters.has(trialId); waited += 0.05) {
                    if (waited > SECONDS_UNTIL_NOTED) {
                        return;
                    }
                    await timers.setTimeout(50);
                }
                await give(trialId);
            });
        return start.call(this);
    };
}

module.exports = { giveOwnParameters };
