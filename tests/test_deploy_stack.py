"""What CloudFormation may do while it is followed, from a script: failures, delays, other people's doings."""

import io
import signal
from types import SimpleNamespace

import pytest

from wukong.deploy.account import DeployRefused
from wukong.deploy.changes import Change, Proposal, StackState
from wukong.deploy.stack import Stack, StackFailed
from wukong.errors import BackendError

ID = "arn:aws:cloudformation:us-east-1:1:stack/wukong/1"
NEW, CHANGED = Proposal("change-set", ID, True), Proposal("change-set", ID, False)
SOUND = StackState(ID, "CREATE_COMPLETE", parameters=frozenset({"DeploymentKey"}))


def refused(code, message):
    error = DeployRefused(message)
    error.code = code
    return error


def event(logical, status, reason="", kind="AWS::Lambda::Function"):
    return {
        "LogicalResourceId": logical,
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
        "ResourceType": "AWS::CloudFormation::Stack" if logical == "wukong" else kind,
    }


class CloudFormation:
    """An account in which each look at the stack finds it one step further.

    A step is a status and the events that have come with it; None for a status: the stack is not there. The last one
    stays. `deletes`: the steps that follow once it is to be deleted. `change_set`: what describing one says, in turn.
    """

    def __init__(self, *steps, deletes=(), change_set=()):
        self.steps, self.deletes, self.change_sets = list(steps), list(deletes), list(change_set)
        self.told, self.called = [], []
        self.names = ["wukong-0123"]

    def call(self, service, operation, **arguments):
        assert service == "cloudformation"
        self.called.append(operation)
        return getattr(self, operation)(**arguments)

    def pages(self, service, operation, key, **arguments):
        if operation == "list_change_sets":
            return iter([{"ChangeSetName": name} for name in self.names])
        assert (operation, key) == ("describe_stack_events", "StackEvents")
        return iter(self.told[::-1])

    def describe_stacks(self, StackName):
        status, *events = self.steps[0]
        self.steps[:1] = [] if len(self.steps) > 1 else [(status,)]
        self.told += [{**each, "EventId": str(len(self.told) + n)} for n, each in enumerate(events)]
        if status is None:
            raise refused("ValidationError", f"Stack with id {StackName} does not exist")
        return {"Stacks": [{"StackId": ID, "StackStatus": status}]}

    def delete_stack(self, StackName):
        self.steps = self.deletes or [(None,)]

    def execute_change_set(self, **_):
        return {}

    def create_change_set(self, **arguments):
        self.arguments = arguments
        return {"Id": "change-set", "StackId": ID}

    def describe_change_set(self, **_):
        return self.change_sets.pop(0)

    def delete_change_set(self, **_):
        return {}


def stack(cloud, **more):
    return Stack(cloud, "wukong", pause_s=0, **{"limit_s": 20, **more})


def finished(cloud, proposal, told=None, **more):
    made = stack(cloud, **more)
    seen = made.start(proposal)
    return made.finish(proposal, seen, (told if told is not None else []).append)


# --- to its end


def test_events_are_told_once_each_and_in_order():
    cloud = CloudFormation(
        ("REVIEW_IN_PROGRESS",),
        ("CREATE_IN_PROGRESS", event("wukong", "CREATE_IN_PROGRESS"), event("Role", "CREATE_COMPLETE")),
        ("CREATE_IN_PROGRESS", event("Function", "CREATE_COMPLETE")),
        ("CREATE_COMPLETE", event("wukong", "CREATE_COMPLETE")),
    )
    told = []
    assert finished(cloud, NEW, told).status == "CREATE_COMPLETE"
    assert [(each.logical, each.status) for each in told] == [
        ("wukong", "CREATE_IN_PROGRESS"),
        ("Role", "CREATE_COMPLETE"),
        ("Function", "CREATE_COMPLETE"),
        ("wukong", "CREATE_COMPLETE"),
    ]


