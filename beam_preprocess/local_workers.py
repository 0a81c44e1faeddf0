"""All cores of one machine: Beam's own options, taken over by child processes of ours.

Beam would start a whole worker for each, which takes ten seconds, and wait for ever for one that was killed. Its
threads, `--direct_running_mode=multi_threading`, share one interpreter and hardly a second core.
"""

import os

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from sostenuto.errors import UserError


def resolve_num_processes(options: PipelineOptions) -> int:
    """Returns how many processes are to write shards on this machine, and leaves Beam with a single worker.

    1 where a runner of another kind, or Beam's own threads, are asked for.

    Raises:
        UserError: the number is negative.
    """
    direct = options.view_as(DirectOptions)
    if options.view_as(StandardOptions).runner != "FnApiRunner" or direct.direct_running_mode == "multi_threading":
        return 1
    processes = direct.direct_num_workers
    if processes < 0:
        raise UserError(f"--direct_num_workers={processes}: expected 1 or more, or 0 for one a core")
    direct.direct_num_workers, direct.direct_running_mode = 1, "in_memory"
    # The cores that this process may use, which in a container are fewer than there are.
    return processes or len(os.sched_getaffinity(0))
