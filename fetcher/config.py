"""Settings: every limit and place as one frozen value. Argument > environment > file (TOML) > default.

Units are in the names. Defaults of times and tries are promises (docs/SEMANTICS.md).

A variable is ``FETCHER_`` and the field's name in capitals (``FETCHER_CONNECT_TIMEOUT_S=5s``), except ``HF_ENDPOINT``
and ``AWS_ENDPOINT_URL``, which belong to others too; a key of the TOML file is the field's name. Sizes, rates and
durations may carry units (``model/quantities.py``); what each value may be is said in ``model/setting_values.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fetcher.errors import UsageError
from fetcher.model import setting_values as values
from fetcher.model.resource import HF, S3, Resource
from fetcher.model.text import nearest, shown

if TYPE_CHECKING:
    from fetcher.model.proxy import ProxySetting

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

QUOTA_MIN_BYTES = 64 * MIB
"""Index, log and what is set aside take a few; below this a quota would be about them."""

DEFAULT_HF_ENDPOINT = "https://huggingface.co"
DEFAULT_OLLAMA_URL = "https://registry.ollama.ai"
DEFAULT_S3_ENDPOINT = "https://s3.amazonaws.com"
DEFAULT_MARKET_URLS = (
    "https://host-manager.k8s.prd.nos.ci/markets/{market}/required-resources",
    "https://host-manager.k8s.prd.nosana.com/markets/{market}/required-resources",
    "https://api.nosana.com/markets/{market}/required-resources",
    "https://dashboard.k8s.prd.nos.ci/api/markets/{market}/required-resources",
)
"""Published for nodes and in the network's documentation between 2024 and 2026, the nodes' own first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Build it with ``config.load()``; the constructor is for tests and trusted code."""

    cache_dir: Path
    """Absolute. Bytes: partials, blobs, snapshots."""
    state_dir: Path
    """Absolute, local file system. The index; the cache directory by default."""
    engine_cache_dir: Path | None = None
    """How a container engine sees ``cache_dir``; None: the same path."""
    cache_group: int | None = None
    """Group id that may enter the cache root (mode 0750 then, else 0700)."""
    allow_net: tuple[str, ...] = ()
    """CIDRs that guarded requests may reach besides public addresses: any port, plain http too."""
    proxy: ProxySetting = None
    """What requests are handed to; ``none``: nobody; None: what HTTPS_PROXY and its like in the environment name."""
    proxy_filters: bool = False
    """The operator says that the proxy itself refuses the host's own network; else guarded requests go through none."""
    hf_endpoint: str = DEFAULT_HF_ENDPOINT
    """``scheme://host[:port]``, no trailing slash."""
    ollama_url: str = DEFAULT_OLLAMA_URL
    """Where models without a host of their own are asked for; ``scheme://host[:port]``."""
    s3_endpoint: str = DEFAULT_S3_ENDPOINT
    """Where ``s3://`` URLs lead; ``scheme://host[:port]``."""
    market_url: tuple[str, ...] = DEFAULT_MARKET_URLS
    """Templates with ``{market}``, tried in order."""
    fresh_for_s: float = 86_400.0
    keep_for_s: float = 86_400.0
    keep_from: Literal["download", "use"] = "download"
    proof_for_s: float = 300.0
    """How long it is remembered that an asker was seen to have access to what is private; 0: asked each time."""
    market: str | None = None
    """The market whose jobs run here: what its pin shares is theirs too."""
    shared_pins: tuple[str, ...] = ()
    """Pins of markets whose private items are open to the jobs of that market. In the file: ``[pins."market:<address>"]
    share = true``."""
    stale_if_error_s: float = 0.0
    """How long after ``fresh_for`` a Snapshot may still be used when its origin can't be reached."""
    offline: bool = False
    refresh: bool = False
    """Ask the origin even when a fresh Snapshot is there."""

    connections_max: int = 16
    connections_per_host_max: int = 16
    part_bytes: int = 8 * MIB
    """Whole blocks: of a part while nothing is known of a host's speed, and of the shortest; fast ones get longer
    parts."""
    window_bytes: int = 1 * GIB
    """How far a part may end beyond the in-order digest's frontier."""
    sync_bytes: int = 256 * MIB
    """Partials are made durable at least this often."""
    limit_rate_bytes_per_s: int | None = None

    connect_timeout_s: float = 10.0
    part_idle_timeout_s: float = 15.0
    """No byte for this long: the part is put back, its whole blocks kept, on a new connection."""
    part_slow_bytes_per_s: float = 128.0 * KIB
    part_slow_window_s: float = 10.0
    part_moves_max: int = 3
    """How often a part is moved that is *slow*, or crawls beside others of its host (a stalled one is moved as often as
    it stalls)."""
    hedges_max: int = 2
    """Parts of one run that may be under way a second time, because they hold up the end; 0: none ever is."""
    no_progress_timeout_s: float = 120.0
    """No new proven block in the whole run for this long ends it."""
    api_timeout_s: float = 30.0
    """One API request: no byte for this long."""
    api_tries_max: int = 10
    api_time_max_s: float = 120.0
    backoff_min_s: float = 0.2
    backoff_max_s: float = 10.0
    retry_after_max_s: float = 120.0

    manifest_files_max: int = 1_000_000
    file_bytes_max: int = 1 << 43
    """8 TiB; a larger claim is refused before anything is reserved."""
    space_floor_bytes: int = 256 * MIB
    """Free bytes that a Plan must leave on the file system."""
    quota_bytes: int | None = None
    """What the cache may take in all: its files as they are allocated, its index, and what is promised to downloads."""

    heartbeat_s: float = 5.0
    owner_lost_after_s: float = 30.0
    """An owner whose heartbeat is older is taken for lost, even where its lock can't be tried. The event loop of a run
    may be held up for so long, less one heartbeat."""
    gc_grace_s: float = 3_600.0
    """Age below which unreferenced files are left alone."""
    partial_keep_s: float = 86_400.0


