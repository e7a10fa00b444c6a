"""The user's permissions, checked against those that deploying takes, by IAM's policy simulator."""

from __future__ import annotations

from collections.abc import Iterator

from wukong.deploy.account import DeployAccount, DeployRefused
from wukong.deploy.finding import Finding
from wukong.deploy.iam_policy import Need, needed
from wukong.deploy.options import DeployOptions

_SIMULATED_AT_ONCE = 50
_CALLED_BY = (
    {"ContextKeyName": "iam:PassedToService", "ContextKeyValues": ["lambda.amazonaws.com"], "ContextKeyType": "string"},
    {
        "ContextKeyName": "aws:CalledVia",
        "ContextKeyValues": ["cloudformation.amazonaws.com"],
        "ContextKeyType": "stringList",
    },
)


def permission_findings(account: DeployAccount, options: DeployOptions) -> Iterator[Finding]:
    """Ask IAM's policy simulator which actions are denied. If it may not be asked, say so in a note."""
    arn = account.identity["Arn"]
    if arn.endswith(":root"):
        return
    try:
        principal = _principal(account, arn)
        denied = [
            (need, actions) for need in needed(options) if (actions := _denied(account, principal, need, options))
        ]
    except DeployRefused as error:
        yield Finding(
            f"permissions were not checked beforehand: {error.message}",
            "nothing need be done; to have them checked, allow iam:SimulatePrincipalPolicy and iam:GetRole on yourself",
            fatal=False,
        )
        return
    if denied:
        listed = "; ".join(
            f"{', '.join(actions)} on {_resources(account, need, options)[0]}" for need, actions in denied
        )
        yield Finding(
            f"{arn} may not do what deploying takes: {listed}",
            "'wukong deploy --policy' prints the policy to attach; --no-permission-check goes on regardless of what "
            "IAM's policy simulator says",
        )


def _denied(account: DeployAccount, principal: str, need: Need, options: DeployOptions) -> list[str]:
    found: list[str] = []
    for first in range(0, len(need.actions), _SIMULATED_AT_ONCE):
        told = account.pages(
            "iam",
            "simulate_principal_policy",
            "EvaluationResults",
            PolicySourceArn=principal,
            ActionNames=list(need.actions[first : first + _SIMULATED_AT_ONCE]),
            ResourceArns=_resources(account, need, options)[:1],
            ContextEntries=list(_CALLED_BY),
        )
        found += sorted(str(each["EvalActionName"]) for each in told if each["EvalDecision"] != "allowed")
    return found


def _resources(account: DeployAccount, need: Need, options: DeployOptions) -> list[str]:
    where = {"p": account.partition, "r": account.region, "a": account.id, "n": options.name}
    return [each.format(**where) for each in need.resources]


def _principal(account: DeployAccount, arn: str) -> str:
    """Return the ARN of the user, or of the role behind a session, for the simulator."""
    kind, _, rest = arn.rpartition(":")[2].partition("/")
    if kind != "assumed-role":
        return arn
    role = account.call("iam", "get_role", RoleName=rest.partition("/")[0])["Role"]
    return str(role["Arn"])
