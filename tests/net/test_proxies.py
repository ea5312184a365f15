"""Which proxy for which URL: tables of settings and variables."""

from __future__ import annotations

import pytest

from fetcher.config import load
from fetcher.errors import UsageError
from fetcher.model.proxy import Proxy, parse_proxy
from fetcher.net.proxies import Proxies, proxies_of
from fetcher.net.request import address_of

STATED = parse_proxy("http://stated:1")


def chosen(url: str, environ: dict[str, str], setting: object = None) -> str | None:
    proxy = proxies_of(setting, environ).for_address(address_of(url))
    return None if proxy is None else f"{proxy} {proxy.place}"


HTTPS, HTTP = "https://a.example/x", "http://a.example/x"


@pytest.mark.parametrize(
    ("environ", "https", "http"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "http://p:3128"}, "http://p:3128 HTTPS_PROXY", None),
        ({"https_proxy": "http://p:3128"}, "http://p:3128 https_proxy", None),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:2"}, "http://lower:2 https_proxy", None),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": ""}, "http://upper:1 HTTPS_PROXY", None),
        ({"HTTP_PROXY": "p:3128"}, None, "http://p:3128 HTTP_PROXY"),
        ({"HTTP_PROXY": "p:3128", "REQUEST_METHOD": "GET"}, None, None),
        ({"http_proxy": "p:3128", "REQUEST_METHOD": "GET"}, None, "http://p:3128 http_proxy"),
        ({"ALL_PROXY": "https://p"}, "https://p:443 ALL_PROXY", "https://p:443 ALL_PROXY"),
        ({"all_proxy": "p", "https_proxy": "q:9"}, "http://q:9 https_proxy", "http://p:80 all_proxy"),
        ({"Https_Proxy": "http://p:3128", "FTP_PROXY": "http://p:3128"}, None, None),
    ],
)
def test_what_the_environment_says(environ: dict[str, str], https: str | None, http: str | None) -> None:
    assert (chosen(HTTPS, environ), chosen(HTTP, environ)) == (https, http)


def test_a_setting_wins_over_the_environment() -> None:
    environ = {"HTTPS_PROXY": "http://p:3128", "ALL_PROXY": "http://q:1"}
    assert chosen(HTTPS, environ, STATED) == "http://stated:1 FETCHER_PROXY"
    assert chosen(HTTP, environ, STATED) == "http://stated:1 FETCHER_PROXY"
    assert chosen(HTTPS, environ, "none") is None
    assert chosen(HTTPS, {**environ, "NO_PROXY": "example"}, STATED) is None
    assert chosen("http://127.0.0.1:9/", {}, STATED) == "http://stated:1 FETCHER_PROXY"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"],
)
def test_loopback_never_goes_through_a_proxy_of_the_environment(host: str) -> None:
    assert chosen(f"https://{host}/", {"ALL_PROXY": "http://p:1"}) is None


@pytest.mark.parametrize("host", ["localhost.example", "notlocalhost", "128.0.0.1", "[::2]", "10.0.0.1", "0.0.0.0"])
def test_what_is_not_loopback_does(host: str) -> None:
    assert chosen(f"https://{host}/", {"ALL_PROXY": "http://p:1"}) == "http://p:1 ALL_PROXY"


@pytest.mark.parametrize(
    ("no_proxy", "direct", "proxied"),
    [
        ("*", "https://a.example/ http://1.2.3.4/ https://[2001:db8::1]/", ""),
        ("a.example", "https://a.example/ https://A.EXAMPLE./ https://b.a.example/", "https://aa.example/ https://x/"),
        (".a.example", "https://b.a.example/ https://c.b.a.example/", "https://a.example/ https://xa.example/"),
        ("*.a.example", "https://b.a.example/", "https://a.example/ https://xa.example/"),
        ("a.example:8443", "https://a.example:8443/", "https://a.example/ http://a.example/"),
        ("a.example:443", "https://a.example/", "https://a.example:8443/ http://a.example/"),
        ("x, a.example ,y", "https://a.example/ https://x/ https://y/", "https://b.example/"),
        ("x a.example", "https://a.example/", "https://b.example/"),
        ("A.Example", "https://a.example/", "https://b.example/"),
        ("a.example.", "https://a.example/", "https://b.example/"),
        ("10.0.0.0/8", "http://10.1.2.3/ http://[::ffff:10.1.2.3]/", "http://11.0.0.1/ https://ten.example/"),
        ("10.1.2.3/8", "http://10.9.9.9/", "http://11.0.0.1/"),
        ("2001:db8::/32", "http://[2001:db8:1::2]/", "http://[2001:db9::1]/ http://10.0.0.1/"),
        ("10.0.0.1", "http://10.0.0.1/ https://10.0.0.1:9/", "http://10.0.0.11/ http://110.0.0.1/"),
        ("10.0.0.1:80", "http://10.0.0.1/", "https://10.0.0.1/"),
        ("2001:db8::1", "http://[2001:db8::1]/", "http://[2001:db8::2]/"),
        ("[2001:db8::1]:80", "http://[2001:db8::1]/", "https://[2001:db8::1]/"),
        ("[2001:db8::1]", "http://[2001:db8:0::1]/", "https://[2001:db8::2]/"),
        ("0.0.1", "", "http://10.0.0.1/"),
        ("., ,:,/,[,]:,*a,a.example:port,10.0.0.0/99,*.", "", "https://a.example/ https://x/ http://10.0.0.1/"),
        ("example", "https://a.example/", "https://example.com/"),
    ],
)
def test_who_is_exempt(no_proxy: str, direct: str, proxied: str) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        environ = {"all_proxy": "http://p:1", name: no_proxy}
        assert [url for url in direct.split() if chosen(url, environ)] == []
        assert [url for url in proxied.split() if not chosen(url, environ)] == []


