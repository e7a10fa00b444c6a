"""What moto's CloudFormation and its Lambda do not know of functions: added on top of its own functions."""

import json
from collections import defaultdict
from contextlib import suppress

from moto.awslambda.exceptions import LambdaClientError, UnknownFunctionException
from moto.awslambda.models import LambdaFunction, LambdaVersion, lambda_backends
from moto.awslambda.responses import LambdaResponse
from moto.awslambda.urls import url_paths
from moto.core.common_models import CloudFormationModel

_MODULE = "moto.added_here"  # moto counts instances by it
_RECURSION = "{0}/2024-08-31/functions/(?P<function_name>[\\w_:%-]+)/recursion-config/?$"
_PROVISIONED = "{0}/2019-09-30/functions/(?P<function_name>[\\w_:%-]+)/provisioned-concurrency/?$"
recursive_loop, apply_on = defaultdict(lambda: "Terminate"), defaultdict(lambda: "None")
"""By function."""
provisioned, missing, early = {}, {"environments": 0}, {}
"""How many are wanted, by function and alias; how many of each are not there yet; versions that
were published before their function was changed."""


def extend_lambda():
    """Define the resources, which is how moto finds them, and the calls."""

    class EventInvokeConfig(CloudFormationModel):
        __module__ = _MODULE

        def __init__(self, function):
            self.physical_resource_id = function

        @staticmethod
        def cloudformation_name_type():
            return None

        @staticmethod
        def cloudformation_type():
            return "AWS::Lambda::EventInvokeConfig"

        @classmethod
        def create_from_cloudformation_json(cls, resource_name, cloudformation_json, account_id, region_name, **kwargs):
            properties = dict(cloudformation_json["Properties"])
            function = properties.pop("FunctionName")
            lambda_backends[account_id][region_name].put_function_event_invoke_config(function, properties)
            return cls(function)

        def delete(self, account_id, region_name):
            pass  # it goes with its function

    create = LambdaFunction.create_from_cloudformation_json.__func__

    def create_from_cloudformation_json(cls, resource_name, cloudformation_json, account_id, region_name, **kwargs):
        properties = cloudformation_json["Properties"]
        made = create(cls, resource_name, cloudformation_json, account_id, region_name, **kwargs)
        recursive_loop[made.function_name] = properties.get("RecursiveLoop", "Terminate")
        if "EphemeralStorage" in properties:
            made.ephemeral_storage = properties["EphemeralStorage"]["Size"]
        apply_on[made.function_name] = properties.get("SnapStart", {}).get("ApplyOn", "None")
        return made

    update = LambdaFunction.update_from_cloudformation_json.__func__

    def update_from_cloudformation_json(cls, original_resource, new_resource_name, cloudformation_json, **where):
        wanted = cloudformation_json["Properties"].get("SnapStart", {}).get("ApplyOn", "None")
        apply_on[original_resource.function_name] = wanted
        made = update(cls, original_resource, new_resource_name, cloudformation_json, **where)
        made.code_or_config_updated = True
        too_early = early.pop(made.function_name, None)
        if too_early is not None:  # moto makes what is new before it changes what is there
            too_early.__dict__.update({**made.__dict__, "version": too_early.version})
        return made

    publish = LambdaVersion.create_from_cloudformation_json.__func__

    def create_version(cls, resource_name, cloudformation_json, account_id, region_name, **kwargs):
        name = cloudformation_json["Properties"]["FunctionName"]
        functions = lambda_backends[account_id][region_name]._lambdas._functions
        latest, versions = functions[name]["latest"], functions[name]["versions"]
        again = bool(versions)
        latest.code_or_config_updated = True
        made = publish(cls, resource_name, cloudformation_json, account_id, region_name, **kwargs)
        if again:
            early[name] = versions[-1]
        return made

    LambdaVersion.create_from_cloudformation_json = classmethod(create_version)

    configuration = LambdaFunction.get_configuration

    def get_configuration(self, on_create=False):
        told = configuration(self, on_create)
        wanted = apply_on[self.function_name]
        on = wanted == "PublishedVersions" and str(self.version) != "$LATEST"
        return {**told, "SnapStart": {"ApplyOn": wanted, "OptimizationStatus": "On" if on else "Off"}}

    LambdaFunction.create_from_cloudformation_json = classmethod(create_from_cloudformation_json)
    LambdaFunction.update_from_cloudformation_json = classmethod(update_from_cloudformation_json)
    LambdaFunction.get_configuration = get_configuration
    LambdaVersion.has_cfn_attr = classmethod(lambda cls, attribute: attribute == "Version")
    LambdaVersion.get_cfn_attribute = lambda self, attribute: str(self.version)
    LambdaVersion.delete = lambda self, account_id, region_name: None  # it goes with its function
    LambdaVersion.physical_resource_id = property(lambda self: f"version:{self.version}", lambda self, value: None)

    class Alias(CloudFormationModel):
        __module__ = _MODULE

        def __init__(self, backend, properties):
            self.backend = backend
            self.function, self.name = properties["FunctionName"], properties["Name"]
            self.physical_resource_id = f"{self.function}:{self.name}"
            self.take(properties)

        def take(self, properties):
            said = properties["FunctionVersion"], properties.get("Description", ""), None
            there = self.backend._lambdas._get_function_aliases(self.function)
            if self.name in there:
                there[self.name].update(said[1], said[0], None)
            else:
                self.backend.create_alias(self.name, self.function, *said)
            config = properties.get("ProvisionedConcurrencyConfig", {})
            provisioned[self.function, self.name] = config.get("ProvisionedConcurrentExecutions")

        @staticmethod
        def cloudformation_name_type():
            return None

        @staticmethod
        def cloudformation_type():
            return "AWS::Lambda::Alias"

        @classmethod
        def create_from_cloudformation_json(cls, resource_name, cloudformation_json, account_id, region_name, **kwargs):
            return cls(lambda_backends[account_id][region_name], cloudformation_json["Properties"])

        @classmethod
        def update_from_cloudformation_json(cls, original_resource, new_resource_name, cloudformation_json, **where):
            original_resource.take(cloudformation_json["Properties"])
            return original_resource

        def delete(self, account_id, region_name):
            with suppress(UnknownFunctionException):
                self.backend.delete_alias(self.name, self.function)

    def get_provisioned_concurrency_config(self):
        wanted = provisioned.get((self._function_name(), self._get_param("Qualifier")))
        if wanted is None:
            raise LambdaClientError(
                "ProvisionedConcurrencyConfigNotFoundException", "No Provisioned Concurrency Config"
            )
        return json.dumps(
            {
                "RequestedProvisionedConcurrentExecutions": wanted,
                "AvailableProvisionedConcurrentExecutions": wanted - missing["environments"],
                "Status": "IN_PROGRESS" if missing["environments"] else "READY",
            }
        )

    def get_function_recursion_config(self):
        return json.dumps({"RecursiveLoop": recursive_loop[self._function_name()]})

    def put_function_recursion_config(self):
        recursive_loop[self._function_name()] = wanted = json.loads(self.body)["RecursiveLoop"]
        return json.dumps({"RecursiveLoop": wanted})

    LambdaResponse.get_provisioned_concurrency_config = get_provisioned_concurrency_config
    url_paths[_PROVISIONED] = LambdaResponse.dispatch
    LambdaResponse._function_name = lambda self: self.path.split("/functions/")[1].split("/")[0]
    LambdaResponse.get_function_recursion_config = get_function_recursion_config
    LambdaResponse.put_function_recursion_config = put_function_recursion_config
    url_paths[_RECURSION] = LambdaResponse.dispatch
