"""The deployment's part of the store on Fargate: everything but the nodes, which clients start and stop.

    client, `wukong store up` --> tasks in the cluster, with the role and group that are made here
    functions --6379--> tasks, with a password that Secrets Manager has generated

Everything has the name that `wukong.backends.storage.fargate` looks for, so the store uses it.
"""

from __future__ import annotations

from wukong.backends.storage.fargate.definition import PORT, statements
from wukong.backends.storage.fargate.script import PASSWORD_VARIABLE
from wukong.deploy.containers import admitting_group, execution_role, streams, tags
from wukong.deploy.network import Network
from wukong.deploy.options import DeployOptions
from wukong.deploy.parts import Plain, TemplatePart, arn, log_group, secret

_PASSWORD = "StorePassword"
PASSWORD_CHARS = 64
_NO_HEX = "ghijklmnopqrstuvwxyz"


def store(options: DeployOptions, network: Network | None) -> TemplatePart:
    """The store on Fargate, if it is the configured one."""
    if not options.on_fargate:
        return TemplatePart()
    if network is None:
        raise ValueError("a store on Fargate needs a network")
    name, logs = options.store_name, options.store_log_group
    password = secret(
        options.store_secret_name,
        f"The password of Wukong's store ({options.name})",
        GenerateSecretString={
            "PasswordLength": PASSWORD_CHARS,
            "ExcludeCharacters": _NO_HEX,
            "ExcludePunctuation": True,
            "ExcludeUppercase": True,
        },
        Tags=tags(options),
    )
    # All its secrets: a client that starts nodes with TLS makes a certificate.
    starts = statements(arn(f"secretsmanager:{{here}}:secret:{options.name}/store-*"), streams(logs))
    resources: Plain = {
        _PASSWORD: password,
        "StoreLogGroup": log_group(options, logs, Tags=tags(options)),
        "StoreGroup": admitting_group(options, name, f"The store of Wukong ({options.name})", PORT, network),
        "StoreRole": execution_role(options, f"Starts Wukong's store ({options.name})", starts, name),
    }
    # CloudFormation resolves this when it writes the functions' configuration: the password is in no template.
    variables: Plain = {PASSWORD_VARIABLE: {"Fn::Sub": f"{{{{resolve:secretsmanager:${{{_PASSWORD}}}:SecretString}}}}"}}
    return TemplatePart(resources=resources, variables=variables)
