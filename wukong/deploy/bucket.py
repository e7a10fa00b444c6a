"""A deployment's buckets: that of its package, and that of large values of its store, if that is in DynamoDB.

Each is made by the first deployment that needs it, and removed with it. The package's cannot be part of the stack,
because CloudFormation creates functions from a package that must be there before; the other one should not, since
CloudFormation deletes no bucket that has objects in it. Their names follow from account, region and deployment, so
nobody has to remember them. All of AWS shares the names of buckets, so every call states whose bucket it has to be. The
package's holds one at a time, that of the functions: CloudFormation needs it to roll back. What is in the other one is
deleted a day after it was written.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from wukong.deploy.account import BACKEND, DeployAccount, DeployRefused
from wukong.deploy.code import Package
from wukong.deploy.options import TAG
from wukong.errors import BackendError

Holding: TypeAlias = Literal["code", "values"]
"""What a bucket is for."""

VALUES_DAYS = 1
"""How long S3 keeps large values, at least."""

_MANY = 1_000
_NOT_THERE = frozenset({"404", "NoSuchBucket", "NotFound"})
_NO_TAGS = frozenset({"NoSuchTagSet", "404"})


def bucket_name(name: str, account: DeployAccount, holding: Holding = "code") -> str:
    """Return the name of the bucket of the deployment `name`."""
    return f"{name}-{holding}-{account.id}-{account.region}"


def bucket_arn(name: str, holding: Holding) -> str:
    """Return the bucket's ARN in the template's syntax, for ``Fn::Sub``."""
    return f"arn:${{AWS::Partition}}:s3:::{name}-{holding}-${{AWS::AccountId}}-${{AWS::Region}}"


class Bucket:
    """A bucket of one deployment. A bucket of another account is never touched."""

    def __init__(self, account: DeployAccount, name: str, holding: Holding = "code") -> None:
        self._account, self._deployment, self._holding = account, name, holding
        self.name = bucket_name(name, account, holding)
        self._mine = {"Bucket": self.name, "ExpectedBucketOwner": account.id}

    def exists(self) -> bool:
        """Return whether it exists. Raises `BackendError` if it belongs to somebody else, or is not Wukong's."""
        try:
            self._account.call("s3", "head_bucket", **self._mine)
        except DeployRefused as error:
            if error.code in _NOT_THERE:
                return False
            if error.denied:
                raise BackendError(
                    f"the bucket {self.name} belongs to another account, or may not be seen",
                    backend=BACKEND,
                    hint="give another --name, or allow s3:ListBucket: 'wukong deploy --policy' prints what it takes",
                ) from error
            raise
        owner = self._tags().get(TAG)
        if owner != self._deployment and (owner is not None or self._keys()):
            raise BackendError(
                f"the bucket {self.name} is not one of Wukong's: it has no tag {TAG}={self._deployment}",
                backend=BACKEND,
                hint="give another --name, or remove the bucket",
            )
        return True

    def create(self, tags: dict[str, str]) -> None:
        """Make the bucket, or complete its setup: private, encrypted, and deleting what is old or was broken off."""
        call, region = self._account.call, self._account.region
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            call("s3", "create_bucket", Bucket=self.name, **where)
        except DeployRefused as error:
            if error.code != "BucketAlreadyOwnedByYou":
                raise
        call(
            "s3",
            "put_bucket_tagging",
            **self._mine,
            Tagging={"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]},
        )
        call(
            "s3",
            "put_public_access_block",
            **self._mine,
            PublicAccessBlockConfiguration=dict.fromkeys(
                ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
            ),
        )
        encryption = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        call(
            "s3",
            "put_bucket_encryption",
            **self._mine,
            ServerSideEncryptionConfiguration={"Rules": [encryption]},
        )
        broken_off = {
            "ID": "uploads that were broken off",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        }
        old = {
            "ID": "values of jobs that are over",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "Expiration": {"Days": VALUES_DAYS},
        }
        call(
            "s3",
            "put_bucket_lifecycle_configuration",
            **self._mine,
            LifecycleConfiguration={"Rules": [broken_off, old] if self._holding == "values" else [broken_off]},
        )

    def has(self, package: Package) -> bool:
        """Return whether it contains a package already."""
        try:
            found = self._account.call("s3", "head_object", **self._mine, Key=package.key)
        except DeployRefused as error:
            if error.code in ("404", "NoSuchKey"):
                return False
            raise
        return int(found["ContentLength"]) == package.size_bytes

    def put(self, package: Package) -> None:
        """Upload a package."""
        with package.path.open("rb") as file:
            self._account.call(
                "s3", "put_object", **self._mine, Key=package.key, Body=file, ContentType="application/zip"
            )

    def keep_only(self, key: str | None) -> None:
        """Delete every object except this one."""
        unwanted = [each for each in self._keys() if each != key]
        for first in range(0, len(unwanted), _MANY):
            told = self._account.call(
                "s3",
                "delete_objects",
                **self._mine,
                Delete={"Objects": [{"Key": each} for each in unwanted[first : first + _MANY]], "Quiet": True},
            )
            if told.get("Errors"):
                raise BackendError(
                    f"{told['Errors'][0].get('Key')} in the bucket {self.name} cannot be deleted: "
                    f"{told['Errors'][0].get('Message')}",
                    backend=BACKEND,
                    hint="it takes s3:DeleteObject",
                )

    def remove(self) -> None:
        """Delete the bucket with everything in it."""
        self.keep_only(None)
        self._account.call("s3", "delete_bucket", **self._mine)

    def size_bytes(self) -> int:
        """Return the total size of its objects, bytes."""
        return sum(int(each["Size"]) for each in self._account.pages("s3", "list_objects_v2", "Contents", **self._mine))

    def _keys(self) -> list[str]:
        return [str(each["Key"]) for each in self._account.pages("s3", "list_objects_v2", "Contents", **self._mine)]

    def _tags(self) -> dict[str, str]:
        try:
            found = self._account.call("s3", "get_bucket_tagging", **self._mine)["TagSet"]
        except DeployRefused as error:
            if error.code in _NO_TAGS:
                return {}
            raise
        return {str(each["Key"]): str(each["Value"]) for each in found}
