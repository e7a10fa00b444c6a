"""What moto's CloudFormation does not make of a deployment on Fargate, or makes without half of its properties.

moto knows no resources of Cloud Map at all; of ECS it keeps names and little more. Here they are made by moto's own
backends, with everything that the template says. A cluster in which something runs cannot be removed, as on AWS.
Dynamic references, which moto leaves as they are, are resolved.
"""

import json
import re
from functools import partial

from moto.cloudformation import parsing
from moto.core.common_models import CloudFormationModel
from moto.core.utils import pascal_to_camelcase, remap_nested_keys
from moto.ecs.models import ecs_backends
from moto.moto_api import state_manager
from moto.secretsmanager.models import secretsmanager_backends
from moto.servicediscovery.models import servicediscovery_backends

_SECRET = re.compile(r"\{\{resolve:secretsmanager:([^$]+):SecretString\}\}")
_MODULE = "moto.added_here"  # moto counts instances by it


def extend():
    """Define the resources, which is how moto finds them, and resolve references."""

    def modelled(kind, make, name=None, replaced=True):
        """Define a resource: `make(backends, properties, name)` returns its id, its attributes and what removes it."""

        class Model(CloudFormationModel):
            __module__ = _MODULE

            def __init__(self, made):
                self.physical_resource_id, self.attributes, self.remove = made

            @staticmethod
            def cloudformation_name_type():
                return name

            @staticmethod
            def cloudformation_type():
                return kind

            @classmethod
            def has_cfn_attr(cls, attr):
                return attr == "Arn"

            def get_cfn_attribute(self, attribute_name):
                return self.attributes[attribute_name]

            @classmethod
            def create_from_cloudformation_json(
                cls, resource_name, cloudformation_json, account_id, region_name, **kwargs
            ):
                return cls(make((account_id, region_name), cloudformation_json["Properties"], resource_name))

            @classmethod
            def update_from_cloudformation_json(
                cls, original_resource, new_resource_name, cloudformation_json, account_id, region_name
            ):
                if replaced:
                    original_resource.remove()
                return cls.create_from_cloudformation_json(
                    new_resource_name, cloudformation_json, account_id, region_name
                )

            def delete(self, account_id, region_name):
                self.remove()

        _kept.append(Model)

    modelled("AWS::ECS::Cluster", _cluster, "ClusterName", replaced=False)
    modelled("AWS::ECS::TaskDefinition", _definition)
    modelled("AWS::ECS::Service", _service, "ServiceName")
    modelled("AWS::ServiceDiscovery::PrivateDnsNamespace", _namespace)
    modelled("AWS::ServiceDiscovery::Service", _discovery)
    original = parsing.clean_json

    def clean_json(value, resources):
        cleaned = original(value, resources)
        found = _SECRET.fullmatch(cleaned) if isinstance(cleaned, str) else None
        return cleaned if found is None else secret(found[1])

    parsing.clean_json = clean_json


_kept = []


def secret(arn):
    """What a secret holds."""
    backend = secretsmanager_backends[arn.split(":")[4]][arn.split(":")[3]]
    return backend.get_secret_value(secret_id=arn, version_id="", version_stage="")["SecretString"]


def generated(backend, wanted):
    """A password as Secrets Manager would generate it."""
    told = backend.get_random_password(
        password_length=wanted.get("PasswordLength", 32),
        exclude_characters=wanted.get("ExcludeCharacters", ""),
        exclude_numbers=wanted.get("ExcludeNumbers", False),
        exclude_punctuation=wanted.get("ExcludePunctuation", False),
        exclude_uppercase=wanted.get("ExcludeUppercase", False),
        exclude_lowercase=wanted.get("ExcludeLowercase", False),
        include_space=wanted.get("IncludeSpace", False),
        require_each_included_type=wanted.get("RequireEachIncludedType", True),
    )
    return json.loads(told)["RandomPassword"]


def _backend(backends, where):
    return backends[where[0]][where[1]]


def _lower(properties):
    return remap_nested_keys(properties, pascal_to_camelcase)


def _cluster(where, properties, name):
    backend = _backend(ecs_backends, where)
    there = backend.clusters.get(name)
    if there is not None and there.status == "ACTIVE":
        there.tags = _lower(properties.get("Tags", []))
    else:
        there = backend.create_cluster(name, tags=_lower(properties.get("Tags", [])))

    def remove():
        services = [each for each in backend.services.values() if each.cluster_name == name]
        assert not [each for each in services if each.status == "ACTIVE"], "ClusterContainsServicesException"
        tasks = backend.tasks.get(name, {}).values()
        assert not [each for each in tasks if each.last_status != "STOPPED"], "ClusterContainsTasksException"
        backend.delete_cluster(name)

    return name, {"Arn": there.arn}, remove


def _definition(where, properties, name):
    backend = _backend(ecs_backends, where)
    said = _lower(properties)
    made = backend.register_task_definition(
        family=said["family"],
        container_definitions=said["containerDefinitions"],
        network_mode=said["networkMode"],
        tags=said["tags"],
        requires_compatibilities=said["requiresCompatibilities"],
        cpu=said["cpu"],
        memory=said["memory"],
        task_role_arn=said["taskRoleArn"],
        execution_role_arn=said["executionRoleArn"],
        runtime_platform=said["runtimePlatform"],
    )
    return made.arn, {}, partial(backend.deregister_task_definition, made.arn)


