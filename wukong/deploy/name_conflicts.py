"""Names that are taken: existing resources with the names of a deployment's, which do not belong to it.

CloudFormation would find these only half-way, one at a time. The stack's own record says which resources belong to it.
A store that was set up without a deployment has the same names: 'wukong store down' removes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wukong.deploy.account import DeployAccount, DeployRefused
from wukong.deploy.finding import Finding
from wukong.deploy.network import Network
from wukong.deploy.options import DeployOptions

_MISSING = ("NotFound", "NoSuchEntity")


def name_conflicts(
    account: DeployAccount, options: DeployOptions, noted: Mapping[str, Any], network: Network | None
) -> Iterator[Finding]:
    """Yield resources that have a name which the deployment needs, and that do not belong to it."""
    before = noted.get("options", {})
    looks = _Looks(account, network)
    ours = DeployOptions.over(options.name, before, {}).function_names if before else ()
    for name, group in zip(options.function_names, options.log_groups, strict=True):
        if name in ours:
            continue
        yield from looks.function(name)
        yield from looks.log_group(group)
    had_nodes, had_proxy = before.get("store") == "fargate", bool(before.get("proxy"))
    if options.has_cluster and not had_nodes and not had_proxy:
        yield from looks.cluster(options.name)
    if (
        network is not None
        and not options.security_groups
        and (not before.get("subnets") or before.get("security_groups"))
    ):
        yield from looks.group(options.functions_group_name)
    if options.has_secret and not had_proxy and before.get("key_in") != "secrets-manager":
        yield from looks.secret(options.secret_name)
    if options.has_table and before.get("store") != "dynamodb":
        yield from looks.table(options.table_name)
    if options.on_fargate and not had_nodes:
        yield from looks.role(options.store_name)
        yield from looks.group(options.store_name)
        yield from looks.log_group(options.store_log_group)
        yield from looks.secret(options.store_secret_name)
    if options.proxy and not had_proxy:
        yield from looks.group(options.proxy_name)
        yield from looks.log_group(options.proxy_log_group)
        yield from looks.namespace(options.namespace)


class _Looks:
    """Checks, each of which asks for one resource and yields a finding if its name is taken."""

    def __init__(self, account: DeployAccount, network: Network | None) -> None:
        self._account, self._network = account, network

    def function(self, name: str) -> Iterator[Finding]:
        if self._asked("lambda", "get_function_configuration", FunctionName=name) is not None:
            yield _taken("a function", name, f"aws lambda delete-function --function-name {name}")

    def log_group(self, name: str) -> Iterator[Finding]:
        found = self._account.pages("logs", "describe_log_groups", "logGroups", logGroupNamePrefix=name)
        if any(each["logGroupName"] == name for each in found):
            yield _taken("a log group", name, f"aws logs delete-log-group --log-group-name {name}")

    def cluster(self, name: str) -> Iterator[Finding]:
        found = self._account.call("ecs", "describe_clusters", clusters=[name])["clusters"]
        if any(each.get("status") == "ACTIVE" for each in found):
            yield _taken("an ECS cluster", name, f"'wukong store down', or aws ecs delete-cluster --cluster {name}")

    def table(self, name: str) -> Iterator[Finding]:
        if self._asked("dynamodb", "describe_table", TableName=name) is not None:
            yield _taken("a DynamoDB table", name, f"aws dynamodb delete-table --table-name {name}")

    def role(self, name: str) -> Iterator[Finding]:
        if self._asked("iam", "get_role", RoleName=name) is not None:
            yield _taken("a role", name, f"'wukong store down', or aws iam delete-role --role-name {name}")

    def secret(self, name: str) -> Iterator[Finding]:
        if self._asked("secretsmanager", "describe_secret", SecretId=name) is not None:
            command = f"aws secretsmanager delete-secret --force-delete-without-recovery --secret-id {name}"
            yield _taken("a secret", name, command)

    def group(self, name: str) -> Iterator[Finding]:
        if self._network is None:
            return
        filters = [{"Name": "vpc-id", "Values": [self._network.vpc]}, {"Name": "group-name", "Values": [name]}]
        for each in self._account.pages("ec2", "describe_security_groups", "SecurityGroups", Filters=filters):
            yield _taken("a security group", name, f"aws ec2 delete-security-group --group-id {each['GroupId']}")

    def namespace(self, name: str) -> Iterator[Finding]:
        if self._network is None:
            return
        filters = [{"Name": "TYPE", "Values": ["DNS_PRIVATE"], "Condition": "EQ"}]
        pages = self._account.pages("servicediscovery", "list_namespaces", "Namespaces", Filters=filters)
        for each in pages:
            if each["Name"] == name:
                command = f"aws servicediscovery delete-namespace --id {each['Id']}"
                yield _taken("a Cloud Map namespace", name, command)

    def _asked(self, service: str, operation: str, **arguments: Any) -> Any:
        """Return the answer; None if the resource does not exist."""
        try:
            return self._account.call(service, operation, **arguments)
        except DeployRefused as error:
            if not any(word in error.code for word in _MISSING):
                raise
            return None


def _taken(what: str, name: str, command: str) -> Finding:
    return Finding(
        f"there is {what} {name} already, which does not belong to this deployment",
        f"give another --name, or remove it: {command}",
    )
