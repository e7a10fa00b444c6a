"""What a cold start of the deployed function costs: the import of its handler, taken apart.

    python benchmarks/cold_start.py [--package wukong.zip] [--repeats 20]

The deployment package is built for this Python, unpacked, and imported by fresh interpreters that see nothing else but
the standard library, as on Lambda. The aim: at most 1.5 times the import of Dask and of the store's client alone.
Rounds are interleaved, so that other load on the machine affects all alike; what is compared is how long a core was
busy. It prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from wukong.deploy.package.build import build

AIM = 1.5
HANDLER = "wukong_executor.handler"
IMPORTS = {
    "nothing": "sys",
    "dask": "dask",
    "dask and redis": "dask, redis",
    "the handler": HANDLER,
}
TIMED = (
    "import sys, time; sys.path.insert(0, '.'); begun = time.perf_counter(), time.process_time(); import {}; "
    "print(time.perf_counter() - begun[0], time.process_time() - begun[1])"
)
LINE = re.compile(r"^import time:\s+(\d+) \|\s+(\d+) \|\s*(\S+)$", re.MULTILINE)


def run(folder: Path, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter that has the package, and only those variables that Lambda's has too."""
    return subprocess.run(
        [sys.executable, "-S", "-B", *options, "-c", program],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )


def timed_ms(folder: Path, modules: str) -> tuple[float, float]:
    """Return how long an import took, and how long it kept a core busy, in milliseconds."""
    wall_s, busy_s = run(folder, TIMED.format(modules)).stdout.split()
    return float(wall_s) * 1e3, float(busy_s) * 1e3


def times_ms(folder: Path, folder_without: Path, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Return these two times for each import; the last entry is the handler without bytecode."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*IMPORTS, "the handler, without bytecode")}
    for _ in range(repeats):
        for name, modules in IMPORTS.items():
            found[name].append(timed_ms(folder, modules))
    for _ in range(max(3, repeats // 5)):
        found["the handler, without bytecode"].append(timed_ms(folder_without, HANDLER))
    return found


def shares_ms(folder: Path, repeats: int) -> dict[str, float]:
    """Return each top-level package's part in the handler's import, in milliseconds (median).

    Python's own accounting of each import slows all of them down, so the sum is more than the import takes without.
    """
    rounds: list[dict[str, float]] = []
    for _ in range(repeats):
        told = run(folder, f"import sys; sys.path.insert(0, '.'); import {HANDLER}", "-X", "importtime").stderr
        shares: dict[str, float] = {}
        for own_us, _, module in LINE.findall(told):
            top = module.partition(".")[0]
            owner = top if (folder / top).is_dir() or (folder / f"{top}.py").exists() else "standard library"
            shares[owner] = shares.get(owner, 0.0) + int(own_us) / 1e3
        rounds.append(shares)
    return {owner: statistics.median(each.get(owner, 0.0) for each in rounds) for owner in rounds[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--package", type=Path, help="a package that exists")
    parser.add_argument("--repeats", type=int, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        package = chosen.package or build(Path(scratch, "package.zip"))
        folder, without = Path(scratch, "package"), Path(scratch, "without")
        with zipfile.ZipFile(package) as archive:
            archive.extractall(folder)
        shutil.copytree(folder, without, ignore=shutil.ignore_patterns("__pycache__"))
        run(folder, TIMED.format(HANDLER))  # the files are in memory afterwards
        times = times_ms(folder, without, chosen.repeats)
        shares = shares_ms(folder, max(3, chosen.repeats // 4))
    print("| import of | least, ms | a core was busy for, ms (median) |\n|---|---|---|")
    busy_ms = {name: statistics.median(busy for _, busy in each) for name, each in times.items()}
    for name, each in times.items():
        print(f"| {name} | {min(wall for wall, _ in each):.0f} | {busy_ms[name]:.0f} |")
    ratio = busy_ms["the handler"] / busy_ms["dask and redis"]
    print(f"\nThe handler takes {ratio:.2f}x of dask and redis; the aim is {AIM}x.\n")
    print("| whose modules | ms of their own |\n|---|---|")
    for owner, own_ms in sorted(shares.items(), key=lambda item: -item[1]):
        if own_ms >= 0.5:
            print(f"| {owner} | {own_ms:.1f} |")
    return 0 if ratio <= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
