"""Copies of the checkout as a fresh clone has it, with the changes of the working tree and without untracked files."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tracked_files() -> list[str]:
    """Returns the paths of the files that git tracks, except those that the working tree has deleted."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


def copy_tracked(directory: Path) -> Path:
    """Copies the tracked files into a new directory; returns the directory."""
    for name in tracked_files():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    return directory