def endpoint_of(resource: Resource, settings: Settings) -> str:
    """Where ``resource`` is asked for, unless it names a host itself; ``scheme://host[:port]``."""
    if isinstance(resource, HF):
        return settings.hf_endpoint
    return settings.s3_endpoint if isinstance(resource, S3) else settings.ollama_url


def resource_key(resource: Resource, settings: Settings) -> str:
    """Identity of ``resource`` as it is asked for with these settings, 64 hex digits."""
    return resource.key(endpoint_origin(endpoint_of(resource, settings)))


def endpoint_origin(endpoint: str) -> str:
    """``scheme://host:port`` of an endpoint, the port always written out, as ``net.request.origin_of`` has it."""
    scheme, _, netloc = endpoint.partition("://")
    has_port = re.search(r":[0-9]+$", netloc)
    return endpoint if has_port else f"{endpoint}:{443 if scheme == 'https' else 80}"


# --- where values come from


def load(
    *,
    arguments: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Settings from, in this order: arguments, environment, file, defaults.

    ``arguments``: field → value or text; None means not given. ``environ``: the process's own unless given; an empty
    variable is not set, except ``FETCHER_ALLOW_NET``, where empty means none. The file is ``file``, else what
    ``FETCHER_CONFIG`` names, else ``$XDG_CONFIG_HOME/fetcher/config.toml`` where there is one.

    Raises UsageError that names the argument, variable or key, and the cure.
    """
    if environ is None:
        environ = os.environ
    found = _from_file(file, environ)
    for name in _READERS:
        for place in variables(name):
            text = environ.get(place)
            if text or (text is not None and name == "allow_net"):
                # A proxy's address may hold a password in any of its parts.
                told = place if name == "proxy" else f"{place}={shown(text)}"
                found[name] = _read(name, text, told, environ)
                break
    found |= _from_arguments(arguments or {}, environ)
    if "cache_dir" not in found:
        found["cache_dir"] = _user_directory(environ, "XDG_CACHE_HOME", ".cache") / "fetcher"
    found.setdefault("state_dir", found["cache_dir"])
    settings = Settings(**found)
    _check_together(settings)
    return settings


def override(settings: Settings, arguments: Mapping[str, object]) -> Settings:
    """``settings`` with some fields changed, judged as by ``load``. An index beside its cache moves with it."""
    found = _from_arguments(arguments, os.environ)
    if "cache_dir" in found and settings.state_dir == settings.cache_dir:
        found.setdefault("state_dir", found["cache_dir"])
    changed = replace(settings, **found)
    _check_together(changed)
    return changed


def _from_arguments(arguments: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in _READERS:
            raise UsageError(f"unknown setting {shown(name)}", hint=_nearest_hint(name))
        if value is not None:
            found[name] = _read(name, value, f"setting {name}", environ)
    return found


_SHARED_VARIABLES = {
    "hf_endpoint": ("HF_ENDPOINT",),
    "s3_endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
}
"""Settings whose variables belong to other programs too, the first that is set counts."""


def variables(name: str) -> tuple[str, ...]:
    """The environment variables that set a field of Settings, the one that wins first."""
    return _SHARED_VARIABLES.get(name, (f"FETCHER_{name.upper()}",))


def variable(name: str) -> str:
    """The environment variable that sets a field of Settings; of several, the first."""
    return variables(name)[0]


def config_file(environ: Mapping[str, str]) -> tuple[Path, bool]:
    """Where the TOML file is looked for, and whether the user named it (then it has to be there)."""
    if named := environ.get("FETCHER_CONFIG"):
        return Path(_expanded(named, environ)).absolute(), True
    return _user_directory(environ, "XDG_CONFIG_HOME", ".config") / "fetcher" / "config.toml", False


def _from_file(file: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    path, named = (file, True) if file else config_file(environ)
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not named:
            return {}
        raise UsageError(f"no configuration file at {path}", hint="unset FETCHER_CONFIG, or create the file") from None
    except (OSError, ValueError) as error:
        hint = "let this user read it, or name another with FETCHER_CONFIG"
        raise UsageError(f"can't read the configuration file {path}: {_reason(error)}", hint=hint) from None
    import tomllib  # 20 ms, so only where there is a file

    try:
        table = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}", hint="write it as described at https://toml.io") from None
    found: dict[str, Any] = {}
    shared = _shared_pins(table.pop("pins"), path) if "pins" in table else ()
    for name, value in table.items():
        if name not in _READERS:
            raise UsageError(f"unknown key {shown(name)} in {path}", hint=_nearest_hint(name))
        found[name] = _read(name, value, f"key {name} in {path}", environ)
    if shared:
        found["shared_pins"] = (*found.get("shared_pins", ()), *shared)
    return found


def _shared_pins(table: object, path: Path) -> list[str]:
    """The pins of ``[pins."market:<address>"]`` with ``share = true``."""
    shared: list[str] = []
    for name, pin in table.items() if isinstance(table, dict) else [("", None)]:
        place = f'[pins."{shown(str(name))}"] in {path}'
        if not isinstance(pin, dict) or set(pin) - {"share"} or not isinstance(pin.get("share", False), bool):
            raise UsageError(
                f"{place}: may hold share = true or share = false", hint="docs/SECURITY.md says what it does"
            )
        if pin.get("share"):
            try:
                shared += values.market_pins([name])
            except ValueError as error:
                raise UsageError(f"{place}: {error}", hint="docs/SECURITY.md says what share = true does") from None
    return shared


def _read(name: str, value: object, place: str, environ: Mapping[str, str]) -> object:
    """``value`` (text, or already of the right type) as field ``name`` wants it."""
    if name in _PATHS and isinstance(value, str):
        value = _expanded(value, environ)
    try:
        return _READERS[name](value)
    except ValueError as error:
        raise UsageError(f"{place}: {error}", hint=f"docs/MACHINE.md says what {name} may be") from None


def _nearest_hint(name: str) -> str:
    near = nearest(name, _READERS)
    return f"did you mean {near}?" if near else "docs/MACHINE.md lists all settings"


def _user_directory(environ: Mapping[str, str], name: str, below_home: str) -> Path:
    """A base directory of the user (XDG Base Directory Specification: a relative value is to be ignored)."""
    base = environ.get(name, "")
    if base.startswith("/"):
        return Path(base)
    return Path(_expanded("~", environ)) / below_home


def _expanded(text: str, environ: Mapping[str, str]) -> str:
    home = environ.get("HOME", "")
    if (text == "~" or text.startswith("~/")) and home.startswith("/"):
        return home.rstrip("/") + text[1:] or "/"  # users without a home of their own have the root
    expanded = os.path.expanduser(text)  # ~user, and our own home from the password database
    if expanded.startswith("~"):
        raise UsageError(f"no home directory is known for {shown(text)}", hint="set HOME or FETCHER_CACHE_DIR")
    return expanded


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


# --- values that only this machine can judge


def _path(value: object) -> Path:
    """Absolute; a relative one is taken from the working directory, as every program does."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError("a path is a text")
    text = os.fspath(value)
    if not isinstance(text, str) or not text or not text.isprintable():
        raise ValueError("a path must not be empty or hold control characters")
    return Path(os.path.abspath(text))


def _foreign_path(value: object) -> Path:
    """A path as another program sees it: our working directory means nothing there."""
    if not str(value).startswith("/"):
        raise ValueError("must be absolute: it is a path as the container engine sees it")
    return _path(value)


def _group_id(value: object) -> int:
    if isinstance(value, str) and not value.strip().isdigit():
        import grp

        try:
            return grp.getgrnam(value).gr_gid
        except KeyError:
            raise ValueError(f"no such group: {shown(value)}") from None
    return values.count_or_zero(value)


_PATHS = ("cache_dir", "state_dir", "engine_cache_dir")

_READERS: dict[str, Callable[[object], object]] = {
    "cache_dir": _path,
    "state_dir": _path,
    "engine_cache_dir": _foreign_path,
    "cache_group": _group_id,
    "allow_net": values.networks,
    "proxy": values.proxy,
    "proxy_filters": values.boolean,
    "hf_endpoint": values.endpoint,
    "ollama_url": values.endpoint,
    "s3_endpoint": values.endpoint,
    "market_url": values.market_templates,
    "fresh_for_s": values.duration_s,
    "keep_for_s": values.duration_s,
    "keep_from": values.keep_from,
    "proof_for_s": values.duration_s,
    "market": values.market,
    "shared_pins": values.market_pins,
    "stale_if_error_s": values.duration_s,
    "offline": values.boolean,
    "refresh": values.boolean,
    "connections_max": values.connections,
    "connections_per_host_max": values.connections,
    "part_bytes": values.part_bytes,
    "window_bytes": values.size_bytes,
    "sync_bytes": values.sync_bytes,
    "limit_rate_bytes_per_s": values.rate_bytes_per_s,
    "connect_timeout_s": values.time_limit_s,
    "part_idle_timeout_s": values.time_limit_s,
    "part_slow_bytes_per_s": values.slow_rate_bytes_per_s,
    "part_slow_window_s": values.time_limit_s,
    "part_moves_max": values.count_or_zero,
    "hedges_max": values.count_or_zero,
    "no_progress_timeout_s": values.time_limit_s,
    "api_timeout_s": values.time_limit_s,
    "api_tries_max": values.count,
    "api_time_max_s": values.time_limit_s,
    "backoff_min_s": values.duration_s,
    "backoff_max_s": values.duration_s,
    "retry_after_max_s": values.duration_s,
    "manifest_files_max": values.count,
    "file_bytes_max": values.size_bytes,
    "space_floor_bytes": values.size_bytes,
    "quota_bytes": values.size_bytes,
    "heartbeat_s": values.time_limit_s,
    "owner_lost_after_s": values.time_limit_s,
    "gc_grace_s": values.duration_s,
    "partial_keep_s": values.duration_s,
}
"""Field of Settings → how its value is read. A test holds the two together."""


def _check_together(settings: Settings) -> None:
    """Refuse values that are right alone and wrong together."""
    if settings.window_bytes < settings.part_bytes:
        raise UsageError(
            f"window_bytes ({settings.window_bytes}) is less than part_bytes ({settings.part_bytes})",
            hint=f"no part could start; set {variable('window_bytes')} to a few parts at least",
        )
    if settings.backoff_max_s < settings.backoff_min_s:
        raise UsageError("backoff_max_s is less than backoff_min_s", hint="swap the two, or leave both out")
    if settings.quota_bytes is not None and settings.quota_bytes < QUOTA_MIN_BYTES:
        raise UsageError(
            f"quota_bytes ({settings.quota_bytes}) is less than the {QUOTA_MIN_BYTES} that a cache needs for itself",
            hint=f"set {variable('quota_bytes')} to what models take and the disk can give: 500GB",
        )
    if settings.owner_lost_after_s <= settings.heartbeat_s:
        raise UsageError(
            "owner_lost_after_s must be longer than heartbeat_s: every owner would be taken for lost",
            hint="leave both out, or keep a factor of six between them",
        )
