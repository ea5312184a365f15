"""Rate budgets: what is read from the headers, and how fast one may ask."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.model.secret import Secret
from fetcher.net.pacing import BUDGETS_MAX, Pacer, wait_asked_s
from fetcher.net.request import Request
from fetcher.plan.pace import Announcement, RateBudget, parse_rate_limit

POLICY = '"fixed window";"resolvers";q=3000;w=300'


@pytest.mark.parametrize(
    ("limit", "policy", "expected"),
    [
        ('"resolvers";r=2998;t=172', POLICY, [Announcement("resolvers", 2998, 172.0, 3000, 300.0)]),
        ('"resolvers";r=2998;t=172', None, [Announcement("resolvers", 2998, 172.0)]),
        ('"api";r=0;t=9', POLICY, [Announcement("api", 0, 9.0)]),
        ('"a b" ; r=1 ; t=2', '"a b";q=3;w=4', [Announcement("a b", 1, 2.0, 3, 4.0)]),
        ("default;r=50;t=30", "default;q=100;w=60", [Announcement("default", 50, 30.0, 100, 60.0)]),
        ('"a";r=1;t=2, "b";r=3;t=4', None, [Announcement("a", 1, 2.0), Announcement("b", 3, 4.0)]),
        ('"a";r=1;t=2;pk=:abc:', None, [Announcement("a", 1, 2.0)]),
        ('"a";r=99999999999;t=1', None, [Announcement("a", 10**9, 1.0)]),
        (None, POLICY, []),
        ("", None, []),
        ("garbage", None, []),
        ('"a";r=-1;t=2', None, []),
        ('"a";r=x;t=2', None, []),
        ('"a";t=2', None, []),
        ('"a";r=1', None, []),
        ('"unclosed;r=1;t=2', None, [Announcement("unclosed", 1, 2.0)]),
        ("limit=100, remaining=50, reset=30", None, []),
        ("x" * 5000 + ";r=1;t=1", None, []),
    ],
)
def test_headers(limit: str | None, policy: str | None, expected: list[Announcement]) -> None:
    assert list(parse_rate_limit(limit, policy)) == expected


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_header_makes_it_stumble(limit: str, policy: str) -> None:
    for seen in parse_rate_limit(limit, policy):
        assert seen.remaining >= 0 and seen.reset_s >= 0


def seen(remaining: int, reset_s: float, quota: int | None = 100) -> Announcement:
    return Announcement("x", remaining, reset_s, quota)


GOLDEN = [
    # what was announced at second 0, then: now, requests sent since, delay
    ("nothing known", None, 0.0, 0, 0.0),
    ("plenty", seen(50, 60.0), 0.0, 0, 0.0),
    ("just above a tenth", seen(11, 60.0), 0.0, 0, 0.0),
    ("low, first one is free", seen(10, 60.0), 0.0, 0, 0.0),
    ("low, second one waits its share", seen(10, 60.0), 0.0, 1, 6.0),
    ("low, third one", seen(10, 60.0), 0.0, 2, 6.0 + 60.0 / 9),
    ("low, but time has passed", seen(10, 60.0), 6.0, 1, 0.0),
    ("one of two used, long before the window ends", seen(2, 300.0), 0.0, 1, 10.0),
    ("nothing left", seen(0, 60.0), 0.0, 0, 61.0),
    ("nothing left, later", seen(0, 60.0), 40.0, 0, 21.0),
    ("used up by ourselves", seen(1, 60.0), 0.0, 1, 61.0),
    ("a new window has begun", seen(0, 60.0), 60.0, 0, 0.0),
    ("no quota stated, few left", seen(5, 10.0, None), 0.0, 1, 2.0),
    ("no quota stated, six left", seen(6, 10.0, None), 0.0, 0, 0.0),
]


@pytest.mark.parametrize("row", GOLDEN, ids=[row[0] for row in GOLDEN])
def test_golden(row: tuple[str, Announcement | None, float, int, float]) -> None:
    _, announced, now, sent, delay_s = row
    budget = RateBudget()
    if announced is not None:
        budget.observe(announced, 0.0)
    for _ in range(sent):
        budget.take(0.0)
    assert budget.delay_s(now) == pytest.approx(delay_s)


def test_answers_out_of_order_do_not_refill_it() -> None:
    budget = RateBudget()
    budget.observe(seen(3, 60.0), 0.0)
    budget.observe(seen(90, 60.0), 0.1)
    assert budget.delay_s(0.1) == 0.0
    for _ in range(3):
        budget.take(0.1)
    assert budget.delay_s(0.1) > 59


def test_others_who_share_the_quota_are_noticed() -> None:
    budget = RateBudget()
    budget.observe(seen(90, 60.0), 0.0)
    budget.observe(seen(0, 59.0), 1.0)
    assert budget.delay_s(1.0) == pytest.approx(60.0)


def test_a_later_window_is_believed() -> None:
    budget = RateBudget()
    budget.observe(seen(0, 5.0), 0.0)
    budget.observe(seen(99, 300.0), 5.0)
    assert budget.delay_s(5.0) == 0.0


@pytest.mark.parametrize(("quota", "window", "already_used", "round_trip"), [(100, 300, 0, 0.05), (60, 30, 25, 0.01)])
def test_an_origin_that_counts_never_has_to_answer_429(
    quota: int, window: int, already_used: int, round_trip: float
) -> None:
    """A whole conversation with a strict fixed window: no request is refused, and the quota is used."""
    now, began, used = 0.0, 0.0, already_used
    budget = RateBudget()
    asked = 0
    while now < 3 * window:
        delay_s = budget.delay_s(now)
        if delay_s:
            now += delay_s
            continue
        budget.take(now)
        asked += 1
        now += round_trip
        if now >= began + window:
            began, used = now, 0
        used += 1
        assert used <= quota, "429"
        budget.observe(seen(quota - used, float(round(began + window - now + 0.5)), quota), now)
    assert asked >= 2 * quota


def test_the_first_answer_of_a_window_does_not_count_who_is_still_under_way() -> None:
    budget = RateBudget()
    budget.observe(seen(20, 60.0), 0.0, in_flight=15)
    for _ in range(5):
        budget.take(0.0)
    assert budget.delay_s(0.0) == 61.0
    # In a later window again, and only there: a falling number within one has the others in it by and by.
    budget.observe(seen(20, 60.0), 70.0, in_flight=20)
    assert budget.delay_s(70.0) == 61.0
    budget = RateBudget()
    budget.observe(seen(20, 60.0), 0.0)
    budget.observe(seen(19, 60.0), 0.0, in_flight=19)
    assert budget.delay_s(0.0) == 0.0


# --- many budgets


class Answered:
    status = 200
    url = ""

    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def test_a_budget_is_of_one_origin_purpose_and_principal() -> None:
    pacer = Pacer(clock=lambda: 0.0)
    token = Secret("hf_a")
    origin = "https://hub.example:443"
    api = Request("GET", "https://hub.example/api/x", purpose="api", credential=token, credential_origin=origin)
    pacer.observe(api, Answered(RateLimit='"api";r=0;t=10'))
    assert pacer.delay_s(api) == 11.0
    for other in (
        Request("GET", "https://hub.example/api/x", purpose="body", credential=token, credential_origin=origin),
        Request("GET", "https://hub.example/api/x", purpose="api"),
        Request("GET", "https://hub.example/api/x", purpose="api", credential=Secret("hf_b"), credential_origin=origin),
        Request("GET", "https://other.example/api/x", purpose="api", credential=token, credential_origin=origin),
    ):
        assert pacer.delay_s(other) == 0.0
    pacer.observe(api, Answered())
    assert pacer.delay_s(api) == 11.0


BODY = Request("GET", "https://hub.example/x")
FOUR_LEFT = Answered(RateLimit='"resolvers";r=4;t=60')


def pacer_after(*, sent: int, unanswered: int = 0, answered: int = 0) -> Pacer:
    """One that has heard the origin announce four more requests for the next minute, in the last answer."""
    pacer = Pacer(clock=lambda: 0.0)
    for _ in range(sent):
        pacer.sent(BODY)
    for _ in range(unanswered):
        pacer.unanswered(BODY)
    for _ in range(answered - 1):
        pacer.observe(BODY, Answered())
    pacer.observe(BODY, FOUR_LEFT)
    return pacer


@pytest.mark.parametrize(
    ("case", "free"),
    [
        ({"sent": 1, "answered": 1}, 4),
        ({"sent": 4, "answered": 1}, 1),
        ({"sent": 5, "answered": 1}, 0),
        ({"sent": 9, "answered": 1}, 0),
        ({"sent": 5, "answered": 1, "unanswered": 1}, 1),
        ({"sent": 5, "answered": 1, "unanswered": 4}, 4),
        ({"sent": 5, "answered": 3}, 2),
        ({"sent": 5, "answered": 5}, 4),
    ],
    ids=str,
)
def test_requests_under_way_are_taken_off_the_first_announcement(case: dict[str, int], free: int) -> None:
    pacer = pacer_after(**case)
    for _ in range(free):
        assert pacer.delay_s(BODY) < 61.0
        pacer.sent(BODY)
    assert pacer.delay_s(BODY) == 61.0


def test_requests_under_way_elsewhere_do_not_count() -> None:
    pacer = Pacer(clock=lambda: 0.0)
    for other in (Request("GET", "https://other.example/x"), Request("GET", BODY.url, purpose="api")):
        for _ in range(10):
            pacer.sent(other)
    pacer.sent(BODY)
    pacer.observe(BODY, FOUR_LEFT)
    assert pacer.delay_s(BODY) == 0.0


def test_who_is_gone_leaves_nothing_behind() -> None:
    pacer = Pacer(clock=lambda: 0.0)
    for number in range(100):
        request = Request("GET", f"https://{number}.example/")
        for _ in range(2):
            pacer.sent(request)
        pacer.unanswered(request)
        pacer.observe(request, Answered())
    # An answer that nobody announced as sent makes no credit.
    pacer.observe(BODY, Answered())
    assert not pacer._in_flight
    pacer.sent(BODY)
    pacer.sent(BODY)
    pacer.observe(BODY, Answered(RateLimit='"resolvers";r=1;t=60'))
    assert pacer.delay_s(BODY) == 61.0


def test_an_origin_can_not_fill_memory_with_buckets() -> None:
    pacer = Pacer(clock=lambda: 0.0)
    request = Request("GET", "https://hub.example/")
    for number in range(1000):
        pacer.observe(request, Answered(RateLimit=f'"{number}";r=5;t=10'))
    assert sum(map(len, pacer._budgets.values())) <= 8


def test_many_origins_can_not_fill_memory_and_who_is_asked_again_stays() -> None:
    pacer = Pacer(clock=lambda: 0.0)
    for number in range(BUDGETS_MAX + 100):
        pacer.observe(BODY, Answered(RateLimit='"resolvers";r=0;t=60'))
        pacer.observe(Request("GET", f"https://{number}.example/"), Answered(RateLimit='"x";r=5;t=10'))
    assert len(pacer._budgets) == BUDGETS_MAX
    assert pacer.delay_s(BODY) == 61.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"RateLimit": '"x";r=0;t=9', "Retry-After": "1"}, 10.0),
        ({"RateLimit": '"x";r=3;t=9', "Retry-After": "1"}, 1.0),
        ({"Retry-After": "4"}, 4.0),
        ({}, None),
    ],
)
def test_what_a_429_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    answer = Answered()
    answer.headers = headers
    assert wait_asked_s(answer, 0.0) == seconds
