"""Runs the parts of benchmarks/memory.py with small models, and prints what they found as JSON.

A process of its own, as the benchmark's are. Usage: python -m tests.benchmarks.memory_run DATASET
"""

import json
import sys

from tests.processes import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import trainer  # noqa: F401  # isort: skip  First, so that TensorFlow loads without messages.
import numpy as np


def main() -> None:
    """Counts what each model recalls of a piece that repeats itself, and trains one."""
    import memory_parts as parts

    from tests.trainer.data.repeats import repeating_pitches
    from tests.trainer.data.windows import table_of
    from trainer.data.matches import MATCHES
    from trainer.data.recall_table import RecallTable

    table = table_of([80])
    table.notes["pitch"] = repeating_pitches(80, 1)
    whole, recalled = RecallTable.__call__, {}
    for name, ablation in parts.ABLATIONS.items():
        RecallTable.__call__ = whole
        if name != "heads alone":  # That changes the model, which is trained below.
            parts.remove(ablation)
        pitches, times = RecallTable(table).in_performances(np.array([0]), np.arange(-1, 80))
        candidates, places = np.array(pitches.distance) > 0, np.array(times.distance) > 0
        recalled[name] = {
            "matched": int(candidates[..., :MATCHES].sum()),
            "aligned": int(candidates[..., MATCHES:].sum()),
            "matched_times": int(places[..., :MATCHES].sum()),
            "aligned_times": int(places[..., MATCHES:].sum()),
        }
    RecallTable.__call__ = whole
    small = {"units": 8, "head_units": 8, "seq_length": 8, "batch_size": 4, "evaluate_every": 4, "steps": 4}
    line = parts.measure(sys.argv[1], "heads alone", {**small, "max_minutes": 0.0})
    print(json.dumps({"recalled": recalled, "line": line}))


if __name__ == "__main__":
    main()
