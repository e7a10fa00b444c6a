"""The store in DynamoDB and S3 as a part of a deployment, against moto: made, used, taken back, removed."""

import ast
from contextlib import closing

import deploy_account
import pytest
from deploy_account import ID, REGION, Contains
from test_deploy import BUCKET, NOTHING, VALUES, everything
from test_deploy_template import PACKAGE, of_type, resolved, statements

from wukong.backends.plugins import load_storage
from wukong.backends.storage import Arrival, Outcome
from wukong.deploy.iam_policy import needed, policy
from wukong.deploy.options import DeployOptions
from wukong.deploy.template import template

pytestmark = pytest.mark.xdist_group("moto")
aws, wukong = deploy_account.aws, deploy_account.wukong
LARGE = bytes(100_000)


def store_of(shown):
    """The store that a deployment says it is to be used with, opened."""
    call = ast.parse(shown[shown.index("wukong.Client(") :].strip(), mode="eval").body
    [choice] = [each.value for each in call.keywords if each.arg == "storage"]
    return closing(load_storage(ast.literal_eval(choice)))


@pytest.mark.parametrize("options", [(), ("--name", "mine", "--region", REGION, "--storage", "dynamodb")])
def test_what_was_deployed_is_found_by_what_the_command_says(aws, wukong, options):
    exit_code, shown = wukong("deploy", "--yes", *options)
    assert exit_code == 0, shown
    with store_of(shown) as store:
        store.put({b"small": b"1", b"large": LARGE}, 60.0)
        assert store.get([b"small", b"large"]) == [b"1", LARGE]
        assert store.incr([Arrival(b"f", (0,), 1, b"c")], 60.0) == [Outcome(True, True)]
    assert wukong("status", *options[:2])[1].count("store in DynamoDB and S3") == 1
    exit_code, shown = wukong("destroy", "--yes", *options[:2])
    assert (exit_code, everything(aws)) == (0, NOTHING), shown


def test_that_the_first_deployment_has_one_unless_told_otherwise_is_said(aws, wukong):
    assert wukong("deploy", "--plan") == (0, Contains("note: no store is configured for AWS"))
    assert everything(aws) == NOTHING
    exit_code, shown = wukong("deploy", "--yes", "--storage", "none")
    assert (exit_code, everything(aws)["tables"], everything(aws)["buckets"]) == (0, [], [BUCKET]), shown
    assert 'wukong.Client(faas="aws-lambda")' in shown
    wukong("deploy", "--yes", "--memory", 512)
    assert everything(aws)["tables"] == []


def test_it_stays_until_it_is_taken_back_with_all_that_is_in_it(aws, wukong):
    shown = wukong("deploy", "--yes", "--storage", "dynamodb")[1]
    with store_of(shown) as store:
        store.put({b"large": LARGE}, 60.0)
    assert "the store that is deployed stays: dynamodb" in wukong("deploy", "--yes", "--memory", 512)[1]
    assert everything(aws)["tables"] == ["wukong"]
    assert wukong("deploy", "--yes", "--storage", "redis://redis.example.com:6379")[0] == 0
    assert (everything(aws)["tables"], everything(aws)["buckets"]) == ([], [BUCKET])


def test_the_bucket_of_values_is_private_and_forgets(aws, wukong):
    wukong("deploy", "--yes")
    block = aws.call("s3", "get_public_access_block", Bucket=VALUES)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True} and len(block) == 4
    rules = aws.call("s3", "get_bucket_lifecycle_configuration", Bucket=VALUES)["Rules"]
    assert [each["Expiration"]["Days"] for each in rules if "Expiration" in each] == [1]
    kept = aws.call("s3", "get_bucket_lifecycle_configuration", Bucket=BUCKET)["Rules"]
    assert not any("Expiration" in each for each in kept), "the package must stay"


def test_a_table_and_a_bucket_of_somebody_else_are_left_alone(aws, wukong):
    aws.call(
        "dynamodb",
        "create_table",
        TableName="wukong",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    assert wukong("deploy", "--yes") == (1, Contains("there is a DynamoDB table wukong already"))
    aws.call("dynamodb", "delete_table", TableName="wukong")
    aws.call("s3", "create_bucket", Bucket=VALUES)
    aws.call("s3", "put_object", Bucket=VALUES, Key="theirs", Body=b"1")
    assert wukong("deploy", "--yes") == (1, Contains(f"the bucket {VALUES} is not one of Wukong's"))
    assert {**everything(aws), "buckets": []} == NOTHING


@pytest.mark.parametrize(
    "storage", [("--storage", "dynamodb://other"), ("--storage", "dynamodb", "--set", "storage.table=other")]
)
def test_a_table_of_another_name_is_another_deployments(aws, wukong, storage):
    assert wukong("deploy", "--plan", *storage) == (1, Contains("give --name other"))
    assert wukong("deploy", "--plan", *storage, "--name", "other")[0] == 0


def test_functions_may_use_their_own_table_and_bucket_and_no_others():
    document = template(DeployOptions(store="dynamodb").checked(), PACKAGE)
    found = statements(document)
    assert list(map(resolved, found["UseOwnTable"]["Resource"])) == ["arn:aws:dynamodb:us-east-1:1:table/wukong"]
    assert not {"dynamodb:Scan", "dynamodb:Query", "dynamodb:DeleteTable"} & {*found["UseOwnTable"]["Action"]}
    assert list(map(resolved, found["UseOwnValues"]["Resource"])) == ["arn:aws:s3:::wukong-values-1-us-east-1/*"]
    assert list(map(resolved, found["SeeThatValuesAreMissing"]["Resource"])) == [
        "arn:aws:s3:::wukong-values-1-us-east-1"
    ]
    [table] = of_type(document, "AWS::DynamoDB::Table").values()
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires", "Enabled": True}
    assert document["Resources"]["Table"]["DeletionPolicy"] == "Delete"
    assert "UseOwnTable" not in statements(template(DeployOptions(), PACKAGE))


def test_who_deploys_may_make_the_table_only_of_this_name():
    [statement] = [each for each in policy("wukong", REGION, ID)["Statement"] if each["Sid"] == "Table"]
    assert statement["Resource"] == [f"arn:aws:dynamodb:{REGION}:{ID}:table/wukong"]
    assert "Table" in {need.sid for need in needed(DeployOptions(store="dynamodb"))}
    assert "Table" not in {need.sid for need in needed(DeployOptions())}


def test_who_deploys_may_do_what_cloudformations_schema_asks_for():
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    handlers = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", "AWS::DynamoDB::Table").schema["handlers"]
    allowed = {action for need in needed(DeployOptions(store="dynamodb")) for action in need.actions}
    assert {*handlers["read"]["permissions"], *handlers["delete"]["permissions"]} <= allowed
    # The rest is for properties that our table does not have: replicas, streams, imports, backups, keys of its own.
    more = {*handlers["create"]["permissions"], *handlers["update"]["permissions"]} - allowed
    assert not {each for each in more if each.endswith(("Table", "TimeToLive", "Resource", "Tags"))} - {
        "dynamodb:ImportTable"
    }
