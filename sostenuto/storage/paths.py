"""Paths: local ones and gs://BUCKET/NAME, with forward slashes."""

import fnmatch
import os
import re
import uuid
from collections.abc import Iterable

from sostenuto.errors import UserError
from sostenuto.text import printable

StrPath = str | os.PathLike[str]

# The suffix of unfinished files. Files with it are ignored and may be deleted.
TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{12}$")

REMOTE = "gs://"
# The project that pays for requests to buckets of others; in the environment, so that child processes have it too.
_USER_PROJECT = "SOSTENUTO_GCS_USER_PROJECT"
_MISTYPED_REMOTE = re.compile(r"gs:[/\\]", re.IGNORECASE)
# At least two letters: "C:/" is a drive of Windows.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_REMEDIES = {
    "gs": "Copy the files to a local directory first",
    "file": "Remove file:// from the path",
    "http": "Download the files to a local directory first",
    "https": "Download the files to a local directory first",
}


def is_remote(path: StrPath) -> bool:
    """Returns whether a path is in a bucket."""
    return os.fspath(path).startswith(REMOTE)


def user_project() -> str | None:
    """Returns the Google Cloud project that pays for requests to buckets, if not the buckets' own."""
    return os.environ.get(_USER_PROJECT) or None


def set_user_project(project: str | None) -> None:
    """Sets the Google Cloud project that pays for this process's and its children's requests to buckets."""
    if project:
        os.environ[_USER_PROJECT] = project


def join(base: StrPath, *names: str) -> str:
    """Returns the path of a name below a directory, local or in a bucket."""
    if is_remote(base):
        return "/".join([os.fspath(base).rstrip("/"), *names])
    return os.path.join(os.fspath(base), *names)


def absolute(path: StrPath) -> str:
    """Returns a path that means the same in a process with another working directory."""
    return os.fspath(path) if is_remote(path) else os.path.abspath(local_path(path))


def local_path(path: StrPath) -> str:
    """Returns a local path as a string; raises UserError for a URI, such as s3://, or a mistyped gs://."""
    path = os.fspath(path)
    try:
        is_path = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_path = False
    if not is_path:
        raise UserError(f"{printable(path)}: not a path: it has a character that no file name may have")
    if _MISTYPED_REMOTE.match(path) and not is_remote(path):
        raise UserError(f"{path}: not a path in a bucket. Expected gs://BUCKET/PATH")
    if match := _SCHEME.match(path):
        scheme = match[1].lower()
        remedy = _REMEDIES.get(scheme, "Copy the files to a local directory or to gs:// first")
        raise UserError(f"{path}: {scheme}:// is not supported here. {remedy}")
    return path


def remote_path(path: StrPath) -> str:
    """Returns a path in a bucket as a string; raises UserError for a local one."""
    path = os.fspath(path)
    if not is_remote(path):
        raise UserError(f"{path}: not a path in a bucket. Expected gs://BUCKET/PATH")
    return path


def temporary_name(path: StrPath) -> str:
    """Returns a unique name in the directory of `path`, which `TEMPORARY` matches."""
    return f"{os.fspath(path)}.tmp-{uuid.uuid4().hex[:12]}"


def match_names(names: Iterable[str], pattern: str) -> list[str]:
    """Returns the paths that a glob pattern matches; ** stands for directories of any depth.

    A name that begins with a dot is matched only by a pattern that begins with one.
    """
    return [name for name in names if _matches(name.split("/"), pattern.split("/"))]


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Returns whether the parts of a path match those of a pattern."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (
            bool(parts) and not parts[0].startswith(".") and _matches(parts[1:], pattern)
        )
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
