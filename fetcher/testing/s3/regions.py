"""Regions: where a bucket lives, and what who asks in the wrong place is told.

Decides from values. Amazon's order is kept: the region is judged before the signature.
"""

from __future__ import annotations

from collections.abc import Mapping

from fetcher.testing.messages import Request
from fetcher.testing.s3.access import Claim
from fetcher.testing.s3.buckets import Bucket
from fetcher.testing.s3.errors import Refused
from fetcher.testing.s3.routes import Route


def check(
    request: Request,
    route: Route,
    bucket: Bucket | None,
    claim: Claim | None,
    *,
    here: str,
    endpoints: Mapping[str, str],
    domain: str,
) -> None:
    """Refuse a request that came to the region ``here`` and should have gone, or been signed, for another.

    ``endpoints``: region → origin, for regions with a listener of their own. The main endpoint stands in for all
    others: there who signs for the bucket's region is served, as with a custom endpoint in a client's configuration.
    """
    right = here if bucket is None else bucket.region
    lives_elsewhere = right != here and right in endpoints
    if claim is not None and claim.region == right and not lives_elsewhere:
        return
    if claim is None and (right == here or (bucket is not None and bucket.wrong_region == "malformed")):
        return
    if bucket is None or right == here or bucket.wrong_region == "malformed":
        assert claim is not None
        if claim.region == right:
            return
        in_header = claim.expires_s is None
        code = "AuthorizationHeaderMalformed" if in_header else "AuthorizationQueryParametersError"
        message = f"The authorization is malformed; the region '{claim.region}' is wrong; expecting '{right}'"
        told = {"x-amz-bucket-region": right} if request.method == "HEAD" and route.name != "object" else {}
        raise Refused(code, message, elements={"Region": right}, headers=told)
    origin = endpoints.get(right, f"http://s3.{right}.{domain}")
    # HEAD of an object is refused without a word; that of a bucket names the region, and so does every GET.
    bare = request.method == "HEAD" and route.name == "object"
    headers = {} if bare else {"x-amz-bucket-region": right}
    elements = {"Endpoint": origin.removeprefix("http://"), "Bucket": bucket.name, "Region": right}
    if bucket.wrong_region == "permanent":
        raise Refused("PermanentRedirect", elements=elements, headers=headers)
    location = {"Location": f"{origin}{request.target}"}
    raise Refused("TemporaryRedirect", elements=elements, headers=headers | location)
