"""Who this process is in a study: the chief that leads it, a worker that trains, or both in one."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from sostenuto.errors import UserError

ALONE_ID = "tuner0"

# What says which of several equal processes this one is: Kubernetes' Indexed Jobs, and Slurm.
_INDEX_VARIABLES = ("JOB_COMPLETION_INDEX", "SLURM_PROCID")


@dataclasses.dataclass(frozen=True)
class Role:
    """What a process does in a study.

    Attributes:
        name: `chief`, `worker`, or `alone` for both.
        address: HOST:PORT, where the chief listens and workers find it; empty for one alone.
        worker: the worker's id, by which it is known when it is started again; empty for the chief.
    """

    name: Literal["chief", "worker", "alone"]
    address: str = ""
    worker: str = ""


def resolve(role: str | None, chief_address: str | None, worker_id: str | None, environment: Mapping[str, str]) -> Role:
    """Finds out from flags and environment who this process is; flags come first.

    KerasTuner's own variables are understood: KERASTUNER_TUNER_ID, in which `chief` makes a chief, and
    KERASTUNER_ORACLE_IP with KERASTUNER_ORACLE_PORT. A worker's id may also come from its pod's or task's index.

    Args:
        role: `chief`, `worker` or None.
        chief_address: HOST:PORT or None.
        worker_id: or None.
        environment: such as `os.environ`.

    Raises:
        UserError: what was given does not fit together, or does not suffice.
    """
    tuner_id = environment.get("KERASTUNER_TUNER_ID", "")
    if role is None and tuner_id:
        role = "chief" if "chief" in tuner_id else "worker"
    if role is None:
        for name, value in (("chief_address", chief_address), ("worker_id", worker_id)):
            if value:
                raise UserError(f"--{name}={value} without --role: expected --role=chief or --role=worker beside it")
        return Role("alone", worker=ALONE_ID)
    address = _address(role, chief_address, environment)
    if role == "chief":
        if worker_id:
            raise UserError(f"--worker_id={worker_id} with --role=chief: only workers have one")
        return Role("chief", address)
    return Role("worker", address, worker_id or _worker_id(tuner_id, environment))


def _address(role: str, chief_address: str | None, environment: Mapping[str, str]) -> str:
    source = f"--chief_address={chief_address}"
    if not chief_address:
        host, port = (environment.get(f"KERASTUNER_ORACLE_{part}", "") for part in ("IP", "PORT"))
        if bool(host) != bool(port):
            raise UserError(
                "KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT: expected both or neither, got "
                f"{host or 'no host'} and {port or 'no port'}"
            )
        if not host:
            raise UserError(
                f"--role={role}: where is the chief? Give --chief_address=HOST:PORT, or set KERASTUNER_ORACLE_IP and "
                "KERASTUNER_ORACLE_PORT"
            )
        chief_address, source = f"{host}:{port}", f"KERASTUNER_ORACLE_IP={host} and KERASTUNER_ORACLE_PORT={port}"
    host, _, port = chief_address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"{source}: expected HOST:PORT")
    return chief_address


def _worker_id(tuner_id: str, environment: Mapping[str, str]) -> str:
    if tuner_id:
        return tuner_id
    for variable in _INDEX_VARIABLES:
        if index := environment.get(variable):
            return f"tuner{index}"
    raise UserError(
        "--role=worker: which one is this? Give --worker_id, the same whenever it is started again, or set "
        f"KERASTUNER_TUNER_ID; {' and '.join(_INDEX_VARIABLES)} are not set either"
    )
