"""nginx from Debian (one worker on core 0, files by sendfile), and where a hub is needed the embedded one behind it.

All are children of this process and end with the block that they were started in.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.origins.processes import READY_S, cpu_s, free_ports, own_module, running, talking, written_bytes
from benchmarks.running.work import Unusable, program, program_version

TRIES = 5
"""Between looking for a free port and listening on it, another process may take it."""
LISTENERS = ("plain", "capped", "straggling", "switched", "tls", "hub")
CAPPED = "20m"
"""Of one connection, a second, at the listener that caps: as object stores do."""

STRAGGLING = "2m"
"""Of one in five connections, a second, at the listener that lets some crawl: as one ailing machine of a store does."""

_CONFIGURATION = """
user root;
daemon off;
worker_processes 1;
worker_cpu_affinity 01;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ use epoll; worker_connections 4096; }}
http {{
  access_log off;
  sendfile on; tcp_nopush on; tcp_nodelay on; sendfile_max_chunk 2m;
  keepalive_requests 1000000; keepalive_timeout 120s;
  open_file_cache max=10000; open_file_cache_valid 600s;
  etag on;
  types {{}}
  default_type application/octet-stream;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  map_hash_max_size 65536; map_hash_bucket_size 256;
  map $connection $crawl {{ "~[05]$" {crawl}; default 0; }}
  {maps}
  server {{
    listen {host}:{plain} backlog=4096;
    root {root};
  }}
  server {{
    listen {host}:{capped} backlog=4096;
    root {root};
    limit_rate {rate};
  }}
  server {{
    listen {host}:{straggling} backlog=4096;
    root {root};
    limit_rate $crawl;
  }}
  server {{
    listen {host}:{switched} backlog=4096;
    root {root};
    open_file_cache off;  # else the switch is remembered
    if (-f {directory}/refuse) {{ return 429; }}
  }}
  server {{
    listen {host}:{tls} ssl backlog=4096;
    root {root};
    ssl_certificate {directory}/certificate.pem; ssl_certificate_key {directory}/key.pem;
    ssl_protocols TLSv1.3; ssl_buffer_size 16k; ssl_session_cache shared:sessions:1m;
  }}
  server {{
    listen {host}:{hub} backlog=4096;
    {hub_locations}
  }}
}}
"""

_REPO = """
    location ~ ^/{name}/resolve/[^/]+/(?<{variable}>.+)$ {{
      etag off;
      add_header X-Repo-Commit {commit}; add_header ETag ${variable}_oid;
      return 307 /api/resolve-cache/models/{name}/{commit}/${variable};
    }}
    location ~ ^/api/resolve-cache/models/{name}/{commit}/(?<{variable}>.+)$ {{
      etag off;
      alias {directory}/${variable};
      add_header X-Repo-Commit {commit}; add_header ETag ${variable}_oid;
    }}
"""
"""Small files as the hub answers for them: a redirect with what is known, then the bytes. (Large ones: the hub is
asked, and sends to the plain listener. A repository here has the one kind or the other.)"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx."""

    process: subprocess.Popen[bytes]
    directory: Path
    host: str
    ports: Mapping[str, int]

    @property
    def plain(self) -> str:
        return self._origin("plain")

    @property
    def tls(self) -> str:
        """By a name, since not every rival takes an address in a certificate."""
        return f"https://localhost:{self.ports['tls']}"

    @property
    def capped(self) -> str:
        return self._origin("capped")

    @property
    def straggling(self) -> str:
        return self._origin("straggling")

    @property
    def switched(self) -> str:
        return self._origin("switched")

    @property
    def hub(self) -> str:
        """Endpoint of the hub, where there is one behind it."""
        return self._origin("hub")

    @property
    def certificate(self) -> Path:
        """Of who is to be trusted."""
        return self.directory / "authority.pem"

    def _origin(self, name: str) -> str:
        return f"http://{self.host}:{self.ports[name]}"

    def refuse(self, on: bool) -> None:
        """Whether the switched listener answers 429 to everybody from now on."""
        flag = self.directory / "refuse"
        if on:
            flag.touch()
        else:
            flag.unlink()

    def version(self) -> str:
        return _version()

    def cpu_s(self) -> float:
        """CPU seconds of the workers until now."""
        return sum(map(cpu_s, self._workers()))

    def sent_bytes(self) -> int:
        return sum(map(written_bytes, self._workers()))

    def _workers(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


def _version() -> str:
    return program_version("nginx", "-v")().removeprefix("nginx version: ")


def nginx_here() -> str:
    """What of it this machine has. Raises Unusable: better before gigabytes are written for it to serve."""
    program("nginx")
    program("openssl")
    return f"{_version()}, {program_version('openssl', 'version')()}"


@contextmanager
def nginx(
    directory: Path,
    root: Path,
    repos: Mapping[str, str] | None = None,
    *,
    host: str = "127.0.0.1",
    inside: tuple[str, ...] = (),
) -> Iterator[Nginx]:
    """An nginx that serves ``root``, and keeps what is its own in ``directory``, which it makes.

    ``repos``: repository → folder below ``root``, which the hub behind it serves. ``inside``: command that starts it in
    a network namespace, where ``host`` is.
    """
    directory.mkdir()
    _make_certificate(directory)
    repos = repos or {}
    for _ in range(TRIES):
        ports = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))
        with _hub(repos, root, f"http://{host}:{ports['plain']}") as known:
            maps, locations = _hub_parts(repos, root, known)
            text = _CONFIGURATION.format(
                directory=directory,
                root=root,
                host=host,
                rate=CAPPED,
                crawl=STRAGGLING,
                maps="\n".join(maps),
                hub_locations="\n".join(locations) or "return 404;",
                **ports,
            )
            configuration = directory / "nginx.conf"
            configuration.write_text(text)
            command = [*inside, program("nginx"), "-p", str(directory), "-c", str(configuration)]
            with running(command) as process:
                if _is_up(process, directory / "nginx.pid", directory / "error.log"):
                    yield Nginx(process, directory, host, ports)
                    return
    raise Unusable(f"nginx found no free ports {TRIES} times")


