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
