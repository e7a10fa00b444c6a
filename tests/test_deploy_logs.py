"""Logs: of several functions in the order of time, of one job whole, as they come in."""

import json
import time

import pytest
from deploy_account import opened

from wukong import cli
from wukong.deploy.logs import LogEvent, OfOneJob, lines
from wukong.errors import BackendError

GROUPS = ("/aws/lambda/wukong", "/aws/lambda/wukong-2")
JOB, OTHER = "3f9c2a71b0d4", "0123456789ab"


def wrote(job, text, invocation="0.1"):
    return f"[stdout]\t{job}/{invocation}\t('sum', 0)\t{text}"


def let_through(*texts, job=JOB, stream="a"):
    filtered = OfOneJob(job)
    made = []
    for n, each in enumerate(texts):
        where, text = each if isinstance(each, tuple) else (stream, each)
        made.append(LogEvent(n, GROUPS[0], where, text))
    found = [line for each in made for line in filtered.take(each)]
    return [line.text for line in [*found, *filtered.rest()]]


# --- one job


def test_an_invocation_of_the_job_comes_with_the_platforms_lines():
    invocation = ["START RequestId: 1", wrote(JOB, "hello"), "END RequestId: 1", "REPORT RequestId: 1 Duration: 3 ms"]
    assert let_through(*invocation) == invocation


def test_invocations_of_other_jobs_before_and_after_do_not():
    before = ["START RequestId: 1", wrote(OTHER, "hello"), "END RequestId: 1", "REPORT RequestId: 1"]
    ours = ["START RequestId: 2", wrote(JOB, "hello"), "END RequestId: 2", "REPORT RequestId: 2"]
    after = ["START RequestId: 3", wrote(OTHER, "hello"), "END RequestId: 3", "REPORT RequestId: 3"]
    assert let_through(*before, *ours, *after) == ours


def test_environments_are_told_apart():
    assert let_through(
        ("a", "START RequestId: 1"),
        ("b", "START RequestId: 2"),
        ("a", wrote(JOB, "mine")),
        ("b", wrote(OTHER, "theirs")),
        ("b", "REPORT RequestId: 2"),
        ("a", "REPORT RequestId: 1"),
    ) == ["START RequestId: 1", wrote(JOB, "mine"), "REPORT RequestId: 1"]


@pytest.mark.parametrize(
    "words",
    [
        "2026-11-21T00:00:00.000Z 1 Task timed out after 900.00 seconds",
        "RequestId: 1 Error: Runtime exited with error: signal: killed",
        "[ERROR] Runtime.ImportModuleError: Unable to import module 'wukong_executor.handler'",
    ],
)
def test_an_invocation_that_died_silently_may_be_the_jobs(words):
    died = ["START RequestId: 1", words, "END RequestId: 1", "REPORT RequestId: 1"]
    quiet = ["START RequestId: 2", "END RequestId: 2", "REPORT RequestId: 2"]
    assert let_through(*died, *quiet) == died


def test_one_that_died_and_said_whose_it_was_is_only_theirs():
    died = ["START RequestId: 1", wrote(OTHER, "hello"), "1 Task timed out after 900.00 seconds", "REPORT RequestId: 1"]
    assert let_through(*died) == []
    assert let_through(*died, job=OTHER) == died


def test_a_start_that_failed_is_shown():
    failed = ["INIT_REPORT Init Duration: 10000.00 ms\tPhase: init\tStatus: timeout"]
    assert let_through(*failed) == failed
    assert let_through("INIT_REPORT Init Duration: 100.00 ms") == []


def test_an_invocation_that_has_not_ended_is_shown():
    assert let_through("START RequestId: 1", wrote(JOB, "hello")) == ["START RequestId: 1", wrote(JOB, "hello")]


def test_a_log_record_names_its_job_as_well():
    record = f"[WARNING]\t2026-11-21T00:00:00.000Z\t1\t{JOB}/0.1~1\t-\tmine\tlow on memory"
    assert let_through("START RequestId: 1", record) == ["START RequestId: 1", record]


# --- reading


class Logs:
    """CloudWatch Logs: what each look finds, by group, with its arguments noted."""

    def __init__(self, *looks):
        self.looks, self.since = list(looks), []

    def pages(self, service, operation, key, logGroupName, startTime):
        assert (service, operation, key) == ("logs", "filter_log_events", "events")
        self.since.append(startTime)
        now = self.looks[0]
        if logGroupName == GROUPS[-1]:
            self.looks.pop(0)
        return [
            {"eventId": f"{at}-{text}", "timestamp": at, "logStreamName": "s", "message": text}
            for at, text in now.get(logGroupName, ())
            if at >= startTime
        ]


