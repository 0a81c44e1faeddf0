import pytest

from tests.beam_preprocess.corpus_files import CSV, FILES
from tests.midi_files import write_corpus


@pytest.fixture
def maestro(tmp_path):
    return write_corpus(tmp_path / "in" / "maestro-v9.0.0", {**FILES, "maestro-v9.0.0.csv": CSV.encode()})
