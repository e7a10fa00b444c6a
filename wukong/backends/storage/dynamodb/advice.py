"""What about a table and a bucket endangers jobs, or costs more than it need. Asks AWS through boto3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wukong.backends.aws_access import AwsAccess
from wukong.backends.aws_calls import DENIED, STALE, is_about_reaching, told
from wukong.backends.storage.dynamodb.answers import BACKEND, NO_TABLE, UNKNOWN_CREDENTIALS, Place
from wukong.backends.storage.dynamodb.client import translated
from wukong.errors import StoreError, StoreUnavailable

__all__ = ["NO_BUCKET", "of_bucket", "of_table"]

NO_BUCKET = "'wukong deploy --storage dynamodb' makes it; else check the option bucket"
_AWAY = "check the network, the region and the endpoint"
_HINTS = {
    "NoSuchBucket": NO_BUCKET,
    "ResourceNotFoundException": NO_TABLE,
    **dict.fromkeys(STALE, UNKNOWN_CREDENTIALS),
}
_KEYS = [{"AttributeName": "k", "KeyType": "HASH"}]
_UNTOLD = DENIED | {"UnknownOperationException", "NotImplemented", "MethodNotAllowed"}
"""Codes of who may not ask, and of stand-ins that cannot tell."""


def of_table(access: AwsAccess, place: Place) -> Iterator[str]:
    """Yield one line for each danger, ``"what is the matter -> what to do"``. Raises `StoreError` if there is none."""
    found = _asked(access, "dynamodb", "describe_table", str(place), TableName=place.table)
    if found is not None:
        table = found["Table"]
        types = {each["AttributeName"]: each["AttributeType"] for each in table.get("AttributeDefinitions", ())}
        if table.get("KeySchema") != _KEYS or types.get("k") != "B":
            yield f"the table {place.table} has another key than 'k' of type B -> 'wukong deploy' makes one that has it"
        written = int(table.get("ProvisionedThroughput", {}).get("WriteCapacityUnits", 0))
        if written and table.get("BillingModeSummary", {}).get("BillingMode") != "PAY_PER_REQUEST":
            yield (
                f"the table {place.table} takes {written:,} writes of 1 kB a second, used or not"
                " -> set it to on-demand capacity (PAY_PER_REQUEST)"
            )
    found = _asked(access, "dynamodb", "describe_time_to_live", str(place), TableName=place.table)
    if found is not None:
        life = found["TimeToLiveDescription"]
        if life.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING") or life.get("AttributeName") != "expires":
            yield (
                f"the table {place.table} never forgets, and costs more every day"
                " -> enable its time to live, on the attribute 'expires'"
            )


def of_bucket(access: AwsAccess, bucket: str) -> Iterator[str]:
    """Yield lines about a bucket, as `of_table`."""
    operation = "get_bucket_lifecycle_configuration"
    found = _asked(access, "s3", operation, f"bucket {bucket}", missing="NoSuchLifecycleConfiguration", Bucket=bucket)
    if found is not None:
        rules = [each for each in found.get("Rules", ()) if each.get("Status") == "Enabled"]
        if not any("Expiration" in each for each in rules):
            yield f"the bucket {bucket} never forgets -> give it a lifecycle that deletes what is older than a day"


def _asked(
    access: AwsAccess, service: str, operation: str, where: str, missing: str = "", **arguments: Any
) -> dict[str, Any] | None:
    """Return the answer; None if nobody tells. `missing`: the code of an answer that is empty."""
    client = access.client(service)
    try:
        answer: dict[str, Any] = getattr(client, operation)(**arguments)
        return answer
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("botocore", "boto3"):
            raise
        said = told(error)
        if said is None and is_about_reaching(error):
            raise StoreUnavailable(f"AWS does not answer: {error} [{where}]", backend=BACKEND, hint=_AWAY) from error
        if said is None:
            raise translated(error) from error
        if said[0] == missing:
            return {}
        if said[0] in _UNTOLD:
            return None
        raise StoreError(f"{said[0]}: {said[1]} [{where}]", backend=BACKEND, hint=_HINTS.get(said[0])) from error
