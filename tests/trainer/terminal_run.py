"""A short run, for what a terminal shows of it: `python -m tests.trainer.terminal_run DATA WORKDIR`.

A train_step takes a tenth of a second on its clock and a score five seconds, so that the time left is known.
"""

import sys

from sostenuto.cli import console
from sostenuto.data.manifest import Manifest
from tests.trainer.machine import Machine
from trainer.callbacks.standard import command_callbacks
from trainer.engine import loop, setup
from trainer.presets import preset

STEPS, EVALUATE_EVERY = 120, 20
STEP_SECONDS, SCORING_SECONDS = 0.1, 5.0

if __name__ == "__main__":
    console.configure_console()
    machine = Machine({0.0: STEP_SECONDS}, SCORING_SECONDS)
    setup.TrainState, setup.Scorer = machine.state, machine.scorer  # type: ignore[misc, assignment]
    config = preset("base").replace(
        units=8, head_units=8, seq_length=16, batch_size=4, warmup_steps=20, steps=STEPS, log_every=10,
        evaluate_every=EVALUATE_EVERY,
    )  # fmt: skip
    callbacks = command_callbacks(num_samples=0, profile=False)
    loop.train(config, Manifest.load(sys.argv[1]), sys.argv[2], callbacks=callbacks, clock=machine.clock)
