"""Deployments that fail, are broken off or were left half done: what stays is what was there before. Against moto."""

import deploy_account
import pytest
from deploy_account import ID, REGION, Contains
from test_deploy import BUCKET, NOTHING, everything, function

from wukong.deploy import code
from wukong.deploy.bucket import Bucket
from wukong.deploy.stack import Stack, StackFailed
from wukong.errors import BackendError

pytestmark = pytest.mark.xdist_group("moto")
aws, wukong = deploy_account.aws, deploy_account.wukong


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def stored(aws):
    return [each["Key"] for each in aws.pages("s3", "list_objects_v2", "Contents", Bucket=BUCKET)]


def stack_of(name="wukong"):
    """The stack inside moto."""
    from moto.cloudformation.models import cloudformation_backends

    return cloudformation_backends[ID][REGION].get_stack(name)


# --- failing


def test_what_cannot_be_uploaded_leaves_nothing(aws, wukong, monkeypatch):
    monkeypatch.setattr(Bucket, "put", raising(BackendError("no way")))
    assert wukong("deploy", "--yes") == (1, Contains("no way"))
    assert everything(aws) == NOTHING


def test_a_change_set_that_is_not_carried_out_leaves_nothing(aws, wukong, monkeypatch):
    monkeypatch.setattr(Stack, "start", raising(BackendError("no way")))
    assert wukong("deploy", "--yes") == (1, Contains("no way"))
    assert everything(aws) == NOTHING


def test_a_first_deployment_that_fails_takes_its_bucket_with_it(aws, wukong, monkeypatch):
    def finish(self, proposal, seen, tell):
        self.remove(proposal.stack_id, tell)
        raise StackFailed("the stack could not be created")

    monkeypatch.setattr(Stack, "finish", finish)
    assert wukong("deploy", "--yes") == (1, Contains("could not be created"))
    assert everything(aws) == NOTHING


def test_a_change_that_fails_leaves_the_package_that_is_deployed(aws, wukong, monkeypatch, tmp_path):
    wukong("deploy", "--yes")
    before = stored(aws)
    (tmp_path / "r.txt").write_text("numpy\n")
    monkeypatch.setattr(Stack, "start", raising(BackendError("no way")))
    assert wukong("deploy", "--yes", "--requirements", tmp_path / "r.txt") == (1, Contains("no way"))
    assert stored(aws) == before
    assert wukong("status")[0] == 0


def test_what_cannot_be_undone_is_told_besides_the_reason(aws, wukong, monkeypatch):
    monkeypatch.setattr(Stack, "finish", raising(StackFailed("the stack could not be created")))
    monkeypatch.setattr(Bucket, "remove", raising(BackendError("the bucket cannot be deleted")))
    exit_code, shown = wukong("deploy", "--yes")
    assert (exit_code, shown) == (1, Contains("could not be created; and the bucket cannot be deleted"))


def test_while_cloudformation_goes_on_its_package_stays(aws, wukong, monkeypatch):
    monkeypatch.setattr(Stack, "finish", raising(BackendError("the connection was lost")))
    assert wukong("deploy", "--yes") == (1, Contains("the connection was lost"))
    assert len(stored(aws)) == 1
    assert wukong("deploy", "--yes") == (0, Contains("nothing to change"))


# --- broken off


def test_ctrl_c_while_cloudformation_works_says_how_to_go_on(aws, wukong, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "finish", raising(KeyboardInterrupt()))
        exit_code, shown = wukong("deploy", "--yes")
    assert exit_code == 130
    assert "the stack wukong is CREATE_COMPLETE, and CloudFormation goes on by itself" in shown
    assert "'wukong deploy' and 'wukong destroy' wait for it" in shown
    assert len(stored(aws)) == 1
    assert wukong("deploy", "--yes") == (0, Contains("nothing to change"))
    assert wukong("destroy", "--yes")[0] == 0
    assert everything(aws) == NOTHING


@pytest.mark.parametrize(
    ("where", "what"), [(Stack, "start"), (Bucket, "put"), (Bucket, "create"), (Stack, "metadata"), (code, "build")]
)
def test_ctrl_c_before_that_changes_nothing(aws, wukong, monkeypatch, where, what):
    if what == "metadata":
        wukong("deploy", "--yes")
    before = everything(aws)
    monkeypatch.setattr(where, what, raising(KeyboardInterrupt()))
    exit_code, _ = wukong("deploy", "--yes")
    assert (exit_code, everything(aws)) == (130, before)


def test_ctrl_c_while_destroying_says_how_to_go_on(aws, wukong, monkeypatch):
    wukong("deploy", "--yes")
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "remove", raising(KeyboardInterrupt()))
        exit_code, shown = wukong("destroy", "--yes")
    assert (exit_code, shown) == (130, Contains("'wukong destroy' wait for it"))
    assert wukong("destroy", "--yes")[0] == 0
    assert everything(aws) == NOTHING


# --- left half done


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "CREATE_FAILED", "DELETE_FAILED"])
def test_what_a_failed_deployment_has_left_is_removed_first(aws, wukong, status):
    wukong("deploy", "--yes")
    stack_of().status = status
    assert wukong("deploy", "--plan") == (1, Contains(f"is {status}"))
    assert wukong("status")[0] == 1
    assert wukong("deploy", "--yes") == (0, Contains("the stack wukong is there"))
    assert stack_of().status == "CREATE_COMPLETE"
    assert function(aws)["State"] == "Active"


def test_a_stack_that_is_stuck_can_be_destroyed(aws, wukong):
    wukong("deploy", "--yes")
    stack_of().status = "UPDATE_ROLLBACK_FAILED"
    assert wukong("deploy", "--yes") == (1, Contains("'wukong destroy' removes what is left of it"))
    assert wukong("destroy", "--yes")[0] == 0
    assert everything(aws) == NOTHING


def test_a_plan_that_was_killed_is_in_nobodys_way(aws, wukong):
    aws.call(
        "cloudformation",
        "create_change_set",
        StackName="wukong",
        ChangeSetName="wukong-0123",
        ChangeSetType="CREATE",
        TemplateBody='{"Resources": {"Logs": {"Type": "AWS::Logs::LogGroup"}}}',
    )
    assert everything(aws)["stacks"] == ["wukong"]
    assert wukong("destroy", "--yes")[0] == 0
    assert everything(aws) == NOTHING


def test_a_bucket_that_was_not_finished_is(aws, wukong):
    aws.call("s3", "create_bucket", Bucket=BUCKET)  # and no tags yet
    assert wukong("deploy", "--yes")[0] == 0
    assert aws.call("s3", "get_public_access_block", Bucket=BUCKET)


def test_packages_that_were_left_go_with_the_next_deployment(aws, wukong):
    wukong("deploy", "--yes")
    aws.call("s3", "put_object", Bucket=BUCKET, Key="left.zip", Body=b"1")
    wukong("deploy", "--yes", "--memory", 512)
    assert "left.zip" not in stored(aws)
