"""A workdir with everything that a page shows."""

import pytest

from tests.factories import comparison, evaluation, write_run, write_samples
from trainer.reporting.load import load_report
from trainer.reporting.page import render


@pytest.fixture(scope="module")
def full(dataset, tmp_path_factory):
    """A workdir with all that a page shows."""
    directory = tmp_path_factory.mktemp("runs") / "full"
    write_run(directory, dataset, evaluation_test=evaluation(), generated_test=comparison())
    write_samples(directory, dataset)
    return directory


@pytest.fixture(scope="module")
def text(full):
    return render(load_report(str(full)))
