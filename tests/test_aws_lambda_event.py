"""The event in which a payload travels, and what invocations cost."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wukong.backends.entry import KEY_VARIABLE
from wukong.backends.faas import Invocation
from wukong.backends.faas.aws_lambda import deployed, price
from wukong.backends.faas.aws_lambda.event import EVENT_BYTES, ask, asked, pack, payload_room, unpack
from wukong.backends.faas.description import describe, differences
from wukong.errors import BackendError

# Long names are short ones again and again: to make up thousands of letters takes longer than all else.
NAMES = st.builds(lambda name, times: name * times, st.text(max_size=20), st.integers(0, 150))


@given(NAMES, st.binary(max_size=5_000))
def test_what_is_packed_is_unpacked(name, payload):
    told, back = unpack(json.loads(pack(Invocation(name, payload))))
    assert back == payload
    assert told == name or (len(json.dumps(name)) > 500 and told.endswith("..."))


@given(NAMES, st.integers(1_000, 3_000))
def test_what_has_room_fits_whatever_its_id(name, limit):
    assert len(pack(Invocation(name, bytes(payload_room(limit))))) <= limit


def test_little_of_the_limit_is_lost():
    longest = "j/" + "0." * 200
    assert EVENT_BYTES - len(pack(Invocation(longest, bytes(payload_room(EVENT_BYTES))))) < 128
    assert payload_room(EVENT_BYTES) > 785_000
    assert payload_room(100) == 0


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"Records": [{"eventSource": "aws:s3"}]},
        [],
        "text",
        None,
        7,
        {"version": "0", "detail-type": "Scheduled Event"},
    ],
)
def test_a_foreign_event_is_refused(event):
    with pytest.raises(BackendError, match="not one of Wukong's"):
        unpack(event)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"wukong": 2, "id": "a", "payload": ""}, "format 2"),
        ({"wukong": 1, "id": "a"}, "damaged"),
        ({"wukong": 1, "id": "a", "payload": "%%%"}, "damaged"),
        ({"wukong": 1, "id": "a", "payload": 3}, "damaged"),
    ],
)
def test_an_event_of_another_format_or_a_damaged_one_is_refused(event, says):
    with pytest.raises(BackendError, match=says):
        unpack(event)


def test_a_question_is_told_from_an_invocation():
    assert asked(json.loads(ask(["numpy"]))) == ["numpy"]
    assert asked(json.loads(ask([]))) == []
    assert asked(json.loads(pack(Invocation("a", b"b")))) is None
    assert asked([]) is None


def test_a_description_tells_versions_and_which_modules_are_missing():
    told = json.loads(
        json.dumps(describe(["json", "dask.array", "no_such_module", "dask.no_such_part", "no.such.parent"]))
    )
    assert told["missing"] == ["no_such_module", "dask.no_such_part", "no.such.parent"]
    assert told["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert {"wukong", "dask", "cloudpickle"} <= told["packages"].keys()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"python": "3.99.1"}, "Python is 3.99.1 on the function"),
        ({"wukong": "9.9.9"}, "wukong is 9.9.9 on the function"),
        ({"dask": "2020.1.0"}, "dask is 2020.1.0 on the function"),
        ({"dask": None}, "dask is not installed on the function"),
        ({"cloudpickle": "99.0"}, "cloudpickle is 99.0 on the function"),
        ({"numpy": "99.0"}, "numpy is 99.0 on the function"),
    ],
)
def test_a_difference_that_matters_names_both_versions(change, says):
    here, there = describe(()), describe(())
    if "python" in change:
        there.update(change)
    else:
        there["packages"].update(change)
    (told,) = differences(here, there)
    assert says in told
    assert "on the client" in told or "the client has" in told


@pytest.mark.parametrize(
    "change", [{}, {"dask": "2026.8.99"}, {"cloudpickle": "3.99"}, {"numpy": None}, {"pandas": None}]
)
def test_other_differences_do_not_matter(change):
    here, there = describe(()), describe(())
    here["packages"]["dask"] = "2026.8.0"
    here["packages"]["cloudpickle"] = "3.1.2"
    there["packages"] = {**here["packages"], **change}
    assert list(differences(here, there)) == []


def test_variables_are_called_alike_everywhere():
    assert deployed.KEY_VARIABLE == KEY_VARIABLE


def test_what_a_function_imports_for_events_is_light():
    code = "import sys, wukong.backends.faas.aws_lambda.event; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"boto3", "botocore", "urllib3", "ssl", "http.client", "dask", "selectors", "hmac"} & set(loaded)


# --- cost


@pytest.mark.parametrize(
    ("size_bytes", "requests"),
    [(0, 1), (1, 1), (262_144, 1), (262_145, 2), (327_680, 2), (327_681, 3), (1_048_576, 13)],
)
def test_an_event_is_billed_by_its_size(size_bytes, requests):
    assert price.event_requests(size_bytes) == requests


def test_one_invocation_is_rounded_up_to_a_millisecond():
    gib = 2**30
    assert price.gb_seconds(0.000_1, gib) == pytest.approx(0.001)
    assert price.gb_seconds(1.000_1, 2 * gib) == pytest.approx(2.002)
    assert price.gb_seconds(10.0, gib, invocations=100) == pytest.approx(10.05)


def test_a_bill_names_the_rates_it_stands_on():
    bill = price.bill(1_000_000, 1_000_000, 399_500.0, 2**30, price.RATES["x86_64"])
    assert bill.gb_seconds == pytest.approx(400_000)
    assert bill.usd == pytest.approx(0.20 + 6.666_68)
    assert "us-east-1" in str(bill) and "2026" in str(bill) and "$6.866" in str(bill)
    assert (
        price.bill(1, 1, 1.0, 2**30, price.RATES["arm64"]).usd < price.bill(1, 1, 1.0, 2**30, price.RATES["x86_64"]).usd
    )


def test_a_quick_store_is_cheaper_than_a_further_request_and_a_slow_one_is_not():
    rates, memory_bytes = price.RATES["x86_64"], 1_769 * 1_048_576
    quick = price.inline_event_bytes(rates, memory_bytes, 0.001, 100e6)
    assert quick == 262_144
    slow = price.inline_event_bytes(rates, memory_bytes, 0.020, 100e6)
    assert 262_144 < slow < EVENT_BYTES
    fetch_usd = (0.020 + slow * 3 / 4 / 100e6) * memory_bytes / 2**30 * rates.gb_second_usd
    assert (price.event_requests(slow) - 1) * rates.request_usd <= fetch_usd
    assert price.inline_event_bytes(rates, memory_bytes, 10.0, 100e6) == EVENT_BYTES
    assert price.inline_event_bytes(rates, memory_bytes, 0.001, 100e6, limit_bytes=100_000) == 100_000
