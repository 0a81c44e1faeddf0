import pytest

from sostenuto.errors import UserError
from tuning.roles import ALONE_ID, Role, resolve_role

AT = "chief.example:8000"
KERAS_TUNER = {"KERASTUNER_ORACLE_IP": "10.0.0.7", "KERASTUNER_ORACLE_PORT": "8000"}


def test_without_a_word_one_process_does_everything():
    assert resolve_role(None, None, None, {}) == Role("alone", worker=ALONE_ID)


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        (("chief", AT, None), {}, Role("chief", AT)),
        (("worker", AT, "left"), {}, Role("worker", AT, "left")),
        (("worker", "[::1]:80", "left"), {}, Role("worker", "[::1]:80", "left")),
        ((None, None, None), {"KERASTUNER_TUNER_ID": "chief", **KERAS_TUNER}, Role("chief", "10.0.0.7:8000")),
        (
            (None, None, None),
            {"KERASTUNER_TUNER_ID": "tuner3", **KERAS_TUNER},
            Role("worker", "10.0.0.7:8000", "tuner3"),
        ),
        (("worker", AT, None), {"JOB_COMPLETION_INDEX": "0"}, Role("worker", AT, "tuner0")),
        (("worker", AT, None), {"SLURM_PROCID": "11"}, Role("worker", AT, "tuner11")),
    ],
)
def test_flags_or_variables_say_who_this_is(flags, environment, expected):
    assert resolve_role(*flags, environment) == expected


def test_flags_come_before_variables():
    environment = {"KERASTUNER_TUNER_ID": "chief", "JOB_COMPLETION_INDEX": "2", **KERAS_TUNER}
    assert resolve_role("worker", AT, "left", environment) == Role("worker", AT, "left")
    # KerasTuner's own id before a pod's index, which several Jobs may share.
    environment["KERASTUNER_TUNER_ID"] = "tuner5"
    assert resolve_role(None, AT, None, environment) == Role("worker", AT, "tuner5")


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ((None, AT, None), {}, "--chief_address=chief.example:8000: --role is missing"),
        ((None, None, "left"), {}, "--worker_id=left: --role is missing"),
        (("chief", None, None), {}, "--role=chief: the chief's address is missing. Pass --chief_address=HOST:PORT"),
        (("worker", None, "left"), {}, "--role=worker: the chief's address is missing. Pass --chief_address=HOST:PORT"),
        (("worker", AT, None), {}, "the worker's id is missing. Pass --worker_id"),
        (("chief", AT, "left"), {}, "--worker_id=left: only workers have an id"),
        (("worker", None, "left"), {"KERASTUNER_ORACLE_IP": "10.0.0.7"}, "got 10.0.0.7 and no port"),
        (("worker", None, "left"), {"KERASTUNER_ORACLE_PORT": "8000"}, "got no host and 8000"),
        (("worker", None, "left"), {**KERAS_TUNER, "KERASTUNER_ORACLE_PORT": "http"}, "KERASTUNER_ORACLE_PORT=http"),
        *(
            (("worker", address, "left"), {}, f"--chief_address={address}: expected HOST:PORT")
            for address in ("localhost", ":8000", "localhost:", "localhost:0", "localhost:65536", "localhost:-1")
        ),
    ],
)
def test_what_does_not_suffice_is_refused_in_a_line(flags, environment, expected):
    with pytest.raises(UserError) as error:
        resolve_role(*flags, environment)
    (line,) = str(error.value).splitlines()
    assert expected in line
