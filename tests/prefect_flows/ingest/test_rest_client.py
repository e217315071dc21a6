"""A client of a REST API against a real server that answers well, badly, late, and not at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

import pytest
import requests
from dlt.sources.helpers.rest_client.paginators import HeaderLinkPaginator

from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.ingest.rest.client import ApiError, RetryPolicy, pages, rest_client
from prefect_flows.ingest.rest.responses import get_rate_limit
from tests.support.rest_apis import Answer, Api, Asked

SECRET = "made-up-secret"
SHORT = RetryPolicy(
    attempts=3, first_delay=0.01, timeout=(2, 0.3), longest_wait=3, limit_delay=0.01
)


class Numbers(Api):
    """Two pages of numbers."""

    def answer(self, asked: Asked) -> Answer:
        page = int(asked.query.get("page", 1))
        following = {"Link": f'<{self.url}/numbers?page=2>; rel="next"'} if page == 1 else {}
        return Answer({"items": [{"number": page}]}, headers=following)


@pytest.fixture(scope="module")
def server() -> Iterator[Numbers]:
    api = Numbers()
    with api.running():
        yield api


@pytest.fixture
def api(server: Numbers) -> Numbers:
    server.asked.clear()
    server.troubles.clear()
    return server


def read(api: Api, **options: Any) -> list[Any]:
    client = rest_client(
        api.url,
        paginator=HeaderLinkPaginator(),
        **{"secret": SECRET, "retry_policy": SHORT} | options,
    )
    return [row for page in pages(client, "/numbers", {"q": "a b"}, rows="items") for row in page]


BOTH = [{"number": 1}, {"number": 2}]


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Answer({"message": "boom"}, 500), "500 Internal Server Error: boom; try 2 of 3"),
        (Answer("<html>bad gateway</html>", 502, {"Content-Type": "text/html"}), "502 Bad Gateway"),
        (Answer({"message": "slow"}, 408), "408 Request Timeout: slow; try 2 of 3"),
        (Answer({"items": []}, delay=0.6), "no answer (2 s to connect, 0.3 s to go on); try 2"),
        (
            Answer({"items": []}, cut=5),
            "its answer was truncated (ChunkedEncodingError); try 2 of 3",
        ),
        (
            Answer('{"items": [{"num'),
            "its answer is not complete JSON (16 bytes of application/json)",
        ),
    ],
    ids=["500", "502 in HTML", "408", "timeout", "lost half way", "truncated"],
)
def test_what_may_pass_is_tried_again(api, caplog, trouble: Answer, said: str) -> None:
    api.troubles += [trouble, trouble]
    with caplog.at_level(logging.INFO):
        assert read(api) == BOTH
    assert len(api.asked) == 4
    assert said in caplog.text
    assert f"GET {api.url}/numbers: " in caplog.text
    assert SECRET not in caplog.text


def test_what_does_not_pass_in_time_may_pass_later(api) -> None:
    api.troubles += [Answer({"message": f"boom {SECRET}"}, 503)] * 3
    with pytest.raises(IngestionError) as error:
        read(api)
    assert "The API failed 3 times in a row, last error: 503" in str(error.value)
    assert "boom ***" in str(error.value)
    assert f"where: GET {api.url}/numbers\n" in str(error.value)
    assert error.value.retryable
    assert len(api.asked) == 3


def test_a_server_that_is_gone_may_come_back() -> None:
    gone = Numbers()
    with gone.running():
        pass
    with pytest.raises(IngestionError, match=r"no connection .*Connection refused") as error:
        read(gone)
    assert error.value.retryable


def test_a_name_that_nobody_knows_is_reported(server: Numbers) -> None:
    """Within dlt, which asks for pages while it handles the end of an iterator."""
    nowhere = Numbers()
    nowhere.url = "http://nowhere.invalid"
    try:
        next(iter(()))
    except StopIteration:
        with pytest.raises(
            IngestionError, match=r"no connection \(gaierror: \[Errno -\d\]"
        ) as error:
            read(nowhere)
    assert error.value.retryable


@pytest.mark.parametrize(
    "limit",
    [
        lambda: Answer({}, 429, {"Retry-After": "1"}),
        lambda: Answer(
            {}, 429, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=2))}
        ),
        lambda: Answer(
            {"message": "API rate limit exceeded for 10.0.0.1."},
            403,
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()))},
        ),
        lambda: Answer({}, 503, {"Retry-After": "1"}),
    ],
    ids=["seconds", "date", "GitHub", "503"],
)
def test_a_rate_limit_is_waited_for(api, limit) -> None:
    api.troubles.append(limit())
    begin = time.monotonic()
    assert read(api) == BOTH
    assert 0.4 < time.monotonic() - begin < 30
    assert len(api.asked) == 3


@pytest.mark.parametrize(
    "body",
    [
        {"documentation_url": "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api"},
        {"error": {"code": 403, "errors": [{"reason": "rateLimitExceeded"}]}},
    ],
    ids=["GitHub's secondary limit", "Google's limit of a minute"],
)
def test_a_limit_that_does_not_say_how_long_is_waited_for_too(api, body: dict) -> None:
    api.troubles += [Answer(body, 403)] * 5
    assert read(api) == BOTH, "more often than a fault is tried again"


def test_a_limit_longer_than_the_patience_says_until_when(api) -> None:
    reset = int(time.time()) + 3600
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset)}
    api.troubles.append(Answer({"message": "API rate limit exceeded"}, 403, headers))
    begin = time.monotonic()
    with pytest.raises(IngestionError) as error:
        read(api, access="a token allows more")
    until = datetime.fromtimestamp(reset + 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert str(error.value) == (
        "The API's rate limit is reached (403 Forbidden: API rate limit exceeded), until "
        f"{until}; a call waits no longer than 3 s.\n"
        f"  where: GET {api.url}/numbers\n"
        f"  fix:   run it again after {until}; a token allows more"
    )
    assert error.value.retryable
    assert time.monotonic() - begin < 30


def test_the_waits_of_a_call_are_bounded_together(api) -> None:
    api.troubles += [Answer({}, 429, {"Retry-After": "1"})] * 9
    with pytest.raises(IngestionError, match=r"waits no longer than 1\.5 s"):
        read(api, retry_policy=RetryPolicy(longest_wait=1.5))
    assert len(api.asked) == 2


@pytest.mark.parametrize(
    ("status", "body", "said", "fix"),
    [
        (401, {"message": f"Bad credentials: {SECRET}"}, "401 Unauthorized: Bad credentials: ***",
         "write a token"),
        (403, {"error": {"code": 403, "message": "<b>Not</b> yours", "errors": [
            {"reason": "forbidden"}]}}, "403 Forbidden: Not yours", "write a token"),
        (404, {"message": "Not Found"}, "404 Not Found: Not Found", "correct the parameters"),
        (422, {"message": "Validation Failed", "errors": [{"message": "no such language",
         "code": "invalid"}]},
         # The phrase is that of the server, which is Python's own here; 3.13 has another one.
         f"422 {HTTPStatus(422).phrase}: Validation Failed (no such language)",
         "correct the parameters"),
        (400, "no JSON at all", "400 Bad Request: no JSON at all", "correct the parameters"),
    ],
)  # fmt: skip
def test_a_refusal_shows_the_message_of_the_api_and_is_not_retried(
    api, status: int, body: Any, said: str, fix: str
) -> None:
    api.troubles.append(Answer(body, status))
    with pytest.raises(ApiError) as error:
        read(api, access="write a token")
    assert f"The API refuses the call: {said}\n" in str(error.value)
    assert f"fix:   {fix}" in str(error.value)
    assert not error.value.retryable
    assert error.value.status == status
    assert len(api.asked) == 1


def test_a_daily_quota_is_not_waited_for(api) -> None:
    body = {"error": {"code": 403, "message": "over", "errors": [{"reason": "quotaExceeded"}]}}
    for status in (403, 429):
        api.troubles.append(Answer(body, status))
        with pytest.raises(ApiError) as error:
            read(api)
        assert error.value.reason == "quotaExceeded"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"results": []}, "'items' is not a list of objects (the answer is fields results)"),
        ({"items": {"number": 1}}, "'items' is not a list of objects (the answer is fields items)"),
        ({"items": [1]}, "'items' is not a list of objects"),
        ([{"number": 1}], "'items' is not a list of objects (the answer is a list)"),
    ],
    ids=["gone", "no list", "no objects", "a list alone"],
)
def test_another_shape_is_not_an_empty_page(api, body: Any, fault: str) -> None:
    api.troubles.append(Answer(body))
    with pytest.raises(IngestionError) as error:
        read(api)
    assert f"The API returned an unexpected response: {fault}" in str(error.value)
    assert not error.value.retryable


def test_the_secret_goes_into_a_header_and_nowhere_else(api, caplog) -> None:
    with caplog.at_level(logging.DEBUG):
        read(api)
        read(api, secret_header="X-Goog-Api-Key")
        read(api, secret=None)
    headers = [asked.headers for asked in api.asked]
    assert [h.get("authorization") for h in headers[:2]] == [f"Bearer {SECRET}"] * 2
    assert [h.get("x-goog-api-key") for h in headers[2:4]] == [SECRET] * 2
    assert not any("authorization" in h or "x-goog-api-key" in h for h in headers[4:])
    assert not any(SECRET in str(asked.query) for asked in api.asked)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("way", ["link", "redirect"])
def test_the_secret_does_not_follow_to_another_address(api, way: str) -> None:
    other = Numbers()
    with other.running():
        api.troubles.append(
            Answer({"items": []}, headers={"Link": f'<{other.url}/numbers>; rel="next"'})
            if way == "link"
            else Answer({}, 302, {"Location": f"{other.url}/numbers"})
        )
        with pytest.raises(IngestionError, match="redirects to another host"):
            read(api, secret_header="X-Goog-Api-Key")
    assert other.asked == []


def test_a_redirect_on_the_same_address_is_followed(api) -> None:
    api.troubles.append(Answer("", 301, {"Location": "/numbers?moved=1"}))
    assert read(api) == BOTH
    assert api.asked[1].query == {"moved": "1"}
    assert api.asked[1].headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("secret", ["two words", "line\nbreak", "", "gehe\u00efm"])
def test_what_cannot_be_a_secret_is_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        rest_client("https://api.example.com", secret=secret, access="write another")
    assert "The secret is invalid" in str(error.value)
    assert not secret or secret not in str(error.value)


@pytest.mark.parametrize("address", ["", "api.example.com", "ftp://a", "https://u:pass@a.example"])
def test_an_address_must_be_one(address: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an http or https URL") as error:
        rest_client(address)
    assert "pass@" not in str(error.value)


def test_a_limit_of_the_past_is_over() -> None:
    response = requests.Response()
    response.status_code = 429
    response.headers["Retry-After"] = "Wed, 21 Oct 2015 07:28:00 GMT"
    limit = get_rate_limit(response, None, time.time())
    assert limit is not None
    assert limit.seconds == 0
