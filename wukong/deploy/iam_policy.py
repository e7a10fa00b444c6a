"""The permissions that a user needs to deploy: one list, for the printed policy and for the check beforehand.

CloudFormation acts in the name of its caller. So the list contains the permissions to create, change and delete each
resource of the template, and those for the commands' own calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from wukong.deploy.options import DeployOptions

When: TypeAlias = Literal[
    "always", "secret", "network", "group", "image", "fargate", "store", "proxy", "table", "version"
]

POLICY_CHARS = 6_144
"""IAM's limit of one managed policy, characters without spaces."""
_ON_FARGATE = ("fargate", "store", "proxy")


@dataclass(frozen=True, slots=True)
class Need:
    """Actions on resources. `when`: what needs them: a secret, a VPC, groups in it, an image, tasks, a table or
    published versions.

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
        (
            "arn:{p}:lambda:{r}:{a}:function:{n}",
            "arn:{p}:lambda:{r}:{a}:function:{n}:*",
            "arn:{p}:lambda:{r}:{a}:function:{n}-*",
        ),
    ),
    Need(
        "Versions",
        (
            *("lambda:CreateAlias", "lambda:DeleteAlias", "lambda:DeleteProvisionedConcurrencyConfig"),
            *("lambda:GetAlias", "lambda:GetFunctionScalingConfig", "lambda:GetProvisionedConcurrencyConfig"),
            *(
                "lambda:ListVersionsByFunction",
                "lambda:PublishVersion",
                "lambda:PutProvisionedConcurrencyConfig",
                "lambda:UpdateAlias",
            ),
        ),
        (
            "arn:{p}:lambda:{r}:{a}:function:{n}",
            "arn:{p}:lambda:{r}:{a}:function:{n}:*",
            "arn:{p}:lambda:{r}:{a}:function:{n}-*",
        ),
        "version",
    ),
    Need(
        "Role",
        (
            *("iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:GetRole", "iam:GetRolePolicy"),
            *("iam:ListAttachedRolePolicies", "iam:ListRolePolicies", "iam:PassRole", "iam:PutRolePolicy"),
            *("iam:TagRole", "iam:UntagRole", "iam:UpdateAssumeRolePolicy", "iam:UpdateRole"),
        ),
        (
            "arn:{p}:iam::{a}:role/{n}-Role-*",
            "arn:{p}:iam::{a}:role/{n}-Proxy*",
            "arn:{p}:iam::{a}:role/{n}-store",
        ),
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
            "arn:{p}:logs:{r}:{a}:log-group:/ecs/{n}-*",
        ),
    ),
    Need(
        "Bucket",
        (
            *("s3:CreateBucket", "s3:DeleteBucket", "s3:GetBucketTagging", "s3:ListBucket", "s3:PutBucketTagging"),
            *("s3:PutBucketPublicAccessBlock", "s3:PutEncryptionConfiguration", "s3:PutLifecycleConfiguration"),
        ),
        ("arn:{p}:s3:::{n}-code-{a}-{r}", "arn:{p}:s3:::{n}-values-{a}-{r}"),
    ),
    Need(
        "Packages",
        ("s3:DeleteObject", "s3:GetObject", "s3:PutObject"),
        ("arn:{p}:s3:::{n}-code-{a}-{r}/*", "arn:{p}:s3:::{n}-values-{a}-{r}/*"),
    ),
    Need(
        "Table",
        (
            *("dynamodb:CreateTable", "dynamodb:DeleteTable", "dynamodb:DescribeContinuousBackups"),
            *("dynamodb:DescribeContributorInsights", "dynamodb:DescribeKinesisStreamingDestination"),
            *("dynamodb:DescribeTable", "dynamodb:DescribeTimeToLive", "dynamodb:GetResourcePolicy"),
            *("dynamodb:ListTagsOfResource", "dynamodb:TagResource", "dynamodb:UntagResource"),
            *("dynamodb:UpdateTable", "dynamodb:UpdateTimeToLive"),
        ),
        ("arn:{p}:dynamodb:{r}:{a}:table/{n}",),
        "table",
    ),
    Need("Look", ("lambda:GetAccountSettings", "logs:DescribeLogGroups"), ("*",)),
    Need(
        "Secrets",
        (
            *("secretsmanager:CreateSecret", "secretsmanager:DeleteSecret", "secretsmanager:DescribeSecret"),
            *("secretsmanager:GetSecretValue", "secretsmanager:TagResource", "secretsmanager:UntagResource"),
            "secretsmanager:UpdateSecret",
        ),
        (
            "arn:{p}:secretsmanager:{r}:{a}:secret:{n}/deployment-key-*",
            "arn:{p}:secretsmanager:{r}:{a}:secret:{n}/store-*",
        ),
        "secret",
    ),
    Need(
        "Network",
        (
            *("ec2:DescribeRouteTables", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets"),
            *("ec2:DescribeVpcAttribute", "ec2:DescribeVpcEndpoints", "ec2:DescribeVpcs"),
        ),
        ("*",),
        "network",
    ),
    Need(
        "Groups",
        (
            *("ec2:AuthorizeSecurityGroupEgress", "ec2:AuthorizeSecurityGroupIngress", "ec2:CreateSecurityGroup"),
            *("ec2:CreateTags", "ec2:DeleteSecurityGroup", "ec2:DeleteTags", "ec2:DescribeInstances"),
            *("ec2:RevokeSecurityGroupEgress", "ec2:RevokeSecurityGroupIngress"),
            *("ec2:UpdateSecurityGroupRuleDescriptionsEgress", "ec2:UpdateSecurityGroupRuleDescriptionsIngress"),
        ),
        ("*",),  # a group's id is not known before it exists
        "group",
    ),
    Need(
        "Cluster",
        (
            *("ecs:DeleteCluster", "ecs:DescribeClusters", "ecs:ListTagsForResource", "ecs:TagResource"),
            *("ecs:UntagResource", "ecs:UpdateCluster"),
        ),
        (
            "arn:{p}:ecs:{r}:{a}:cluster/{n}",
            "arn:{p}:ecs:{r}:{a}:service/{n}/*",
            "arn:{p}:ecs:{r}:{a}:task-definition/{n}-*:*",
            "arn:{p}:ecs:{r}:{a}:task/{n}/*",
        ),
        "fargate",
    ),
    Need(
        "Tasks",
        ("ecs:DescribeTasks", "ecs:StopTask"),
        ("arn:{p}:ecs:{r}:{a}:task/{n}/*",),
        "fargate",
    ),
    Need(
        "Definitions",
        (
            *("ecs:CreateCluster", "ecs:DeleteTaskDefinitions", "ecs:DeregisterTaskDefinition"),
            *("ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions", "ecs:ListTasks", "ecs:RegisterTaskDefinition"),
        ),
        ("*",),  # ECS offers no narrower resource for most of these
        "fargate",
    ),
    Need(
        "FirstCluster",
        ("iam:CreateServiceLinkedRole",),
        ("arn:{p}:iam::{a}:role/aws-service-role/ecs.amazonaws.com/*",),
        "fargate",
    ),
    Need("Password", ("secretsmanager:GetRandomPassword",), ("*",), "store"),
    Need(
        "Proxy",
        (
            *("ecs:CreateService", "ecs:DeleteService", "ecs:DescribeServices", "ecs:ListServiceDeployments"),
            "ecs:UpdateService",
        ),
        ("arn:{p}:ecs:{r}:{a}:service/{n}/{n}-proxy",),
        "proxy",
    ),
    Need(
        "ProxyDeployments",
        ("ecs:DescribeServiceDeployments", "ecs:StopServiceDeployment"),
        ("arn:{p}:ecs:{r}:{a}:service-deployment/{n}/{n}-proxy/*",),
        "proxy",
    ),
    Need(
        "ProxyName",
        (
            *("ec2:DescribeRegions", "route53:ChangeResourceRecordSets", "route53:CreateHostedZone"),
            *("route53:DeleteHostedZone", "route53:GetHostedZone", "route53:ListHostedZonesByName"),
            *("servicediscovery:CreatePrivateDnsNamespace", "servicediscovery:CreateService"),
            *("servicediscovery:DeleteNamespace", "servicediscovery:DeleteService", "servicediscovery:GetNamespace"),
            *("servicediscovery:GetOperation", "servicediscovery:GetService", "servicediscovery:GetServiceAttributes"),
            *("servicediscovery:ListNamespaces", "servicediscovery:ListServices"),
            *("servicediscovery:ListTagsForResource", "servicediscovery:TagResource"),
            *("servicediscovery:UntagResource", "servicediscovery:UpdatePrivateDnsNamespace"),
            *("servicediscovery:UpdateService", "servicediscovery:UpdateServiceAttributes"),
        ),
        ("*",),  # resources of Cloud Map and Route 53 have ids, not names
        "proxy",
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


def policy(
    name: str, region: str, account: str = "*", partition: str = "aws", *, fargate: bool = False
) -> dict[str, Any]:
    """Return the IAM policy for a user who deploys under this name, whatever the options are.

    It covers everything but Fargate; with `fargate`, only what Fargate takes besides. Both together exceed IAM's limit
    of one policy.
    """
    statements = [
        {
            "Sid": need.sid,
            "Effect": "Allow",
            "Action": list(need.actions),
            "Resource": [each.format(p=partition, r=region, a=account, n=name) for each in need.resources],
        }
        for need in NEEDS
        if (need.when in _ON_FARGATE) == fargate
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def needed(options: DeployOptions) -> list[Need]:
    """Return the permissions that a deployment with these options needs."""
    holds: dict[When, bool] = {
        "always": True,
        "secret": bool(options.secrets),
        "network": bool(options.subnets),
        "group": bool(options.subnets) and (options.has_cluster or not options.security_groups),
        "image": options.image is not None or options.proxy_image is not None,
        "fargate": options.has_cluster,
        "store": options.on_fargate,
        "proxy": options.proxy,
        "table": options.has_table,
        "version": options.qualifier is not None,
    }
    return [need for need in NEEDS if holds[need.when]]
