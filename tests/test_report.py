"""A report is one page that needs no network and shows what the record has; nothing of a job becomes code in it."""

import json
import re
from array import array
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path

import pytest
from waiting import wait

import wukong
from wukong.cli import main
from wukong.core.record import ExecutorRow, JobRecord, Runs, Story
from wukong.core.track import KINDS
from wukong.report import beside
from wukong.report import boxes as drawn
from wukong.report.critical import advice, critical_path
from wukong.report.page import to_html
from wukong.report.trace import chrome_trace
from wukong.report.view import view

ROOT = Path(__file__).parent.parent
HOSTILE = "</script><img src=x onerror=document.title='broken'>\u2028<!--"


def record_of(n_executors, per_executor, took=0.01, keys=None):
    """A record of chains: each executor runs one after the other."""
    n = n_executors * per_executor
    rows = [
        ExecutorRow(f"0.{i}", "0", 0, "ended", 0.1, 0.2, 9.0, 9.0, False, 0.1, per_executor, per_executor * took)
        for i in range(n_executors)
    ]
    runs = Runs()
    for executor in range(n_executors):
        for k in range(per_executor):
            runs.tasks.append(executor * per_executor + k)
            runs.executors.append(executor)
            runs.lanes.append(0)
            runs.begun.append(0.3 + k * 1.1 * took)
            runs.took.append(took)
            runs.in_bytes.append(0)
            runs.out_bytes.append(0)
            runs.value_bytes.append(-1)
            runs.memory_bytes.append(-1)
    first = [task % per_executor == 0 for task in range(n)]
    pointers = array("q", [0])
    for leaf in first:
        pointers.append(pointers[-1] + (not leaf))
    parents = array("i", [task - 1 for task in range(n) if not first[task]])
    keys = [(f"step-{task % 30:04x}", task) for task in range(n)] if keys is None else keys
    wall_s = 0.3 + per_executor * 1.1 * took
    return JobRecord("job-1", "succeeded", 1.8e9, wall_s, 0.05, n, keys, (pointers, parents), rows, runs)


def test_requests_beside_tasks_have_rows_of_their_own():
    record = record_of(1, 3, took=1.0)  # tasks from 0.3, 1.4 and 2.5
    spans = record.invocations[0].spans
    moves = [("put", 0.5, 1.5), ("get", 0.6, 0.4), ("arrive", 1.31, 0.08), ("put", 2.1, 0.1), ("page", 2.6, 0.1)]
    for kind, begun, took in moves:
        spans.kinds.append(KINDS.index(kind))
        spans.begun.append(begun)
        spans.took.append(took)
        spans.size_bytes.append(0)
    assert list(beside.rows(record)[0]) == [0, 0, 0, 0, 0]
    record.summary = {"overlapped": 4}
    assert list(beside.rows(record)[0]) == [1, 2, 0, 1, 0]
    named = [e["args"]["name"] for e in chrome_trace(record)["traceEvents"] if e["name"] == "thread_name"]
    assert named.count("executor 0.0, beside its tasks") == 2
    assert set(drawn.boxes(record, 1, None)["l"][::2]) == {0, 1, 2}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.scripts, self._in = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action")]
        if tag == "script":
            self.scripts.append("")
            self._in = True

    def handle_endtag(self, tag):
        self._in = self._in and tag != "script"

    def handle_data(self, data):
        if self._in:
            self.scripts[-1] += data


def test_the_page_asks_for_nothing_and_its_data_ends_nowhere():
    record = record_of(2, 3, keys=[HOSTILE] * 6)
    record.stories.append(Story(0.5, "0.1", 0, HOSTILE, HOSTILE, HOSTILE, HOSTILE, "run again"))
    record.job = HOSTILE
    text = to_html(record)
    page = Page(text)
    assert page.links == ["data:,"] and page.tags.count("script") == 2 and "img" not in page.tags
    data = json.loads(page.scripts[0])
    assert data["stories"][0]["what"] == HOSTILE and data["job"] == HOSTILE
    assert not re.search(r"https?://(?!www.w3.org/2000/svg)", text) and "default-src 'none'" in text


def test_a_page_stays_small():
    keys = [f"task-{number:032x}" for number in range(10_000)]
    assert len(to_html(record_of(20, 500, keys=keys)).encode()) <= 1_000_000
    assert len(to_html(record_of(40, 2_500, 0.001)).encode()) <= 1_000_000


def test_what_is_too_narrow_to_be_seen_is_put_together_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(drawn, "MOST_KEYS", 100)
    monkeypatch.setattr(drawn, "MOST_BOXES", 50)
    boxes = view(record_of(4, 200))["boxes"]
    counts = boxes["n"]
    pairs = list(zip(counts[::2], counts[1::2], strict=True))
    assert sum(value * times for value, times in pairs) == 800 and sum(times for _, times in pairs) <= 50
    assert boxes["resolution_s"] > 0