def _service(where, properties, name):
    backend = _backend(ecs_backends, where)
    said = _lower(properties)
    made = backend.create_service(
        said["cluster"],
        name,
        said["desiredCount"],
        task_definition_str=said["taskDefinition"],
        tags=said["tags"],
        launch_type=said["launchType"],
        service_registries=said["serviceRegistries"],
        propagate_tags=said["propagateTags"],
        network_configuration=said["networkConfiguration"],
    )
    made.running_count, made.pending_count = made.desired_count, 0
    return made.arn, {"Name": name}, partial(backend.delete_service, said["cluster"], name, True)


def _namespace(where, properties, name):
    backend = _backend(servicediscovery_backends, where)
    backend.create_private_dns_namespace(properties["Name"], "", "", properties["Vpc"], properties.get("Tags", []), {})
    [made] = [each for each in backend.namespaces.values() if each.name == properties["Name"]]
    return made.id, {"Arn": made.arn}, partial(backend.delete_namespace, made.id)


def _discovery(where, properties, name):
    backend = _backend(servicediscovery_backends, where)
    made = backend.create_service(
        properties["Name"],
        properties["NamespaceId"],
        "",
        "",
        properties["DnsConfig"],
        {},
        properties["HealthCheckCustomConfig"],
        properties.get("Tags", []),
        "",
    )
    return made.id, {"Arn": made.arn}, partial(backend.delete_service, made.id)


# --- what is there before a deployment


def new_network(aws, way="nat", names=True):
    """Make a VPC with two subnets, and return it with them; `way` out of it: as of `lead_out`, or None."""
    vpc = aws.call("ec2", "create_vpc", CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    aws.call("ec2", "modify_vpc_attribute", VpcId=vpc, EnableDnsHostnames={"Value": names})
    subnets = [
        aws.call("ec2", "create_subnet", VpcId=vpc, CidrBlock=f"10.7.{n}.0/24")["Subnet"]["SubnetId"] for n in (0, 1)
    ]
    [table] = aws.pages("ec2", "describe_route_tables", "RouteTables", Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    if way is not None:
        lead_out(aws, vpc, table["RouteTableId"], subnets[0], way)
    return vpc, subnets


def lead_out(aws, vpc, table, subnet, way):
    """Have a route table lead out: ``nat``, by a gateway in the subnet, or ``igw``, for public addresses only."""
    route = {"RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0"}
    if way == "nat":
        address = aws.call("ec2", "allocate_address", Domain="vpc")["AllocationId"]
        made = aws.call("ec2", "create_nat_gateway", SubnetId=subnet, AllocationId=address)["NatGateway"]
        aws.call("ec2", "create_route", **route, NatGatewayId=made["NatGatewayId"])
    else:
        made = aws.call("ec2", "create_internet_gateway")["InternetGateway"]["InternetGatewayId"]
        aws.call("ec2", "attach_internet_gateway", InternetGatewayId=made, VpcId=vpc)
        aws.call("ec2", "create_route", **route, GatewayId=made)


def run_nodes(aws, subnet, count=2, name="wukong"):
    """Run tasks as a client starts them for the store, in the cluster that is there; return their ARNs."""
    # Of themselves moto's tasks go on to their end a step with each look.
    state_manager.set_transition("ecs::task", {"progression": "manual", "times": 1_000})
    named = [{"Name": "group-name", "Values": [f"{name}-store"]}]
    [group] = [
        each["GroupId"] for each in aws.pages("ec2", "describe_security_groups", "SecurityGroups", Filters=named)
    ]
    container = {"name": "redis", "image": "redis", "cpu": 256, "memory": 512}
    aws.call(
        "ecs",
        "register_task_definition",
        family=f"{name}-store",
        containerDefinitions=[container],
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="512",
    )
    return [
        aws.call(
            "ecs",
            "run_task",
            cluster=name,
            taskDefinition=f"{name}-store",
            launchType="FARGATE",
            networkConfiguration={"awsvpcConfiguration": {"subnets": [subnet], "securityGroups": [group]}},
            tags=[{"key": "wukong:slot", "value": f"node-{n}"}, {"key": "wukong:generation", "value": "1"}],
        )["tasks"][0]["taskArn"]
        for n in range(count)
    ]


# --- what there is afterwards


def everything(aws):
    """What a deployment may leave, by its name."""
    clusters = aws.call("ecs", "describe_clusters", clusters=list(aws.pages("ecs", "list_clusters", "clusterArns")))
    groups = aws.pages("ec2", "describe_security_groups", "SecurityGroups")
    secrets = aws.pages("secretsmanager", "list_secrets", "SecretList", IncludePlannedDeletion=True)
    return {
        "clusters": [each["clusterName"] for each in clusters["clusters"] if each["status"] == "ACTIVE"],
        "functions": sorted(each["FunctionName"] for each in aws.pages("lambda", "list_functions", "Functions")),
        "groups": sorted(each["GroupName"] for each in groups if each["GroupName"] != "default"),
        "logs": [each["logGroupName"] for each in aws.pages("logs", "describe_log_groups", "logGroups")],
        "names": [each["Name"] for each in aws.pages("servicediscovery", "list_namespaces", "Namespaces")],
        "roles": sorted(each["RoleName"].partition("Role-")[0] for each in aws.pages("iam", "list_roles", "Roles")),
        "secrets": sorted(each["Name"] for each in secrets),
        "tasks": sorted(
            arn.partition("task-definition/")[2].partition(":")[0]
            for arn in aws.pages("ecs", "list_task_definitions", "taskDefinitionArns")
        ),
    }


NOTHING = {
    "clusters": [],
    "functions": [],
    "groups": [],
    "logs": [],
    "names": [],
    "roles": [],
    "secrets": [],
    "tasks": [],
}
