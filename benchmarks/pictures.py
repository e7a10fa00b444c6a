"""Make the pictures of docs/seeing-a-job.md: a real job, its page in a real Chromium, from the folder of the project.

    python benchmarks/pictures.py

Takes half a minute. The job runs, is planned, runs again and loses an executor; it is looked at meanwhile and
afterwards.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
from typing import Any

import dask

import wukong

ROOT = pathlib.Path(__file__).parent.parent
HERE = ROOT / "docs/pictures"
sys.path.insert(0, str(ROOT / "tests"))
WIDE, HIGH = 1_000, 640


def load(n: int) -> int:
    """Stand for the reading of a file."""
    time.sleep(0.6 + 0.2 * (n % 3))
    return n


def clean(n: int, loaded: int, mark: str) -> int:
    """Stand for work on a part of it; the first attempt at one part dies."""
    time.sleep(0.06)
    if n == 5 and not os.path.exists(mark):
        pathlib.Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return loaded


def merge(*parts: int) -> int:
    """Stand for what puts parts together."""
    time.sleep(0.3)
    return sum(parts)


def job(mark: str, files: int = 16, parts: int = 8) -> Any:
    """Return a collection: files are loaded, each cleaned in parts, merged, and summed up."""
    merged = []
    for n in range(files):
        loaded = dask.delayed(load)(n)
        cleaned = [dask.delayed(clean)(parts * n + k, loaded, mark) for k in range(parts)]
        merged.append(dask.delayed(merge)(*cleaned))
    return dask.delayed(merge, name="total")(*merged, dask_key_name="total")


def main() -> None:
    """Write the pictures."""
    from chromium import browser

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # what this user's other jobs have taught stays out
        mark = pathlib.Path(folder, "mark")
        work = job(str(mark))
        faas = {"name": "local", "max_slots": 6}
        with wukong.Client(progress=False, faas=faas) as client, browser(pathlib.Path(folder, "browser")) as page:
            mark.touch()
            work.compute()
            client.plan(work)
            mark.unlink()
            page.open(client.dashboard.link + "#timeline")
            computed = threading.Thread(target=work.compute)
            computed.start()
            page.wait("document.title.endsWith(': running') && document.getElementById('done').value > 60")
            page.picture(HERE / "live.png", WIDE, HIGH)
            computed.join()
            page.wait(f"document.title === 'job {client.last_job.id}: succeeded'")
            for tab, name, dark in (
                ("timeline", "timeline", False),
                ("layers", "layers", False),
                ("plan", "plan", False),
                ("bill", "bill", True),
            ):
                page.run(f"document.getElementById('tab-{tab}').click()")
                page.picture(HERE / f"{name}.png", WIDE, HIGH, dark=dark)


if __name__ == "__main__":
    main()
