"""What runs on Fargate, as the template says it, without AWS. cfn-lint looks at the same in test_deploy_template."""

import json
from dataclasses import replace

import pytest
from test_deploy_template import IMAGE, NETWORK, PACKAGE, VPC, functions, of_type, on_fargate, resolved, statements

from wukong import cli
from wukong.backends.storage.fargate.account import FargateAccount
from wukong.backends.storage.fargate.definition import PORT
from wukong.backends.storage.fargate.options import FargateOptions as StoreOptions
from wukong.backends.storage.fargate.script import PASSWORD_VARIABLE
from wukong.deploy.iam_policy import POLICY_CHARS, needed, policy
from wukong.deploy.options import DeployOptions
from wukong.deploy.template import noted, template

OWN_GROUP = {"Fn::GetAtt": ["FunctionsGroup", "GroupId"]}


@pytest.fixture
def both():
    return on_fargate()["both"]


def properties(document, logical):
    return document["Resources"][logical]["Properties"]


def everything(document):
    """Every property of every resource, with tags."""
    return {name: each.get("Properties", {}) for name, each in document["Resources"].items()}


# --- with and without


def test_without_anything_on_fargate_there_is_none_of_it():
    document = template(DeployOptions(), PACKAGE)
    kinds = {each["Type"] for each in document["Resources"].values()}
    assert not [kind for kind in kinds if "ECS" in kind or "ServiceDiscovery" in kind or "SecurityGroup" in kind]
    assert PASSWORD_VARIABLE not in functions(document)[0]["Environment"]["Variables"]


def test_each_alone_has_the_cluster_and_nothing_of_the_other():
    documents = on_fargate()
    for name, other in (("store", "Proxy"), ("proxy", "Store")):
        resources = documents[name]["Resources"]
        assert properties(documents[name], "Cluster")["ClusterName"] == "wukong"
        assert not [each for each in resources if each.startswith(other)]
    assert "Cluster" not in documents["neither"]["Resources"]


def test_what_the_store_looks_for_has_the_names_that_it_looks_for(both):
    store = FargateAccount(StoreOptions(name="wukong"))
    assert properties(both, "StoreLogGroup")["LogGroupName"] == store.resources.log_group
    assert properties(both, "StoreGroup")["GroupName"] == properties(both, "StoreRole")["RoleName"] == store.family
    assert properties(both, "StorePassword")["Name"] == "wukong/store-password"
    assert properties(both, "Cluster")["ClusterName"] == store.options.name


def test_everything_on_fargate_has_the_name_as_a_tag(both):
    made = {name: each for name, each in everything(both).items() if name.startswith(("Store", "Proxy", "Cluster"))}
    assert len(made) == 13
    for name, each in made.items():
        assert {"Key": "wukong:name", "Value": "wukong"} in each["Tags"], name


def test_logs_are_kept_as_long_as_those_of_the_functions(both):
    kept = {each["RetentionInDays"] for each in of_type(both, "AWS::Logs::LogGroup").values()}
    assert kept == {14}


# --- the store


def test_the_password_is_made_by_cloudformation_and_is_hex(both):
    made = properties(both, "StorePassword")["GenerateSecretString"]
    digits = {"0123456789abcdef"} if made["ExcludeUppercase"] and made["ExcludePunctuation"] else set()
    left = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789") - set(made["ExcludeCharacters"]))
    assert {"".join(left)} == digits
    assert made["PasswordLength"] == 64


def test_functions_have_the_password_by_reference_only(both):
    for each in functions(both):
        reference = each["Environment"]["Variables"][PASSWORD_VARIABLE]
        assert reference == {"Fn::Sub": "{{resolve:secretsmanager:${StorePassword}:SecretString}}"}
    assert set(both["Parameters"]) == {"DeploymentKey"}
    assert noted(both["Metadata"])["store"]["variables"] == []