def test_the_critical_path_is_the_chain_that_ended_last_and_its_parts_are_the_whole():
    record = record_of(3, 10)
    record.runs.took[19] = 5.0  # the last task of the second chain
    record.wall_s = 6.0
    path = critical_path(record)
    assert [step.task for step in path.steps] == list(range(10, 20))
    assert sum(path.sums.values()) == pytest.approx(record.wall_s)
    assert path.bound_s == pytest.approx(5.09)
    assert path.sums["client"] == pytest.approx(0.05) and path.sums["start"] == pytest.approx(0.1)
    assert "step-" not in advice(record, path)[0] and "layer step" in advice(record, path)[0]


def test_money_is_divided_among_layers_and_what_executors_do_besides():
    record = record_of(2, 10)
    record.summary = {"bill": {"usd": 10.0}}
    record.invocations[0].sums = {"get": (3, 1.0, 100)}
    told = view(record)["money"]
    assert sum(row["usd"] for row in told) == pytest.approx(10.0)
    assert {"run: step", "get"} <= {row["what"] for row in told}


def test_layers_tell_where_schedules_begin_and_which_inputs_stayed():
    record = record_of(2, 4)
    record.keys = [(("first", "then")[task % 4 > 0], task) for task in range(8)]
    record.runs.executors[3] = 1  # the last task of the first chain ran elsewhere
    record.runs.executors[7] = 0
    told = view(record)
    first, then = told["rows"]
    assert (first["leaves"], first["stayed"], then["leaves"]) == (2, None, 0)
    assert then["stayed"] == pytest.approx(4 / 6)
    assert "2 schedules begin" in told["picture"] and "67 % of inputs stayed" in told["picture"]
    record.status = "running"
    assert view(record)["rows"][1]["stayed"] is None


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The record of a real job that was planned before."""
    import dask.array as da

    x = da.random.default_rng(1).random((400, 400), chunks=100)
    product = (x @ x).sum()
    with wukong.Client(progress=False) as client:
        plan = client.plan(product)
        plan.report(tmp_path_factory.getbasetemp() / "plan.html")
        product.compute()
        job = client.last_job
        assert job.plan == plan
        (x + 1).sum().compute()
        assert client.last_job.plan is None
        return job.record


def test_a_plan_is_kept_with_the_record_of_its_job(planned, tmp_path):
    told = view(planned)["plan"]
    figures = {row["what"]: row for row in told["figures"]}
    assert figures["time"]["happened"] == planned.wall_s and figures["time"]["low"] <= figures["time"]["expected"]
    assert {"dollars", "got from the store", "executors"} < figures.keys()
    layers = {row["name"]: row for row in told["layers"]}
    assert layers["random_sample" if "random_sample" in layers else next(iter(layers))]["happened_s"] > 0
    planned.to_json(tmp_path / "kept.json")
    assert view(JobRecord.load(tmp_path / "kept.json"))["plan"] == told
    assert view(record_of(1, 2))["plan"] is None


def test_what_a_task_took_is_held_against_its_plan_without_its_wait_for_a_core(planned):
    free, waited = deepcopy(planned), deepcopy(planned)
    for one, other in zip(free.invocations, waited.invocations, strict=True):
        one.on_core, other.on_core = {}, {"run": (0.0, 0.75 * other.busy_s, 0.0)}
    both = [[row["happened_s"] for row in view(each)["plan"]["layers"]] for each in (free, waited)]
    assert [4 * took for took in both[1]] == pytest.approx(both[0])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a real job in which something failed."""
    keys = [("ok", i) for i in range(1, 6)]
    with wukong.Client(progress=False, fan_out="eager") as client:
        futures = client.map(lambda x: 1 // x, range(6), key=[HOSTILE, *keys])
        wait(lambda: all(future.status != "pending" for future in futures), "all are done")
        wait(lambda: client.last_job.ended, "the job has ended")
        return client.last_job.report(tmp_path_factory.mktemp("report") / "job.html")


@pytest.mark.xdist_group("chromium")
def test_a_browser_shows_a_plan_and_what_happened(planned, tmp_path, tmp_path_factory, chromium):
    (tmp_path / "planned.html").write_text(to_html(planned))
    chromium.open(f"file://{tmp_path}/planned.html#plan")
    shown = chromium.run("document.getElementById('panel').textContent")
    assert not [each for each in ("happened", "times the plan", "guess", "A task of each layer") if each not in shown]
    chromium.open(f"file://{tmp_path_factory.getbasetemp()}/plan.html")
    shown = chromium.run("document.getElementById('panel').textContent")  # the plan's own page opens with it
    assert "On functions of other sizes, with other numbers of lanes" in shown and "happened" not in shown
    assert "to have it" in shown and "faas.cpus=2" in shown and "More than one lane: if the tasks sleep" in shown
    assert chromium.run("document.title") == f"plan of {planned.n_tasks} tasks"
    for tab in ("timeline", "layers", "path", "failures", "versions", "bill"):
        chromium.run(f"document.getElementById('tab-{tab}').click()")
    assert "What it should do and cost" in chromium.run("document.getElementById('panel').textContent")
    assert not chromium.complaints


@pytest.mark.xdist_group("chromium")
def test_the_documentation_describes_the_tabs_that_there_are_and_has_its_pictures(written, chromium):
    page = (ROOT / "docs/seeing-a-job.md").read_text()
    chromium.open(f"file://{written}")
    tabs = chromium.run("[...document.querySelectorAll('[role=tab]')].map(tab => tab.textContent)")
    table = page.partition("| tab | shows |")[2].partition("\n\n")[0]
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == tabs
    pictures = re.findall(r"!\[[^]]+\]\((.+?\.png)\)", page)
    sizes = [(ROOT / "docs" / each).stat().st_size for each in pictures]
    assert len(sizes) >= 4 and max(sizes) < 200_000
    made = (ROOT / "benchmarks/pictures.py").read_text()
    assert not [each for each in pictures if f'"{Path(each).stem}' not in made]


@pytest.mark.xdist_group("chromium")
def test_a_browser_shows_each_tab_without_an_error(written, chromium):
    expected = {
        "bill": ["tasks run", "GB-seconds", "run: ok"],
        "timeline": ["executor", "warm", "show all"],
        "layers": ["median", "ok", "inputs stayed"],
        "path": ["critical path"],
        "plan": ["No plan was made"],
        "failures": ["ZeroDivisionError", "Traceback", "failed alone", "onerror"],
        "versions": ["python", "dask", "retries"],
    }
    chromium.open(f"file://{written}")
    for tab, words in expected.items():
        chromium.run(f"document.getElementById('tab-{tab}').click()")
        shown = chromium.run("document.getElementById('panel').outerHTML")
        assert f'aria-labelledby="tab-{tab}"' in shown and not [each for each in words if each not in shown]
    assert chromium.run("location.hash") == "#versions"
    assert chromium.run("document.title") == "job " + chromium.run("JSON.parse(data.textContent).job") + ": failed"
    assert not chromium.run("document.querySelector('img[src=x]')") and not chromium.complaints


def test_the_command_writes_reports_of_files_and_of_kept_records(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with wukong.Client(progress=False, records=str(tmp_path / "kept")) as client:
        client.get({"a": (abs, -1)}, "a")
        job = client.last_job
        wait((tmp_path / "kept" / f"{job.id}.json").exists, "the record is kept")
        job.record.to_parquet("job.parquet")
    assert main(["report", "job.parquet"]) == 0
    assert capsys.readouterr().out == f"{job.id}.html\n" and job.id in (tmp_path / f"{job.id}.html").read_text()
    kept = ["report", "--set", f"records={tmp_path / 'kept'}", job.id]
    assert main([*kept, "--trace", "--output", "trace.json"]) == 0
    assert json.loads((tmp_path / "trace.json").read_text())["otherData"]["job"] == job.id
    assert main(["report", "nothing"]) == 1 and "no such file" in capsys.readouterr().err


def test_a_record_that_cannot_be_kept_is_told_once_and_the_job_goes_on(tmp_path, caplog):
    """Closing settles each job once more."""
    (tmp_path / "file").touch()
    with wukong.Client(progress=False, records=str(tmp_path / "file" / "kept")) as client:
        assert client.get({"a": (abs, -1)}, "a") == 1
        job = client.last_job
    [told] = [each.getMessage() for each in caplog.records if "cannot be kept" in each.getMessage()]
    assert told.startswith(f"job {job.id}: its record cannot be kept in ")


def test_client_job_and_future_show_themselves_in_a_notebook_as_text():
    with wukong.Client(progress=False) as client:
        future = client.map(lambda _: 1 / 0, [0], key=[HOSTILE])[0]
        wait(lambda: future.status == "error" and client.last_job.ended, "it has failed")
        shown = [each._repr_html_() for each in (future, client.last_job, client)]
    assert "ZeroDivisionError" in shown[0] and client.last_job.id in shown[1] and "faas: local" in shown[2]
    assert not any("<img" in each or "<script" in each for each in shown)
    assert "closed" in client._repr_html_()