@pytest.mark.parametrize(
    ("text", "shown", "login"),
    [
        ("http://p", "http://p:80", None),
        ("https://p/", "https://p:443", None),
        ("HTTP://P.Example:3128/", "http://p.example:3128", None),
        ("10.0.0.9:3128", "http://10.0.0.9:3128", None),
        ("http://[2001:DB8::1]:3128", "http://[2001:db8::1]:3128", None),
        ("http://user:hunter2@p:1", "http://p:1", "user:hunter2"),
        ("http://us%40er:hunt%3Aer2%25@p:1", "http://p:1", "us@er:hunt:er2%"),
        ("http://user:hun@ter/2@p:1", "http://p:1", "user:hun@ter/2"),
        ("http://hunter2@p:1", "http://p:1", "hunter2:"),
        ("user:hunter2@p", "http://p:80", "user:hunter2"),
    ],
)
def test_how_a_proxy_is_written(text: str, shown: str, login: str | None) -> None:
    proxy = parse_proxy(text)
    assert str(proxy) == shown
    assert (None if proxy.login is None else proxy.login.reveal()) == login
    settings = load(arguments={"proxy": text}, environ={"HOME": "/h"})
    if login is not None:
        secret = login.partition(":")[2] or login.removesuffix(":")
        for said in (str(proxy), repr(proxy), f"{proxy}", repr(settings), repr(proxies_of(proxy, {}))):
            assert secret not in said


WRONG = [
    *("socks5://user:hunter2@p:1080", "socks5h://p", "socks4a://hunter2@p", "SOCKS://p"),
    *("ftp://user:hunter2@p", "http://", "http://user:hunter2@", "http://p:0", "http://p:99999", "http://p:hunter2"),
    *(
        "http://p/path/hunter2",
        "http://p?hunter2",
        "p hunter2",
        "http://user:hunter2@p\\x",
        "http://[::1",
        "http://a:b:c",
    ),
    *("http://user:hunter2%0a@p:1", "http://us%3aer:hunter2@p", "://p", "http://ä"),
]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_proxy_is_named_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(environ={"HOME": "/h", "FETCHER_PROXY": text})
    assert "FETCHER_PROXY" in caught.value.message
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"
    proxies = proxies_of(None, {"HTTPS_PROXY": text})
    assert proxies.for_address(address_of(HTTP)) is None  # of no concern there
    with pytest.raises(UsageError) as caught:
        proxies.for_address(address_of(HTTPS))
    assert "HTTPS_PROXY" in caught.value.message and "FETCHER_PROXY" in str(caught.value.hint)
    for said in (str(caught.value), str(caught.value.hint), repr(proxies), *proxies.stated()):
        assert "hunter2" not in said


def test_socks_is_called_by_its_name() -> None:
    with pytest.raises(UsageError, match="ALL_PROXY is a SOCKS proxy"):
        chosen(HTTPS, {"ALL_PROXY": "socks5://p:1080"})


@pytest.mark.parametrize("word", ["none", "direct", "NONE", " Direct ", "off", "false", "0"])
def test_no_proxy_at_all(word: str) -> None:
    settings = load(environ={"HOME": "/h", "FETCHER_PROXY": word})
    assert settings.proxy == "none"
    assert proxies_of(settings.proxy, {"ALL_PROXY": "http://p"}) == Proxies()


def test_a_setting_may_stand_in_the_file_and_be_given_as_it_is() -> None:
    made = load(arguments={"proxy": Proxy("http", "p", 1)}, environ={"HOME": "/h"})
    assert made.proxy == Proxy("http", "p", 1)
    with pytest.raises(UsageError, match="a proxy is a text"):
        load(arguments={"proxy": 7}, environ={"HOME": "/h"})


def test_what_people_are_told() -> None:
    environ = {"HTTPS_PROXY": "http://u:hunter2@p:1", "http_proxy": "socks5://hunter2@q"}
    https, http = proxies_of(None, environ).stated()
    assert https == "https through http://p:1 (HTTPS_PROXY)"
    assert http.startswith("http through nothing: http_proxy is a SOCKS proxy") and "hunter2" not in http
    assert proxies_of(STATED, environ).stated() == ("http://stated:1 (FETCHER_PROXY)",)
