"""What follows from a request that ended early: who has to wait, what has to be looked up again, what is final.

Books it with the job, its host and its run, and raises where there is nothing more to try.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.engine.jobs import FileJob, OriginChangedError, PartEnded
from fetcher.errors import IntegrityError, RateLimitedError, TransportError
from fetcher.plan.transfer import Outcome
from fetcher.plan.window import DOUBLINGS_MAX

if TYPE_CHECKING:
    from fetcher.engine.run import Run


def ended_early(run: Run, job: FileJob, ended: PartEnded, host: str) -> None:
    """Book an early end: who has to wait, what has to be looked up again."""
    now = run.tools.clock()
    outcome = ended.outcome
    if job.one_stream and not job.small and job.transfer.bytes_written:
        job.drop = outcome  # what another answer brings may be of another state
    if outcome in (Outcome.COMPLETE, Outcome.SHED):
        return  # located, but no place at that host; or given way: the part is simply taken up again
    run.last_failure = ended
    if outcome is Outcome.BUSY:
        asked_s = ended.retry_after_s
        if asked_s is not None and asked_s > run.settings.retry_after_max_s:
            # Nobody waits for so long, so nobody is kept waiting: it may be this asker's own quota that is used up, and
            # whoever else asks at this host is told for himself.
            run.tools.admission.busy(host, None)
            raise RateLimitedError(f"{ended.reason} and asks to wait {asked_s:.0f} s", resource=job.resource)
        run.tools.admission.busy(host, asked_s)
    elif outcome in (Outcome.STALLED, Outcome.SLOW, Outcome.CRAWLED):
        run.observer.parts_moved += 1
        job.failures += outcome is Outcome.STALLED
        job.moves += job.small and outcome is not Outcome.STALLED
        if outcome is Outcome.STALLED:
            run.tools.admission.stalled(host)
            if job.small:
                run.queues.small_stalled(job.resource)
    elif outcome is Outcome.CHANGED:
        if job.entry.validator is not None:
            job.distrusted = True
            raise OriginChangedError(
                f"{job.entry.path}: origin changed while it was being fetched: {ended.reason}",
                hint="run the command again once the origin has settled",
                resource=job.resource,
            )
        if job.small:
            _changed_small(job, ended)
        else:
            job.drop = outcome
            for other in job.active:
                other.end_with(Outcome.CHANGED)
    else:
        job.failures += 1
        if job.failures > 1:
            ceiling = min(
                run.settings.backoff_max_s, run.settings.backoff_min_s * 2.0 ** min(job.failures, DOUBLINGS_MAX)
            )
            job.not_before = (
                now + run.settings.backoff_min_s + run.tools.dice.random() * (ceiling - run.settings.backoff_min_s)
            )


def _changed_small(job: FileJob, ended: PartEnded) -> None:
    job.transfer.origin_changes += 1
    job.source.forget()
    if job.transfer.origin_changes > job.transfer.RESTARTS_MAX:
        raise TransportError(f"origin changed: {ended.reason}", resource=job.resource)


def wrong_small(job: FileJob) -> None:
    job.transfer.wrong_digests += 1
    job.source.forget()
    job.failures += 1
    if job.transfer.wrong_digests > job.transfer.RESTARTS_MAX:
        raise IntegrityError(
            f"{job.entry.path}: the origin twice sent bytes that are not {job.digest}",
            hint="nothing of it was published; the origin's copy is damaged, or somebody changes it on the way",
            resource=job.resource,
        )
