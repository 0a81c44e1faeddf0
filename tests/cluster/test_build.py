"""The cache of programs, with a Go that only writes files."""

import os
import stat

import pytest

from tests.cluster import build

_GO = """#!/bin/sh
case "$1" in
    list) echo "{source}" ;;
    build)
        while [ "$1" != -o ]; do shift; done
        touch "$2/program" "$2/server"
        {end}
        ;;
esac
"""


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Puts a Go on the PATH that ends a build with the command given."""
    source = tmp_path / "source"
    for part in ("crd/bases", "webhook"):
        (source / "config" / "components" / part).mkdir(parents=True)
        (source / "config" / "components" / part / "manifests.yaml").touch()
    path = tmp_path / "bin" / "go"
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SOSTENUTO_CLUSTER_CACHE", str(tmp_path / "cache"))

    def install(end: str) -> None:
        path.write_text(_GO.format(source=source, end=end))
        path.chmod(path.stat().st_mode | stat.S_IEXEC)

    return install


def test_a_build_that_ends_early_is_not_taken_for_whole(go):
    go(end="kill -9 $$")
    with pytest.raises(Exception, match="died with"):
        build.programs()
    assert not build.are_built()
    go(end="true")
    directory = build.programs()
    assert {path.name for path in directory.iterdir()} == {"program", "etcd", "manifests"}
    assert {path.name for path in directory.parent.iterdir()} == {"lock", directory.name}


def test_programs_are_built_once(go):
    go(end="true")
    directory = build.programs()
    go(end="exit 1")
    assert build.programs() == directory
