"""What an operator has set, or left, laxer than the promises need: each in plain words, with the cure.

A remark is no fault: whoever set it may have a reason. ``lax()`` decides, from values; ``Seen.now()`` looks at the
machine. Knows no cache and asks no network.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fetcher import config
from fetcher.config import MIB, Settings
from fetcher.errors import FetcherError
from fetcher.model.quantities import format_duration, format_size

NETWORK = "jobs' network"

PREFIX_OF_EVERYTHING = {4: 4, 6: 3}
"""IP version → a network with a prefix of so few bits, or fewer, holds a large part of all addresses there are."""

FRESH_LAX_S = 7 * 86_400.0
"""Longer than a week, and nobody expects that what was withdrawn is still given out."""
STALE_LAX_S = 86_400.0
PROOF_LAX_S = 3_600.0
SPACE_FLOOR_LAX_BYTES = 16 * MIB
"""What the index and its log may need at once (docs/FORMAT.md, Space), twice."""

_LOOPBACK = tuple(ipaddress.ip_network(network) for network in ("127.0.0.0/8", "::1/128"))
_METADATA = tuple(
    ipaddress.ip_address(address)
    for address in (
        *("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
        *("fd00:ec2::254", "fd20:ce::254"),
    )
)
_WHOLE_RANGES = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fd00::/8", "fe80::/10")
)
_V4_INSIDE = tuple(ipaddress.IPv6Network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96"))
"""IPv6 notations that lead to the IPv4 address in their last 32 bits."""

_IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_CREDENTIALS = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
"""Variables that hold, or lead to, what opens something."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that is lax."""

    about: str
    """Which check of ``doctor`` it belongs to."""
    message: str
    hint: str
    """The cure."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file or directory as it was found."""

    path: str
    mode: int
    """As ``st_mode``."""
    user_id: int
    own_group: bool = False
    """Its group has nobody in it but its owner, as many systems give each user one, and a umask of 002."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the machine says, for ``lax`` to judge."""

    user_id: int
    """Who we are; 0 is root."""
    directories: tuple[Place, ...] = ()
    """Cache and state directory as far as they are there, and all directories above them."""
    configuration: tuple[Place, ...] = ()
    """The configuration file and all directories above it; none if there is no file."""
    secret_files: tuple[Place, ...] = ()
    """Files of credentials that an operator's requests use."""
    is_mapped: bool = False
    """Our user is another one outside of its user namespace, as in a container that an ordinary user runs."""

    @classmethod
    def now(cls, settings: Settings, environ: Mapping[str, str]) -> Seen:
        """Look. What can't be looked at is left out."""
        named = [settings.cache_dir, settings.state_dir]
        file, _ = config.config_file(environ)
        return cls(
            os.geteuid(),
            tuple(_places(above for path in named for above in _with_parents(path))),
            tuple(_places(_with_parents(file))) if file.exists() else (),
            tuple(_places(_secret_files(environ))),
            _is_mapped(os.geteuid()),
        )


def lax(settings: Settings, environ: Mapping[str, str], seen: Seen) -> list[Remark]:
    """All that is lax, in the order of what it opens to whom. None for a default set-up of an ordinary user."""
    return [
        *_networks(settings),
        *_proxy(settings),
        *_shared(settings),
        *_plain_http(settings, environ),
        *_user(seen),
        *_directories(settings, seen),
        *_configuration(settings, seen),
        *_secrets(seen),
        *_times(settings),
        *_space(settings),
    ]


def credentials_of(environ: Mapping[str, str]) -> list[str]:
    """Names of the variables that hold, or lead to, a credential of the operator's; jobs get none of them."""
    return [name for name in _CREDENTIALS if environ.get(name, "").strip()]


# --- what jobs may reach


