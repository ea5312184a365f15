"""Objects of an S3 (`rclone serve s3`): many small ones, and a large one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.origins import contents
from benchmarks.origins.s3 import rclone_here, rclone_s3
from benchmarks.running.machine import Conditions
from benchmarks.running.options import BIG, KIB, Options
from benchmarks.running.race import Race, Row, room_for_many, room_in, touching
from benchmarks.running.work import Work


def s3(options: Options) -> Iterator[Row]:
    """`rclone serve s3`: many objects of 4 KiB, and one large one."""
    entrants = ("fetcher", "s5cmd", "rclone", "aws s3 cp")
    rclone_here()
    needed = 2 * (options.size_bytes + room_for_many(options.objects, 4 * KIB))
    with room_in(options.memory, needed, chosen_by="--size or --objects") as room:
        bucket = room / "data" / "bucket"
        names = tuple(f"small/{name}" for name in contents.many(bucket / "small", options.objects, 4 * KIB))
        contents.large(bucket / BIG, options.size_bytes)
        with rclone_s3(room / "data", room) as server, room_in(room) as sink:
            server.hash_all(f"bucket/{name}" for name in (*names, BIG))
            work = Work("", names, sink, s3=server.endpoint, bucket="bucket", prefix="small")
            yield from Race("s3-many", options, "s3", entrants, work, bucket, Conditions(options.core), server).rows()
            work = replace(work, names=(BIG,), prefix="")
            conditions = Conditions(options.core, touching(options.size_bytes))
            yield from Race("s3-big", options, "s3", entrants, work, bucket, conditions, server).rows()
