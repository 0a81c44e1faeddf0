# shellcheck shell=bash
# Shared by the batch scripts: the environment, the start of a step, and the end of the job. See docs/slurm.md.

python=(python)
PATH="$PWD/.venv/bin:$PATH"
if [ -e slurm/site.sh ]; then
    # shellcheck source=/dev/null
    source slurm/site.sh
fi

# Since Slurm 22.05, srun no longer reads SLURM_CPUS_PER_TASK.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

# scancel signals this script too. The step saves and ends, then the script must go on.
trap : TERM

# Slurm reports the highest status of a step's tasks, so 75 would hide another task's 1 or 2. They become 201 and 202.
# The other tasks get a SIGTERM, since they would wait 15 minutes for this one.
# shellcheck disable=SC2016
readonly TASK='
trap : TERM
"$@" && exit 0
status=$?
case $status in 71 | 75 | 134 | 137 | 139 | 143) exit "$status" ;; esac
scancel --signal=TERM "$SLURM_JOB_ID"
exit $((status < 55 ? 200 + status : 255))'

# start_step [OPTION ...] -- ARGUMENT ...: runs `python ARGUMENT ...` in each task of a job step.
# A site may let srun kill the other tasks when one ends. They must have the time to save.
start_step() {
    local options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    srun --export=ALL --kill-on-bad-exit=0 --wait=0 "${options[@]}" bash -c "$TASK" task "${python[@]}" "${@:2}"
}

# end_job STATUS: requeues the job after a failure that may pass, or ends it with the status.
end_job() {
    local status=$1 restarts
    case $status in
        75 | 143) restarts=100 ;;           # a lost worker, or saved ahead of the time limit
        71 | 134 | 137 | 139) restarts=3 ;; # a GPU failed, or a process was killed or crashed
        20[12]) exit $((status - 200)) ;;
        *) exit "$status" ;;
    esac
    # A cancelled job is not RUNNING, nor is one that Slurm requeues itself.
    if [ "$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")" != RUNNING ]; then
        exit "$status"
    fi
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$restarts" ]; then
        echo "job $SLURM_JOB_ID: status $status after $SLURM_RESTART_COUNT restarts. Submit it again to resume" >&2
        exit "$status"
    fi
    echo "job $SLURM_JOB_ID: status $status; requeued" >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit "$status"
}
