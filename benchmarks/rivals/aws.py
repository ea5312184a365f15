"""The AWS command line: what S3's owner offers.

From 1.37 and 2.23 on its client library checks a CRC of what it fetches whole: it fetches objects of 8 MiB and more in
ranges, and knows CRC-64/NVME only together with awscrt (see the scenario ``flipped``). Older ones, such as that of
Debian 12 (2.9), check none.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.running.work import Command, Rival, Work, program, program_version


def _s3(verb: str) -> Callable[[Work], Command]:
    def s3(work: Work) -> Command:
        source = f"s3://{work.bucket}/"
        if work.prefix:
            recursive = ("--recursive",) if verb == "cp" else ()
            what: tuple[str, ...] = (*recursive, f"{source}{work.prefix}", str(work.directory / work.prefix))
        else:
            what = (f"{source}{work.names[0]}", str(work.path))
        options = ("--no-sign-request", "--only-show-errors", "--endpoint-url", work.s3, "--region", "us-east-1")
        return Command((program("aws"), "s3", verb, *options, *what), {"AWS_EC2_METADATA_DISABLED": "true"})

    return s3


RIVALS = tuple(
    Rival(
        f"aws s3 {verb}",
        {"s3": _s3(verb)},
        program_version("aws"),
        verifies="sizes; from 1.37 or 2.23 on, below 8 MiB the CRC that S3 states (CRC-64/NVME only with awscrt)",
        needs=("aws",),
    )
    for verb in ("cp", "sync")
)
