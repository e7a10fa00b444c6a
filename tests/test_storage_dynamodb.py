"""The store `dynamodb`: the conformance suite on two implementations that are not ours, and whole jobs.

Both suites in full are for the long run: an operation takes these implementations milliseconds of CPU time.
"""

import secrets

import dask
import dynamodb_tools
import pytest
from dynamodb_tools import UNHURRIED, make_table, moto_url
from lock_tools import what_a_job_has_is_free_once_it_is_over
from tree_tasks import tree
from waiting import wait_for

import wukong
from wukong import cleaning, cli
from wukong.backends.storage.dynamodb import DynamoStore
from wukong.backends.storage.dynamodb.table import DynamoTable
from wukong.client import lease
from wukong.errors import JobCancelled
from wukong.testing.servers import free_port
from wukong.testing.storage import StoreTests

_logged_in, dynalite = dynamodb_tools._logged_in, dynamodb_tools.dynalite


class TestDynalite(StoreTests):
    platform_variables = ("AWS_",)
    in_short_run = frozenset(
        {
            "test_a_batch_may_arrive_twice_at_one_fan_in",
            "test_a_batch_of_large_and_small_values_comes_back_whole",
            "test_a_complete_record_is_not_changed_by_one_who_contradicts_it",
            "test_a_later_arrival_sets_the_time_to_live_anew_of_the_record_and_all_in_it",
            "test_a_later_write_sets_the_time_to_live_anew",
            "test_a_note_is_not_an_arrival",
            "test_a_store_that_cannot_be_reached_says_so_with_an_error_of_wukongs",
            "test_a_store_works_on_both_sides_of_a_fork",
            "test_an_arrival_that_contradicts_is_refused_and_changes_nothing",
            "test_delete_takes_records_as_well_as_values",
            "test_holders_of_a_wide_fan_in_give_way_to_the_first",
            "test_large_values_ride_whole",
            "test_nothing_of_the_environment_is_in_the_spec",
            "test_of_three_holders_all_but_the_first_give_way_once_the_last_has_come",
            "test_of_many_that_race_with_the_whole_set_exactly_one_claims",
            "test_only_if_last_is_no_arrival_if_it_is_not_last",
            "test_only_the_claimant_is_told_so_again",
            "test_riding_values_come_back_to_the_claimant",
            "test_several_members_arrive_at_once_with_one_value",
            "test_wait_sees_what_another_process_writes_meanwhile",
            "test_what_has_been_deleted_is_waited_for_anew",
        }
    )

    @pytest.fixture(autouse=True)
    def _server(self, dynalite):
        self.url = dynalite

    def make_store(self):
        return DynamoStore(endpoint_url=self.url, **UNHURRIED)

    def make_unreachable_store(self):
        return DynamoStore(endpoint_url=f"http://127.0.0.1:{free_port()}")


@pytest.mark.long
class TestMoto(StoreTests):
    platform_variables = ("AWS_",)

    @pytest.fixture(autouse=True)
    def _table(self):
        cls = type(self)
        if "table" not in vars(cls):
            cls.table = f"wukong-{secrets.token_hex(4)}"
            make_table(moto_url(), cls.table)

    def make_store(self):
        return DynamoStore(endpoint_url=moto_url(), table=self.table, **UNHURRIED)


# Whole jobs


@pytest.fixture(scope="module")
def client(dynalite):
    storage = {"name": "dynamodb", "endpoint_url": dynalite, **UNHURRIED}
    with wukong.Client(storage=storage, store_patience_s=300.0) as client:
        yield client


def test_a_job_runs_on_a_table_alone(client):
    big = dask.delayed(lambda n: bytes(300_000) + bytes([n]))
    both = dask.delayed(lambda *parts: sum(part[-1] for part in parts))
    assert client.compute(both(*[big(n) for n in range(4)])).result() == 6


def test_a_jobs_summary_says_what_its_requests_have_cost(client):
    costs = []
    for _ in range(2):  # the executors' process and its store serve both jobs
        before_usd = client.storage.spent().usd
        graph, key, total = tree(16)
        assert client.get(graph, key) == total
        own_usd = client.storage.spent().usd - before_usd  # before the summary: the client goes on with cleaning up
        summary = client.last_job.summary()
        assert summary.requests.usd > own_usd > 0
        assert summary.usd >= summary.requests.usd
        assert f"requests to DynamoDB, ${summary.requests.usd:.6g} (us-east-1" in str(summary)
        assert client.last_job.summary() == summary, "what is over costs no more"
        costs.append(summary.requests.usd)
    assert costs[1] < 2 * costs[0]


def test_a_running_job_is_cancelled_by_its_clients_lease_as_the_table_lists_no_keys(
    client, dynalite, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", dynalite)
    monkeypatch.setenv("WUKONG_STORE_PATIENCE_S", "300")
    monkeypatch.setattr(lease, "RENEW_S", 60.0)  # the table answers the client late, and the command as well
    monkeypatch.setattr(cleaning, "_CANCEL_WAIT_S", 300.0)
    future = client.submit(wait_for, str(tmp_path / "never"), None)
    job = client.last_job.id
    assert cli.main(["cancel", job, "--storage", "dynamodb://wukong"]) == 0
    assert capsys.readouterr().out.startswith(f"cancelled the job {job} of ")
    with pytest.raises(JobCancelled):
        future.result(timeout=300)
    monkeypatch.setattr(lease, "RENEW_S", 0.0)
    assert cli.main(["cancel", job, "--storage", "dynamodb://wukong"]) == 1
    said = capsys.readouterr().err
    assert "the client that began it does not run it" in said and "time to live" in said


def test_what_a_job_leaves_is_left_to_its_time_to_live(client, monkeypatch):
    """To delete it would cost several times as much as the job."""
    deleted = []
    monkeypatch.setattr(DynamoTable, "take", lambda self, keys, *_: deleted.extend(keys) or [None] * len(keys))
    graph, key, total = tree(32)
    assert client.get(graph, key) == total
    client.last_job.summary()
    assert 0 < len(deleted) < 10


def test_what_a_job_has_of_locks_is_free_once_it_is_over(client):
    what_a_job_has_is_free_once_it_is_over(client.storage)


def test_throttles_before_and_after_an_operation_change_no_result(dynalite):
    faulty = {
        "name": "faulty",
        "store": {"name": "dynamodb", "endpoint_url": dynalite, **UNHURRIED},
        "seed": 5,
        "error_before": 0.1,
        "error_after": 0.1,
    }
    graph, key, total = tree(16)
    with wukong.Client(storage=faulty, fan_out="eager", store_patience_s=300.0) as client:
        assert client.get(graph, key) == total