def test_the_stores_role_starts_containers_and_no_more(both):
    [own] = properties(both, "StoreRole")["Policies"]
    found = own["PolicyDocument"]["Statement"]
    assert [(each["Action"], resolved(each["Resource"])) for each in found] == [
        ("secretsmanager:GetSecretValue", "arn:aws:secretsmanager:us-east-1:1:secret:wukong/store-*"),
        (["logs:CreateLogStream", "logs:PutLogEvents"], "arn:aws:logs:us-east-1:1:log-group:/ecs/wukong-store:*"),
        (IMAGES, "*"),  # which one it is, and where, is the clients' choice
    ]
    [trust] = properties(both, "StoreRole")["AssumeRolePolicyDocument"]["Statement"]
    assert (trust["Principal"], trust["Action"]) == ({"Service": "ecs-tasks.amazonaws.com"}, "sts:AssumeRole")


IMAGES = [
    *("ecr:GetAuthorizationToken", "ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer"),
    "ecr:BatchGetImage",
]


# --- who is admitted


@pytest.mark.parametrize(("group", "port"), [("StoreGroup", PORT), ("ProxyGroup", 8989)])
def test_only_functions_and_named_clients_are_admitted_and_on_one_port(group, port):
    options = DeployOptions(store="fargate", proxy=True, image="i", **NETWORK).checked()
    alone = template(options, IMAGE, network=VPC, proxy_image=IMAGE)
    with_clients = template(replace(options, clients=("10.0.0.0/16",)), IMAGE, network=VPC, proxy_image=IMAGE)
    [rule] = properties(alone, group)["SecurityGroupIngress"]
    assert (rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) == (port, port, "tcp")
    assert rule["SourceSecurityGroupId"] == NETWORK["security_groups"][0]
    assert properties(alone, group)["VpcId"] == VPC.vpc
    added = [each for each in properties(with_clients, group)["SecurityGroupIngress"] if each != rule]
    assert [(each["CidrIp"], each["FromPort"], each["ToPort"]) for each in added] == [("10.0.0.0/16", port, port)]


def test_functions_without_a_named_group_get_one_that_admits_nobody(both):
    group = properties(both, "FunctionsGroup")
    assert (group["GroupName"], group["SecurityGroupIngress"]) == ("wukong-functions", [])
    assert [each["VpcConfig"]["SecurityGroupIds"] for each in functions(both)] == [[OWN_GROUP]] * 2
    assert properties(both, "StoreGroup")["SecurityGroupIngress"][0]["SourceSecurityGroupId"] == OWN_GROUP
    assert functions(on_fargate()["neither"])[0]["VpcConfig"]["SecurityGroupIds"] == [OWN_GROUP]


# --- the proxy


def container(document):
    [found] = properties(document, "ProxyTask")["ContainerDefinitions"]
    return found


