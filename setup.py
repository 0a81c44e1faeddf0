"""Package metadata and requirements. In setup.py rather than pyproject.toml, because Dataflow packs the project by it.

`install_requires` is what a Beam worker imports: workers install the package without extras. The lower bounds have
wheels for every supported Python.
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent

PACKAGES = ["sostenuto", "beam_preprocess", "trainer", "tuning", "play", "demo"]


def version() -> str:
    """Reads the version from sostenuto/__init__.py without importing it: its requirements may not be installed yet."""
    source = (HERE / "sostenuto" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('sostenuto/__init__.py has no line __version__ = "..."')
    return match.group(1)


def description() -> str:
    """Returns README.md without pictures and without links to files of the repository, which a package index lacks."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^]]*\]\([^)]*\)\n*", "", text)
    return re.sub(r"\[([^]]*)\]\((?!https?://)[^)]*\)", r"\1", text)


class BuildPackages(build_py):
    """Copies the packages into an empty build/lib: setuptools would ship files that an earlier build left there."""

    def run(self) -> None:
        """Builds the packages."""
        if self.build_lib == os.path.join("build", "lib"):
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


BEAM_VERSIONS = ">=2.77,<3"
TENSORFLOW_VERSIONS = ">=2.21,<3"

BEAM = [f"apache-beam{BEAM_VERSIONS}", "grpcio>=1.66.2"]
TRAIN = [
    f"tensorflow{TENSORFLOW_VERSIONS}",
    "jinja2>=3.1.4",
    "keras>=3.15.1,<4",
    "markupsafe>=2.1.5",
    "matplotlib>=3.9.2",
    "midirenderer>=0.1.3",
    "scipy>=1.14.1",
    "soundfile>=0.13",
    "tensorboard>=2.20",
]

# Each extra is enough for the commands that it is named after.
EXTRAS = {
    "beam": BEAM,
    # The project is packed for workers with setuptools, and a --setup_file of one's own with build.
    "gcp": [f"apache-beam[gcp]{BEAM_VERSIONS}", "build>=1.2", "setuptools>=77"],
    # Older clients report a lost scheduler in another way.
    "dask": [*BEAM, f"apache-beam[dask]{BEAM_VERSIONS}", "distributed>=2026.8"],
    "train": TRAIN,
    "gpu": [*TRAIN, f"tensorflow[and-cuda]{TENSORFLOW_VERSIONS}"],
    # keras-tuner is bounded below 1.5, since our oracles use methods that it does not promise to keep. It imports
    # tensorboard without declaring it.
    "tune": [
        *TRAIN,
        "grpcio>=1.66.2",
        "keras-tuner>=1.4.8,<1.5",
        "pyyaml>=6.0.2",
        "scikit-learn>=1.5.2",
        "threadpoolctl>=3.5",
    ],
    "play": [*TRAIN, "aiohttp>=3.12", "mido>=1.3.3", "python-rtmidi>=1.5.8", "yarl>=1.18"],
    "inspect": ["matplotlib>=3.9.2"],
    "demo": [*BEAM, *TRAIN, "music21>=10.5"],
}
EXTRAS["all"] = sorted({requirement for name, extra in EXTRAS.items() if name != "gpu" for requirement in extra})

setup(
    name="sostenuto",
    version=version(),
    description="Turns a corpus of piano MIDI into a trained next-note model.",
    long_description=description(),
    long_description_content_type="text/markdown",
    author="The Sostenuto Authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["apache-beam", "lstm", "midi", "music generation", "piano", "tensorflow"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=[pattern for package in PACKAGES for pattern in (package, f"{package}.*")]),
    # All files of the packages that are no modules, such as py.typed and templates.
    package_data={"": ["**/*"]},
    exclude_package_data={"": ["*.py", "*.pyc"]},
    cmdclass={"build_py": BuildPackages},
    entry_points={"console_scripts": ["sostenuto = sostenuto.cli.main:main"]},
    install_requires=[
        "absl-py>=2",
        "google-api-core>=2.20",
        "google-auth>=2.35",
        "google-cloud-storage>=3",
        "google-crc32c>=1.7",
        "numpy>=2.1",
        "pretty_midi>=0.2.11.post0",
        "protobuf>=5",
        "requests>=2.32",
        "symusic>=0.6.0",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Artistic Software",
        "Topic :: Multimedia :: Sound/Audio :: MIDI",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