def _hub_parts(repos: Mapping[str, str], root: Path, known: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What nginx has to know of repositories: maps and locations. Links large files to where the hub sends for them."""
    maps: list[str] = []
    locations: list[str] = []
    for number, (name, told) in enumerate(known["repos"].items()):
        folder = root / repos[name]
        for path, stored in told["stored"].items():
            link = root / stored.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(folder / path)
        if not told["oids"]:
            continue
        variable = f"path{number}"
        lines = "\n".join(f'"{path}" \'"{oid}"\';' for path, oid in told["oids"].items())
        maps.append(f'map ${variable} ${variable}_oid {{ default "";\n{lines}\n}}')
        values = {"name": name, "variable": variable, "commit": told["commit"], "directory": folder}
        locations.append(_REPO.format(**values))
    if known["repos"]:
        locations.append(f"location / {{ proxy_pass {known['endpoint']}; }}")
    return maps, locations


def _is_up(process: subprocess.Popen[bytes], sign: Path, log: Path) -> bool:
    """Wait until it listens; False if somebody else took one of its ports meanwhile."""
    deadline = time.monotonic() + READY_S
    while not (sign.exists() and sign.read_text().strip()):
        if process.poll() is not None or time.monotonic() > deadline:
            said = _log(log)
            log.unlink(missing_ok=True)
            if "Address already in use" in said:
                return False
            raise Unusable(f"nginx did not start: {said}")
        time.sleep(0.02)
    while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text():  # the worker
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unusable(f"nginx has no worker: {_log(log)}")
        time.sleep(0.02)
    return True


def _log(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@contextmanager
def _hub(repos: Mapping[str, str], root: Path, cdn_origin: str) -> Iterator[dict[str, Any]]:
    if not repos:
        yield {"endpoint": "", "repos": {}}
        return
    told = [f"{name}={root / folder}" for name, folder in repos.items()]
    with talking(own_module("hub", "--cdn-origin", cdn_origin, *told)) as partner:
        yield partner.told()


def _make_certificate(directory: Path) -> None:
    """Of an authority of our own, for loopback. Not its own authority, since some clients take that for a mistake."""
    authority, key = directory / "authority.pem", directory / "authority-key.pem"
    by_authority = ("-CA", str(authority), "-CAkey", str(key))
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:false")
    _openssl(authority, key, "/CN=benchmarks", "-addext", "basicConstraints=critical,CA:true")
    _openssl(directory / "certificate.pem", directory / "key.pem", "/CN=localhost", *by_authority, *names)


def _openssl(certificate: Path, key: Path, subject: str, *more: str) -> None:
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    where = ("-keyout", str(key), "-out", str(certificate), "-subj", subject)
    command = [program("openssl"), "req", "-x509", *kind, *where, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:  # such as of one before 3, which has no authorities here
        raise Unusable(f"openssl (3 or later is needed) made no certificate: {done.stderr.strip()}")
