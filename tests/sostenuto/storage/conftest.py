import pytest

from sostenuto.storage import gcs_client


@pytest.fixture
def quick_retries(monkeypatch):
    """As patient, but in small steps."""
    monkeypatch.setattr(gcs_client, "RETRY", gcs_client.RETRY.with_delay(initial=0.01, multiplier=1.2, maximum=0.05))
