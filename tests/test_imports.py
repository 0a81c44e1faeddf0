"""Who may import whom: a Beam worker never imports TensorFlow, a trainer never imports Beam."""

import ast
import re
from pathlib import Path

import pytest

from tests.processes import REPOSITORY, run_python

PACKAGES = [
    name for name in ("sostenuto", "beam_preprocess", "trainer", "tuning", "play") if (REPOSITORY / name).is_dir()
]

# What no module of a package may import, anywhere in its source.
FORBIDDEN = {
    "sostenuto": {"apache_beam", "tensorflow", "keras", "keras_tuner", "beam_preprocess", "trainer", "tuning", "play"},
    "beam_preprocess": {"tensorflow", "keras", "keras_tuner", "matplotlib", "trainer", "tuning", "play"},
    "trainer": {"apache_beam", "beam_preprocess", "keras_tuner", "tuning", "play"},
    "tuning": {"apache_beam", "beam_preprocess", "play"},
    "play": {"apache_beam", "beam_preprocess", "keras_tuner", "tuning", "matplotlib"},
}


def modules(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def imported(source: str) -> set[str]:
    """Returns the top-level packages that a source imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                found |= {alias.name.partition(".")[0] for alias in node.names}
            case ast.ImportFrom(level=0):
                found.add(node.module.partition(".")[0])
    return found


def test_imports_are_found_wherever_they_stand():
    assert imported("import os.path\ndef f():\n  from apache_beam.io import x\nfrom . import y") == {
        "os",
        "apache_beam",
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_no_source_imports_what_its_package_may_not(package):
    assert modules(package)
    wrong = {str(path): imported(path.read_text(encoding="utf-8")) & FORBIDDEN[package] for path in modules(package)}
    assert not {path: names for path, names in wrong.items() if names}


# Randomness with a generator and a seed of its own; all other names of these modules share the process's state.
SEEDED = {
    "random": {"Random"},
    "numpy.random": {"default_rng", "Generator", "Philox", "RandomState"},
    "tensorflow.random": {"Algorithm", "experimental", "stateless_uniform"},
    "keras.random": set(),
}
SHORT_NAMES = {"np": "numpy", "tf": "tensorflow"}


def shared_randomness(source: str) -> set[str]:
    """Returns what a source uses of the randomness that a whole process shares."""
    names = imported_modules(source)
    for node in ast.walk(ast.parse(source)):
        head, _, rest = ast.unparse(node).partition(".") if isinstance(node, ast.Attribute) else ("", "", "")
        module = SHORT_NAMES.get(head, head)
        if module in names and re.fullmatch(r"[\w.]+", rest):
            names.add(f"{module}.{rest}")
    shared = {
        name
        for name in names
        for module, allowed in SEEDED.items()
        if name.startswith(f"{module}.") and name.removeprefix(f"{module}.").partition(".")[0] not in allowed
    }
    return shared | {name for name in names if name.endswith(".set_random_seed")}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import random\nrandom.seed(0)", {"random.seed"}),
        ("from random import randint", {"random.randint"}),
        ("import numpy as np\nnp.random.normal(0, 1)", {"numpy.random.normal"}),
        ("import tensorflow as tf\ntf.random.uniform([2])", {"tensorflow.random.uniform"}),
        ("import keras\nkeras.utils.set_random_seed(0)", {"keras.utils.set_random_seed"}),
        ("import random\nrandom.Random(0).randint(1, 9)", set()),
        ("from trainer.data import random\nrandom.uniform_rows(0)", set()),
        ("import numpy as np\nrng = np.random.default_rng(0)", set()),
    ],
)
def test_shared_randomness_is_found_in_a_source(source, expected):
    assert shared_randomness(source) == expected


def test_no_module_uses_randomness_that_the_process_shares():
    """A thread of a library that draws from it, such as an upload's, would change the results."""
    paths = [path for package in (*PACKAGES, "demo") for path in modules(package)]
    wrong = {str(path): shared_randomness(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: names for path, names in wrong.items() if names} == {}


# TensorFlow takes the paths of these functions as patterns; `Checkpoint.read`, too.
READERS = re.compile(
    r"load_checkpoint|load_variable|list_variables|latest_checkpoint|checkpoint_exists|saved_model\.load|gfile"
    r"|tf\.io\.read_file|matching_files|TFRecordDataset|Checkpoint\([^)]*\)\.(?:read|restore)|\.load_weights"
)


def test_one_function_gives_paths_to_readers_of_tensorflow():
    """It gives them paths that are no patterns, whatever the user's paths look like."""
    found = {
        str(path.relative_to(REPOSITORY)): {match[0] for match in READERS.finditer(path.read_text(encoding="utf-8"))}
        for package in ("trainer", "tuning")
        for path in modules(package)
    }
    expected = {"trainer/checkpoints/manager.py": {"load_checkpoint", "Checkpoint(**groups).read"}}
    assert {path: names for path, names in found.items() if names} == expected


# The cached note table is the one place of trainer.data that reads and writes files.
PURE = [
    path
    for name in ("model", "data")
    for path in sorted((REPOSITORY / "trainer" / name).glob("*.py"))
    if path.name != "note_table.py"
]
STORAGE = ("sostenuto.storage", "sostenuto.data", "trainer.checkpoints", "trainer.workdir", "trainer.presets")


def imported_modules(source: str) -> set[str]:
    """Returns every module, or name in a module, that a source imports by its full name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom(level=0):
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", PURE, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_the_model_and_its_data_import_no_storage_and_no_checkpoints(path):
    names = imported_modules(path.read_text(encoding="utf-8"))
    assert not {name for name in names for package in STORAGE if f"{name}.".startswith(f"{package}.")}


def test_importing_the_model_loads_no_storage():
    process = run_python("-c", "import sys, trainer.model.next_note; print(*sys.modules)")
    assert process.returncode == 0, process.stderr
    loaded = process.stdout.splitlines()[-1].split()
    assert not {name for name in loaded for package in STORAGE if f"{name}.".startswith(f"{package}.")}


@pytest.mark.parametrize("package", [name for name in PACKAGES if name in ("sostenuto", "beam_preprocess", "trainer")])
def test_importing_everything_loads_no_stranger(package):
    """What other packages import for us counts too: a worker must not get TensorFlow by a detour."""
    names = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in modules(package)
        if path.name != "__main__.py"
    ]
    # Entry points define flags of the same names; each runs in a process of its own.
    program = f"""
import importlib, sys
from absl import flags
for name in {names!r}:
    importlib.import_module(name)
    for flag in list(flags.FLAGS):
        delattr(flags.FLAGS, flag)
print(*sys.modules)
"""
    process = run_python("-c", program)
    assert process.returncode == 0, process.stderr
    loaded = {name.partition(".")[0] for name in process.stdout.splitlines()[-1].split()}
    assert package in loaded
    assert not loaded & FORBIDDEN[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_no_function_with_the_name_of_a_module(package):
    """`from trainer import export` would give one or the other, depending on what was imported before."""
    stems = {path.stem for name in PACKAGES for path in modules(name)}
    program = f"import {package} as it; print(*[n for n in vars(it) if callable(vars(it)[n]) and n not in it.__all__])"
    process = run_python("-c", program)
    assert process.returncode == 0, process.stderr
    assert not set(process.stdout.split()) & stems


# The rooms of the trainer that a room may import, besides itself. The engine knows callbacks by their interface only.
ROOMS = {
    "data": {"config"},
    "model": {"config", "data"},
    "distribution": {"config"},
    "checkpoints": {"config", "presets"},
    "workdir": {"config", "presets", "model", "distribution", "checkpoints"},
    "evaluation": {"config", "presets", "data", "model", "workdir"},
    "generation": {"config", "presets", "data", "model", "workdir"},
    "engine": {"config", "data", "model", "distribution", "checkpoints", "workdir", "evaluation", "callbacks.base"},
    "reporting": {"config", "presets", "model.time_bins", "workdir", "evaluation", "generation"},
    "callbacks": {"config", "presets", "checkpoints", "engine", "export", "generation", "reporting", "workdir"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_trainer_imports_only_those_below_it(room):
    folder = REPOSITORY / "trainer" / room
    names = set().union(*(imported_modules(path.read_text(encoding="utf-8")) for path in folder.glob("*.py")))
    configs = {"config_fields", "model_config"} if "config" in ROOMS[room] else set()
    allowed = {f"trainer.{name}" for name in (*ROOMS[room], *configs, room)}
    below = {name for name in names if name.startswith("trainer.")}
    wrong = {name for name in below if not any(f"{name}.".startswith(f"{other}.") for other in allowed)}
    assert {name for name in wrong if (REPOSITORY / name.replace(".", "/")).with_suffix(".py").exists()} == set()


def test_the_engine_draws_no_pictures():
    paths = (REPOSITORY / "trainer" / "engine").glob("*.py")
    names = set().union(*(imported_modules(path.read_text(encoding="utf-8")) for path in paths))
    pictures = ("matplotlib", "sostenuto.music.plots", "sostenuto.music.audio", "sostenuto.html")
    assert not {name for name in names for other in pictures if f"{name}.".startswith(f"{other}.")}


def test_every_room_of_the_trainer_has_a_rule():
    assert {path.parent.name for path in (REPOSITORY / "trainer").glob("*/*.py")} == set(ROOMS)


def test_only_the_entry_points_know_flags():
    sources = {path: path.read_text(encoding="utf-8") for package in PACKAGES for path in modules(package)}
    # The flags that several entry points share.
    shared = (REPOSITORY / "sostenuto" / "cli", REPOSITORY / "trainer" / "generation" / "sampling_flags.py")
    libraries = {
        path: source
        for path, source in sources.items()
        if '__name__ == "__main__"' not in source and not any(map(path.is_relative_to, shared))
    }
    assert not [str(path) for path, source in libraries.items() if "absl" in imported(source)]
