"""Deployments that are invoked by an alias of a published version: SnapStart, provisioned concurrency. Against moto."""

import json

import deploy_account
import pytest
from deploy_account import CONCURRENCY, Contains
from deploy_account_lambda import missing
from test_deploy import NOTHING, everything
from test_deploy_template import IMAGE, NETWORK, PACKAGE, VPC, functions, of_type, resolved, statements

from wukong.deploy.iam_policy import needed
from wukong.deploy.options import DeployOptions
from wukong.deploy.secret import marked
from wukong.deploy.template import template
from wukong.errors import ConfigError

pytestmark = pytest.mark.xdist_group("moto")
aws, wukong = deploy_account.aws, deploy_account.wukong

SNAP = ("deploy", "--yes", "--python", "3.13", "--snapstart")


def live(aws, name="wukong"):
    """The configuration that the alias names."""
    return aws.call("lambda", "get_function_configuration", FunctionName=name, Qualifier="live")


def test_a_deployment_with_snapshots_from_nothing_to_nothing(aws, wukong):
    exit_code, shown = wukong(*SNAP, "--functions", 2)
    assert exit_code == 0, shown
    assert 'faas={"name": "aws-lambda", "function": ["wukong", "wukong-2"], "qualifier": "live"}' in shown
    assert "2 snapshots: $0.0187 an hour, and $0.000242 for each restored one" in shown
    for name in ("wukong", "wukong-2"):
        assert live(aws, name)["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
        config = aws.call("lambda", "get_function_event_invoke_config", FunctionName=name)
        assert config["MaximumRetryAttempts"] == 2
    exit_code, shown = wukong("status")
    assert (exit_code, shown) == (0, Contains("wukong-2:live is version 1, Active, restored from a snapshot"))
    assert "$0.0187 an hour" in shown
    assert json.loads(wukong("status", "--json")[1])["functions"][0]["version"]["number"] == "1"
    exit_code, shown = wukong("destroy", "--yes")
    assert exit_code == 0, shown
    assert everything(aws) == NOTHING


def test_a_version_is_published_if_what_it_keeps_has_changed_and_only_then(aws, wukong, monkeypatch):
    wukong(*SNAP)
    assert "nothing to change" in wukong(*SNAP)[1]
    wukong(*SNAP, "--reserved-concurrency", 5)
    assert live(aws)["Version"] == "1"
    wukong(*SNAP, "--memory", 512)
    assert (live(aws)["Version"], live(aws)["MemorySize"]) == ("2", 512)
    for key, version in (("one", "3"), ("one", "3"), ("two", "4")):  # which no template shows
        monkeypatch.setenv("WUKONG_KEY", key)
        wukong(*SNAP)
        assert live(aws)["Version"] == version
    monkeypatch.delenv("WUKONG_KEY")
    assert "nothing to change" in wukong(*SNAP)[1]
    exit_code, shown = wukong("deploy", "--yes", "--no-snapstart")
    assert (exit_code, shown) == (0, Contains('wukong.Client(faas="aws-lambda", '))
    with pytest.raises(Exception, match="Function not found"):
        live(aws)


def test_environments_that_are_provisioned_are_shown_with_their_price(aws, wukong, monkeypatch):
    exit_code, shown = wukong("deploy", "--yes", "--provisioned-concurrency", 5)
    assert (exit_code, shown) == (0, Contains("5 provisioned environments: $0.1037 an hour"))
    assert '"qualifier": "live"' in shown
    assert wukong("status") == (0, Contains("version 1, Active, 5 of 5 provisioned environments there"))
    assert "what is provisioned costs $0.1037 an hour" in wukong("status")[1]
    monkeypatch.setitem(missing, "environments", 2)
    assert wukong("status") == (1, Contains("3 of 5 provisioned environments there"))
    assert "provisioned" not in wukong("deploy", "--yes", "--provisioned-concurrency", "none")[1]


def test_what_cannot_be_provisioned_or_snapped_is_told_before_anything_is_made(aws, wukong):
    CONCURRENCY.update(ConcurrentExecutions=1_000, UnreservedConcurrentExecutions=110)
    for options, says in (
        (("--provisioned-concurrency", 11), "give at most --provisioned-concurrency 10"),
        (("--provisioned-concurrency", 11, "--functions", 20), "leave --provisioned-concurrency out"),
        (("--snapstart", "--python", "3.11"), "--snapstart goes with --python 3.12 or 3.13 or 3.14"),
    ):
        assert wukong("deploy", "--yes", *options) == (1, Contains(says))
    assert everything(aws) == NOTHING


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"snapstart": True, "image": "wukong:latest"}, "no snapshots of functions of an image"),
        ({"snapstart": True, "provisioned_concurrency": 1}, "exclude each other"),
        ({"snapstart": True, "ephemeral_storage_mb": 513}, "more than 512 MB of /tmp"),
        ({"provisioned_concurrency": 0}, "from 1 up"),
        ({"provisioned_concurrency": 3, "reserved_concurrency": 2}, "counts into what is reserved"),
    ],
)
def test_what_lambda_does_not_have_together_is_refused(options, says):
    with pytest.raises(ConfigError) as refused:
        DeployOptions(**options).checked()
    assert says in str(refused.value)


def test_executors_and_the_proxy_may_invoke_the_alias_and_nothing_else():
    options = DeployOptions(functions=2, snapstart=True, proxy=True, proxy_image=IMAGE.uri, **NETWORK)
    document = template(options, PACKAGE, network=VPC, proxy_image=IMAGE)
    for role in ("Role", "ProxyRole"):
        allowed = [resolved(each) for each in statements(document, role)["InvokeOwnFunctions"]["Resource"]]
        assert allowed == [f"arn:aws:lambda:us-east-1:1:function:wukong{n}:live" for n in ("", "-2")], role


def test_without_either_there_is_no_version_and_nobody_needs_permission_for_one():
    document = template(DeployOptions(), IMAGE)
    assert not of_type(document, "AWS::Lambda::Version") and not of_type(document, "AWS::Lambda::Alias")
    assert "SnapStart" not in functions(document)[0]
    assert "Versions" not in [need.sid for need in needed(DeployOptions())]
    assert "Versions" in [need.sid for need in needed(DeployOptions(provisioned_concurrency=1))]


def test_marks_tell_that_a_hidden_value_has_changed_and_not_what_it_is():
    given = [{"ParameterKey": "A", "ParameterValue": "secret"}, {"ParameterKey": "B", "UsePreviousValue": True}]
    first = marked(given, {})
    assert marked(given, first) == first and first["B"] == "" and "secret" not in str(first)
    assert marked([{"ParameterKey": "A", "ParameterValue": "other"}], first)["A"] != first["A"]
    assert marked([{"ParameterKey": "A", "UsePreviousValue": True}], first)["A"] == first["A"]
    assert marked(given, {})["A"] != first["A"]  # of another deployment
    documents = [
        template(DeployOptions(snapstart=True), PACKAGE, marks=marks) for marks in (first, {**first, "A": "x"})
    ]
    assert len({name for each in documents for name in of_type(each, "AWS::Lambda::Version")}) == 2
