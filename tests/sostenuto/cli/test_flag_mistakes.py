"""A mistake in a flag is answered in one line that names the flag, what was expected and what is nearest."""

import shlex

import pytest

from sostenuto.cli import suggestions
from tests.processes import run_python


def mistake(module: str, *arguments: str) -> str:
    """Returns the line that a command prints for a mistake, without its own name."""
    process = run_python("-m", module, *arguments)
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"{module}: ")
    return line.removeprefix(f"{module}: ")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr", "learning_rate"),
        ("batchsize", "batch_size"),
        ("batch-size", "batch_size"),
        ("batch", "batch_size"),
        ("unit", "units"),
        ("logdir", "workdir"),
        ("epoch", "epochs"),
        ("num_epochs", "epochs"),
        ("Units", "units"),
        ("zzz", None),
        ("x", None),
    ],
)
def test_the_nearest_flag_is_found(given, meant):
    known = ["learning_rate", "batch_size", "units", "workdir", "data", "epochs", "steps", "log_every"]
    assert suggestions.nearest_name(given, known) == meant


def test_a_foreign_name_is_suggested_only_where_the_command_has_the_flag():
    assert suggestions.nearest_name("lr", ["workdir"]) is None


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--lr=0.1"], "--lr: unknown flag. Did you mean --learning_rate?"),
        (["--no-quiet"], "--no-quiet: unknown flag. Did you mean --noquiet?"),
        (["--zzz"], "--zzz: unknown flag. See --help"),
        (["--preset=bass"], "--preset: expected one of base, large, tutorial, got 'bass'. Did you mean base?"),
        (["--preset=zzz"], "--preset: expected one of base, large, tutorial, got 'zzz'"),
        (["--units=abc"], "--units: expected a whole number, got 'abc'"),
        (["--units=1.5"], "--units: expected a whole number, got '1.5'"),
        (["--units="], "--units: expected a whole number, got ''"),
        (["--learning_rate=a=b: c"], "--learning_rate: expected a number, got 'a=b: c'"),
        (["--worker_index=-1"], "--worker_index: expected a whole number of at least 0, got '-1'"),
        (["--quiet=maybe"], "--quiet: expected true or false, got 'maybe'"),
        (["--noquiet=1"], "--noquiet: expected no value, got '1'"),
        (["--quiet", "false"], "--quiet: takes no separate value. Expected --quiet or --noquiet"),
        (["--units"], "--units: has no value. Expected --units=N"),
        (["--data", "--workdir=x"], "--data: has no value. Expected --data=DIR"),
        (["--learning_rate=nan"], "--learning_rate: expected a finite number, got 'nan'"),
        (["--max_minutes=inf"], "--max_minutes: expected a finite number, got 'inf'"),
        (["data"], "unexpected argument 'data'. Every option is a flag, see --help"),
        (
            ["--units=2"],
            "--data and --workdir are missing. Example: python -m trainer --data=dataset --workdir=run",
        ),
        (["--data=x", "--workdir="], "--workdir is missing. Example: python -m trainer --data=dataset --workdir=run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_names_the_flag_and_the_remedy(arguments, line):
    assert mistake("trainer", *arguments) == line


def test_the_last_value_of_a_repeated_flag_counts():
    assert "'3x'" in mistake("trainer", "--units=2", "--units=3x")
    assert mistake("trainer", "--data=first", "--data=second", "--workdir=x").startswith("second: ")


@pytest.mark.parametrize("flag", ["--temperature", "--top_p"])
def test_an_unknown_field_is_named(flag):
    line = mistake("trainer.generate", "--workdir=x", "--output=y", f"{flag}=0.9,picth=1")
    assert line == (
        f"{flag}=0.9,picth=1: unknown field 'picth', expected one of pitch, step, duration, velocity. "
        "Did you mean pitch?"
    )


# Beam's options


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--direct_num_workers=2"], "--direct_num_workers=2"),
        (["--runner", "DirectRunner", "--num_workers=3"], "--runner DirectRunner --num_workers=3"),
    ],
)
def test_an_option_of_beam_is_shown_behind_the_dashes(options, shown):
    name = options[0].partition("=")[0]
    line = mistake("beam_preprocess", "--input=a b", *options, "--output=o", "--", "--project=p")
    assert line == (
        f"{name}: an option of Beam. Put Beam's options after --: "
        f"python -m beam_preprocess '--input=a b' --output=o -- {shown} --project=p"
    )
    corrected = shlex.split(line.partition("after --: ")[2])
    assert corrected[:3] == ["python", "-m", "beam_preprocess"]
    # It parses: what is wrong now is the input.
    process = run_python(*corrected[1:])
    assert process.returncode == 2
    assert "a b: no such directory" in process.stderr


def test_beam_is_not_loaded_for_a_mistyped_flag_of_ours():
    program = """
import runpy, sys
sys.argv = ["program", "--inptu=x"]
try: runpy.run_module("beam_preprocess", run_name="__main__", alter_sys=True)
except SystemExit as ended: print(ended.code, "apache_beam" in sys.modules)
"""
    process = run_python("-c", program)
    assert process.stdout == "2 False\n"
    assert "Did you mean --input?" in process.stderr


# Paths that are elsewhere

PATHS = [
    ("beam_preprocess", "input", ["--output=o"]),
    ("beam_preprocess", "output", ["--input=i"]),
    ("beam_preprocess", "metadata", ["--input=i", "--output=o"]),
    ("trainer", "data", ["--workdir=w"]),
    ("trainer", "workdir", ["--data=d"]),
    ("trainer", "config", ["--data=d", "--workdir=w"]),
    ("trainer.evaluate", "output", ["--workdir=w", "--data=d"]),
    ("trainer.generate", "primer", ["--workdir=w", "--output=o"]),
    ("trainer.report", "compare_with", ["--workdir=w"]),
    ("tuning", "space", ["--data=d", "--workdir=w"]),
    ("sostenuto.inspect", "csv", ["dataset"]),
    ("demo", "corpus", []),
    ("demo", "work", []),
]


@pytest.mark.parametrize(("module", "flag", "others"), PATHS, ids=lambda value: str(value))
def test_a_uri_of_another_store_is_rejected(module, flag, others):
    line = mistake(module, *others, f"--{flag}=s3://bucket/x")
    assert line.startswith(f"--{flag}=s3://bucket/x: s3:// is not supported here. Copy ")


def test_a_uri_is_rejected_as_an_operand_too():
    assert mistake("sostenuto.inspect", "hdfs://host/x.mid").startswith(
        "hdfs://host/x.mid: hdfs:// is not supported here."
    )


def test_the_demo_works_on_this_machine_only():
    line = mistake("demo", "--work=gs://bucket/demo")
    assert line == ("--work=gs://bucket/demo: gs:// is not supported here. Copy the files to a local directory first")
