"""An embedded Hugging Face Hub for tests, demonstrations and benchmarks: ``Hub`` and ``hub_in_thread``.

As strict as the real one: git's own ids, redirects to a second origin with signed URLs, rate limits, refusals.
"""

from fetcher.testing.hub.access import Quotas, Token
from fetcher.testing.hub.hostility import HOSTILE_ROWS, AnnounceQuota, EndlessLinks, HostileTree, JsonGarbage
from fetcher.testing.hub.repos import Commit, Entry, Kind, Repo
from fetcher.testing.hub.server import Hub
from fetcher.testing.hub.thread import hub_in_thread

__all__ = [
    "HOSTILE_ROWS",
    "AnnounceQuota",
    "Commit",
    "EndlessLinks",
    "Entry",
    "HostileTree",
    "Hub",
    "JsonGarbage",
    "Kind",
    "Quotas",
    "Repo",
    "Token",
    "hub_in_thread",
]