def _networks(settings: Settings) -> Iterator[Remark]:
    everything, loopback, metadata, whole = [], [], [], []
    for text in settings.allow_net:
        network = _led_to(ipaddress.ip_network(text))
        if network.prefixlen <= PREFIX_OF_EVERYTHING[network.version]:
            everything.append(text)
            continue
        if any(_overlap(network, other) for other in _LOOPBACK):
            loopback.append(text)
        if any(address in network for address in _METADATA):
            metadata.append(text)
        if any(_holds(network, other) for other in _WHOLE_RANGES):
            whole.append(text)
    variable = config.variable("allow_net")
    if everything:
        message = f"{', '.join(everything)}: a job reaches everything this host reaches"
        yield Remark(NETWORK, message, f"list the networks that a job needs in {variable}")
    if loopback:
        message = f"{', '.join(loopback)} is this machine itself: a job reaches the services that trust whoever is here"
        yield Remark(NETWORK, message, f"take it out of {variable}, or list the one address that is meant")
    if metadata:
        message = f"{', '.join(metadata)} holds a metadata service: in a cloud it gives this machine's keys to who asks"
        yield Remark(NETWORK, message, f"list smaller networks in {variable}, without 169.254.0.0/16 and its like")
    if whole:
        message = f"{', '.join(whole)} is all of a private range: a job reaches every machine of your networks"
        yield Remark(NETWORK, message, f"list only the addresses that jobs need in {variable}")


def _led_to(network: _IPNetwork) -> _IPNetwork:
    """The IPv4 network that an IPv6 notation of one leads to; any other as it is."""
    if isinstance(network, ipaddress.IPv6Network):
        for prefix in _V4_INSIDE:
            if network.subnet_of(prefix):
                address = ipaddress.IPv4Address(int(network.network_address) & 0xFFFF_FFFF)
                return ipaddress.IPv4Network((address, network.prefixlen - 96))
    return network


