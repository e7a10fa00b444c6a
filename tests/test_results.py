"""Reading a job's values: each is handed out once, and what is lost, unreadable or raised is told as such."""

import pytest

from wukong.core.codec import Codec
from wukong.core.dag import Literal
from wukong.core.events import Done
from wukong.core.names import Names
from wukong.core.raised import Raised
from wukong.core.results import Result, Results
from wukong.core.storage import joined
from wukong.errors import AuthenticationError

NAMES = Names("job")
CODEC = Codec(b"k" * 32)


class Stored:
    """A store of a few values."""

    def __init__(self, **values):
        self.blobs = {}
        for name, value in values.items():
            self.put(int(name[1:]), value)

    def put(self, task, value, codec=CODEC):
        key = NAMES.value(task)
        self.blobs[key] = joined(codec.encode(value, key))

    def get(self, keys):
        return [self.blobs.get(key) for key in keys]


def of(store, outputs=(1, 2), **more):
    request = {f"key-{task}": task for task in outputs}
    return Results(NAMES, store, CODEC, outputs, {**request, **more})


def test_each_value_is_handed_out_once_early_or_last():
    store = Stored(t2="two")
    results = of(store)
    assert list(results.early()) == [Result(2, "two", NAMES.value(2))]
    assert list(results.early()) == []
    assert not results.complete
    assert list(results.last(Done({1: "one", 2: "two"}))) == [Result(1, "one", None)]
    assert results.complete
    assert results.kept == {2}, "what travelled in the end is in no store"


def test_what_is_stored_is_handed_out_by_its_key_unread():
    store = Stored(t1="one")
    results = of(store, (1,))
    assert list(results.last(Done())) == [Result(1, None, NAMES.value(1))]
    assert results.kept == {1}


def test_all_by_key_with_literals_and_none_if_the_store_has_lost_one():
    store = Stored(t2="two")
    results = of(store, known=Literal("literal"))
    assert results.by_key(Done({1: "one"})) == {"key-1": "one", "key-2": "two", "known": "literal"}
    assert results.kept == set(), "whoever reads a value leaves it to the job's clean-up"
    assert results.by_key(Done()) is None


def test_a_task_that_failed_by_itself_is_a_value_and_raises_where_all_are_wanted():
    store = Stored(t1=Raised.of(ZeroDivisionError("no"), "key-1"), t2="two")
    results = of(store)
    [first, second] = results.early()
    assert type(first.value) is Raised
    assert second.value == "two"
    assert results.any_raised
    with pytest.raises(ZeroDivisionError):
        of(store).by_key(Done())


def test_what_was_signed_by_somebody_else_fails_alone_and_names_its_task():
    store = Stored(t2="two")
    store.put(1, "one", Codec(b"x" * 32))
    [first, second] = of(store).early()
    assert (first.value.kind, first.value.task) == ("wukong.errors.AuthenticationError", "key-1")
    assert second.value == "two"


def test_values_that_travel_apart_are_read_apart():
    blob = joined(CODEC.encode("one", NAMES.value(1)))
    assert list(of(Stored(), (1,)).last(Done({1: blob}, apart=True))) == [Result(1, "one", None)]


def test_an_end_that_cannot_be_read_names_the_job_and_its_only_task():
    blob = joined(Codec(b"x" * 32).encode(Done(), NAMES.done))
    with pytest.raises(AuthenticationError) as caught:
        of(Stored(), (1,)).done(blob)
    assert (caught.value.job, caught.value.task) == ("job", "key-1")
