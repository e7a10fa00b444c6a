"""The fan-out proxy as a service on Fargate: one task, in the functions' network, under a DNS name there.

    functions, clients --8989--> proxy.NAME.internal --lambda:InvokeFunction--> the own functions

It shares the deployment's key with the functions, and gets it from Secrets Manager. It runs the functions' image with
another entry point, or an image of its own. A new version replaces the old one only if its health check succeeds.
"""

from __future__ import annotations

from wukong.backends.entry import KEY_VARIABLE
from wukong.deploy.code import Image
from wukong.deploy.containers import TASKS, admitting_group, execution_role, streams, tags
from wukong.deploy.network import Network
from wukong.deploy.options import PROXY_PORT, DeployOptions
from wukong.deploy.parts import Plain, TemplatePart, allow, arn, invoked_arns, log_group, role

CONTAINER = "proxy"

_LOOK = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PROXY_PORT}/healthz', timeout=4)"
_ARCHITECTURES = {"arm64": "ARM64", "x86_64": "X86_64"}
_STOP_S = 60
_FILES = 65_535
_TTL_S = 10
_MESSAGES_SHARE = 8
"""The divisor of memory for messages, which take three times their size while they are passed on."""
_PATHS = "/var/task:/var/runtime"
"""The folder of the code in Lambda's images; only Lambda itself adds it to Python's path."""


