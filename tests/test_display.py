"""How far work is, and what tasks say: on a terminal, in a notebook, and without either."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyte
import pytest
from waiting import wait, wait_for

import wukong
from wukong.client.pace import Pace, Standing, left_told
from wukong.client.pace import told as details_told
from wukong.client.rows import Detail, Lines, fitting

PROGRAM = """
    import logging, time
    import wukong

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")

    def speak(n):
        print(f"hello {n}")
        logging.getLogger("mine").info("careful %s", n)
        time.sleep(0.05)
        return n

    with wukong.Client(progress=True, lanes=1) as client:
        graph = {("speak", n): (speak, n) for n in range(20)}
        print("the sum is", sum(client.get(graph, list(graph))))
"""
LONG = """
    import pathlib, sys, time
    import wukong

    def long():
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(250)

    with wukong.Client(progress=True) as client:
        client.get({"long": (long,)}, "long")
"""


FUTURES = """
    import time
    import wukong

    def slow(n):
        time.sleep(0.1)
        return n

    with wukong.Client(progress=True) as client:
        for future in wukong.as_completed(client.map(slow, range(8))):
            print("got", future.result())
        print("gathered", len(client.gather(client.map(slow, range(10, 16)))))
        print("waited", len(wukong.wait(client.map(slow, range(20, 25))).done))
        wukong.progress(client.submit(slow, 40), {"more": client.map(slow, range(30, 33))})
"""

BESIDE = """
    import threading
    from wukong.client.rows import opened

    over = threading.Event()

    def speak():
        n = 0
        while not over.wait(0.0005):
            print("hello", n := n + 1)

    thread = threading.Thread(target=speak)
    thread.start()
    for _ in range(200):
        row = opened(True, "tasks")
        row.update("wukong", 1, 1)
        row.close(keep=True)
    over.set()
    thread.join()
"""

KEPT_STREAM = """
    import sys
    from wukong.client.display import Bar
    from wukong.client.rows import opened

    row = opened(True, "tasks")
    row.update("wukong", 1, 1)
    kept = sys.stdout, sys.stderr
    row.close(keep=True)
    sys.stdout, sys.stderr = kept
    row = opened(True, "tasks")
    row.update("wukong", 1, 1)
    print("above")
    row.close(keep=True)
    print("below", file=sys.stderr)

    def interrupted(timeout_s):
        raise KeyboardInterrupt

    real = sys.stdout, sys.stderr
    bar = Bar(True, lambda: (1, 1))
    bar.tick()
    try:
        bar.close(done=True, drain=interrupted)
    except KeyboardInterrupt:
        print("given back" if (sys.stdout, sys.stderr) == real else "kept")
"""


def script(tmp_path: Path, code: str) -> list[str]:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(code).replace("sys.argv[1]", repr(str(tmp_path / "running"))))
    return [sys.executable, str(path)]


def on_terminal(command: list[str], meanwhile: Callable[[subprocess.Popen[bytes]], None] = lambda _: None):
    """Run a command on a terminal; return its exit code and what is to be seen at the end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    meanwhile(process)
    screen = pyte.HistoryScreen(100, 200)
    stream = pyte.ByteStream(screen)
    with contextlib.suppress(OSError):  # what a terminal gives when nobody writes there any more
        while data := os.read(ours, 65_536):
            stream.feed(data)
    os.close(ours)
    return process.wait(60), [line.rstrip() for line in screen.display if line.strip()], screen


def test_on_a_terminal_what_tasks_say_is_above_the_bar_which_ends_at_its_end(tmp_path):
    code, lines, screen = on_terminal(script(tmp_path, PROGRAM))
    assert code == 0, lines
    *said, bar, last = lines
    assert last == "the sum is 190"
    assert "20/20 tasks" in bar and bar.startswith("wukong")
    texts = [line.split("] ", 1)[1] for line in said]
    assert sorted(texts) == sorted([*(f"hello {n}" for n in range(20)), *(f"careful {n}" for n in range(20))])
    assert sum(line.startswith("INFO mine [('speak', ") for line in said) == 20
    assert not screen.cursor.hidden


def test_what_another_thread_says_while_bars_begin_and_end_is_on_lines_of_its_own(tmp_path):
    code, lines, screen = on_terminal(script(tmp_path, BESIDE))
    assert code == 0, lines
    lines += ["".join(line[column].data for column in range(100)) for line in screen.history.top]
    assert len(lines) > 200
    assert not [line for line in lines if "tasks" in line and "hello" in line]


