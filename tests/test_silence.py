"""A task that holds the interpreter's lock lets no heartbeat through: its invocation looks dead, and is not."""

import re
import threading

import pytest

import wukong
from wukong.backends.storage.layers import Layer
from wukong.backends.storage.local import LocalStore
from wukong.core.codec import Codec
from wukong.core.dag import Page
from wukong.core.effects import joined
from wukong.core.events import Heartbeat
from wukong.core.executor import Executor
from wukong.core.names import Names
from wukong.core.order import PAYLOAD, Envelope, Order, Sent
from wukong.core.policy import Policy
from wukong.core.watch import Watch
from wukong.errors import InvocationFailed

NOWHERE = Envelope(("elsewhere:Store", {}), ("elsewhere:FaaS", {}), False, False, None)


def holds_the_lock(n):
    return re.match("(a*)*b", "a" * n) is None  # one call, which takes a second or more and lets no other thread run


def test_a_task_that_holds_the_lock_for_long_has_its_result_taken():
    with wukong.Client(progress=False, heartbeat_s=0.01) as client:
        assert client.submit(holds_the_lock, 25).result() is True
        assert client.last_job.summary().repeated >= 1


class Silent:
    """A job of one invocation, which gives a sign of life whenever it is made, and then none any more."""

    def __init__(self, store, **options):
        self.now, self.made = 0.0, []
        self.names, self.codec, self.store = Names("job"), Codec(b"k" * 32, sign_buffers=False), store
        self.policy = Policy(heartbeat_s=1.0)
        order = Order("job", "0", [(0,)], 1, 512, self.policy, (0.1, 0.1, 1e6))
        envelope = Envelope(("old:Store", {}), NOWHERE.faas, False, False, order)
        store.put({self.names.invocation("0"): self.codec.encode(envelope, PAYLOAD)})
        self.watch = Watch(
            self.names,
            store,
            self.codec,
            self.send,
            lambda: NOWHERE,
            self.policy,
            ["0"],
            1,
            lambda: self.now,
            **options,
        )
        self.live()

    def live(self):
        key = self.names.heartbeat("0")
        self.store.put({key: self.codec.encode(Heartbeat(self.now, 0, "stubborn"), key)})

    def send(self, calls):
        self.made += [self.codec.decode(payload, PAYLOAD) for _, payload in calls]
        self.live()
        return Sent(len(calls))

    def go_on_until(self, end_s):
        while self.now < end_s:
            self.now += 1.0
            self.watch.tend([])


@pytest.fixture
def store():
    with_store = LocalStore()
    yield with_store
    with_store.close()


def test_who_is_silent_where_deaths_are_reported_is_made_again_ever_more_seldom_and_never_given_up(store):
    silent = Silent(store, deaths_reported=True)
    silent.go_on_until(1_000.0)
    assert 5 < len(silent.made) < 20


def test_who_is_silent_elsewhere_is_given_up_in_the_end_with_a_hint_for_who_is_not_dead(store):
    silent = Silent(store)
    silent.go_on_until(100.0)
    with pytest.raises(InvocationFailed, match=r"(?s)fell silent in stubborn.*heartbeat_s") as caught:
        silent.go_on_until(200.0)
    assert caught.value.task == "stubborn"


def test_what_is_made_again_is_told_where_the_store_is_now(store):
    silent = Silent(store)
    silent.go_on_until(10.0)
    assert silent.made[0].store == ("elsewhere:Store", {})
    assert silent.made[0].order.attempt == 1


class FailsAtHeartbeats(Layer):
    """A store whose vendor's exception escapes, whenever a sign of life is written."""

    def put(self, items, ttl_s=None):
        if any(b"/h/" in key for key in items):
            raise ZeroDivisionError("the vendor's own")
        super().put(items, ttl_s)


def refuse(thread):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("fault", ["the first sign of life fails", "no thread can be started"])
def test_what_fails_before_the_watcher_runs_is_the_error_that_the_client_reads(store, monkeypatch, fault):
    names, codec = Names("job"), Codec(b"k" * 32, sign_buffers=False)
    store.put({names.alive: b"1"})
    page = Page(0, ((),), ((),), ((tuple, ()),), ("a task",))
    pages = {0: bytes(joined(codec.encode(page, names.page(0))))}
    order = Order("job", "0", (0,), 1, 512, Policy(), (0.1, 0.1, 1e6), pages, attempt=1)
    envelope = Envelope(NOWHERE.store, NOWHERE.faas, False, False, order)
    inner = store
    if fault == "the first sign of life fails":
        inner = FailsAtHeartbeats(store)
    else:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    Executor(envelope, inner, codec, lambda _: Sent(0), lambda: None).execute()
    told = codec.decode(store.get([names.done])[0], names.done)
    assert str(told.error) in ("the vendor's own", "can't start new thread")
