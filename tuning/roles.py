"""Role of this process in a study: chief, worker, or both in one."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from sostenuto.errors import UserError

ALONE_ID = "tuner0"

# Indices of equal processes in Kubernetes' Indexed Jobs and in Slurm.
_INDEX_VARIABLES = ("JOB_COMPLETION_INDEX", "SLURM_PROCID")


@dataclasses.dataclass(frozen=True)
class Role:
    """Role of a process in a study; `alone` is both."""

    name: Literal["chief", "worker", "alone"]
    address: str = ""  # the chief's HOST:PORT; empty for `alone`
    worker: str = ""  # the worker's id, which a restart does not change; empty for the chief


def resolve_role(
    role: str | None, chief_address: str | None, worker_id: str | None, environment: Mapping[str, str]
) -> Role:
    """Returns this process's role from flags and environment; flags take precedence.

    Raises a UserError if they contradict each other or are incomplete. KerasTuner's variables work too:
    KERASTUNER_TUNER_ID, a chief if it contains `chief`, and KERASTUNER_ORACLE_IP with KERASTUNER_ORACLE_PORT.
    """
    tuner_id = environment.get("KERASTUNER_TUNER_ID", "")
    if role is None and tuner_id:
        role = "chief" if "chief" in tuner_id else "worker"
    if role is None:
        for name, value in (("chief_address", chief_address), ("worker_id", worker_id)):
            if value:
                raise UserError(f"--{name}={value}: --role is missing. Pass --role=chief or --role=worker too")
        return Role("alone", worker=ALONE_ID)
    address = _address(role, chief_address, environment)
    if role == "chief":
        if worker_id:
            raise UserError(f"--worker_id={worker_id}: only workers have an id, got --role=chief. Remove it")
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
                f"--role={role}: the chief's address is missing. Pass --chief_address=HOST:PORT, or set "
                "KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT"
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
        "--role=worker: the worker's id is missing. Pass --worker_id, the same after a restart, or set "
        f"KERASTUNER_TUNER_ID, {' or '.join(_INDEX_VARIABLES)}"
    )
