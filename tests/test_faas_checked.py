"""What a FaaS plug-in answers is checked as a store's answers are: an error names it, and the promise that it broke."""

import pytest

import wukong
from wukong.backends.faas import FaaS, Failure, Invocation
from wukong.backends.faas.checked import CheckedFaaS
from wukong.backends.spec import PluginSpec
from wukong.errors import BackendError, Throttled

CALLS = {
    "invoke": lambda faas: faas.invoke([Invocation("job/0", b"")]),
    "spec": lambda faas: faas.spec(),
    "environment": lambda faas: faas.environment(),
    "free_slots": lambda faas: faas.free_slots(),
    "failures": lambda faas: faas.failures(),
    "known": lambda faas: faas.known(["job/0", "job/1"]),
    "cancel": lambda faas: faas.cancel("job/"),
    "deployment_key": lambda faas: faas.deployment_key(),
    "configure": lambda faas: faas.configure({}),
    "prepare": lambda faas: faas.prepare([]),
    "billed_requests": lambda faas: faas.billed_requests(1),
    "bill": lambda faas: faas.bill(1, 1, 1.0),
    "sizes": lambda faas: faas.sizes(),
    "subscribe": lambda faas: faas.subscribe(print),
    "close": lambda faas: faas.close(),
    "limits": lambda faas: faas.limits,
}
WRONG = [
    ("spec", "module:attribute", "spec answered str, not a PluginSpec"),
    ("environment", ["TOKEN"], "environment answered list, not a mapping"),
    ("environment", {"PORT": 6379}, "environment answered int for 'PORT'; variables are text"),
    ("free_slots", -1, "free_slots answered -1, neither a count nor None"),
    ("free_slots", 1.5, "free_slots answered 1.5, neither a count nor None"),
    ("failures", None, "failures answered None, not a list of Failure"),
    ("failures", ["job/0"], "failures answered ['job/0'], not a list of Failure"),
    ("known", "job/0", "known answered str, neither ids nor None"),
    ("known", True, "known answered bool, neither ids nor None"),
    ("known", ["job/2"], "known answered 'job/2', which it was not asked for"),
    ("deployment_key", "my secret", "deployment_key answered something that is no hex text"),
    ("billed_requests", 0, "billed_requests answered 0, not how many"),
    ("sizes", None, "sizes answered NoneType, not a sequence"),
    ("sizes", [512], "sizes answered 512, which no function can have"),
    ("bill", 0.1, "bill answered float, neither a Bill nor None"),
    ("limits", {"time_s": 1.0}, "limits is dict, not Limits"),
]


class Breaking(FaaS):
    """A backend of which one verb answers, or raises, as it is told."""

    def __init__(self, verb, answer):
        def told(*_):
            if isinstance(answer, Exception):
                raise answer
            return answer

        setattr(self, verb, answer if verb == "limits" else told)

    def invoke(self, invocations):
        return

    def spec(self):
        return PluginSpec("module:attribute")


def refused(verb, answer):
    with pytest.raises(Exception) as caught:
        CALLS[verb](CheckedFaaS(Breaking(verb, answer)))
    return caught.value


@pytest.mark.parametrize(("verb", "answer", "what"), WRONG)
def test_an_answer_that_breaks_the_contract_names_the_plug_in_and_the_promise(verb, answer, what):
    error = refused(verb, answer)
    assert type(error) is BackendError
    assert error.message == f"the FaaS plug-in test_faas_checked:Breaking broke its contract: {what}"
    assert "wukong.testing.faas.FaaSTests finds it" in error.hint


@pytest.mark.parametrize("verb", sorted(CALLS.keys() - {"limits"}))
def test_a_vendors_exception_names_the_plug_in_and_is_the_cause_and_wukongs_own_pass(verb):
    error = refused(verb, KeyError("vendor"))
    assert f"Breaking broke its contract: {verb} raised KeyError: 'vendor'" in str(error)
    assert isinstance(error.__cause__, KeyError)
    throttled = Throttled("not now")
    assert refused(verb, throttled) is throttled


def test_a_backend_that_keeps_its_contract_is_left_alone():
    failed = [Failure("job/0", "crash", "signal 9")]
    for verb, answer in (("free_slots", 3), ("free_slots", None), ("failures", failed), ("known", {"job/1"})):
        assert CALLS[verb](CheckedFaaS(Breaking(verb, answer))) == answer
    for verb in CALLS.keys() - {"spec"}:
        CALLS[verb](CheckedFaaS(Breaking("spec", None)))


def test_a_client_names_the_plug_in_that_breaks_its_contract():
    with pytest.raises(BackendError, match="test_faas_checked:Breaking broke its contract: environment answered"):
        wukong.Client(faas=Breaking("environment", 3), set_as_default=False)


def test_functions_find_what_their_backend_needs():
    told = []
    faas = Breaking("configure", None)
    faas.configure, faas.environment = told.append, lambda: {"TOKEN": "open sesame"}
    wukong.Client(faas=faas, set_as_default=False).close()
    assert told[0]["TOKEN"] == "open sesame"