def _overlap(one: _IPNetwork, other: _IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _holds(one: _IPNetwork, other: _IPNetwork) -> bool:
    if isinstance(one, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and one.supernet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and one.supernet_of(other)


def _proxy(settings: Settings) -> Iterator[Remark]:
    if settings.proxy_filters:
        yield Remark(
            NETWORK,
            "the proxy is trusted to filter: which addresses a job reaches is for it to judge, not for fetcher",
            "make sure that it refuses private and metadata addresses, or unset FETCHER_PROXY_FILTERS",
        )


def _shared(settings: Settings) -> Iterator[Remark]:
    for name in settings.shared_pins:
        yield Remark(
            "shared pins",
            f"{name} is shared: its private items are open to every job of that market, whoever sends it",
            f'take `share = true` out of [pins."{name}"] unless all of them may read what your credentials opened',
        )


# --- what goes over the wire


def _plain_http(settings: Settings, environ: Mapping[str, str]) -> Iterator[Remark]:
    endpoints = {
        "hf_endpoint": (settings.hf_endpoint,),
        "s3_endpoint": (settings.s3_endpoint,),
        "ollama_url": (settings.ollama_url,),
        "market_url": settings.market_url,
    }
    held = credentials_of(environ)
    for name, urls in endpoints.items():
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme != "http" or _is_this_machine(parts.hostname or ""):
                continue
            shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            message = f"{shown} is plain http: who is on the way can change what it says, digests included"
            if name == "market_url":
                message += ", and reads the credentials on its lists"
            elif (name == "hf_endpoint" and any("TOKEN" in one and "AWS" not in one for one in held)) or (
                name == "s3_endpoint" and any("AWS" in one for one in held)
            ):
                message += ", and sees your credentials at work (to addresses in private networks they are sent)"
            yield Remark("endpoint", message, f"write https:// in {config.variable(name)}")


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- who may touch what on this host


def _user(seen: Seen) -> Iterator[Remark]:
    if seen.user_id == 0 and not seen.is_mapped:
        yield Remark(
            "user",
            "fetcher runs as root: a fault in it would be a fault of the whole machine",
            "run it as a user of its own; it needs no right but to its directories and to the engine's socket",
        )


def _directories(settings: Settings, seen: Seen) -> Iterator[Remark]:
    roots = {os.path.realpath(settings.cache_dir), os.path.realpath(settings.state_dir)}
    for place in seen.directories:
        what = "others" if place.path in roots else "it is above the cache: others"
        if (who := _who_may_write(place, seen.user_id)) is not None:
            yield Remark(
                "directories",
                f"{place.path} {who}: {what} can put something else in place of what is in it",
                f"chown and chmod go-w {place.path}, or use directories that only this user can write to",
            )
    if settings.cache_group is not None:
        yield Remark(
            "cache mode",
            f"group {settings.cache_group} may enter the cache: its members read all that is in it, private items too",
            f"unset {config.variable('cache_group')}, unless each of them may read what every job has fetched",
        )


def _configuration(settings: Settings, seen: Seen) -> Iterator[Remark]:
    for place in seen.configuration:
        if (who := _who_may_write(place, seen.user_id)) is not None:
            yield Remark(
                "configuration",
                f"{place.path} {who}: others can change the settings, the networks of jobs among them",
                f"chown and chmod go-w {place.path}",
            )
    holds_query = any("?" in url for url in settings.market_url)
    if holds_query and seen.configuration and seen.configuration[0].mode & 0o044:
        yield Remark(
            "configuration",
            f"{seen.configuration[0].path} can be read by others, and a market's address with a query may hold a key",
            f"chmod go= {seen.configuration[0].path}",
        )


def _secrets(seen: Seen) -> Iterator[Remark]:
    for place in seen.secret_files:
        if place.mode & 0o077:
            message = f"{place.path} holds credentials, and others can read it (mode {stat.S_IMODE(place.mode):04o})"
            yield Remark("credentials", message, f"chmod go= {place.path}")


def _who_may_write(place: Place, user_id: int) -> str | None:
    """Who besides us and root can put something else in place of what is there; None: nobody can."""
    if place.user_id not in (0, user_id):
        return f"belongs to another user (uid {place.user_id})"
    sticky = stat.S_ISDIR(place.mode) and place.mode & stat.S_ISVTX  # as /tmp: nobody moves what is not his own
    if place.mode & (0o002 if place.own_group else 0o022) and not sticky:
        whom = "everybody" if place.mode & 0o002 else "its group"
        return f"can be written to by {whom} (mode {stat.S_IMODE(place.mode):04o})"
    return None


# --- for how long, and how much


def _times(settings: Settings) -> Iterator[Remark]:
    if settings.fresh_for_s > FRESH_LAX_S:
        yield Remark(
            "fresh for",
            f"{format_duration(settings.fresh_for_s)}: so long what its origin has changed, closed or withdrawn is"
            " still given out",
            f"set {config.variable('fresh_for_s')} to a day or so: asking again costs one request",
        )
    if settings.stale_if_error_s > STALE_LAX_S:
        yield Remark(
            "stale if error",
            f"{format_duration(settings.stale_if_error_s)}: whoever can keep this host from reaching an origin, keeps"
            " it at an old state for so long",
            f"set {config.variable('stale_if_error_s')} to what an outage takes, a day at most",
        )
    if settings.proof_for_s > PROOF_LAX_S:
        yield Remark(
            "proofs",
            f"{format_duration(settings.proof_for_s)}: so long somebody whose access was revoked is still given what is"
            " here",
            f"set {config.variable('proof_for_s')} to some minutes; 0 always asks the origin",
        )


def _space(settings: Settings) -> Iterator[Remark]:
    if settings.space_floor_bytes < SPACE_FLOOR_LAX_BYTES:
        yield Remark(
            "space floor",
            f"only {format_size(settings.space_floor_bytes)} stay free: one job can fill the disk of all others",
            f"leave {config.variable('space_floor_bytes')} out, or set it to 256MiB or more",
        )


# --- looking


def _with_parents(path: Path) -> Iterator[str]:
    """The path as it really is, and every directory above it: whoever can write to one can replace all below."""
    real = Path(os.path.realpath(path))
    yield str(real)
    yield from map(str, real.parents)


def _places(paths: Iterable[str]) -> Iterator[Place]:
    for path in dict.fromkeys(paths):
        try:
            found = os.stat(path)
        except OSError:
            continue
        yield Place(path, found.st_mode, found.st_uid, _is_own_group(found.st_uid, found.st_gid))


def _is_mapped(user_id: int) -> bool:
    try:
        lines = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except (OSError, ValueError):
        return False
    return any(first <= user_id < first + count and first != outside for first, outside, count in lines)


def _is_own_group(user_id: int, group_id: int) -> bool:
    """Whether a group is the one that was made for this user alone, and has stayed so."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(user_id), grp.getgrgid(group_id)
    except KeyError:
        return False
    return user.pw_gid == group_id and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _secret_files(environ: Mapping[str, str]) -> Iterator[str]:
    from fetcher import credentials
    from fetcher.credentials.places import expanded

    try:
        yield str(credentials.token_file(environ))
        yield str(expanded(environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", environ))
    except (FetcherError, OSError, ValueError, RuntimeError):
        return
