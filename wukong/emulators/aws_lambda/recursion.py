"""Functions that invoke themselves: Lambda ends a chain after 16 invocations, unless the function is allowed to go on.

The service recognises a chain by the trace header, which the AWS SDKs pass on from inside functions. Its ``Lineage``
contains a hash of each function, and how often it has been invoked in this chain. A program that does not pass the
header on escapes this check.
"""

from __future__ import annotations

import re
from zlib import crc32

from wukong.emulators.aws_lambda.refusal import Refusal

ALLOW, TERMINATE = "Allow", "Terminate"
CONDITION = "RecursiveInvocation"
_MOST_INVOCATIONS = 16
_LINEAGE = re.compile(r";?Lineage=([^;]*)")


def passed_on(trace: str, arn: str) -> tuple[str, bool]:
    """Return a trace header with an invocation of the function added to its lineage, and whether it is one too many."""
    trace = trace.replace("%7C", "|")  # botocore quotes it on the way
    found = _LINEAGE.search(trace)
    counts: dict[str, int] = {}
    if found is not None:
        for entry in found[1].split("|"):
            name, _, count = entry.partition(":")
            if count.isascii() and count.isdigit():
                counts[name] = int(count)
    own = f"{crc32(arn.encode()):08x}"
    counts[own] = counts.get(own, 0) + 1
    lineage = "|".join(f"{name}:{count}" for name, count in counts.items())
    return f"{_LINEAGE.sub('', trace)};Lineage={lineage}", counts[own] > _MOST_INVOCATIONS


def recursive() -> Refusal:
    """Return the answer to a call that would make a chain too long."""
    message = (
        "Lambda has detected your function being invoked in a recursive loop with other Amazon Web Services resources "
        "and stopped your function's invocation."
    )
    return Refusal(400, "RecursiveInvocationException", {"Type": "User", "Message": message})