def test_streams_are_given_back_whoever_keeps_them_and_whatever_ends_the_bar(tmp_path):
    code, lines, screen = on_terminal(script(tmp_path, KEPT_STREAM))
    assert code == 0, lines
    assert [line for line in lines if "tasks" not in line] == ["above", "below", "given back"]
    assert not screen.cursor.hidden


def test_whoever_waits_for_futures_sees_how_far_they_are(tmp_path):
    code, lines, screen = on_terminal(script(tmp_path, FUTURES))
    assert code == 0, lines
    bars = [line for line in lines if line.startswith("wukong ")]
    assert [re.search(r"(\d+/\d+) tasks", bar)[1] for bar in bars] == ["8/8", "6/6", "5/5", "4/4"]
    said = [line for line in lines if line not in bars]
    assert sorted(said) == sorted([*(f"got {n}" for n in range(8)), "gathered 6", "waited 5"])
    assert not screen.cursor.hidden


def test_ctrl_c_leaves_a_clean_terminal(tmp_path):
    def interrupt(process: subprocess.Popen[bytes]) -> None:
        wait((tmp_path / "running").exists, "the task runs")
        process.send_signal(signal.SIGINT)

    code, lines, screen = on_terminal(script(tmp_path, LONG), interrupt)
    assert code == -signal.SIGINT
    assert lines[-1] == "KeyboardInterrupt"
    assert not screen.cursor.hidden and screen.cursor.x == 0


@pytest.mark.parametrize("step", ["Console.show_cursor", "Console.push_render_hook", "Progress.start", "Progress.stop"])
def test_ctrl_c_while_the_bar_begins_or_ends_leaves_a_clean_terminal(step, tmp_path):
    """A signal comes between any two steps: here before one of those that hide the cursor, draw and end the drawing."""
    begun = f"""
        import signal
        from rich.console import Console
        from rich.progress import Progress

        real = {step}

        def interrupted(self, *args):
            signal.raise_signal(signal.SIGINT)
            {step} = real
            return real(self, *args)

        {step} = interrupted
        """
    code, lines, screen = on_terminal(script(tmp_path, textwrap.dedent(begun) + textwrap.dedent(PROGRAM)))
    assert code == -signal.SIGINT and lines[-1] == "KeyboardInterrupt"
    assert not screen.cursor.hidden and screen.cursor.x == 0


def test_into_a_pipe_goes_only_what_the_program_says(tmp_path):
    done = subprocess.run(script(tmp_path, PROGRAM), capture_output=True, text=True, timeout=250, check=False)
    assert done.stdout == "the sum is 190\n"
    assert "[('speak', 7)] hello 7\n" in done.stderr
    assert "INFO mine [('speak', 7)] careful 7\n" in done.stderr
    assert "INFO wukong wukong: 20 of 20 tasks" in done.stderr


def test_in_a_notebook_a_display_is_updated_and_nothing_is_red():
    from jupyter_client.manager import run_kernel

    code = textwrap.dedent(PROGRAM).replace("logging.basicConfig", "dict")
    heard = []
    with run_kernel(kernel_name="python3") as client:
        reply = client.execute_interactive(code, output_hook=heard.append, timeout=250)
    assert reply["content"]["status"] == "ok", reply
    streams = {each["content"]["name"] for each in heard if each["msg_type"] == "stream"}
    shown = [each for each in heard if each["msg_type"] in ("display_data", "update_display_data")]
    assert streams == {"stdout"}
    assert [each["msg_type"] for each in shown].count("display_data") == 1
    assert shown[-1]["content"]["data"]["text/plain"].startswith("wukong: 20 of 20 tasks, ")
    assert len({each["content"]["transient"]["display_id"] for each in shown}) == 1


