"""What a store's plug-in answers is checked: an error names the plug-in and the promise that it broke."""

import pytest

from wukong.backends.storage import Arrival, Outcome
from wukong.backends.storage.layers import Checked, Layer
from wukong.backends.storage.local import LocalStore
from wukong.errors import StoreError, StoreUnavailable

ARRIVALS = [Arrival(b"f", (0,), 2, b"a"), Arrival(b"f", (1,), 2, b"b")]
CALLS = {
    "get": lambda store: store.get([b"a", b"b"]),
    "put": lambda store: store.put({b"a": b"1"}),
    "delete": lambda store: store.delete([b"a"]),
    "wait": lambda store: store.wait(b"a", 0.0),
    "incr": lambda store: store.incr(ARRIVALS),
    "scan": lambda store: store.scan(b""),
    "spec": lambda store: store.spec(),
    "environment": lambda store: store.environment(),
    "start": lambda store: store.start(print),
    "rent": lambda store: store.rent(),
}
WRONG = [
    ("get", [None], "get answered 1 of 2"),
    ("get", None, "get answered NoneType, not a list"),
    ("get", ["text", None], "get answered str, neither bytes nor None"),
    ("get", iter([None, None]), "get answered list_iterator, not a list"),
    ("wait", "text", "wait answered str, neither bytes nor None"),
    ("incr", [Outcome(False, False)], "incr answered 1 of 2"),
    ("incr", None, "incr answered NoneType, not a list"),
    ("incr", [Outcome(False, False), None], "incr answered NoneType, not an Outcome"),
    ("incr", [Outcome(False, False), Outcome(False, True)], "incr answered a claim of a set that is not complete"),
    ("incr", [Outcome(False, False), Outcome(True, True, ("text",))], "with values that are no bytes"),
    ("scan", [b"a"], "scan answered list, not a mapping"),
    ("spec", ("module:attribute", {}), "spec answered tuple, not a PluginSpec"),
    ("environment", {"PASSWORD": b"1"}, "environment answered bytes for 'PASSWORD'; variables are text"),
    ("rent", 0.1, "rent answered float, neither a Rent nor None"),
]


class Breaking(Layer):
    """A store with one verb that answers, or raises, as it is told."""

    def __init__(self, verb, answer):
        super().__init__(LocalStore())

        def told(*_):
            if isinstance(answer, Exception):
                raise answer
            return answer

        setattr(self, verb, told)


def refused(verb, answer):
    store = Checked(Breaking(verb, answer))
    try:
        with pytest.raises(Exception) as caught:
            CALLS[verb](store)
    finally:
        store.close()
    return caught.value


@pytest.mark.parametrize(("verb", "answer", "what"), WRONG)
def test_an_answer_that_breaks_the_contract_names_the_plug_in_and_the_promise(verb, answer, what):
    error = refused(verb, answer)
    assert type(error) is StoreError
    assert "the store plug-in test_storage_layers_checked:Breaking broke its contract: " in str(error)
    assert what in str(error)


@pytest.mark.parametrize("verb", CALLS)
def test_a_vendors_exception_names_the_plug_in_and_is_the_cause(verb):
    error = refused(verb, KeyError("vendor"))
    assert f"Breaking broke its contract: {verb} raised KeyError: 'vendor'" in str(error)
    assert isinstance(error.__cause__, KeyError)
    assert not isinstance(error, StoreUnavailable)  # trying again helps nobody


@pytest.mark.parametrize("verb", CALLS)
def test_errors_of_wukongs_and_contradictory_arrivals_pass(verb):
    away = StoreUnavailable("no answer")
    assert refused(verb, away) is away
    if verb == "incr":
        contradiction = ValueError("the fan-in has 3 members")
        assert refused(verb, contradiction) is contradiction


def test_a_store_that_keeps_its_contract_is_left_alone():
    store = Checked(LocalStore())
    store.put({b"a": b"1", b"large": bytes(400_000)})
    assert [bytes(value or b"") for value in store.get([b"a", b"b", b"large"])] == [b"1", b"", bytes(400_000)]
    assert store.incr(ARRIVALS) == [Outcome(False, False), Outcome(True, True)]
    store.close()
