"""What is in the account before a deployment on Fargate, runs there, and is left afterwards."""

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
    from moto.moto_api import state_manager  # late, as moto takes a second to import, in every process that collects

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
