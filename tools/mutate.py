"""Puts single mistakes into the code, one at a time, and lists those that no test notices.

python tools/mutate.py mmssl/losses mmssl/methods/dino.py --each 10
    A few mistakes in each file, each met by the tests that run the mutated line. Which these are is learnt from
    one run of the whole suite with coverage (needs pytest-cov; kept in .mutate/ until --fresh).
python tools/mutate.py mmssl/methods/dino.py --tests tests/methods/test_dino.py
    The same, met by these tests alone.

A mistake is a swapped operator or pair of operands, a dropped term, factor, call or keyword argument, a constant that
is off, a condition that is reversed, and the like; see mistakes.py. Each is put into a copy of the working tree, so the
tree itself is never changed. mutmut and cosmic-ray do not serve here: the first leaves out decorated functions,
defaults and class bodies, the second starts a new interpreter, and so imports torch, for every mistake.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

from mistakes import Mistake, Mistakes

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".mutate"
PRELOAD = ["torch", "torchvision.transforms.v2", "torchaudio", "transformers", "webdataset", "av", "scipy.signal"]
PRELOAD += ["scipy.optimize", "scipy.stats", "timm", "lightly.loss", "open_clip", "pytest", "_pytest.assertion.rewrite"]


def choose(files: Iterable[str], each: int, seed: int) -> list[Mistake]:
    """Draws places of each file, and one mistake for each."""
    chosen: list[Mistake] = []
    for file in files:
        draw = random.Random(f"{seed} {file}")
        mistakes = Mistakes(file, (ROOT / file).read_text(encoding="utf-8"))
        places = mistakes.places()
        draw.shuffle(places)
        drawn = (draw.choice(made) for made in places)
        chosen += islice((mistake for mistake in drawn if mistakes.changes(mistake)), each)
    return chosen


class Covering:
    """Which tests run which line, and how long each takes, from one run of the suite."""

    def __init__(self, *, fresh: bool) -> None:
        data, times = KEPT / "coverage", KEPT / "times.xml"
        if fresh or not times.exists():
            KEPT.mkdir(exist_ok=True)
            print("running the whole suite once with coverage", flush=True)
            command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--cov", "mmssl"]
            command += ["--cov-context", "test", "--cov-report", "", "--junitxml", str(times)]
            command += ["-o", "junit_family=xunit1"]
            subprocess.run(command, cwd=ROOT, env=os.environ | {"COVERAGE_FILE": str(data)}, check=True)
        from coverage import CoverageData

        self.data = CoverageData(str(data))
        self.data.read()
        self.seconds: dict[str, float] = {}
        self.of_file: dict[str, list[str]] = defaultdict(list)
        for case in ElementTree.parse(times).iter("testcase"):
            test = f"{case.get('file')}::{case.get('name')}"
            self.seconds[test] = float(case.get("time", 0))
            self.of_file[str(case.get("file"))].append(test)

    def tests(self, mistake: Mistake, limit: float) -> list[list[str]]:
        """Returns the tests to run: first those of the file's mirror, then the quickest others, `limit` s in all.

        What stands in a signature or a class is computed as the file is imported, by no test. Tests may look at it
        without a call, so those of every file that bears or holds the name of its module are run besides.
        """
        by_line = self.data.contexts_by_lineno(str(ROOT / mistake.file))
        name = Path(mistake.file).stem
        mirror = {file for file in self.of_file if Path(file).stem in (f"test_{name}", f"test_{name.rstrip('s')}")}
        found, named = self._run(by_line, mistake.lines), set(mirror)
        if mistake.at_import or not found:
            found = self._run(by_line, mistake.function) or self._run(by_line, by_line)
            word = re.compile(rf"(?<![a-z]){name.rstrip('s').replace('_', '_?')}", re.IGNORECASE)
            named |= {file for file in self.of_file if word.search((ROOT / file).read_text(encoding="utf-8"))}
        found |= {test for file in named for test in self.of_file[file]}
        first = [test for test in found if test.partition("::")[0] in mirror or "default" in test]
        rest, spent = [], 0.0
        for test in sorted(found - set(first), key=lambda test: self.seconds.get(test, 0.0)):
            spent += self.seconds.get(test, 0.0) + 0.01
            if spent > limit:
                break
            rest.append(test)
        return [sorted(part) for part in (first, rest) if part]

    def _run(self, by_line: dict[int, list[str]], lines: Iterable[int]) -> set[str]:
        found: set[str] = set()
        for context in {context for line in lines for context in by_line.get(line, [])} - {""}:
            test, _, phase = context.rpartition("|")
            # what a fixture computes once is looked at by other tests of the file too
            found |= set(self.of_file[test.partition("::")[0]]) if phase == "setup" else {test}
        return found & self.seconds.keys()


def copy_tree(to: Path) -> None:
    """Copies what git knows or would add."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def run_tests(tree: str, tests: list[str], log: str) -> None:
    """Runs tests in a copy of the tree, in a process of its own group, which ends with pytest's code."""
    os.setsid()
    threading.Thread(target=_end_with_tool, daemon=True).start()
    os.chdir(tree)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path.insert(0, tree)
    os.environ |= {"PYTHONPATH": tree, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    import pytest

    code = pytest.main(["-x", "-p", "no:cacheprovider", "--tb=short", *tests])
    sys.stdout.flush()
    os._exit(int(code))


def _end_with_tool() -> None:
    """Ends these tests with the tool: a mistake may let them run for ever."""
    tool = multiprocessing.parent_process()
    assert tool is not None
    tool.join()
    os.killpg(0, signal.SIGKILL)


class Bench:
    """Copies of the tree, one for each mistake that is tried at a time."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.original = folder / "original"  # the tree may be edited meanwhile
        copy_tree(self.original)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([name for name in PRELOAD if _found(name)])
        self.free: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copy_tree(folder / str(number))
            self.free.put(folder / str(number))
        self.clock = int(time.time()) - 10**6  # a file's time, which tells Python to compile it again

    def verdict(self, parts: list[list[str]], seconds: float, mistake: Mistake | None = None) -> tuple[str, str]:
        """Returns what became of a mistake, "caught", "hung", "survived" or "untested", and the tests' output."""
        tree = self.free.get()
        said = ""
        try:
            if mistake is not None:
                self._write(
                    tree / mistake.file, Mistakes(mistake.file, (ROOT / mistake.file).read_text()).apply(mistake)
                )
            for tests in parts:
                log = tree.parent / f"{tree.name}.log"
                process = self.context.Process(target=run_tests, args=(str(tree), tests, str(log)))
                process.start()
                process.join(seconds)
                hung = process.is_alive()
                try:
                    os.killpg(process.pid or 0, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    process.kill()
                process.join()
                said = log.read_text(errors="replace") if log.exists() else ""
                if hung:
                    return "hung", said
                if process.exitcode not in (0, 5):
                    return "caught", said
            return ("survived" if parts else "untested"), said
        finally:
            if mistake is not None:
                self._write(tree / mistake.file, (self.original / mistake.file).read_bytes())
            self.free.put(tree)

    def _write(self, path: Path, source: bytes) -> None:
        path.write_bytes(source)
        self.clock += 1
        os.utime(path, (self.clock, self.clock))


def _found(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name.partition(".")[0]) is not None


def files_of(paths: list[str]) -> list[str]:
    files: list[str] = []
    for path in paths:
        there = ROOT / path
        found = sorted(there.rglob("*.py")) if there.is_dir() else [there]
        files += [str(file.relative_to(ROOT)) for file in found]
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="files or folders of mmssl")
    parser.add_argument("--each", type=int, default=10, help="mistakes per file (10)")
    parser.add_argument("--seed", type=int, default=0, help="which mistakes are drawn (0)")
    parser.add_argument("--tests", nargs="+", help="the tests to run, in place of those that run the line")
    parser.add_argument("--limit", type=float, default=60, help="seconds of tests other than the file's own (60)")
    parser.add_argument("--jobs", type=int, default=2, help="mistakes tried at a time (2)")
    parser.add_argument("--fresh", action="store_true", help="learn anew which tests run which line")
    parser.add_argument("--out", type=Path, help="a file of JSON lines, one for each mistake, added to")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    chosen = choose(files_of(options.paths), options.each, options.seed)
    covering = None if options.tests else Covering(fresh=options.fresh)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.jobs)
        if options.tests:
            began = time.perf_counter()
            verdict, said = bench.verdict([options.tests], 3600)
            if verdict != "survived":
                sys.exit(f"the tests fail without a mistake:\n{said}")
            seconds = 60 + 5 * (time.perf_counter() - began)
            print(f"without a mistake the tests pass in {time.perf_counter() - began:.1f} s", flush=True)

        def attempt(mistake: Mistake) -> tuple[Mistake, str, float]:
            began = time.perf_counter()
            if covering is None:
                return mistake, bench.verdict([options.tests], seconds, mistake)[0], time.perf_counter() - began
            parts = covering.tests(mistake, options.limit)
            patience = 120 + 5 * sum(covering.seconds[test] for part in parts for test in part)
            return mistake, bench.verdict(parts, patience, mistake)[0], time.perf_counter() - began

        results: list[tuple[Mistake, str]] = []
        with ThreadPoolExecutor(options.jobs) as pool:
            for mistake, verdict, took in pool.map(attempt, chosen):
                results.append((mistake, verdict))
                print(f"{len(results)}/{len(chosen)} {verdict:8} {took:5.1f} s  {mistake}", flush=True)
                if options.out:
                    with open(options.out, "a") as file:
                        row = {"file": mistake.file, "line": mistake.lines.start, "verdict": verdict}
                        file.write(json.dumps(row | {"old": mistake.old, "new": mistake.new}) + "\n")
    report(results)


def report(results: list[tuple[Mistake, str]]) -> None:
    """Prints the figures of each room and the mistakes that nothing noticed."""
    rooms: dict[str, list[str]] = defaultdict(list)
    files: dict[str, set[str]] = defaultdict(set)
    for mistake, verdict in results:
        room = str(Path(mistake.file).parent)
        rooms[room].append(verdict)
        files[room].add(mistake.file)
    print("\nroom                 files  mistakes  noticed")
    for room, verdicts in [*sorted(rooms.items()), ("all", [verdict for _, verdict in results])]:
        number = len({mistake.file for mistake, _ in results}) if room == "all" else len(files[room])
        noticed = sum(verdict in ("caught", "hung") for verdict in verdicts)
        print(f"{room:20} {number:5}  {len(verdicts):8}  {noticed:7}  {noticed / len(verdicts):4.0%}")
    for mistake, verdict in results:
        if verdict in ("survived", "untested"):
            print(f"{verdict}: {mistake}")


if __name__ == "__main__":
    main()
