"""The query of a presigned URL is a credential: over plain http it goes no farther than a token would."""

from __future__ import annotations

import pytest

from fetcher.config import Settings
from fetcher.credentials import for_s3
from fetcher.errors import ForbiddenError
from fetcher.model.s3 import S3
from fetcher.net.api import Found, Refused
from fetcher.net.request import Request, origin_of, redirected
from fetcher.origins.s3_memory import Memory
from fetcher.origins.s3_request import Requests
from tests.net.raw_server import body_reply, serving
from tests.net.wiring import IDLE_S, body_of, run, settings, transport

STRANGER = "198.51.100.7"
"""Of a block for documentation: nobody is there, and nothing is sent."""
SIGNED = "X-Amz-Signature=canary"


class Answered:
    """A redirect."""

    status = 302
    url = "https://host.example/file"

    def __init__(self, location: str) -> None:
        self.headers = {"Location": location}


def request_of(url: str, made: Settings) -> Request:
    """As the S3 origin asks for it, for an operator."""
    resource = S3.at(url)
    asker = for_s3(resource, "operator", made, {})
    requests = Requests(made.s3_endpoint, Memory())
    place = resource.locations[0].url
    return requests.request("GET", requests.bucket_of(place), place, asker)


@pytest.mark.parametrize("host", [STRANGER, "stranger.example"])
def test_it_is_not_sent_to_a_stranger_in_clear_text(host: str) -> None:
    async def lookup(_: str, __: int) -> list[str]:
        return [STRANGER]

    async def main() -> None:
        async with transport(allow_net=(), lookup=lookup) as made:
            request = request_of(f"http://{host}/file?{SIGNED}", settings(allow_net=()))
            assert SIGNED in request.url and not request.guarded
            with pytest.raises(ForbiddenError, match="plain http") as caught:
                await made.send(request, idle_timeout_s=IDLE_S)
            assert "canary" not in f"{caught.value!r} {caught.value.hint}"

    run(main)


def test_near_by_it_is() -> None:
    async def main() -> None:
        async with serving(body_reply(b"ok")) as server, transport(allow_net=()) as made:
            request = request_of(f"{server.origin}/file?{SIGNED}", settings(allow_net=()))
            assert await body_of(made, request) == b"ok"

    run(main)


def test_what_a_redirect_leads_to_has_a_query_of_its_own() -> None:
    request = Request("GET", f"https://host.example/file?{SIGNED}", secret_query=True)
    following = redirected(request, Answered("https://other.example/x?a=b"))
    assert following is not None and origin_of(following.url) != request.origin
    assert not following.secret_query and SIGNED not in following.url
    following = redirected(request, Answered("/elsewhere?a=b"))
    assert following is not None and following.secret_query


def test_answers_from_signed_urls_do_not_show_them() -> None:
    url, headers = f"https://host.example/file?{SIGNED}", {"Location": f"https://other.example/?{SIGNED}"}
    for answer in (Refused(403, url, headers, SIGNED.encode()), Found(b"x", headers, url)):
        assert "canary" not in repr(answer)
