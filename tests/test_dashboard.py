"""The dashboard: the report's page of a client's jobs while they run, for whoever has its link, on this machine."""

import http.client
import json
import os
import sys
import threading
from urllib.parse import urlsplit

import dask
import pytest
from waiting import wait, wait_for

import wukong
from wukong.cli import main
from wukong.client.feed import Feed
from wukong.client.pace import Pace
from wukong.core.events import Heartbeat, Report, RunningTask
from wukong.core.invocation_tree import InvocationState
from wukong.core.record import ExecutorRow
from wukong.errors import ClientClosed, ConfigError
from wukong.report.signs import MOST_SIGNS, Signs, Stretch
from wukong.report.view import view

pytestmark = pytest.mark.xdist_group("chromium")


def asked(link, path="data", host=None, method="GET"):
    """Return status and content of an answer; `path` is within the link."""
    url = urlsplit(link)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    try:
        connection.request(method, url.path + path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.headers)
    finally:
        connection.close()


def told(link, path="data"):
    return json.loads(asked(link, path)[1])


@pytest.fixture(scope="module")
def client():
    with wukong.Client(progress=False, heartbeat_s=0.05, faas={"name": "local", "slots": 2}) as opened:
        yield opened


def test_a_page_follows_the_client_and_keeps_what_a_person_has_chosen(tmp_path, chromium):
    """One job that runs and fails in part, a second one, and the end."""
    # A heartbeat tells of one task, and so of one lane.
    client = wukong.Client(progress=False, heartbeat_s=0.05, lanes=1, faas={"name": "local", "slots": 3})
    text = "document.getElementById({!r}).textContent".format
    box = "document.getElementById('find')"
    try:
        chromium.open(client.dashboard.link + "#timeline")
        chromium.wait(f"{text('line')}.startsWith('It has no job yet')")
        gate = str(tmp_path / "gate")
        futures = client.map(lambda n: wait_for(gate, 1 // n), [0, 1, 2], key=["<b>x", ("slow", 1), ("slow", 2)])
        chromium.wait("document.title.endsWith(': running') && document.getElementById('canvas')")
        chromium.wait(f"{text('line')}.startsWith('1 of 3 tasks run')")
        # A task that runs is a box with its key, from the heartbeats.
        chromium.run(f"{box}.value = 'slow'; {box}.dispatchEvent(new Event('input')); {box}.focus()")
        chromium.wait(f"{text('found')} === '2 found'")
        chromium.run("document.querySelector('[aria-label=\"zoom in\"]').click()")
        chromium.run("document.querySelector('#table-executors th:nth-child(2) button').click()")
        (tmp_path / "gate").touch()
        assert futures[1].result(60) == 1
        chromium.wait("document.title.endsWith(': failed') || document.title.endsWith(': succeeded')")
        first = client.last_job.id
        assert chromium.run("document.activeElement.id") == "find" and chromium.run(f"{box}.value") == "slow"
        assert chromium.run("document.querySelector('#table-executors th:nth-child(2)').ariaSort") == "ascending"
        assert chromium.run("document.querySelector('[aria-selected=true]').id") == "tab-timeline"
        chromium.run("document.getElementById('tab-failures').click()")
        assert "<b>x" in chromium.run(text("panel")) and "ZeroDivisionError" in chromium.run(text("panel"))
        chromium.run("document.querySelector('details').open = false")
        assert client.submit(pow, 2, 3, key="next").result(60) == 8
        chromium.wait(f"document.title.startsWith('job {client.last_job.id}') && {text('panel')}.includes('Nothing')")
        chromium.run(f"jobs.value = '{first}'; jobs.dispatchEvent(new Event('change'))")
        chromium.wait(f"document.title.startsWith('job {first}') && {text('panel')}.includes('ZeroDivisionError')")
    finally:
        client.close()
    chromium.wait(f"{text('said')} === 'The client has closed; this is what it told last.'")
    assert not chromium.complaints


def test_whoever_does_not_know_the_link_gets_nothing(client):
    link = client.dashboard.link
    url = urlsplit(link)
    assert url.hostname == "127.0.0.1" and asked(link, "")[0] == asked(link)[0] == 200
    for wrong in (f"{url.scheme}://{url.netloc}/", link[:-2] + "/", link[:-1] + "x/", f"{link}../"):
        status, content, headers = asked(wrong)
        assert status == 404 and b"ukong" not in content and "Server" not in headers
    assert asked(link, "other")[0] == 404
    assert {asked(link, method=method)[0] for method in ("POST", "PUT", "DELETE", "OPTIONS")} == {501}
    assert asked(link, method="HEAD")[:2] == (200, b"")


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1234", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 403), ("", 403), ("[", 403)],
)
def test_a_name_that_others_made_lead_here_is_refused(client, host, status):
    """The port is not compared: people come through tunnels."""
    assert asked(client.dashboard.link, host=host)[0] == status


def test_the_link_is_shown_once_there_is_a_dashboard():
    def serving():
        return [each for each in threading.enumerate() if each.name == "wukong-dashboard"]

    before = len(serving())
    with wukong.Client(progress=False) as client:
        assert "http" not in repr(client) + client._repr_html_() and len(serving()) == before
        link = str(client.dashboard)
        assert client.dashboard is client.dashboard and client.dashboard_link == link
        future = client.submit(pow, 2, 3)
        assert future.result() == 8 and len(serving()) == before + 1
        shown = [repr(client), client._repr_html_(), client.dashboard._repr_html_(), client.last_job._repr_html_()]
        assert all(link in each for each in [*shown, future._repr_html_()])
        assert f'<a href="{link}' in client._repr_html_()
    assert len(serving()) == before
    with pytest.raises(OSError):
        asked(link)
    with pytest.raises(ClientClosed):
        _ = client.dashboard


def test_it_listens_where_it_is_told_and_says_why_it_cannot(client):
    with wukong.Client(progress=False, dashboard_address="localhost:0", set_as_default=False) as other:
        taken = urlsplit(other.dashboard.link)
        assert taken.hostname == "localhost" and asked(other.dashboard.link)[0] == 200
        at_taken = f"127.0.0.1:{taken.port}"
        third = wukong.Client(progress=False, dashboard_address=at_taken, set_as_default=False)
        with third, pytest.raises(ConfigError, match="in use"):
            _ = third.dashboard
    for wrong in ("localhost", "127.0.0.1:70000"):
        with pytest.raises(ConfigError, match="'dashboard_address' must be host:port"):
            wukong.Client(progress=False, dashboard_address=wrong, set_as_default=False)


def test_in_a_forked_child_it_is_its_parents(client):
    link = client.dashboard.link
    back, to = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with pytest.raises(ClientClosed):
                _ = client.dashboard
            client._live.close()  # as at the child's end
            os.write(to, b"fine")
        finally:
            os._exit(0)
    os.close(to)
    assert os.read(back, 10) == b"fine"
    os.waitpid(child, 0)
    os.close(back)
    assert asked(link)[0] == 200


def test_past_jobs_stay_in_the_list_when_nobody_has_them_any_more(client):
    link = client.dashboard.link
    jobs = []
    for n in range(3):
        client.get({("old", n): (abs, -n)}, [("old", n)])
        jobs.append(client.last_job.id)
        wait(lambda: told(link, f"data?job={jobs[-1]}")["version"].startswith(jobs[-1]), "its page is made")
    listed = [each["id"] for each in told(link)["jobs"]]
    assert listed[:3] == jobs[::-1]
    first = told(link, f"data?job={jobs[0]}")
    assert first["data"]["job"] == first["shown"] == jobs[0] and first["data"]["status"] == "succeeded"
    assert told(link, f"data?job={jobs[0]}&seen={first['version']}")["data"] is None


def test_the_command_prints_links_and_writes_a_page_of_all_jobs(tmp_path, monkeypatch, capsys, chromium):
    script, report = tmp_path / "script.py", tmp_path / "jobs.html"
    script.write_text(
        "import wukong\n"
        "client = wukong.get_client()\n"
        "print(client.dashboard)\n"
        "assert client.get({'a': (abs, -1)}, 'a') == 1\n"
        "with wukong.Client(progress=False) as other:\n"
        "    print(other.dashboard)\n"
        "    other.get({'b': (int, 'x')}, 'b')\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(["run", "--live", "--report", str(report), str(script)]) == 1
    said = capsys.readouterr()
    links = said.out.split()
    assert [line.rpartition(" ")[2] for line in said.err.splitlines() if "shown at" in line] == links and not opened
    assert f"the report is in {report}" in said.err
    chromium.open(f"file://{report}#layers")
    chromium.wait("document.title.endsWith(': failed')")
    assert "b" in chromium.run("document.querySelector('#table-layers tbody td').textContent")
    chromium.run("jobs.value = jobs.options[0].value; jobs.dispatchEvent(new Event('change'))")
    chromium.wait("document.title.endsWith(': succeeded')")
    assert "a" in chromium.run("document.querySelector('#table-layers tbody td').textContent")
    assert not chromium.complaints
    script.write_text("print('no job')")
    assert main(["run", "--open", "--report", str(tmp_path / "none.html"), str(script)]) == 0
    assert "no job to report" in capsys.readouterr().err and len(opened) == 1


class Clock:
    now_s = 1_000.0

    def __call__(self):
        return self.now_s


class Job:
    """As far as a feed looks at it; each page of it costs a tenth of a second."""

    status, id, began_at = "running", "job-0", 0.0
    settled = False

    def __init__(self, clock):
        self._clock, self.made, self._heard = clock, 0, []

    def heard(self):
        return self._heard

    def hear(self):
        self._heard = []

    def summary(self, timeout_s):
        return wukong.core.summary.Summary(self.id, self.status, *[0] * 13, 0.0, 0.0)

    @property
    def record(self):
        self.made += 1
        self._clock.now_s += 0.1
        return wukong.core.record.JobRecord(self.id, self.status, 0.0, 1.0, 0.0, 0)


def test_while_a_job_runs_pages_are_made_for_a_hundredth_of_the_time():
    clock = Clock()
    feed, job = Feed("client", clock), Job(clock)
    feed.open = True
    feed.add(job)
    for _ in range(150):
        feed.answer("", "")
        job.hear()
        clock.now_s += 0.1
    assert job.made == 2  # at the begin, and ten seconds later
    job.status, job.settled = "succeeded", True
    feed.answer("", "")
    assert job.made == 2
    clock.now_s += 1.0  # nothing runs any more
    feed.settled(job)  # but the next one may begin at once
    assert job.made == 2
    clock.now_s += 1.0
    assert json.loads(feed.answer("", ""))["data"]["status"] == "succeeded" and job.made == 3


def beat(at, tasks, *running, **other):
    report, running = Report(tasks=tasks), tuple(RunningTask(*each) for each in running)
    return InvocationState("0", None, Heartbeat(at, tasks, running, report=report, began=100.0, **other), 0)


def test_heartbeats_tell_which_task_ran_when_and_how_many_besides():
    signs = Signs()
    row = ExecutorRow("0", None, 0, "no word", began_s=1.0, clock_ahead_s=10.0)
    for state in (
        beat(111.5, 0, ("a", 0.4)),
        beat(112.0, 0, ("a", 0.9)),
        beat(112.0, 0, ("a", 0.9)),  # nothing new
        beat(113.0, 1, ("b", 0.75)),
        beat(114.0, 5),
        beat(115.0, 9, ("c", 0.5)),
    ):
        signs.hear([state])
    assert list(signs.stretches(row, 100.0)) == [
        Stretch(1.1, 2.25, 1, "a"),
        Stretch(2.25, 3.0, 1, "b"),
        Stretch(3.0, 4.0, 3),
        Stretch(4.0, 4.5, 4),
        Stretch(4.5, 5.0, 1, "c"),
    ]
    assert not list(signs.stretches(ExecutorRow("1", None, 0, "no word", began_s=1.0), 100.0))


def test_heartbeats_tell_of_all_tasks_that_run_each_in_its_lane():
    signs = Signs()
    row = ExecutorRow("0", None, 0, "no word", began_s=1.0)
    for state in (
        beat(102.0, 0, ("a", 1.0, 0), ("b", 0.5, 1)),
        beat(103.0, 1, ("a", 2.0, 0), ("c", 0.25, 1), ("d", 0.125, 2)),
        beat(104.0, 1, ("a", 3.0, 0), ("c", 1.25, 1)),  # it ended just before it was counted
        beat(105.0, 5, ("a", 4.0, 0), ("e", 0.5, 1)),
    ):
        signs.hear([state])
    assert list(signs.stretches(row, 100.0)) == [
        Stretch(1.5, 2.75, 1, "b", 1),
        Stretch(2.875, 3.0, 1, "d", 2),
        Stretch(2.75, 4.0, 1, "c", 1),
        Stretch(4.0, 4.5, 2, None, 1),
        Stretch(1.0, 5.0, 1, "a", 0),
        Stretch(4.5, 5.0, 1, "e", 1),
    ]


def test_signs_of_a_run_that_was_lost_are_forgotten_and_old_ones_become_rarer():
    signs = Signs()
    row = ExecutorRow("0", None, 0, "no word", began_s=0.0)
    for n in range(10 * MOST_SIGNS):
        signs.hear([beat(101.0 + n, n)])
    many = list(signs.stretches(row, 100.0))
    assert len(many) <= MOST_SIGNS and sum(each.n for each in many) == 10 * MOST_SIGNS - 1
    signs.hear([beat(9_000.0, 7, attempt=1)])
    assert [each.n for each in signs.stretches(row, 100.0)] == [7]


@pytest.fixture(scope="module")
def patient():
    """A client whose jobs stay in one executor, however slow the machine is."""
    with wukong.Client(progress=False, heartbeat_s=0.05, patience_s=600.0) as opened:
        yield opened


def test_heartbeats_tell_how_many_tasks_of_each_layer_have_run(patient, tmp_path):
    """To the page, and to whoever looks at a bar; when the executor has ended, its report does."""
    gate = tmp_path / "gate"
    early = [dask.delayed(abs)(n, dask_key_name=("early", n)) for n in range(6)]
    first = dask.delayed(sum)(early, dask_key_name=("late", 0))
    future = patient.compute(dask.delayed(wait_for)(str(gate), first, dask_key_name=("late", 1)))
    job = patient.last_job
    rows = lambda: {row["layer"]: (row["tasks"], row["runs"], row["told"]) for row in view(job.record)["rows"]}  # noqa: E731
    pace = Pace(lambda: [job])
    # On a busy machine the job may have been split, and the report of who ran some of the early ones is there.
    known = lambda: {layer: (n, runs + told) for layer, (n, runs, told) in rows().items()}  # noqa: E731
    wait(lambda: known() == {"early": (6, 6), "late": (2, 1)}, "heartbeats have told")
    wait(lambda: pace.details()[0].text == "late 1/2", "so does the bar")
    assert "6 run" not in view(job.record)["picture"] and "1 run" in view(job.record)["picture"]
    gate.touch()
    assert future.result(60) == 15
    wait(lambda: job.settled, "it has settled")
    assert rows() == {"early": (6, 6, 0), "late": (2, 2, 0)}
