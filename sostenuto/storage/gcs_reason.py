"""The reasons that Google Cloud Storage gives for its errors, in its own words."""

import json
import re
from typing import Any

import requests

_MAX_CHARACTERS = 1000
# The URL of an upload's session is a credential; others only hide the reason.
_URL = re.compile(r"( with url: | for url: |(?:GET|POST|PUT|DELETE) (?=https?:))\S+(: )?")


def reason(error: Any) -> str:
    """Returns the server's message for an error, or the cause of a failed connection, on one line without URLs."""
    cause = getattr(error, "cause", None) or error
    response = getattr(cause, "response", None)
    text = without_urls(cause)
    if isinstance(response, requests.Response):
        message = _message(response.text)
        text = message or f"{response.status_code} {response.reason}"
    text = " ".join(text.split())
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"


def without_urls(error: object) -> str:
    """Returns an error's text without the URLs of requests."""
    return _URL.sub("", str(error))


def _message(body: str) -> str:
    """Returns the message in the body of an error: JSON, JSON within JSON, or a text; empty for a page of HTML."""
    try:
        value = json.loads(body)
    except ValueError:
        return "" if body.lstrip().startswith("<") else body
    for key in ("error", "message"):
        if isinstance(value, dict) and key in value:
            value = value[key]
    if isinstance(value, dict) and value.get("errors"):
        value = value["errors"][0].get("message")
    if isinstance(value, str):
        return _message(value) if value.startswith("{") else value
    return ""
