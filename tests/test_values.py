"""Values of awkward kinds: iterators keep their kind; what cannot be measured or compared is a value all the same."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dask import delayed
from waiting import wait_for

import wukong
from wukong.core import lazy
from wukong.core.sizes import size_bytes
from wukong.errors import CodecError


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


def squares(n: int) -> Iterator[int]:
    yield from (i * i for i in range(n))


class Countdown:
    """An iterator, and more."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Countdown:
        return self

    def __next__(self) -> int:
        if self.n <= 0:
            raise StopIteration
        self.n -= 1
        return self.n


# --- iterators


def test_what_is_an_iterator_and_more_stays_what_it_is(client: wukong.Client) -> None:
    file = delayed(io.BytesIO)(b"abc\ndef").compute()
    assert type(file) is io.BytesIO and file.getvalue() == b"abc\ndef"
    started = client.submit(lambda: (file := io.StringIO("one\ntwo\n")).readline() and file).result(60)
    assert started.readline() == "two\n" and started.seek(0) == 0
    assert delayed(Countdown)(3).compute().n == 3
    assert next(client.submit(lambda: itertools.count(5)).result(60)) == 5
    assert type(delayed(map)(str, [1, 2]).compute()) is map


@pytest.mark.parametrize(
    ("make", "right"),
    [
        (lambda: squares(4), [0, 1, 4, 9]),
        (lambda: map(str, squares(3)), ["0", "1", "4"]),
        (lambda: zip(squares(3), itertools.count(), strict=False), [(0, 0), (1, 1), (4, 2)]),
        (lambda: itertools.islice(squares(9), 2), [0, 1]),
        (lambda: [tuple(each) for each in (squares(2), squares(3))], [(0, 1), (0, 1, 4)]),
    ],
)
def test_a_lazy_iterator_is_read_out_if_it_leaves(
    client: wukong.Client, make: Callable[[], Any], right: list[Any]
) -> None:
    assert list(delayed(make)().compute()) == right
    assert list(client.submit(make).result(60)) == right


def test_lazy_iterators_inside_containers_are_read_out(client: wukong.Client) -> None:
    def make() -> Any:
        both = squares(2)
        return [squares(3), ("a", {"b": squares(1)}), both, both]

    first, (a, inner), one, other = delayed(make)().compute()
    assert (list(first), a, list(inner["b"])) == ([0, 1, 4], "a", [0])
    assert one is other and list(one) == [0, 1]


def test_groups_are_read_out_before_the_next_ends_them() -> None:
    groups = lazy.read_out(itertools.groupby([1, 1, 2]), "groups")
    assert [(key, list(group)) for key, group in groups] == [(1, [1, 1]), (2, [2])]


def test_lazy_iterators_meet_in_one_executor(client: wukong.Client, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    parts = [delayed(lambda n: wait_for(go, squares(n)))(n) for n in range(3)]
    last = delayed(lambda: (tmp_path / "go").touch() or squares(3))()
    assert delayed(lambda parts: [list(part) for part in parts])([*parts, last]).compute() == [
        [],
        [0],
        [0, 1],
        [0, 1, 4],
    ]


def test_an_endless_iterator_is_consumed_where_it_is_made(client: wukong.Client) -> None:
    endless = delayed(lambda: (i for i in itertools.count()))()
    assert delayed(lambda a, b: [next(a), next(a), b])(endless, delayed(abs)(-5)).compute() == [0, 1, 5]


def test_an_endless_iterator_that_has_to_leave_is_an_error_that_names_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "MOST_BYTES", 100_000)
    with pytest.raises(CodecError, match=r"the generator that this task gives[\s\S]*has not ended[\s\S]*endless"):
        lazy.read_out((i for i in itertools.count()), "endless")
    with pytest.raises(CodecError, match="has not ended"):
        lazy.read_out([map(str, itertools.repeat(1))], "endless")


# --- what cannot be measured, compared or hashed


class Attributes(dict):  # type: ignore[type-arg]
    __getattr__ = dict.__getitem__


class Raising:
    @property
    def nbytes(self) -> int:
        raise RuntimeError("nbytes")

    def __sizeof__(self) -> int:
        raise RuntimeError("sizeof")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __len__(self) -> int:
        raise RuntimeError("len")

    def __iter__(self) -> Iterator[int]:
        raise RuntimeError("iter")


class Negative:
    nbytes = -5

    def __sizeof__(self) -> int:
        return -5


class Huge:
    nbytes = 10**40

    def __sizeof__(self) -> int:
        return 10**40


class Text:
    nbytes = "large"

    def __sizeof__(self) -> int:
        return "large"  # type: ignore[return-value]


def in_itself() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


AWKWARD = [Attributes, Raising, Negative, Huge, Text, in_itself]


@pytest.mark.parametrize("make", AWKWARD)
def test_a_size_that_cannot_be_had_is_a_guess(make: Callable[[], Any]) -> None:
    assert 0 < size_bytes(make()) < 10_000


@pytest.mark.parametrize("make", AWKWARD)
def test_awkward_values_are_results_inputs_and_literals(
    client: wukong.Client, make: Callable[[], Any], tmp_path: Path
) -> None:
    kind = type(make())

    def name(value: Any) -> str:
        return type(value).__name__

    assert type(client.submit(make).result(60)) is kind
    assert type(delayed(make)().compute()) is kind
    late = client.submit(wait_for, str(tmp_path / "go"), 5)
    both = client.submit(lambda _, value: name(value), late, client.submit(make))
    (tmp_path / "go").touch()
    assert both.result(60) == kind.__name__
    assert client.submit(name, make()).result(60) == kind.__name__
    assert client.submit(name, client.scatter([make()], hash=False)[0]).result(60) == kind.__name__
    assert delayed(name)(delayed(make)()).compute() == kind.__name__
