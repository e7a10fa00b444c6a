"""What moto's CloudFormation and its Lambda do not know of functions: added on top of its own functions."""

import json
from collections import defaultdict

from moto.awslambda.models import LambdaFunction, lambda_backends
from moto.awslambda.responses import LambdaResponse
from moto.awslambda.urls import url_paths
from moto.core.common_models import CloudFormationModel

_MODULE = "moto.added_here"  # moto counts instances by it
_RECURSION = "{0}/2024-08-31/functions/(?P<function_name>[\\w_:%-]+)/recursion-config/?$"
recursive_loop = defaultdict(lambda: "Terminate")
"""By function."""


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
        return made

    LambdaFunction.create_from_cloudformation_json = classmethod(create_from_cloudformation_json)

    def get_function_recursion_config(self):
        return json.dumps({"RecursiveLoop": recursive_loop[self._function_name()]})

    def put_function_recursion_config(self):
        recursive_loop[self._function_name()] = wanted = json.loads(self.body)["RecursiveLoop"]
        return json.dumps({"RecursiveLoop": wanted})

    LambdaResponse._function_name = lambda self: self.path.split("/functions/")[1].split("/")[0]
    LambdaResponse.get_function_recursion_config = get_function_recursion_config
    LambdaResponse.put_function_recursion_config = put_function_recursion_config
    url_paths[_RECURSION] = LambdaResponse.dispatch