def test_ctrl_c_that_python_loses_ends_the_wait():
    """Python drops what is raised while an object of `io` is finalized, as the answers of HTTP are."""

    class Finalized(io.IOBase):
        def close(self):
            signal.raise_signal(signal.SIGINT)

    cloud = CloudFormation(
        ("REVIEW_IN_PROGRESS",),
        ("CREATE_IN_PROGRESS", event("wukong", "CREATE_IN_PROGRESS")),
        ("CREATE_COMPLETE", event("wukong", "CREATE_COMPLETE")),
    )
    made = stack(cloud)
    seen = made.start(NEW)
    with pytest.raises(KeyboardInterrupt):
        made.finish(NEW, seen, lambda _: bool(Finalized()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_stack_that_still_looks_as_before_is_not_taken_for_done():
    cloud = CloudFormation(
        ("UPDATE_COMPLETE",),
        ("UPDATE_COMPLETE",),
        ("UPDATE_IN_PROGRESS", event("wukong", "UPDATE_IN_PROGRESS")),
        ("UPDATE_COMPLETE",),  # its last event comes a little later
        ("UPDATE_COMPLETE", event("wukong", "UPDATE_COMPLETE")),
    )
    cloud.told = [{**event("wukong", "UPDATE_COMPLETE"), "EventId": "of the time before"}]
    finished(cloud, CHANGED)
    assert cloud.called.count("describe_stacks") == 5


# --- failures


FAILING = (
    ("CREATE_IN_PROGRESS", event("wukong", "CREATE_IN_PROGRESS")),
    (
        "ROLLBACK_IN_PROGRESS",
        event("Function", "CREATE_FAILED", "'MemorySize' value failed to satisfy constraint"),
        event("Function2", "CREATE_FAILED", "Resource creation cancelled"),
        event("wukong", "ROLLBACK_IN_PROGRESS", "The following resource(s) failed to create: [Function, Function2]."),
    ),
    ("ROLLBACK_COMPLETE", event("wukong", "ROLLBACK_COMPLETE")),
)
GOES = (
    ("DELETE_IN_PROGRESS", event("wukong", "DELETE_IN_PROGRESS")),
    ("DELETE_COMPLETE", event("wukong", "DELETE_COMPLETE")),
)


def test_a_stack_that_cannot_be_created_is_removed_and_the_reason_told():
    cloud = CloudFormation(*FAILING, deletes=GOES)
    with pytest.raises(StackFailed, match="could not be created, and nothing of it is left") as caught:
        finished(cloud, NEW)
    assert "Function (AWS::Lambda::Function): 'MemorySize' value failed" in caught.value.message
    assert "cancelled" not in caught.value.message
    assert "at most 3,008 MB" in caught.value.hint
    assert cloud.called[-3:] == ["delete_stack", "describe_stacks", "describe_stacks"]
    assert cloud.steps == [("DELETE_COMPLETE",)]


def test_a_proxy_that_does_not_start_is_explained():
    reason = "Error occurred during operation 'ECS Deployment Circuit Breaker was triggered'"
    cloud = CloudFormation(
        ("UPDATE_IN_PROGRESS", event("wukong", "UPDATE_IN_PROGRESS")),
        ("UPDATE_ROLLBACK_IN_PROGRESS", event("ProxyService", "CREATE_FAILED", reason, "AWS::ECS::Service")),
        ("UPDATE_ROLLBACK_COMPLETE", event("wukong", "UPDATE_ROLLBACK_COMPLETE")),
    )
    with pytest.raises(StackFailed, match="ProxyService") as caught:
        finished(cloud, CHANGED)
    assert "its subnets need a way to ECR" in caught.value.hint


def test_a_stack_that_cannot_be_changed_is_as_before():
    cloud = CloudFormation(
        ("UPDATE_IN_PROGRESS", event("wukong", "UPDATE_IN_PROGRESS")),
        ("UPDATE_ROLLBACK_IN_PROGRESS", event("Role", "UPDATE_FAILED", "User is not authorized", "AWS::IAM::Role")),
        ("UPDATE_ROLLBACK_COMPLETE", event("wukong", "UPDATE_ROLLBACK_COMPLETE")),
    )
    with pytest.raises(StackFailed, match="could not be changed, and is as it was before: Role") as caught:
        finished(cloud, CHANGED)
    assert "--policy" in caught.value.hint
    assert "delete_stack" not in cloud.called


def test_a_stack_that_cannot_even_go_back_says_so():
    cloud = CloudFormation(
        ("UPDATE_ROLLBACK_FAILED", event("wukong", "UPDATE_IN_PROGRESS"), event("wukong", "UPDATE_ROLLBACK_FAILED")),
    )
    with pytest.raises(StackFailed, match="is UPDATE_ROLLBACK_FAILED") as caught:
        finished(cloud, CHANGED)
    assert "'wukong destroy' removes it" in caught.value.hint


def test_what_cannot_be_removed_is_named():
    cloud = CloudFormation(
        ("CREATE_COMPLETE",),
        deletes=(
            ("DELETE_IN_PROGRESS", event("wukong", "DELETE_IN_PROGRESS")),
            ("DELETE_FAILED", event("Role", "DELETE_FAILED", "in use", "R"), event("wukong", "DELETE_FAILED")),
        ),
    )
    with pytest.raises(BackendError, match=r"is DELETE_FAILED: Role \(R\): in use") as caught:
        stack(cloud).remove(ID, lambda _: None)
    assert "'wukong destroy' again" in caught.value.hint


def test_a_deleted_stack_that_is_forgotten_at_once_is_gone():
    cloud = CloudFormation(("CREATE_COMPLETE",), deletes=[(None,)])
    stack(cloud).remove(ID, lambda _: None)
    assert cloud.called == ["delete_stack", "describe_stacks"]


def test_when_the_time_is_up_it_is_not_known_how_it_ends():
    cloud = CloudFormation(("CREATE_IN_PROGRESS", event("wukong", "CREATE_IN_PROGRESS")))
    with pytest.raises(BackendError, match="CloudFormation goes on by itself") as caught:
        finished(cloud, NEW, limit_s=0)
    assert not isinstance(caught.value, StackFailed)
    assert "delete_stack" not in cloud.called
    assert "'wukong deploy'" in caught.value.hint


# --- what is under way already


def test_what_is_under_way_is_waited_for():
    cloud = CloudFormation(("UPDATE_IN_PROGRESS",), ("UPDATE_IN_PROGRESS",), ("UPDATE_COMPLETE",))
    assert stack(cloud).settled(lambda _: None).status == "UPDATE_COMPLETE"
    assert stack(CloudFormation((None,))).settled(lambda _: None) is None
    assert stack(CloudFormation(("DELETE_IN_PROGRESS",), ("DELETE_COMPLETE",))).settled(lambda _: None) is None


def test_a_stack_in_review_waits_for_somebody():
    assert stack(CloudFormation(("REVIEW_IN_PROGRESS",))).settled(lambda _: None).in_review


def test_a_stack_in_review_may_be_somebody_elses():
    cloud = CloudFormation(("REVIEW_IN_PROGRESS",))
    assert stack(cloud).only_our_change_sets()
    cloud.names.append("of-somebody-else")
    assert not stack(cloud).only_our_change_sets()


# --- change sets


def change(action, logical, **more):
    return {"ResourceChange": {"Action": action, "LogicalResourceId": logical, "ResourceType": "T", **more}}


def test_a_change_set_is_read_to_its_last_page():
    target = {"Target": {"Attribute": "Properties", "Name": "MemorySize"}}
    cloud = CloudFormation(
        change_set=[
            {"Status": "CREATE_PENDING"},
            {"Status": "CREATE_COMPLETE", "Changes": [change("Add", "A")], "NextToken": "2"},
            {"Status": "CREATE_COMPLETE", "Changes": [change("Modify", "B", Details=[target], Replacement="True")]},
        ]
    )
    proposal = stack(cloud).propose("{}", [], {}, SOUND)
    assert proposal.changes == (Change("Add", "A", "T"), Change("Modify", "B", "T", True, ("MemorySize",)))
    assert cloud.arguments["ChangeSetType"] == "UPDATE"
    assert cloud.arguments["Capabilities"] == ["CAPABILITY_NAMED_IAM"]


def test_a_change_set_without_changes_is_removed():
    reason = "The submitted information didn't contain changes. Submit different information to create a change set."
    cloud = CloudFormation(change_set=[{"Status": "FAILED", "StatusReason": reason}])
    proposal = stack(cloud).propose("{}", [], {}, SOUND)
    assert proposal.id is None
    assert cloud.called[-1] == "delete_change_set"


def test_a_change_set_that_fails_leaves_nothing():
    cloud = CloudFormation(change_set=[{"Status": "FAILED", "StatusReason": "no such type"}])
    with pytest.raises(BackendError, match="cannot plan this: no such type"):
        stack(cloud).propose("{}", [], {}, None)
    assert cloud.arguments["ChangeSetType"] == "CREATE"
    assert cloud.called[-2:] == ["delete_change_set", "delete_stack"]


def test_to_discard_a_change_of_a_stack_leaves_the_stack():
    cloud = CloudFormation(("CREATE_COMPLETE",))
    stack(cloud).discard(CHANGED)
    assert cloud.called == ["delete_change_set"]


def test_other_refusals_are_not_taken_for_nothing_to_change():
    cloud = SimpleNamespace(call=lambda *_, **__: (_ for _ in ()).throw(refused("ValidationError", "Template format")))
    with pytest.raises(DeployRefused):
        stack(cloud).propose("{}", [], {}, SOUND)
    with pytest.raises(DeployRefused):
        stack(cloud).state()