def proxy(options: DeployOptions, image: Image | None, network: Network | None, key: Plain | None) -> TemplatePart:
    """The proxy, if one is wanted.

    Args:
        image: that it runs.
        network: that it is in.
        key: the ARN of the secret that holds the deployment's key, as the template writes it.
    """
    if not options.proxy:
        return TemplatePart()
    if image is None or network is None or key is None:
        raise ValueError("a proxy needs an image, a network and a secret with the key")
    name, logs = options.proxy_name, options.proxy_log_group
    starts = [
        allow("WriteOwnLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], [streams(logs)]),
        allow("ReadOwnKey", ["secretsmanager:GetSecretValue"], [key]),
        allow("LogIntoRegistry", ["ecr:GetAuthorizationToken"], ["*"]),  # ECR offers no narrower resource
        allow(
            "PullImage",
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            [{"Fn::Sub": image.repository_arn}],
        ),
    ]
    resources: Plain = {
        "ProxyLogGroup": log_group(options, logs, Tags=tags(options)),
        "ProxyGroup": admitting_group(options, name, f"The proxy of Wukong ({options.name})", PROXY_PORT, network),
        "ProxyExecutionRole": execution_role(options, f"Starts Wukong's proxy ({options.name})", starts),
        "ProxyRole": _task_role(options),
        "ProxyTask": _task(options, image, key),
        "ProxyNamespace": {
            "Type": "AWS::ServiceDiscovery::PrivateDnsNamespace",
            "Properties": {"Name": options.namespace, "Vpc": network.vpc, "Tags": tags(options)},
        },
        "ProxyDiscovery": {
            "Type": "AWS::ServiceDiscovery::Service",
            "Properties": {
                "Name": CONTAINER,
                "NamespaceId": {"Ref": "ProxyNamespace"},
                "DnsConfig": {"DnsRecords": [{"Type": "A", "TTL": _TTL_S}], "RoutingPolicy": "MULTIVALUE"},
                "HealthCheckCustomConfig": {"FailureThreshold": 1},  # ECS reports the task's health
                "Tags": tags(options),
            },
        },
        "ProxyService": _service(options, network),
    }
    output = {"Description": "The fan-out proxy, within the VPC", "Value": options.proxy_address}
    return TemplatePart(resources=resources, outputs={"Proxy": output})


def _task_role(options: DeployOptions) -> Plain:
    """The role of the proxy's own code: it may invoke these functions. Only ECS in this account may assume it."""
    made = role(
        f"What Wukong's proxy may do ({options.name})",
        TASKS,
        [allow("InvokeOwnFunctions", ["lambda:InvokeFunction"], invoked_arns(options))],
        Tags=tags(options),
    )
    [trust] = made["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    trust["Condition"] = {
        "ArnLike": {"aws:SourceArn": arn("ecs:{here}:*")},
        "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
    }
    return made


def _task(options: DeployOptions, image: Image, key: Plain) -> Plain:
    container: Plain = {
        "Name": CONTAINER,
        "Image": image.uri,
        "Essential": True,
        "EntryPoint": ["python", "-m", "wukong.proxy"],
        "Command": [
            *("--host", "0.0.0.0", "--port", str(PROXY_PORT), "--workers", str(options.workers)),
            *("--memory-bytes", f"{options.proxy_memory_mb // _MESSAGES_SHARE} MiB"),
        ],
        "Environment": [
            {"Name": "AWS_DEFAULT_REGION", "Value": {"Ref": "AWS::Region"}},
            {"Name": "PYTHONPATH", "Value": _PATHS},
        ],
        "Secrets": [{"Name": KEY_VARIABLE, "ValueFrom": key}],
        "PortMappings": [{"ContainerPort": PROXY_PORT, "Protocol": "tcp"}],
        "HealthCheck": {
            "Command": ["CMD", "python", "-c", _LOOK],
            "Interval": 10,
            "Timeout": 5,
            "Retries": 3,
            "StartPeriod": 30,
        },
        "LinuxParameters": {"InitProcessEnabled": True},
        "Ulimits": [{"Name": "nofile", "SoftLimit": _FILES, "HardLimit": _FILES}],
        "StopTimeout": _STOP_S,
        "LogConfiguration": {
            "LogDriver": "awslogs",
            "Options": {
                "awslogs-group": {"Ref": "ProxyLogGroup"},
                "awslogs-region": {"Ref": "AWS::Region"},
                "awslogs-stream-prefix": CONTAINER,
            },
        },
    }
    return {
        "Type": "AWS::ECS::TaskDefinition",
        "Properties": {
            "Family": options.proxy_name,
            "RequiresCompatibilities": ["FARGATE"],
            "NetworkMode": "awsvpc",
            "Cpu": str(options.proxy_cpu),
            "Memory": str(options.proxy_memory_mb),
            "RuntimePlatform": {
                "CpuArchitecture": _ARCHITECTURES[options.architecture],
                "OperatingSystemFamily": "LINUX",
            },
            "ExecutionRoleArn": {"Fn::GetAtt": ["ProxyExecutionRole", "Arn"]},
            "TaskRoleArn": {"Fn::GetAtt": ["ProxyRole", "Arn"]},
            "ContainerDefinitions": [container],
            "Tags": tags(options),
        },
    }


def _service(options: DeployOptions, network: Network) -> Plain:
    return {
        "Type": "AWS::ECS::Service",
        "Properties": {
            "ServiceName": options.proxy_name,
            "Cluster": {"Ref": "Cluster"},
            "TaskDefinition": {"Ref": "ProxyTask"},
            "LaunchType": "FARGATE",
            "DesiredCount": 1,
            "DeploymentConfiguration": {
                "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
                "MinimumHealthyPercent": 100,
                "MaximumPercent": 200,
            },
            "NetworkConfiguration": {
                "AwsvpcConfiguration": {
                    "Subnets": list(network.task_subnets),
                    "SecurityGroups": [{"Fn::GetAtt": ["ProxyGroup", "GroupId"]}],
                    # Only a task with a public address can use an internet gateway.
                    "AssignPublicIp": "ENABLED" if network.public else "DISABLED",
                }
            },
            "ServiceRegistries": [{"RegistryArn": {"Fn::GetAtt": ["ProxyDiscovery", "Arn"]}}],
            "PropagateTags": "SERVICE",
            "Tags": tags(options),
        },
    }
