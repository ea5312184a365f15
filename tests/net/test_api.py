"""API questions: retries, redirects, pacing, decoding; without sockets and without waiting."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fetcher.config import Settings
from fetcher.errors import DeniedError, FetcherError, ForbiddenError, RateLimitedError, TransportError
from fetcher.model.secret import Secret
from fetcher.net.api import ApiClient, Found, Refused
from fetcher.net.request import Request
from tests.net.fakes import FakeTime, FakeTransport, Script, answer

URL = "https://hub.example/api/models/a?sig=secret"
REQUEST = Request("GET", URL, credential=Secret("hf_x"), credential_origin="https://hub.example:443", purpose="api")


class Shape(msgspec.Struct):
    name: str
    more: Any = None


def refusal(refused: Refused) -> FetcherError:
    return DeniedError(f"refused {refused.status} {refused.body.decode()}")


def client(transport: FakeTransport, clock: FakeTime) -> ApiClient:
    settings = Settings(cache_dir=Path("/unused"), state_dir=Path("/unused"))
    return ApiClient(transport, settings, clock, random.Random(1), clock.sleep, unix_clock=lambda: 0.0)


def ask(*script: Any, clock: FakeTime | None = None, **more: Any) -> tuple[Any, FakeTransport, FakeTime]:
    """The answer or the error, and what it took."""
    transport, clock = FakeTransport(*script), clock or FakeTime()

    async def main() -> Any:
        try:
            return await client(transport, clock).get_json(REQUEST, Shape, refusal=refusal, **more)
        except FetcherError as error:
            return error

    result = asyncio.run(main())
    assert all(response.ended for response in transport.answers), "an answer was left open"
    return result, transport, clock


GOOD = answer(200, b'{"name":"a","unknown":[1]}', Link="<x>")


def test_a_good_answer_at_once() -> None:
    found, transport, clock = ask(GOOD)
    assert isinstance(found, Found)
    assert found.value.name == "a" and found.headers["link"] == "<x>"
    assert len(transport.asked) == 1 and not clock.slept
    assert transport.answers[0].ended == "released"


@pytest.mark.parametrize(
    "bad",
    [
        answer(500),
        answer(502),
        answer(503),
        answer(429),
        TransportError("reset"),
        answer(200, fails=TransportError("cut")),
        answer(200, b"<html>sign in</html>"),
        answer(200, b'{"name":"a'),
        answer(200, b'{"name":7}'),
        answer(200, b'[{"name":"a"}]'),
        answer(200, b'{"more":' + b"[" * 100_000),
        answer(200, b'{"name":"\xff"}'),
        answer(200, b""),
    ],
    ids=repr,
)
def test_what_may_be_better_next_time_is_tried_again(bad: Any) -> None:
    found, transport, clock = ask(bad, bad, GOOD)
    assert isinstance(found, Found), found
    assert len(transport.asked) == 3 and len(clock.slept) == 2
    assert all(0.2 <= pause <= 0.8 for pause in clock.slept)


def test_it_gives_up_after_ten_tries() -> None:
    error, transport, _ = ask(answer(503))
    assert isinstance(error, TransportError) and "503 in the last of 10 tries" in error.message
    assert len(transport.asked) == 10
    assert "secret" not in str(error)


def test_it_gives_up_after_the_time() -> None:
    clock = FakeTime()

    def slow(request: Request) -> FetcherError:
        clock.now += 50
        return TransportError("https://hub.example: reset")

    error, transport, _ = ask(slow, clock=clock)
    assert isinstance(error, TransportError) and "after 3 tries in 15" in error.message
    assert len(transport.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_a_final_refusal_is_the_origins_to_word(status: int) -> None:
    error, transport, _ = ask(answer(status, b"why"))
    assert isinstance(error, DeniedError) and error.message == f"refused {status} why"
    assert len(transport.asked) == 1


def test_a_refusal_that_is_a_transport_error_is_final_too() -> None:
    transport, clock = FakeTransport(answer(418)), FakeTime()

    async def main() -> None:
        with pytest.raises(TransportError, match="odd"):
            await client(transport, clock).get_json(REQUEST, Shape, refusal=lambda refused: TransportError("odd"))

    asyncio.run(main())
    assert len(transport.asked) == 1


def test_a_refusal_whose_text_breaks_off_is_still_one() -> None:
    error, _, _ = ask(answer(403, fails=TransportError("cut")))
    assert isinstance(error, DeniedError)


def test_our_own_refusals_are_final() -> None:
    error, transport, _ = ask(ForbiddenError("guard"))
    assert isinstance(error, ForbiddenError) and len(transport.asked) == 1
    error, transport, _ = ask(answer(200, b"x" * 100), bytes_max=99)
    assert isinstance(error, ForbiddenError) and len(transport.asked) == 1


# --- waiting as asked


def test_retry_after_is_obeyed() -> None:
    found, _, clock = ask(answer(429, Retry_After="30"), GOOD)
    assert isinstance(found, Found)
    assert 30 <= clock.slept[0] <= 30.2


def test_a_used_up_rate_limit_beats_retry_after_and_is_waited_once() -> None:
    found, transport, clock = ask(answer(429, RateLimit='"api";r=0;t=20', Retry_After="1"), GOOD)
    assert isinstance(found, Found)
    assert 21 <= sum(clock.slept) <= 22.5 and len(transport.asked) == 2


def test_a_longer_wish_is_rate_limited() -> None:
    for bad in (answer(429, Retry_After="121"), answer(429, RateLimit='"api";r=0;t=200')):
        error, transport, clock = ask(bad)
        assert isinstance(error, RateLimitedError) and error.exit_code == 23
        assert len(transport.asked) == 1 and not clock.slept


def test_wishes_add_up() -> None:
    error, transport, clock = ask(answer(429, Retry_After="50"))
    assert isinstance(error, RateLimitedError)
    assert len(transport.asked) == 3 and sum(clock.slept) < 101


def test_a_429_without_a_word_ends_as_rate_limited() -> None:
    error, transport, _ = ask(answer(429))
    assert isinstance(error, RateLimitedError) and len(transport.asked) == 10


def test_it_waits_before_the_quota_is_used_up() -> None:
    transport, clock = FakeTransport(answer(200, b'{"name":"a"}', RateLimit='"api";r=0;t=20')), FakeTime()

    async def main() -> None:
        made = client(transport, clock)
        await made.get_json(REQUEST, Shape, refusal=refusal)
        assert not clock.slept
        await made.get_json(REQUEST, Shape, refusal=refusal)
        assert sum(clock.slept) == pytest.approx(21)

    asyncio.run(main())


def test_a_quota_that_comes_back_too_late_is_an_error_without_a_request() -> None:
    transport, clock = FakeTransport(answer(200, b'{"name":"a"}', RateLimit='"api";r=0;t=290')), FakeTime()

    async def main() -> None:
        made = client(transport, clock)
        await made.get_json(REQUEST, Shape, refusal=refusal)
        with pytest.raises(RateLimitedError):
            await made.get_json(REQUEST, Shape, refusal=refusal)

    asyncio.run(main())
    assert len(transport.asked) == 1


# --- redirects


def redirecting(*targets: str) -> Script:
    """A chain of redirects, then a good answer."""
    left = list(targets)

    def reply(request: Request) -> Any:
        return answer(307, b"", Location=left.pop(0)) if left else GOOD

    return reply


def test_redirects_are_followed_by_hand_and_keep_the_token_at_home() -> None:
    found, transport, _ = ask(redirecting("/new?x=%27", "https://other.example/y"))
    assert isinstance(found, Found) and found.url == "https://other.example/y"
    assert [request.url for request in transport.asked[1:]] == [
        "https://hub.example/new?x=%27",
        "https://other.example/y",
    ]
    assert [request.carried_credential is not None for request in transport.asked] == [True, True, False]


def test_five_redirects_are_followed_and_six_are_not() -> None:
    found, _, _ = ask(redirecting(*["/x"] * 5))
    assert isinstance(found, Found)
    error, transport, _ = ask(answer(302, b"", Location="/x"))
    assert isinstance(error, TransportError) and "redirects in a row" in error.message
    assert len(transport.asked) == 60


def is_question(url: str) -> bool:
    return "/resolve/" in url


def permission(*script: Any) -> tuple[FetcherError | None, list[str]]:
    """The refusal, or None for a yes, and the URLs that were asked for it."""
    transport, clock = FakeTransport(*script), FakeTime()

    async def main() -> FetcherError | None:
        try:
            await client(transport, clock).may(REQUEST, refusal=refusal, undecided=is_question)
        except FetcherError as error:
            return error
        return None

    error = asyncio.run(main())
    assert all(response.ended for response in transport.answers), "an answer was left open"
    return error, [request.url for request in transport.asked]


UNREADABLE = TransportError("the body was read although nobody needs it")
AWAY = answer(302, fails=UNREADABLE, Location="https://cdn.example/signed")


@pytest.mark.parametrize("yes", [answer(200, fails=UNREADABLE), answer(206, fails=UNREADABLE), AWAY], ids=repr)
def test_permission_is_a_success_or_a_redirect_to_another_origin(yes: Any) -> None:
    assert permission(yes) == (None, [URL])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_no_permission(status: int) -> None:
    error, asked = permission(answer(status, b"why"))
    assert isinstance(error, DeniedError) and asked == [URL]


def test_a_redirect_within_the_origin_is_no_permission_yet() -> None:
    """A renamed repo is redirected before anybody looks at the token."""
    here = answer(307, b"", Location="/new")
    for last, allowed in ((answer(403), False), (answer(401), False), (answer(200), True), (AWAY, True)):
        error, asked = permission(here, last)
        assert isinstance(error, DeniedError) is not allowed and (error is None) is allowed
        assert asked == [URL, "https://hub.example/new"]


def test_a_question_passed_on_to_another_origin_is_no_permission_yet() -> None:
    """Such as from plain http to https, or from a mirror to the Hub: there the token is not sent."""
    there = answer(308, b"", Location="https://twin.example/resolve/x")
    transport = FakeTransport(there, answer(401))

    async def main() -> None:
        with pytest.raises(DeniedError):
            await client(transport, FakeTime()).may(REQUEST, refusal=refusal, undecided=is_question)

    asyncio.run(main())
    assert [request.carried_credential is not None for request in transport.asked] == [True, False]
    assert permission(there, answer(200))[0] is None


def test_redirects_without_end_are_no_permission() -> None:
    error, _ = permission(answer(307, b"", Location="/x"))
    assert isinstance(error, TransportError) and "redirects in a row" in error.message


# --- many questions at once


@pytest.mark.parametrize("ends", ["answered", "fails", "cancelled"])
def test_no_more_than_sixteen_questions_are_under_way(ends: str) -> None:
    class Slow(FakeTransport):
        now = most = 0

        async def send(self, request: Request, **more: Any) -> Any:
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await asyncio.sleep(0.001)
                return await super().send(request, **more)
            finally:
                self.now -= 1

    transport = Slow(*[answer(404)] * (40 if ends == "fails" else 0), GOOD)

    async def main() -> None:
        made = client(transport, FakeTime())

        async def ask_all(count: int) -> list[Any]:
            questions = (made.get_json(REQUEST, Shape, refusal=refusal) for _ in range(count))
            return await asyncio.gather(*questions, return_exceptions=True)

        if ends == "cancelled":
            task = asyncio.create_task(ask_all(40))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            results = await ask_all(40)
            assert all(isinstance(result, DeniedError if ends == "fails" else Found) for result in results)
        # No place is lost: as many as before go at once, and all end.
        transport.most = 0
        assert all(isinstance(result, Found) for result in await asyncio.wait_for(ask_all(40), 5))
        assert transport.most == 16
        assert not made.pacer._in_flight

    asyncio.run(main())


def test_a_call_waits_for_its_own_questions_only() -> None:
    """Those of another call take all its places, and none of them is answered."""
    slow = Request("GET", "https://slow.example/x", purpose="api")

    async def main() -> None:
        answered = asyncio.Event()

        class Held(FakeTransport):
            now = 0

            async def send(self, request: Request, **more: Any) -> Any:
                if request.url == slow.url:
                    self.now += 1
                    await answered.wait()
                return await super().send(request, **more)

        transport = Held(GOOD)
        made = client(transport, FakeTime())

        async def call(request: Request) -> list[Any]:
            with made.own_places():
                return await asyncio.gather(*(made.get_json(request, Shape, refusal=refusal) for _ in range(20)))

        held = asyncio.create_task(call(slow))
        for _ in range(50):
            await asyncio.sleep(0)
        assert transport.now == 16, "it waits for its own"
        found = await asyncio.wait_for(call(REQUEST), 10)
        found.append(await asyncio.wait_for(made.get_json(REQUEST, Shape, refusal=refusal), 10))
        assert not held.done()
        answered.set()
        found += await held
        assert len(found) == 41 and all(isinstance(each, Found) for each in found)

    asyncio.run(main())


def test_the_places_of_a_call_are_those_of_one_client() -> None:
    """A call to another client begun inside, maybe for another loop, does not ask at them."""
    made, other = (client(FakeTransport(GOOD), FakeTime()) for _ in range(2))
    with made.own_places():
        assert made._places() is not made._shared
        assert other._places() is other._shared
    assert made._places() is made._shared


def test_whoever_waits_for_a_place_is_asked_again_whether_the_quota_allows_it() -> None:
    """Sixteen are under way when the first answer says that nothing is left: nobody else may go after them."""

    class Slow(FakeTransport):
        async def send(self, request: Request, **more: Any) -> Any:
            await asyncio.sleep(0.001)
            return await super().send(request, **more)

    transport, clock = Slow(answer(200, b'{"name":"a"}', RateLimit='"api";r=0;t=20')), FakeTime()
    asked_by: list[int] = []

    async def main() -> None:
        async def sleep(seconds: float) -> None:
            asked_by.append(len(transport.asked))
            await clock.sleep(seconds)

        settings = Settings(cache_dir=Path("/unused"), state_dir=Path("/unused"))
        made = ApiClient(transport, settings, clock, random.Random(1), sleep, unix_clock=lambda: 0.0)
        await asyncio.gather(*(made.get_json(REQUEST, Shape, refusal=refusal) for _ in range(17)))

    asyncio.run(main())
    assert len(transport.asked) == 17
    assert asked_by and asked_by[0] <= 16 and clock.slept[0] == pytest.approx(21)


def test_cancelled_in_the_middle_the_answer_is_closed() -> None:
    transport, clock = FakeTransport(GOOD), FakeTime()

    async def main() -> None:
        made = client(transport, clock)
        never = asyncio.Event()

        async def hang(bytes_max: int) -> bytes:
            await never.wait()
            return b""

        real = transport.send

        async def send(*arguments: Any, **more: Any) -> Any:
            response = await real(*arguments, **more)
            response.read_all = hang  # type: ignore[method-assign]
            return response

        transport.send = send  # type: ignore[method-assign]
        task = asyncio.create_task(made.get_json(REQUEST, Shape, refusal=refusal))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert transport.answers[0].ended == "aborted"