def test_following_tells_each_line_once_late_ones_too():
    looks = [
        {GROUPS[0]: [(1_000, "a"), (100_000, "c\n")]},
        {GROUPS[0]: [(100_000, "c\n"), (200_000, "e")], GROUPS[1]: [(90_000, "late")]},
        {GROUPS[0]: [(200_000, "e")], GROUPS[1]: [(199_999, "d")]},
    ]
    account = Logs(*looks)
    found = lines(account, GROUPS, 500, follow=True, pause_s=0)
    assert [next(found).text for _ in range(5)] == ["a", "c", "late", "e", "d"]
    assert account.since == [500, 500, 70_000, 70_000, 170_000, 170_000]


def test_lines_of_several_functions_come_in_the_order_of_time():
    account = Logs({GROUPS[0]: [(1, "a"), (3, "c")], GROUPS[1]: [(2, "b"), (4, "d")]})
    assert [(line.text, line.function) for line in lines(account, GROUPS, 0)] == [
        ("a", "wukong"),
        ("b", "wukong-2"),
        ("c", "wukong"),
        ("d", "wukong-2"),
    ]


# --- the command, against moto


@pytest.fixture
def aws(monkeypatch, tmp_path):
    account = opened(monkeypatch, tmp_path)
    assert cli.main(["deploy", "--yes", "--functions", "2"]) == 0
    now_ms = int(time.time() * 1_000)
    for n, group in enumerate(GROUPS):
        account.call("logs", "create_log_stream", logGroupName=group, logStreamName="one")
        events = [
            {"timestamp": now_ms - 60_000 + n, "message": "START RequestId: 1"},
            {"timestamp": now_ms - 59_000 + n, "message": wrote(JOB if n else OTHER, f"hello from {n}")},
            {"timestamp": now_ms - 58_000 + n, "message": "REPORT RequestId: 1\n"},
        ]
        if n == 0:
            events.insert(0, {"timestamp": now_ms - 3_600_000, "message": "an hour ago"})
        account.call("logs", "put_log_events", logGroupName=group, logStreamName="one", logEvents=events)
    return account


@pytest.mark.xdist_group("moto")
def test_logs_shows_what_was_written_lately(aws, capsys):
    capsys.readouterr()
    assert cli.main(["logs"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 6
    assert shown[0].endswith("  wukong  START RequestId: 1") and shown[1].endswith("  wukong-2  START RequestId: 1")
    assert cli.main(["logs", "--since", "2h"]) == 0
    assert "an hour ago" in capsys.readouterr().out
    assert cli.main(["logs", "--job", JOB]) == 0
    shown = capsys.readouterr().out
    assert "hello from 1" in shown and "hello from 0" not in shown and len(shown.splitlines()) == 3
    assert cli.main(["logs", "--job", JOB, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["lines"]
    assert [each["text"] for each in told] == ["START RequestId: 1", wrote(JOB, "hello from 1"), "REPORT RequestId: 1"]
    assert {each["function"] for each in told} == {"wukong-2"}


@pytest.mark.xdist_group("moto")
def test_logs_with_nothing_found_says_so(aws, capsys):
    capsys.readouterr()
    assert cli.main(["logs", "--job", "ffffffffffff"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and f"nothing of the job ffffffffffff was written to {GROUPS[0]}" in err
    assert cli.main(["logs", "--since", "1s", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"lines": []}


@pytest.mark.xdist_group("moto")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--of", "proxy"], "wukong has no proxy\n  -> 'wukong deploy --proxy' makes one"),
        (["--of", "store"], "wukong has no store\n  -> 'wukong deploy --storage fargate' makes one"),
        (["--of", "proxy", "--job", JOB], "--job goes with the functions' logs"),
    ],
)
def test_logs_of_a_part_that_is_not_deployed(aws, capsys, arguments, message):
    capsys.readouterr()
    assert cli.main(["logs", *arguments]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.xdist_group("moto")
def test_logs_of_what_is_not_there(monkeypatch, tmp_path, capsys):
    account = opened(monkeypatch, tmp_path)
    assert cli.main(["logs"]) == 1
    assert "no deployment is called wukong" in capsys.readouterr().err
    with pytest.raises(BackendError, match="there is no log group"):
        list(lines(account, GROUPS, 0))
