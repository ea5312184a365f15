"""The program as a user runs it: a process of its own, a clean environment, as the current user or an ordinary one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CHECKOUT = Path(__file__).resolve().parents[2]

ORDINARY_UID = 1000
"""User and group of the ordinary user; needs no entry in /etc/passwd, as in most containers."""

User = Literal["current", "ordinary"]

# What a user's shell would hand on. Everything else (proxies, tokens, tool settings of the developer) stays out.
_KEPT = ("PATH", "LANG", "TMPDIR", "NO_COLOR", "TERM", "HOME")
_KEPT_PREFIXES = ("XDG_", "HF_", "AWS_", "FETCHER_")


@dataclass(frozen=True, slots=True)
class Completed:
    """How one run of the program ended."""

    arguments: tuple[str, ...]
    exit_code: int
    """The exit code; negative: the number of the signal that ended it."""
    stdout: str
    stderr: str

    @property
    def json(self) -> list[dict[str, Any]]:
        """Every line of stdout, decoded; a line that is not JSON fails here."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        """The last line of stdout, decoded: what a machine reads."""
        return self.json[-1]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines whose ``event`` is ``name``."""
        return [line for line in self.json if line["event"] == name]


class CommandLine:
    """Runs ``python -m fetcher``. Call it for a whole run; ``start()`` for one that is to be killed or watched."""

    def __init__(self, *, home: Path, ordinary_home: Path | None = None) -> None:
        self._home = {"current": home, "ordinary": ordinary_home}

    def home(self, user: User = "current") -> Path:
        """Home of ``user``; the cache is ``cache`` in it, unless FETCHER_CACHE_DIR says otherwise."""
        home = self._home[user]
        if home is None:
            raise RuntimeError("a run as an ordinary user needs the fixture `cli_user` or `ordinary_directory`")
        return home

    def __call__(
        self,
        *arguments: str | Path,
        env: Mapping[str, str | None] | None = None,
        input: str | bytes | None = None,
        user: User = "current",
        timeout_s: float = 50.0,
    ) -> Completed:
        """One whole run. ``env`` adds to the clean environment (None removes a name). A traceback fails here."""
        process = self.start(*arguments, env=env, user=user, stdin=subprocess.PIPE)
        try:
            given = input.encode() if isinstance(input, str) else input
            stdout, stderr = process.communicate(given, timeout=timeout_s)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        result = Completed(
            tuple(str(argument) for argument in arguments),
            process.returncode,
            stdout.decode("utf-8"),
            stderr.decode("utf-8"),
        )
        assert "Traceback (most recent call last)" not in result.stderr, result.stderr
        return result

    def start(
        self,
        *arguments: str | Path,
        env: Mapping[str, str | None] | None = None,
        user: User = "current",
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """A run under way. The caller ends it and waits for it (``with`` closes its pipes)."""
        home = self.home(user)
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fetcher", *(str(argument) for argument in arguments)]
        if user == "ordinary":
            os.chown(home, ORDINARY_UID, ORDINARY_UID)
            command = as_ordinary_user(command)
        return subprocess.Popen(
            command, env=self.environment(env, user=user), cwd=home, stdin=stdin, stdout=stdout, stderr=stderr
        )

    def environment(self, env: Mapping[str, str | None] | None = None, *, user: User = "current") -> dict[str, str]:
        """The clean environment: what the test's own environment sets for the program, and ``env``."""
        clean = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
        home = self.home(user)
        clean["HOME"] = str(home)
        clean["PYTHONPATH"] = str(CHECKOUT)
        clean["PYTHONSAFEPATH"] = "1"
        clean["PYTHONWARNINGS"] = "error::ResourceWarning"  # what the program leaves open shows as a traceback
        clean.setdefault("LANG", "C.UTF-8")
        clean.setdefault("FETCHER_CACHE_DIR", str(home / "cache"))
        for name, value in (env or {}).items():
            if value is None:
                clean.pop(name, None)
            else:
                clean[name] = value
        if user == "ordinary":
            for name in [name for name in clean if name.startswith("XDG_")]:
                del clean[name]
        return clean


def as_ordinary_user(command: list[str]) -> list[str]:
    """``command``, wrapped so that it runs as the ordinary user; only root can run it."""
    reachable = {str(CHECKOUT), sys.prefix, sys.base_prefix, str(Path(sys.executable).parent)}
    launcher = str(Path(__file__).with_name("as_user.py"))
    return [sys.executable, "-I", launcher, str(ORDINARY_UID), *sorted(reachable), "--", *command]
