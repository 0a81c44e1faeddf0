import pytest

from sostenuto.storage import gcs_retry


@pytest.fixture
def quick_retries(monkeypatch):
    """As patient, but in small steps."""
    monkeypatch.setattr(gcs_retry, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(gcs_retry, "LONGEST_PAUSE", 0.05)
