import pytest

from tests.factories import MAESTRO_CSV, MAESTRO_FILES, write_files


@pytest.fixture
def maestro(tmp_path):
    return write_files(
        tmp_path / "in" / "maestro-v9.0.0", {**MAESTRO_FILES, "maestro-v9.0.0.csv": MAESTRO_CSV.encode()}
    )
