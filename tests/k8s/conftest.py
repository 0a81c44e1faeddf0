"""The overlays as they are shipped, and as a user may edit them; and what the processes of pods need."""

import pytest

from tests.k8s.cluster import OVERLAYS, Object, edited, render
from tests.trainer.conftest import _own_cache, dataset  # noqa: F401

MANY = {"../../base/train": "../../base/train-many"}
JOBSETS = {"../../base/train": "../../jobset/train-many", "../../base/tune": "../../jobset/tune"}

# Kueue needs jobset/tune.
WITHOUT_KUEUE = ("spot", "gcs-fuse", "disruption-budget")
ALL = (*WITHOUT_KUEUE, "kueue")

VARIANTS: dict[str, tuple[str, dict]] = {
    **{overlay: (overlay, {}) for overlay in OVERLAYS},
    "local, many nodes": ("local", {"jobs": MANY}),
    "local, JobSets": ("local", {"jobs": JOBSETS}),
    "gke-l4, many nodes, components": ("gke-l4", {"jobs": MANY, "components": WITHOUT_KUEUE}),
    "gke-h100, JobSets, all components": ("gke-h100", {"jobs": JOBSETS, "components": ALL}),
}


@pytest.fixture(scope="session")
def renderings(tmp_path_factory) -> dict[str, list[Object]]:
    """The objects of each variant."""
    return {
        name: render(edited(tmp_path_factory.mktemp("variant"), overlay, **edits))
        for name, (overlay, edits) in VARIANTS.items()
    }
