"""A stub of the server for each test, and one browser."""

import pytest

from tests.play.page.browser import PlayPage
from tests.play.page.stub import stub_server
from tests.trainer.browser import CHROMIUM, browser


@pytest.fixture
def stub():
    with stub_server() as server:
        yield server


@pytest.fixture(scope="session")
def _browser(tmp_path_factory):
    assert CHROMIUM is not None, "Install chromium"
    with browser(tmp_path_factory.mktemp("profile"), PlayPage) as page:
        yield page


@pytest.fixture
def empty_page(_browser, stub):
    """A window on an empty page; at the end, nothing may have been logged or asked of another host."""
    page = _browser
    page.desk()
    page.errors.clear()
    page.requests.clear()
    yield page
    page.open_url("about:blank")
    assert page.errors == []
    own = (stub.url, stub.url.replace("http", "ws"), "about:", f"blob:{stub.url}")
    assert [url for url in page.requests if not url.startswith(own)] == []


@pytest.fixture
def page(empty_page, stub):
    """The page, connected and with its sounds."""
    empty_page.open_url(stub.url)
    empty_page.wait("sostenuto.state == 'ready'")
    return empty_page
