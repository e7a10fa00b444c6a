"""An AWS account on this machine: moto's HTTP server, one for each process, and the real boto3 in front of it.

moto runs no code, so nothing here says anything about invocations. Some of the resource types that are deployed, and
some of the calls that are made, it does not know; they are added here, on top of its own secrets and policies. What is
of functions is in `deploy_account_lambda`, what runs on Fargate in `deploy_account_moto`. `aws` and `wukong` are the
fixtures of the tests that deploy.
"""

import functools
import io
import json
import logging
import os
import zipfile

import pytest
from aws_descriptions import hasten_moto, hasten_templates
from aws_lambda_server import log_in

from wukong import cli
from wukong.deploy import checks, code
from wukong.deploy.account import DeployAccount
from wukong.deploy.permissions import permission_findings

REGION, ID = "us-east-1", "123456789012"
CONCURRENCY = {"ConcurrentExecutions": 1_000, "UnreservedConcurrentExecutions": 1_000}


_WHO = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")
_client, _clients = DeployAccount._client, {}


class Contains(str):
    """Equal to every text that it is in."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, text):
        return str(self) in text


@functools.cache
def url() -> str:
    """Start the server, once, and return where it is."""
    _extend()
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def commanding(capsys):
    """Return what runs a command, and returns its exit code and what it showed."""

    def run(*arguments):
        exit_code = cli.main(list(map(str, arguments)))
        shown = capsys.readouterr()
        return exit_code, shown.out + shown.err

    return run


@pytest.fixture
def aws(monkeypatch, tmp_path) -> DeployAccount:
    """An empty account, with somebody logged in whose permissions are not looked at."""
    return opened(monkeypatch, tmp_path)


@pytest.fixture
def wukong(aws, capsys):
    """Run a command; return its exit code and what it showed."""
    return commanding(capsys)


def opened(monkeypatch, folder, allowed=None) -> DeployAccount:
    """Return an empty account, with somebody logged in.

    If a policy says what a user is `allowed`, permissions are held against it; else they are not looked at, which is
    most of what a command takes here.
    """
    log_in(monkeypatch, folder)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url())
    reset()
    if allowed is None:
        monkeypatch.setattr(checks, "permission_findings", lambda *_: ())
    else:
        monkeypatch.setattr(checks, "permission_findings", permission_findings)  # also after they were not looked at
        _log_in_as_deployer(monkeypatch, allowed)
    monkeypatch.setattr(code, "build", _build)
    monkeypatch.setattr(DeployAccount, "_client", _shared)
    return DeployAccount()


def _log_in_as_deployer(monkeypatch, allowed) -> None:
    root = DeployAccount()
    root.call("iam", "create_user", UserName="deployer")
    root.call("iam", "put_user_policy", UserName="deployer", PolicyName="deploy", PolicyDocument=json.dumps(allowed))
    key = root.call("iam", "create_access_key", UserName="deployer")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])


def _shared(account, service):
    """Accounts that are opened alike have the same clients, which take longer to make than what they do."""
    key = service, account.region, account.endpoint_url, account.profile, *map(os.environ.get, _WHO)
    if key not in _clients:
        _clients[key] = _client(account, service)
    return _clients[key]


def _build(target, *, progress, **said):
    """Make a package that says what it was asked for; the real one takes ten seconds."""
    for line in (f"installing packages for Python {said['python']} on {said['architecture']}", "compiling", "packing"):
        progress(line)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(
            zipfile.ZipInfo("said"), json.dumps(said, default=lambda path: path.read_text(), sort_keys=True)
        )
    target.write_bytes(content.getvalue())
    return target


def reset() -> None:
    """Empty the account."""
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.moto_api import state_manager
    from moto.moto_api._internal.models import moto_api_backend

    assert DEFAULT_ACCOUNT_ID == ID
    moto_api_backend.reset()
    state_manager.set_transition("ecs::task", {"progression": "manual", "times": 1})
    CONCURRENCY.update(ConcurrentExecutions=1_000, UnreservedConcurrentExecutions=1_000)


def _extend() -> None:
    from deploy_account_lambda import extend_lambda
    from deploy_account_moto import extend, generated
    from moto.awslambda.responses import LambdaResponse
    from moto.awslambda.urls import url_paths
    from moto.core.common_models import CloudFormationModel
    from moto.core.responses import ActionResult
    from moto.iam.access_control import IAMPolicy, PermissionResult
    from moto.iam.models import iam_backends
    from moto.iam.responses import IamResponse
    from moto.secretsmanager.models import secretsmanager_backends

    class Secret(CloudFormationModel):
        __module__ = "moto.added_here"  # moto counts instances by it

        def __init__(self, arn):
            self.physical_resource_id = arn

        @staticmethod
        def cloudformation_name_type():
            return "Name"

        @staticmethod
        def cloudformation_type():
            return "AWS::SecretsManager::Secret"

        @classmethod
        def create_from_cloudformation_json(cls, resource_name, cloudformation_json, account_id, region_name, **kwargs):
            properties = cloudformation_json["Properties"]
            backend = secretsmanager_backends[account_id][region_name]
            held = properties.get("SecretString") or generated(backend, properties["GenerateSecretString"])
            secret, _ = backend._add_secret(resource_name, secret_string=held, tags=properties.get("Tags", []))
            return cls(secret.arn)

        def delete(self, account_id, region_name):
            # With a recovery window, unlike AWS: removing it at once is left to whoever destroys the deployment.
            secretsmanager_backends[account_id][region_name].delete_secret(self.physical_resource_id, 30, False)

    def get_account_settings(self):
        return json.dumps({"AccountLimit": CONCURRENCY, "AccountUsage": {}})

    def simulate_principal_policy(self):
        arn = self._get_param("PolicySourceArn")
        backend = iam_backends[ID]["aws"]
        name = arn.rpartition("/")[2]
        policies = [
            json.loads(backend.get_user_policy(name, each)["policy_document"])
            for each in backend.list_user_policies(name)
        ]
        [resource] = self._get_param("ResourceArns")
        results = []
        for action in self._get_param("ActionNames"):
            allowed = any(
                IAMPolicy(json.dumps(policy)).is_action_permitted(action, resource) == PermissionResult.PERMITTED
                for policy in policies
            )
            results.append({"EvalActionName": action, "EvalDecision": "allowed" if allowed else "implicitDeny"})
        return ActionResult({"EvaluationResults": results, "IsTruncated": False})

    extend()
    extend_lambda()
    hasten_moto()
    hasten_templates()
    LambdaResponse.get_account_settings = get_account_settings
    IamResponse.simulate_principal_policy = simulate_principal_policy
    url_paths["{0}/2016-08-19/account-settings/?$"] = LambdaResponse.dispatch
