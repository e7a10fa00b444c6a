"""A job that has cost what it may is stopped, whichever way it was started, and says what it had done."""

import time

import dask
import pytest
from waiting import wait

import wukong
from wukong.backends.faas.local import LocalFaaS
from wukong.errors import BudgetReached, ConfigError

TINY_USD = 1e-6  # some 40 ms of one executor, as AWS Lambda bills them


@pytest.fixture(scope="module")
def client():
    with wukong.Client(progress=False, heartbeat_s=0.1) as one:
        yield one


@dask.delayed(pure=False)
def endless(n=0):
    time.sleep(600)


WAYS = {
    "get": lambda client: endless().compute(scheduler=client, budget_usd=TINY_USD),
    "compute": lambda client: client.compute(endless(), budget_usd=TINY_USD).result(),
    "compute, sync": lambda client: client.compute([endless()], sync=True, budget_usd=TINY_USD),
    "submit": lambda client: client.submit(time.sleep, 600, pure=False, budget_usd=TINY_USD).result(),
    "map": lambda client: client.gather(client.map(time.sleep, [600, 601], pure=False, budget_usd=TINY_USD)),
    "persist": lambda client: client.persist(endless(), budget_usd=TINY_USD).compute(scheduler=client),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_job_is_stopped_at_its_budget_whichever_way_it_was_started(client, way):
    with pytest.raises(BudgetReached, match=r"budget of \$1e-06: .* has run 0 of [12] tasks") as seen:
        WAYS[way](client)
    assert seen.value.usd >= TINY_USD
    assert seen.value.job == client.last_job.id
    summary = client.last_job.summary()
    assert summary.status == "over budget"
    assert summary.usd >= TINY_USD
    wait(lambda: client.faas.known([f"{client.last_job.id}/0"]) == [], "nothing of it runs on")


def test_a_futures_failure_by_budget_is_an_error_and_can_be_retried(client):
    future = client.submit(time.sleep, 600, pure=False, budget_usd=TINY_USD)
    assert isinstance(future.exception(), BudgetReached)
    assert future.status == "error"


def test_a_job_within_its_budget_is_left_alone(client):
    assert dask.delayed(sum)([1, 2]).compute(scheduler=client, budget_usd=1_000) == 3


def test_the_setting_holds_for_every_job(monkeypatch):
    monkeypatch.setenv("WUKONG_BUDGET_USD", str(TINY_USD))
    with wukong.Client(progress=False) as client, pytest.raises(BudgetReached):
        endless().compute(scheduler=client)


class Free(LocalFaaS):
    def bill(self, invocations, requests, wall_s):
        return None


def test_a_budget_that_nobody_can_keep_is_refused():
    with wukong.Client(faas=Free(), progress=False, budget_usd=1) as client:
        with pytest.raises(ConfigError, match="neither backend knows what it costs"):
            endless().compute(scheduler=client)
        with pytest.raises(ConfigError, match="neither backend knows what it costs"):
            client.submit(len, []).result()


@pytest.mark.parametrize("wrong", [-1, "much", float("nan"), True])
def test_a_budget_is_an_amount(client, wrong):
    with pytest.raises(ConfigError, match="budget_usd"):
        endless().compute(scheduler=client, budget_usd=wrong)
