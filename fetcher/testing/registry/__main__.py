"""``python -m fetcher.testing.registry``: serve an embedded registry until stopped, for demonstrations and experiments.

Prints one JSON line when it listens and one when it stops; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import sys

from fetcher.testing import serving
from fetcher.testing.registry.access import PullLimit
from fetcher.testing.registry.demo import DEMO_PASSWORD, DEMO_USER, add_demo_repositories
from fetcher.testing.registry.images import Layer, model_layers
from fetcher.testing.registry.server import Registry


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return serving.run(_parser(), arguments, _registry, _facts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fetcher.testing.registry",
        description="Serve an embedded registry for Ollama models and container images on this machine. "
        "Point FETCHER_OLLAMA_URL at the printed endpoint.",
        epilog="Sizes are bytes, or end in K, M or G (powers of 1024). Without any content the demo repositories are "
        f"served; where somebody must log in, {DEMO_USER}:{DEMO_PASSWORD} opens their private one.",
    )
    content = parser.add_argument_group("content")
    content.add_argument(
        "--model", type=_named, action="append", default=[], metavar="NAME[:TAG]=SIZE", help="an Ollama model"
    )
    content.add_argument(
        "--image", type=_named, action="append", default=[], metavar="NAME[:TAG]=SIZE", help="an image, one large layer"
    )
    content.add_argument("--private", action="store_true", help="the models and images named above are private")
    content.add_argument("--demo", action="store_true", help="serve the demo repositories besides")
    content.add_argument(
        "--demo-size", type=serving.size, default=120 << 20, metavar="SIZE", help="weights of the demo model"
    )
    access = parser.add_argument_group("access")
    access.add_argument("--auth", choices=("open", "basic", "bearer"), default="open")
    access.add_argument(
        "--user", type=_user, action="append", default=[], metavar="NAME:PASSWORD", help="somebody who can log in"
    )
    access.add_argument("--token-lifetime", type=float, default=300.0, metavar="SECONDS")
    access.add_argument("--pulls", type=int, metavar="N", help="manifests that an asker may get in 6 hours")
    manners = serving.add_address(parser, "of the registry (default: a free one)")
    manners.add_argument("--dialect", choices=("distribution", "ollama"), default="distribution")
    manners.add_argument("--redirect-blobs", action="store_true", help="send blobs from a second origin")
    manners.add_argument("--url-lifetime", type=float, default=1200.0, metavar="SECONDS", help="of signed URLs")
    serving.add_pace_and_end(parser, manners)
    return parser


def _registry(options: argparse.Namespace) -> Registry:
    registry = Registry(
        dialect=options.dialect,
        auth=options.auth,
        users={} if options.auth == "open" else {DEMO_USER: DEMO_PASSWORD, **dict(options.user)},
        redirect_blobs=options.redirect_blobs or options.dialect == "ollama",
        url_lifetime_s=options.url_lifetime,
        token_lifetime_s=options.token_lifetime,
        pull_limit=PullLimit(options.pulls) if options.pulls is not None else None,
        faults=serving.pace(options),
        host=options.host,
        port=options.port,
    )
    for seed, (name, tag, size) in enumerate(options.model):
        registry.add_model(name, tag, layers=model_layers(size, seed), private=options.private)
    for seed, (name, tag, size) in enumerate(options.image):
        # Noise does not compress: the layer is about as large as its file.
        layers = [Layer.of_files({"srv/data": model_layers(size, 1000 + seed)["model"]})]
        registry.add_image(name, tag, layers=layers, private=options.private)
    if options.demo or not registry.repositories:
        add_demo_repositories(registry, model_bytes=options.demo_size)
    return registry


def _facts(registry: Registry) -> dict[str, object]:
    repositories = [
        {
            "name": repository.name,
            "tags": dict(repository.tags),
            "bytes": sum(content.size for content in repository.blobs.values()),
            "private": repository.private,
        }
        for repository in registry.repositories
    ]
    return {"endpoint": registry.endpoint, "cdn_endpoint": registry.cdn_endpoint, "repositories": repositories}


def _named(text: str) -> tuple[str, str, int]:
    reference, _, size = text.rpartition("=")
    name, _, tag = reference.partition(":")
    if not name:
        raise argparse.ArgumentTypeError(f"not NAME[:TAG]=SIZE: {text!r}")
    return name, tag or "latest", serving.size(size)


def _user(text: str) -> tuple[str, str]:
    name, colon, password = text.partition(":")
    if not name or not colon:
        raise argparse.ArgumentTypeError("not NAME:PASSWORD")  # what was given may be a password alone
    return name, password


if __name__ == "__main__":
    sys.exit(main())
