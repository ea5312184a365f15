"""The judge: skopeo (Debian), a real client of registries, logs in, chooses platforms, and finds every digest right."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fetcher.testing import Synthetic
from fetcher.testing.faults import FlipByte
from fetcher.testing.registry import Layer, OtherManifestBytes, Registry, registry_in_thread
from tests.registry.tools import sha256

pytestmark = pytest.mark.needs("debian:skopeo")

NOISE = Layer.of_files({"srv/noise": Synthetic(3 << 20, 9)})


def skopeo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run skopeo with a policy, a home and temporary files of its own."""
    policy = tmp_path / "policy.json"
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    (tmp_path / "temporary").mkdir(exist_ok=True)
    return subprocess.run(
        ["skopeo", "--policy", str(policy), "--tmpdir", str(tmp_path / "temporary"), *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")},
    )


def copy(tmp_path: Path, registry: Registry, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    source = f"docker://{registry.host}/{name}"
    return skopeo(tmp_path, "copy", "--src-tls-verify=false", *options, source, f"dir:{tmp_path / 'got'}")


def copied(tmp_path: Path) -> tuple[dict[str, Any], bytes]:
    """What lies in skopeo's directory after a copy: the manifest, parsed and as it came."""
    body = (tmp_path / "got" / "manifest.json").read_bytes()
    document: dict[str, Any] = json.loads(body)
    for row in [document["config"], *document["layers"]]:
        data = (tmp_path / "got" / row["digest"].removeprefix("sha256:")).read_bytes()
        assert (sha256(data), len(data)) == (row["digest"], row["size"])
    return document, body


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registry_in_thread(users={"alice": "wonder"}, redirect_blobs=True, separate_token_service=True) as registry:
        yield registry


@pytest.mark.parametrize("style", ["docker", "oci"])
def test_it_copies_an_image_through_token_and_redirect(tmp_path: Path, registry: Registry, style: Any) -> None:
    made = registry.add_image("acme/app", "1", layers=[NOISE], style=style)
    done = copy(tmp_path, registry, "acme/app:1")
    assert done.returncode == 0, done.stderr
    assert copied(tmp_path)[1] == made.body
    assert registry.count("token", status=200) > 0 and registry.count("cdn", status=200) == 3
    assert registry.count("cdn", status=400) == 0


def test_it_chooses_from_an_index(tmp_path: Path, registry: Registry) -> None:
    index = registry.add_image("acme/app", platforms=("linux/amd64", "linux/arm64"), style="oci", attestation=True)
    done = copy(tmp_path, registry, "acme/app", "--multi-arch=system")
    assert done.returncode == 0, done.stderr
    assert sha256(copied(tmp_path)[1]) == index.document["manifests"][0]["digest"]
    inspected = skopeo(
        tmp_path,
        *("--override-arch", "arm64", "inspect", "--tls-verify=false"),
        f"docker://{registry.host}/acme/app",
    )
    assert json.loads(inspected.stdout)["Architecture"] == "arm64", inspected.stderr
    assert json.loads(inspected.stdout)["RepoTags"] == ["latest"]
    whole = copy(tmp_path, registry, f"acme/app@{index.digest}", "--all")
    assert whole.returncode == 0, whole.stderr
    assert (tmp_path / "got" / "manifest.json").read_bytes() == index.body


def test_it_logs_in_for_what_is_private(tmp_path: Path, registry: Registry) -> None:
    made = registry.add_image("acme/secret", private=True)
    refused = copy(tmp_path, registry, "acme/secret")
    assert refused.returncode != 0 and "unauthorized" in refused.stderr.lower()
    wrong = copy(tmp_path, registry, "acme/secret", "--src-creds", "alice:wrong")
    assert wrong.returncode != 0
    done = copy(tmp_path, registry, "acme/secret", "--src-creds", "alice:wonder")
    assert done.returncode == 0, done.stderr
    assert copied(tmp_path)[1] == made.body
    assert "wonder" not in repr(list(registry.requests))


def test_it_logs_in_with_basic(tmp_path: Path) -> None:
    with registry_in_thread(users={"alice": "wonder"}, auth="basic") as registry:
        made = registry.add_image("acme/app")
        assert copy(tmp_path, registry, "acme/app").returncode != 0
        done = copy(tmp_path, registry, "acme/app", "--src-creds", "alice:wonder")
        assert done.returncode == 0, done.stderr
        assert copied(tmp_path)[1] == made.body


def test_it_notices_our_lies(tmp_path: Path, registry: Registry) -> None:
    made = registry.add_image("acme/app", layers=[NOISE])
    registry.faults.add(FlipByte(1000).on("cdn", path=f"sha256:{NOISE.content.sha256}"))
    done = copy(tmp_path, registry, "acme/app")
    assert done.returncode != 0 and "did not match" in done.stderr, done.stderr
    registry.faults.clear()
    registry.faults.add(OtherManifestBytes())
    done = copy(tmp_path, registry, f"acme/app@{made.digest}")
    assert done.returncode != 0, done.stderr
    registry.faults.clear()
    assert copy(tmp_path, registry, f"acme/app@{made.digest}").returncode == 0


def test_it_reads_a_model_as_an_artifact(tmp_path: Path) -> None:
    with registry_in_thread() as registry:
        made = registry.add_model("library/tiny", "1b")
        answer = skopeo(tmp_path, "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/library/tiny:1b")
        assert answer.stdout.encode() == made.body, answer.stderr
