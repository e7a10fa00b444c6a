"""What whoever deploys must be allowed to do: one list, for the policy that is printed and for the check beforehand.

CloudFormation acts in the name of whoever calls it, so the list has what it takes to create, change and delete each
resource of the template, and what the commands ask for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from wukong.deploy.account import Account, Refused
from wukong.deploy.finding import Finding
from wukong.deploy.options import Options

When: TypeAlias = Literal["always", "secret", "network", "image"]

_SIMULATED_AT_ONCE = 50
_CALLED_BY = (
    {"ContextKeyName": "iam:PassedToService", "ContextKeyValues": ["lambda.amazonaws.com"], "ContextKeyType": "string"},
    {
        "ContextKeyName": "aws:CalledVia",
        "ContextKeyValues": ["cloudformation.amazonaws.com"],
        "ContextKeyType": "stringList",
    },
)


@dataclass(frozen=True, slots=True)
class Need:
    """Actions on resources. `when` they are needed: the key is in a secret, there is a VPC, or an image.

    In `resources`, ``{p}``, ``{r}``, ``{a}`` and ``{n}`` stand for partition, region, account and deployment.
    """

    sid: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    when: When = "always"


NEEDS: tuple[Need, ...] = (
    Need(
        "Stack",
        (
            *("cloudformation:CreateChangeSet", "cloudformation:DeleteChangeSet", "cloudformation:DeleteStack"),
            *(
                "cloudformation:DescribeChangeSet",
                "cloudformation:DescribeStackEvents",
                "cloudformation:DescribeStacks",
            ),
            *("cloudformation:ExecuteChangeSet", "cloudformation:GetTemplate", "cloudformation:ListChangeSets"),
            "cloudformation:TagResource",
        ),
        ("arn:{p}:cloudformation:{r}:{a}:stack/{n}/*",),
    ),
    Need(
        "Functions",
        (
            *("lambda:CreateFunction", "lambda:DeleteFunction", "lambda:DeleteFunctionConcurrency"),
            *("lambda:DeleteFunctionEventInvokeConfig", "lambda:GetFunction", "lambda:GetFunctionCodeSigningConfig"),
            *(
                "lambda:GetFunctionConcurrency",
                "lambda:GetFunctionConfiguration",
                "lambda:GetFunctionEventInvokeConfig",
            ),
            *("lambda:GetFunctionRecursionConfig", "lambda:GetRuntimeManagementConfig", "lambda:ListTags"),
            *("lambda:PutFunctionConcurrency", "lambda:PutFunctionEventInvokeConfig"),
            *("lambda:PutFunctionRecursionConfig", "lambda:TagResource", "lambda:UntagResource"),
            *(
                "lambda:UpdateFunctionCode",
                "lambda:UpdateFunctionConfiguration",
                "lambda:UpdateFunctionEventInvokeConfig",
            ),
        ),
        ("arn:{p}:lambda:{r}:{a}:function:{n}", "arn:{p}:lambda:{r}:{a}:function:{n}-*"),
    ),
    Need(
        "Role",
        (
            *("iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:GetRole", "iam:GetRolePolicy"),
            *("iam:ListAttachedRolePolicies", "iam:ListRolePolicies", "iam:PassRole", "iam:PutRolePolicy"),
            *("iam:TagRole", "iam:UntagRole", "iam:UpdateAssumeRolePolicy", "iam:UpdateRole"),
        ),
        ("arn:{p}:iam::{a}:role/{n}-Role-*",),
    ),
    Need(
        "Logs",
        (
            *("logs:CreateLogGroup", "logs:DeleteLogGroup", "logs:DeleteRetentionPolicy", "logs:FilterLogEvents"),
            *("logs:ListTagsForResource", "logs:PutRetentionPolicy", "logs:TagResource", "logs:UntagResource"),
        ),
        (
            "arn:{p}:logs:{r}:{a}:log-group:/aws/lambda/{n}",
            "arn:{p}:logs:{r}:{a}:log-group:/aws/lambda/{n}:*",
            "arn:{p}:logs:{r}:{a}:log-group:/aws/lambda/{n}-*",
        ),
    ),
    Need(
        "Bucket",
        (
            *("s3:CreateBucket", "s3:DeleteBucket", "s3:GetBucketTagging", "s3:ListBucket", "s3:PutBucketTagging"),
            *("s3:PutBucketPublicAccessBlock", "s3:PutEncryptionConfiguration", "s3:PutLifecycleConfiguration"),
        ),
        ("arn:{p}:s3:::{n}-code-{a}-{r}",),
    ),
    Need(
        "Packages",
        ("s3:DeleteObject", "s3:GetObject", "s3:PutObject"),
        ("arn:{p}:s3:::{n}-code-{a}-{r}/*",),
    ),
    Need("Look", ("lambda:GetAccountSettings", "logs:DescribeLogGroups"), ("*",)),
    Need(
        "Key",
        (
            *("secretsmanager:CreateSecret", "secretsmanager:DeleteSecret", "secretsmanager:DescribeSecret"),
            *("secretsmanager:GetSecretValue", "secretsmanager:TagResource", "secretsmanager:UntagResource"),
            "secretsmanager:UpdateSecret",
        ),
        ("arn:{p}:secretsmanager:{r}:{a}:secret:{n}/deployment-key-*",),
        "secret",
    ),
    Need(
        "Network",
        (
            *("ec2:DescribeRouteTables", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets"),
            *("ec2:DescribeVpcEndpoints", "ec2:DescribeVpcs"),
        ),
        ("*",),
        "network",
    ),
    Need(
        "Image",
        (
            *("ecr:BatchGetImage", "ecr:DescribeImages", "ecr:GetDownloadUrlForLayer", "ecr:GetRepositoryPolicy"),
            "ecr:SetRepositoryPolicy",
        ),
        ("arn:{p}:ecr:{r}:*:repository/*",),
        "image",
    ),
)


def policy(name: str, region: str, account: str = "*", partition: str = "aws") -> dict[str, Any]:
    """Return the IAM policy for whoever deploys under this name, whatever the options are."""
    statements = [
        {
            "Sid": need.sid,
            "Effect": "Allow",
            "Action": list(need.actions),
            "Resource": [each.format(p=partition, r=region, a=account, n=name) for each in need.resources],
        }
        for need in NEEDS
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def needed(options: Options) -> list[Need]:
    """Return what a deployment with these options needs."""
    holds: dict[When, bool] = {
        "always": True,
        "secret": options.key_in == "secrets-manager",
        "network": bool(options.subnets),
        "image": options.image is not None,
    }
    return [need for need in NEEDS if holds[need.when]]


def permission_findings(account: Account, options: Options) -> Iterator[Finding]:
    """Ask IAM's policy simulator what is not allowed. Where it may not be asked, say so, and go on."""
    arn = account.identity["Arn"]
    if arn.endswith(":root"):
        return
    try:
        principal = _principal(account, arn)
        denied = [
            (need, actions) for need in needed(options) if (actions := _denied(account, principal, need, options))
        ]
    except Refused as error:
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


def _denied(account: Account, principal: str, need: Need, options: Options) -> list[str]:
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


def _resources(account: Account, need: Need, options: Options) -> list[str]:
    where = {"p": account.partition, "r": account.region, "a": account.id, "n": options.name}
    return [each.format(**where) for each in need.resources]


def _principal(account: Account, arn: str) -> str:
    """Return the user, or the role behind a session, as the simulator wants it."""
    kind, _, rest = arn.rpartition(":")[2].partition("/")
    if kind != "assumed-role":
        return arn
    role = account.call("iam", "get_role", RoleName=rest.partition("/")[0])["Role"]
    return str(role["Arn"])
