"""huggingface_hub over plain HTTP: the embedded hub speaks no Xet. Checks sizes; its own ``verify`` can come after."""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.running.work import Command, Rival, Work, module_version, python, trusting

OUTPUT = "hf/hub/models--*/snapshots/*/{name}"


def _environment(work: Work) -> dict[str, str]:
    return trusting(work) | {
        "HF_ENDPOINT": work.hub,
        "HF_HOME": str(work.directory / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def file(work: Work) -> Command:
    """The function under all of it that takes a URL."""
    return Command(python("huggingface_hub_get", work.url, str(work.path)), _environment(work) | {"HF_ENDPOINT": ""})


def repo(work: Work) -> Command:
    return _python(work, f"from huggingface_hub import snapshot_download; snapshot_download({work.repo!r})")


def repo_with_xet(work: Work) -> Command:
    """As it is installed by default. The embedded hub offers no Xet: this shows what asking costs, no more."""
    command = repo(work)
    environment = {name: value for name, value in command.environment.items() if name != "HF_HUB_DISABLE_XET"}
    return replace(command, environment=environment)


def repo_then_verified(work: Work) -> Command:
    return _python(
        work,
        "from huggingface_hub import HfApi, snapshot_download; "
        f"snapshot_download({work.repo!r}); checked = HfApi().verify_repo_checksums({work.repo!r}); "
        "assert not checked.mismatches and not checked.missing_paths and checked.checked_count",
    )


def _python(work: Work, script: str) -> Command:
    return Command((sys.executable, "-c", script), _environment(work), OUTPUT)


RIVALS = (
    Rival(
        "huggingface_hub",
        {"file": file, "repo": repo, "resume": repo},
        module_version("huggingface_hub"),
        verifies="sizes",
        needs=("python:huggingface_hub",),
        shares=True,
    ),
    Rival(
        "huggingface_hub with hf_xet",
        {"repo": repo_with_xet},
        module_version("huggingface_hub", "hf_xet"),
        verifies="sizes",
        needs=("python:huggingface_hub", "python:hf_xet"),
        shares=True,
    ),
    Rival(
        "huggingface_hub, then its verify",
        {"repo": repo_then_verified},
        module_version("huggingface_hub"),
        verifies="SHA-256 or git's SHA-1 afterwards",
        needs=("python:huggingface_hub",),
    ),
)
