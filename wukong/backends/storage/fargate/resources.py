"""What a store needs in an account besides nodes. What is missing is made, and what was made here is removed.

    cluster NAME, execution role NAME-store, log group /ecs/NAME-store, security group NAME-store,
    secrets NAME/store-password and NAME/store-certificate

The names are fixed, and a deployment's stack uses the same names: a store uses what is there. Resources that were made
here have the tag wukong:made-by = store, and only these are ever removed.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from wukong.backends.storage.fargate.calls import FargateCalls, FargateRefused
from wukong.backends.storage.fargate.certificate import new_certificate
from wukong.backends.storage.fargate.definition import PORT, statements
from wukong.backends.storage.fargate.network import NodeNetwork
from wukong.errors import StoreError

__all__ = ["CERTIFICATE", "PASSWORD", "Resources", "lower", "upper"]

T = TypeVar("T")

_MADE_BY = ("wukong:made-by", "store")
_CLIENT = "wukong: client_cidr"
_PATIENCE_S = 180.0
_PAUSE_S = 3.0
_PASSWORD_BYTES = 32
PASSWORD, CERTIFICATE = "store-password", "store-certificate"
"""The end of the secrets' names, after the store's name."""
_POLICY = "store"
_sleep: Callable[[float], None] = time.sleep


class Resources:
    """The parts of one store's set-up, by name.

    Args:
        calls: to AWS.
        name: of the store.
    """

    def __init__(self, calls: FargateCalls, name: str) -> None:
        self._calls, self.name = calls, name
        self._tags = {"wukong:name": name, _MADE_BY[0]: _MADE_BY[1]}

    @property
    def log_group(self) -> str:
        """The log group's name."""
        return f"/ecs/{self.name}-store"

    # --- making what is missing; each returns its ARN, id or name

    def cluster(self) -> str:
        """Return the cluster's ARN."""
        found = self.find_cluster()
        if found is None:
            found = self._calls.call("ecs", "create_cluster", clusterName=self.name, tags=lower(self._tags))["cluster"]
        return str(found["clusterArn"])

    def role(self) -> str:
        """Return the execution role's ARN."""

        def make() -> Mapping[str, Any]:
            service = {"Service": "ecs-tasks.amazonaws.com"}
            trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": service}
            made: Mapping[str, Any] = self._calls.call(
                "iam",
                "create_role",
                RoleName=f"{self.name}-store",
                AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
                Description=f"Redis nodes of {self.name}: image, secrets, log",
                Tags=upper(self._tags),
            )["Role"]
            return {**made, "Tags": upper(self._tags)}

        found = _found_or_made(self._find_role, make, "EntityAlreadyExists")
        if _ours(found.get("Tags", ())):
            which = {"RoleName": f"{self.name}-store", "PolicyName": _POLICY}
            wanted = self._permissions(str(found["Arn"]))
            if self._or_none("iam", "get_role_policy", "PolicyDocument", **which) != wanted:
                self._calls.call("iam", "put_role_policy", **which, PolicyDocument=json.dumps(wanted))
        return str(found["Arn"])

    def logs(self, retention_days: int) -> str:
        """Return the log group's name."""

        def make() -> Mapping[str, Any]:
            self._calls.call("logs", "create_log_group", logGroupName=self.log_group, tags=self._tags)
            self._calls.call(
                "logs", "put_retention_policy", logGroupName=self.log_group, retentionInDays=retention_days
            )
            return {}

        _found_or_made(self._find_logs, make, "ResourceAlreadyExistsException")
        return self.log_group

    def password_secret(self) -> str:
        """Return the ARN of the secret with the nodes' password."""
        return self._secret(PASSWORD, lambda: secrets.token_hex(_PASSWORD_BYTES), "the password of Redis nodes")

    def certificate_secret(self) -> str:
        """Return the ARN of the secret with the nodes' certificate and its key, PEM."""
        return self._secret(CERTIFICATE, lambda: new_certificate(self.name), "certificate and key of Redis nodes")

    def read(self, secret: str) -> str:
        """Return the content of a secret, `PASSWORD` or `CERTIFICATE`. Raises `FargateRefused` if there is none."""
        told = self._calls.call("secretsmanager", "get_secret_value", SecretId=f"{self.name}/{secret}")
        return str(told["SecretString"]).strip()

    def _secret(self, name: str, value: Callable[[], str], description: str) -> str:
        full = f"{self.name}/{name}"
        try:
            found = self._calls.call("secretsmanager", "describe_secret", SecretId=full)
            if found.get("DeletedDate") is not None:
                self._calls.call("secretsmanager", "restore_secret", SecretId=full)
            return str(found["ARN"])
        except FargateRefused as error:
            if not error.missing:
                raise
            try:
                self._calls.call(
                    "secretsmanager",
                    "create_secret",
                    Name=full,
                    Description=description,
                    SecretString=value(),
                    Tags=upper(self._tags),
                )
            except FargateRefused as taken:  # another client has just made it
                if taken.code != "ResourceExistsException":
                    raise
        return str(self._calls.call("secretsmanager", "describe_secret", SecretId=full)["ARN"])

    def group(self, place: NodeNetwork, client_cidr: str | None) -> str:
        """Return the id of the nodes' security group, which admits those of `place` and `client_cidr`."""

        def make() -> Mapping[str, Any]:
            made: Mapping[str, Any] = self._calls.call(
                "ec2",
                "create_security_group",
                GroupName=f"{self.name}-store",
                Description=f"Redis nodes of {self.name}",
                VpcId=place.vpc,
                TagSpecifications=[{"ResourceType": "security-group", "Tags": upper(self._tags)}],
            )
            return made

        found = _found_or_made(lambda: self._find_group(place.vpc), make, "InvalidGroup.Duplicate")
        rules = [rule for rule in found.get("IpPermissions", ()) if rule.get("FromPort") == PORT]
        groups = {pair["GroupId"] for rule in rules for pair in rule.get("UserIdGroupPairs", ())}
        ranges = {each["CidrIp"] for rule in rules for each in rule.get("IpRanges", ())}
        wanted: list[dict[str, Any]] = [
            {"UserIdGroupPairs": [{"GroupId": group, "Description": "wukong: functions"}]}
            for group in place.admitted
            if group not in groups
        ]
        if client_cidr is not None and client_cidr not in ranges:
            wanted.append({"IpRanges": [{"CidrIp": client_cidr, "Description": _CLIENT}]})
        for source in wanted:
            rule = {"IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT, **source}
            try:
                self._calls.call(
                    "ec2", "authorize_security_group_ingress", GroupId=found["GroupId"], IpPermissions=[rule]
                )
            except FargateRefused as error:
                if error.code != "InvalidPermission.Duplicate":
                    raise
        return str(found["GroupId"])

    # --- removing what was made here

    def remove(self) -> tuple[list[str], list[str]]:
        """Remove what was made here, once no task runs any more; return what was removed, and what is left.

        Resources that others have made are left, and so is a cluster in which others run something.
        """
        removed: list[str] = []
        left: list[str] = []
        for what, found, tags, remove in self._all():
            if found is not None:
                gone = _ours(tags) and remove()
                (removed if gone else left).append(what)
        return removed, left

    def _all(self) -> Iterable[tuple[str, Any, Any, Callable[[], bool]]]:
        """Yield each part in the order of removal: its name, what was found, its tags, a function that removes it."""
        name = f"{self.name}-store"
        for group in self._find_groups():
            yield f"security group {name}", group, group.get("Tags", ()), lambda g=group: self._remove_group(g)  # type: ignore[misc]
            if not _ours(group.get("Tags", ())):
                self._revoke_client(group)
        role = self._find_role()
        yield f"role {name}", role, (role or {}).get("Tags", ()), self._remove_role
        for secret in (PASSWORD, CERTIFICATE):
            found = self._find_secret(f"{self.name}/{secret}")
            tags = (found or {}).get("Tags", ())
            yield f"secret {self.name}/{secret}", found, tags, lambda s=secret: self._remove_secret(s)  # type: ignore[misc]
        logs = self._find_logs()
        tags = [] if logs is None else upper(self._tags_of_logs(logs))
        yield f"log group {self.log_group}", logs, tags, self._remove_logs
        cluster = self.find_cluster()
        yield f"cluster {self.name}", cluster, (cluster or {}).get("tags", ()), self._remove_cluster

    def _remove_group(self, group: Mapping[str, Any]) -> bool:
        """Remove the security group. A task's network interface keeps it in use for some time after the task."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._calls.call("ec2", "delete_security_group", GroupId=group["GroupId"])
            except FargateRefused as error:
                if error.missing:
                    return True
                if error.code != "DependencyViolation" or time.monotonic() > end:
                    raise
                _sleep(_PAUSE_S)
            else:
                return True

    def _revoke_client(self, group: Mapping[str, Any]) -> None:
        for rule in group.get("IpPermissions", ()):
            ranges = [each for each in rule.get("IpRanges", ()) if each.get("Description") == _CLIENT]
            if ranges:
                narrow = {key: rule[key] for key in ("IpProtocol", "FromPort", "ToPort")} | {"IpRanges": ranges}
                self._calls.call(
                    "ec2", "revoke_security_group_ingress", GroupId=group["GroupId"], IpPermissions=[narrow]
                )

    def _remove_role(self) -> bool:
        for policy in self._calls.pages("iam", "list_role_policies", "PolicyNames", RoleName=f"{self.name}-store"):
            self._calls.call("iam", "delete_role_policy", RoleName=f"{self.name}-store", PolicyName=policy)
        self._calls.call("iam", "delete_role", RoleName=f"{self.name}-store")
        return True

    def _remove_secret(self, name: str) -> bool:
        self._calls.call(
            "secretsmanager", "delete_secret", SecretId=f"{self.name}/{name}", ForceDeleteWithoutRecovery=True
        )
        return True

    def _remove_logs(self) -> bool:
        self._calls.call("logs", "delete_log_group", logGroupName=self.log_group)
        return True

    def _remove_cluster(self) -> bool:
        try:
            self._calls.call("ecs", "delete_cluster", cluster=self.name)
        except FargateRefused as error:
            if not error.code.startswith("ClusterContains"):
                raise
            return False
        return True

    # --- looking

    def find_cluster(self) -> Mapping[str, Any] | None:
        """Return the cluster as AWS describes it; None if there is none."""
        told = self._calls.call("ecs", "describe_clusters", clusters=[self.name], include=["TAGS"])
        return next((each for each in told["clusters"] if each.get("status") == "ACTIVE"), None)

    def _find_role(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self._or_none("iam", "get_role", "Role", RoleName=f"{self.name}-store")
        return found

    def _find_logs(self) -> Mapping[str, Any] | None:
        groups = self._calls.pages("logs", "describe_log_groups", "logGroups", logGroupNamePrefix=self.log_group)
        return next((each for each in groups if each["logGroupName"] == self.log_group), None)

    def _tags_of_logs(self, logs: Mapping[str, Any]) -> dict[str, str]:
        arn = str(logs["arn"]).removesuffix(":*")
        return dict(self._calls.call("logs", "list_tags_for_resource", resourceArn=arn)["tags"])

    def _find_groups(self) -> list[Mapping[str, Any]]:
        named = [{"Name": "group-name", "Values": [f"{self.name}-store"]}]
        return list(self._calls.pages("ec2", "describe_security_groups", "SecurityGroups", Filters=named))

    def _find_group(self, vpc: str) -> Mapping[str, Any] | None:
        return next((group for group in self._find_groups() if group["VpcId"] == vpc), None)

    def _find_secret(self, name: str) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = self._calls.call("secretsmanager", "describe_secret", SecretId=name)
        except FargateRefused as error:
            if not error.missing:
                raise
            return None
        return None if found.get("DeletedDate") is not None else found

    def _or_none(self, service: str, operation: str, key: str, **arguments: Any) -> Any:
        try:
            return self._calls.call(service, operation, **arguments)[key]
        except FargateRefused as error:
            if not error.missing:
                raise
            return None

    def _permissions(self, role: str) -> dict[str, Any]:
        _, partition, _, _, account, _ = role.split(":", 5)
        secrets = f"arn:{partition}:secretsmanager:*:{account}:secret:{self.name}/store-*"  # a role serves all regions
        logs = f"arn:{partition}:logs:*:{account}:log-group:{self.log_group}:*"
        return {"Version": "2012-10-17", "Statement": statements(secrets, logs)}


def upper(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as most services want them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def lower(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as ECS wants them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def _ours(tags: Iterable[Mapping[str, str]]) -> bool:
    return any((tag.get("Key", tag.get("key")), tag.get("Value", tag.get("value"))) == _MADE_BY for tag in tags)


def _found_or_made(find: Callable[[], T | None], make: Callable[[], T], taken: str) -> T:
    """Return what `find` finds, or else what `make` makes; `taken`: AWS's codes if another client was faster."""
    found = find()
    if found is None:
        try:
            return make()
        except FargateRefused as error:
            if error.code != taken:
                raise
            found = find()
            if found is None:
                raise StoreError(f"{error.message}, and yet it is not there") from error
    return found
