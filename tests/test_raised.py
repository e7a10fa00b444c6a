"""What a task raised travels whatever the exception is made of."""

import dataclasses
import pickle
import socket
import sys
import threading
import urllib.error

import cloudpickle
import pytest

from wukong.core.raised import Raised
from wukong.errors import InvocationFailed, TaskError


class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


class KeywordOnly(ValueError):
    def __init__(self, *, code):
        self.code = code


class Gone(OSError):
    def __init__(self, path):
        super().__init__(2, "gone", path)
        self.place = path


class Exit(SystemExit):
    def __init__(self, a, b):
        super().__init__(a + b)


class Several(ExceptionGroup):
    def __new__(cls, errors):
        return super().__new__(cls, "several", errors)

    def derive(self, errors):
        return Several(errors)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class WithLock(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock, self.n = threading.Lock(), 5


class OwnWay(Exception):
    def __reduce__(self):
        return OwnWay, ("made again",)


class BadWay(Exception):
    def __reduce__(self):
        raise TypeError("never")


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no")


class HoldsItself(Exception):
    pass


def there_and_back(error, task="f-1"):
    try:
        raise error
    except BaseException as caught:
        raised = pickle.loads(pickle.dumps(Raised.of(caught, task)))
    return raised.error()


@pytest.mark.parametrize(
    "error",
    [
        TwoArguments(1, 2), KeywordOnly(code=3), Gone("/x"), Exit(1, 2), Frozen(3), ZeroDivisionError("x"),
        KeyError(7), KeyboardInterrupt(), GeneratorExit(), SystemExit(4), MemoryError("m"), StopIteration(5),
        ImportError("no", name="m"), UnicodeDecodeError("utf-8", b"a", 0, 1, "bad"),
        FileNotFoundError(2, "no", "f"), urllib.error.URLError("why"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_exception_arrives_as_itself(error):
    back = there_and_back(error)
    assert type(back) is type(error) and str(back) == str(error) and back.args == error.args
    state = {name: value for name, value in vars(back).items() if name != "__notes__"}
    assert state == vars(error)
    for name in ("code", "value", "name", "filename", "errno", "start"):
        assert getattr(back, name, None) == getattr(error, name, None)
    assert "there_and_back" in str(back.__cause__) and back.__notes__ == ["raised by task f-1"]


def test_a_group_arrives_with_the_exceptions_in_it():
    back = there_and_back(ExceptionGroup("both", [TwoArguments(1, 2), Several([Gone("/x"), WithLock("w")])]))
    two, several = back.exceptions
    assert (two.a, str(two), type(several), several.exceptions[0].place) == (1, "1 and 2", Several, "/x")
    assert several.exceptions[1].n == 5


def test_what_cannot_travel_is_left_behind_and_named():
    back = there_and_back(WithLock("text"))
    assert type(back) is WithLock and str(back) == "text" and back.n == 5 and not hasattr(back, "lock")
    assert "lock (a _thread.lock)" in back.__notes__[0]
    with socket.socket() as line:
        back = there_and_back(OSError("sent", line))
    assert type(back) is OSError and back.args[0] == "sent" and "args[1] (a socket.socket)" in back.__notes__[0]


def test_an_exceptions_own_way_to_travel_is_kept_if_it_works():
    assert str(there_and_back(OwnWay("first"))) == "made again"
    back = there_and_back(BadWay("text"))
    assert type(back) is BadWay and str(back) == "text"


def test_one_that_holds_itself_and_one_without_text_arrive():
    error = HoldsItself("x")
    error.me = error
    back = there_and_back(error)
    assert back.me is back
    assert type(there_and_back(NoText())) is NoText


def test_a_class_that_cannot_travel_is_stood_in_for_by_its_name_and_message():
    class Local(Exception):
        lock = threading.Lock()

    back = there_and_back(Local("text"))
    assert type(back) is TaskError and back.task == "f-1"
    assert "Local: text" in str(back) and "there_and_back" in str(back.__cause__)


def test_one_that_cannot_be_read_here_says_why(monkeypatch):
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])  # see conftest.py
    raised = Raised.of(TwoArguments(1, 2), "f-1")
    monkeypatch.delitem(globals(), "TwoArguments")
    back = raised.error()
    assert type(back) is TaskError and "TwoArguments: 1 and 2" in str(back) and "unpickled here" in back.__notes__[0]


def test_our_own_errors_get_no_note():
    back = there_and_back(InvocationFailed("it died", task="f-1"))
    assert type(back) is InvocationFailed and not hasattr(back, "__notes__")