def test_the_proxy_invokes_its_own_functions_and_no_more(both):
    found = statements(both, "ProxyRole")
    assert list(found) == ["InvokeOwnFunctions"]
    assert found["InvokeOwnFunctions"]["Action"] == ["lambda:InvokeFunction"]
    assert list(map(resolved, found["InvokeOwnFunctions"]["Resource"])) == [
        "arn:aws:lambda:us-east-1:1:function:wukong",
        "arn:aws:lambda:us-east-1:1:function:wukong-2",
    ]
    [trust] = properties(both, "ProxyRole")["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
    assert trust["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
    assert resolved(trust["Condition"]["ArnLike"]["aws:SourceArn"]) == "arn:aws:ecs:us-east-1:1:*"


def test_whoever_starts_the_proxy_reads_the_key_and_the_image_and_writes_the_log(both):
    found = statements(both, "ProxyExecutionRole")
    assert {sid: list(map(resolved, each["Resource"])) for sid, each in found.items()} == {
        "WriteOwnLogs": ["arn:aws:logs:us-east-1:1:log-group:/ecs/wukong-proxy:*"],
        "ReadOwnKey": [{"Ref": "KeySecret"}],
        "LogIntoRegistry": ["*"],
        "PullImage": ["arn:aws:ecr:us-east-1:123456789012:repository/wukong"],
    }
    assert found["ReadOwnKey"]["Action"] == ["secretsmanager:GetSecretValue"]


@pytest.mark.parametrize("role", ["ProxyRole", "ProxyExecutionRole"])
def test_no_role_of_the_proxy_allows_anything_on_all_resources_but_to_log_into_the_registry(both, role):
    found = statements(both, role)
    anywhere = {sid for sid, each in found.items() if "*" in map(str, each["Resource"])}
    assert anywhere <= {"LogIntoRegistry"}
    assert all("*" not in action for each in found.values() for action in each["Action"])


def test_the_key_is_a_secret_of_the_container_and_nothing_of_it_is_in_the_template(both):
    assert container(both)["Secrets"] == [{"Name": "WUKONG_DEPLOYMENT_KEY", "ValueFrom": {"Ref": "KeySecret"}}]
    assert "WUKONG_DEPLOYMENT_KEY" not in {each["Name"] for each in container(both)["Environment"]}
    assert properties(both, "KeySecret")["SecretString"] == {"Ref": "DeploymentKey"}
    # Functions have it as before: the secret is for the proxy.
    assert functions(both)[0]["Environment"]["Variables"]["WUKONG_DEPLOYMENT_KEY"] == {"Ref": "DeploymentKey"}
    assert "ReadOwnKey" not in statements(both)


def test_the_containers_command_is_one_of_ours(both):
    found = container(both)
    assert found["EntryPoint"] == ["python", "-m", "wukong.proxy"]
    said = cli.parser().parse_args(["proxy", *found["Command"]])
    assert (said.host, said.port, said.workers) == ("0.0.0.0", 8989, 3)
    assert said.memory_bytes * 3 < DeployOptions().proxy_memory_mb * 2**20
    assert found["PortMappings"] == [{"ContainerPort": 8989, "Protocol": "tcp"}]


def test_the_proxys_health_is_asked_by_its_own_python(both, serving):
    command = container(both)["HealthCheck"]["Command"]
    assert command[:3] == ["CMD", "python", "-c"]
    assert "http://127.0.0.1:8989/healthz" in command[3]
    for status, alive in ((200, True), (503, False)):
        program = command[3].replace("8989", str(serving(status)))
        if alive:
            exec(program, {})
        else:
            with pytest.raises(OSError):
                exec(program, {})


@pytest.fixture
def serving():
    """Start servers that answer to everything with one status."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    servers = []

    def serve(status):
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Answer))
        Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return servers[-1].server_port

    yield serve
    for each in servers:
        each.shutdown()
        each.server_close()


def test_one_proxy_runs_and_a_version_that_fails_takes_no_ones_place(both):
    service = properties(both, "ProxyService")
    assert (service["ServiceName"], service["DesiredCount"], service["LaunchType"]) == ("wukong-proxy", 1, "FARGATE")
    assert service["Cluster"] == {"Ref": "Cluster"}
    deployment = service["DeploymentConfiguration"]
    assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    assert deployment["MinimumHealthyPercent"] == 100
    assert service["PropagateTags"] == "SERVICE"


def test_the_proxy_is_found_by_its_name_within_the_vpc(both):
    namespace, discovery = properties(both, "ProxyNamespace"), properties(both, "ProxyDiscovery")
    assert (namespace["Name"], namespace["Vpc"]) == ("wukong.internal", VPC.vpc)
    assert (discovery["Name"], discovery["NamespaceId"]) == ("proxy", {"Ref": "ProxyNamespace"})
    assert [each["Type"] for each in discovery["DnsConfig"]["DnsRecords"]] == ["A"]
    registry = {"RegistryArn": {"Fn::GetAtt": ["ProxyDiscovery", "Arn"]}}
    assert properties(both, "ProxyService")["ServiceRegistries"] == [registry]
    assert both["Outputs"]["Proxy"]["Value"] == "proxy.wukong.internal:8989" == DeployOptions().proxy_address


def test_the_proxy_is_where_there_is_a_way_out():
    options = DeployOptions(proxy=True, image="i", **NETWORK).checked()

    def placed(network):
        service = properties(template(options, IMAGE, network=network, proxy_image=IMAGE), "ProxyService")
        found = service["NetworkConfiguration"]["AwsvpcConfiguration"]
        assert found["SecurityGroups"] == [{"Fn::GetAtt": ["ProxyGroup", "GroupId"]}]
        return found["Subnets"], found["AssignPublicIp"]

    assert placed(VPC) == (list(VPC.task_subnets), "DISABLED")
    assert placed(replace(VPC, task_subnets=("subnet-1",), public=True)) == (["subnet-1"], "ENABLED")


@pytest.mark.parametrize(("architecture", "told"), [("arm64", "ARM64"), ("x86_64", "X86_64")])
def test_the_proxys_task_is_as_the_options_say(architecture, told):
    options = DeployOptions(
        proxy=True, image="i", architecture=architecture, proxy_cpu=2_048, proxy_memory_mb=4_096, **NETWORK
    ).checked()
    document = template(options, IMAGE, network=VPC, proxy_image=IMAGE)
    task = properties(document, "ProxyTask")
    assert (task["Cpu"], task["Memory"]) == ("2048", "4096")
    assert task["RuntimePlatform"]["CpuArchitecture"] == told
    assert container(document)["Image"] == IMAGE.uri
    assert "--workers 2" in " ".join(container(document)["Command"])


def test_the_options_on_fargate_are_noted_so_that_a_later_deployment_keeps_them(both):
    kept = noted(json.loads(json.dumps(both["Metadata"])))["options"]
    found = DeployOptions.over("wukong", kept, {})
    assert (found.store, found.proxy, found.proxy_image) == ("fargate", True, "wukong:latest")
    assert (found.clients, found.proxy_workers, found.security_groups) == (("10.0.0.0/16", "192.0.2.7/32"), 3, ())


# --- permissions of whoever deploys


@pytest.mark.parametrize("fargate", [False, True])
def test_each_printed_policy_is_one_that_iam_takes(fargate):
    document = policy("a" * 24, "ap-southeast-1", "123456789012", fargate=fargate)
    assert len(json.dumps(document, separators=(",", ":"))) <= POLICY_CHARS


def test_both_printed_policies_are_what_the_largest_deployment_needs():
    options = DeployOptions(store="fargate", proxy=True, image="i", key_in="secrets-manager", subnets=("s",))
    others = DeployOptions(store="dynamodb", snapstart=True)
    printed = [each for fargate in (False, True) for each in policy("n", "r", fargate=fargate)["Statement"]]
    assert {each["Sid"] for each in printed} == {need.sid for need in (*needed(options), *needed(others))}


@pytest.mark.parametrize("name", ["both", "store", "proxy", "versions"])
def test_the_policies_have_what_cloudformations_schemas_ask_for(name):
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    versions = template(DeployOptions(snapstart=True), PACKAGE)
    document = versions if name == "versions" else on_fargate()[name]
    options = DeployOptions.over("wukong", noted(document["Metadata"])["options"], {})
    allowed = {action for need in needed(options) for action in need.actions}
    for kind in {each["Type"] for each in document["Resources"].values()} & set(NOT_ASKED):
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
        asked = {
            action
            for handler in ("create", "read", "update", "delete")
            for action in schema["handlers"].get(handler, {"permissions": ()})["permissions"]
        }
        unasked = NOT_ASKED[kind] | (set() if options.store else {"secretsmanager:GetRandomPassword"})
        assert asked - allowed - unasked == set(), kind


NOT_ASKED = {
    "AWS::ECS::Cluster": {
        *("ecs:PutAccountSetting", "ecs:PutAccountSettingDefault", "ecs:PutClusterCapacityProviders"),
        *("ecs:UpdateClusterSettings", "kms:DescribeKey"),
    },
    "AWS::ECS::Service": set(),
    "AWS::ECS::TaskDefinition": set(),
    "AWS::EC2::SecurityGroup": set(),
    "AWS::SecretsManager::Secret": {
        *("secretsmanager:ReplicateSecretToRegions", "secretsmanager:RemoveRegionsFromReplication"),
    },
    "AWS::Lambda::Alias": {
        *("codedeploy:CreateDeployment", "codedeploy:GetDeployment", "codedeploy:GetDeploymentConfig"),
        *("codedeploy:GetDeploymentGroup", "codedeploy:StopDeployment"),
    },
    "AWS::Lambda::Version": {"lambda:PutFunctionScalingConfig", "lambda:PutRuntimeManagementConfig"},
    "AWS::ServiceDiscovery::PrivateDnsNamespace": set(),
    "AWS::ServiceDiscovery::Service": {"servicediscovery:DeleteServiceAttributes"},
}
"""Of each kind, what CloudFormation would take for properties that no template of ours has."""