def test_what_is_made_again_and_throttled_is_told_at_once_with_its_reason_and_once(tmp_path, caplog):
    def die_once(n: int) -> int:
        mark = tmp_path / str(n)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    faults = {"throttle": 0.5, "seed": 1}
    with wukong.Client(faas={"name": "local", "faults": faults}, storage="local", progress=False) as client:
        assert client.get({("die", n): (die_once, n) for n in range(2)}, [("die", 0), ("die", 1)]) == (0, 1)
        job = client.last_job.id
    told = [(each.levelno, each.getMessage()) for each in caplog.records if each.name.startswith("wukong.")]
    again = [
        text for level, text in told if level == logging.WARNING and " made again: crash: the process was k" in text
    ]
    assert again and all(text.startswith(f"job {job}: ") and "SIGKILL" in text for text in again), told
    mine = [each.getMessage() for each in caplog.records if not hasattr(each, "wukong_task")]  # executors tell theirs
    assert sum("throttled by the script of faults" in text for text in mine) <= 1


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "wukong")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "wukong"]


def test_without_a_terminal_long_work_is_told_now_and_then(told):
    clock = Clock()
    lines = Lines("tasks", 0.0, patient=True, clock=clock)
    for clock.now_s in map(float, range(1, 100)):
        lines.update("wukong", int(clock.now_s), 1_000)
    lines.close(keep=True)
    assert told() == [f"wukong: {n} of 1,000 tasks, {n} s" for n in (10, 20, 40, 80, 99)]


def test_without_a_terminal_short_work_is_not_told(told):
    lines = Lines("tasks", 0.0, patient=True, clock=lambda: 1.0)
    lines.update("wukong", 5, 5)
    lines.close(keep=True)
    assert told() == []


def test_without_a_terminal_each_step_is_told_if_that_is_wanted(told):
    lines = Lines("", 0.0, patient=False, clock=lambda: 0.5)
    lines.update("wukong starting nodes", 0, 3)
    lines.update("wukong starting nodes", 2, 3)
    lines.update("wukong waiting for nodes", 0, 3)
    assert told() == ["wukong starting nodes: 0 of 3, 0 s", "wukong waiting for nodes: 0 of 3, 0 s"]


def test_what_matters_least_is_left_out_if_there_is_no_room():
    said = [Detail(1, "8 running"), Detail(4, "2 failed"), Detail(0, "$0.01"), Detail(3, "about 9 s left")]
    assert fitting(said, 80) == "8 running, 2 failed, $0.01, about 9 s left"
    assert fitting(said, 40) == "8 running, 2 failed, about 9 s left"
    assert fitting(said, 24) == "2 failed, about 9 s left"
    assert fitting(said, 17) == "2 failed, $0.01" and fitting(said, 4) == "" and fitting([], 80) == ""


def test_how_long_it_takes_is_told_from_what_tasks_take_else_from_how_many_are_done_else_not_at_all():
    now = Standing(tasks=100, done=20, busy_s=10.0, work_s=60.0)
    assert left_told(now, (5.0, 2.0), 0.0) == "about 25 s left"
    assert left_told(now, (5.0, 2.0), 20.0) == "about 5 s left"
    assert left_told(replace(now, work_s=None), (5.0, 2.0), 0.0) == "about 16 s left"
    assert left_told(replace(now, work_s=None), (0.01, 2.0), 0.0) == "about 2.2 h left"
    assert left_told(replace(now, busy_s=70.0), (5.0, 2.0), 0.0) == "about 1 s left"  # longer than it should have been
    assert left_told(replace(now, work_s=None), (0.0, 2.0), 0.0) == "time left not known"
    words = [each.text for each in details_told(replace(now, running=1_200, failed=1, again=2, usd=0.00123))]
    assert words == ["1,200 running", "1 failed", "2 again", "$0.0012"]


def test_a_row_tells_how_its_job_stands(tmp_path, told):
    """From the heartbeats and end reports that the client has heard."""
    with wukong.Client(progress=True, heartbeat_s=0.05) as client:
        assert client.map(lambda n: 1 // n, [0, 1, 2])[2].result() == 0
        pace = Pace(lambda: [client.last_job])
        future = client.map(lambda n: wait_for(str(tmp_path / "gate"), 1 // n), [0, 1, 2], key=["a", "b", "c"])[1]
        wait(lambda: any("running" in each.text for each in pace.details()), "it runs")
        assert "left" in pace.details()[-1].text
        (tmp_path / "gate").touch()
        assert future.result() == 1
        wait(lambda: client.last_job.settled, "it has settled")
        words = " ".join(each.text for each in Pace(lambda: [client.last_job]).details(over=True))
        assert "1 failed" in words and "$" in words and "left" not in words
    assert any(re.search(r"wukong: 3 of 3 tasks, \d+ s; .*\$", each) for each in told())
