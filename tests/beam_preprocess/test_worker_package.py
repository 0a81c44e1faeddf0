import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from beam_preprocess import worker_package
from tests.processes import REPOSITORY

pytest.importorskip("google.cloud.dataflow_v1beta3", reason="Beam is installed without its parts for Google Cloud")

OPTIONS = ["--runner=DataflowRunner", "--project=p", "--region=europe-west4", "--temp_location=gs://bucket/temp"]

# What Beam gives its workers.
PACK = """
import os, shutil, sys
from apache_beam.runners.portability.stager import Stager
from beam_preprocess.beam_options import pipeline_options
kept = os.path.join(sys.argv[1], "kept")
os.mkdir(kept)
with pipeline_options(sys.argv[2:]) as options:
    for path, name, _ in Stager.extract_staging_tuple_iter(Stager.create_job_resources(options, sys.argv[1])):
        print(name, shutil.copy(path, kept))
"""


def files_of_packages(directory: Path) -> set[str]:
    """Returns the files that a Beam worker needs, below a directory."""
    files = [path for package in ("sostenuto", "beam_preprocess") for path in (directory / package).rglob("*")]
    return {str(path.relative_to(directory)) for path in files if path.is_file() and path.suffix != ".pyc"}


def test_an_installed_package_is_packed_for_workers(tmp_path):
    """Its setup.py is generated from the metadata of the installation."""
    installed = tmp_path / "installed"
    clone = worker_package.stage_package(str(tmp_path))
    subprocess.run([sys.executable, clone, "-q", "bdist_wheel"], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    zipfile.ZipFile(wheel).extractall(installed)
    process = subprocess.run(
        [sys.executable, "-c", PACK, str(tmp_path), *OPTIONS, "--experiments=disable_logging_submission_environment"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    (name, archive), (list_of_packages, _) = (line.split() for line in process.stdout.splitlines())
    assert re.fullmatch(r"sostenuto-[0-9.]+\.tar\.gz", name)
    assert list_of_packages == "extra_packages.txt"
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "packed", filter="data")
    (packed,) = (tmp_path / "packed").iterdir()
    assert files_of_packages(packed) == files_of_packages(installed)
    # All modules of all subpackages, and all other files.
    assert files_of_packages(packed) == files_of_packages(REPOSITORY)
    assert {"beam_preprocess/corpus/listing.py", "sostenuto/music/midi.py"} <= files_of_packages(packed)
    requires = set(importlib.metadata.PathDistribution(packed).requires)
    (own,) = importlib.metadata.distributions(name="sostenuto", path=[str(installed)])
    assert requires == {text for text in own.requires if "extra" not in text}
    assert any(text.startswith("google-cloud-storage") for text in requires)
