"""Runs the interoperability tests: each file in a process of its own, several at once, each test with its time.

`run.py` runs all, `run.py story kill` the files test_story.py and test_kill.py, `run.py story.Story.test_name` one test.
"""

import argparse
import concurrent.futures
import faulthandler
import os
import subprocess
import sys
import threading
import time
import traceback
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILE_S = 900 + float(os.environ.get("HAYPILE_SIEGE_SECONDS") or 0)


class Result(unittest.TextTestResult):
    """A line for each test: its sentence, its verdict, its seconds."""

    def startTest(self, test):
        self._begin = time.monotonic()
        super().startTest(test)

    def _line(self, test, verdict):
        took = time.monotonic() - self._begin
        name = test.id().split(".")[-1].removeprefix("test_").replace("_", " ")
        self.stream.writeln(f"  {verdict:4} {took:6.1f} s  {name}")
        self.stream.flush()

    def _exc_info_to_string(self, err, test):
        """The traceback without the frames of libraries: where in the tests it was, and what was said."""
        kind, value, trace = err
        frames = [frame for frame in traceback.extract_tb(trace) if str(HERE) in frame.filename]
        where = "".join(traceback.format_list(frames[-4:]))
        return where + "".join(traceback.format_exception_only(kind, value))

    def addSuccess(self, test):
        unittest.TestResult.addSuccess(self, test)
        self._line(test, "ok")

    def addFailure(self, test, err):
        unittest.TestResult.addFailure(self, test, err)
        self._line(test, "FAIL")

    def addError(self, test, err):
        unittest.TestResult.addError(self, test, err)
        self._line(test, "FAIL")

    def addSubTest(self, test, subtest, err):
        unittest.TestResult.addSubTest(self, test, subtest, err)
        if err is not None:
            self._line(test, "FAIL")
            self.stream.writeln(f"       in {subtest._subDescription()}")

    def addSkip(self, test, reason):
        unittest.TestResult.addSkip(self, test, reason)
        self._line(test, "FAIL")
        self.stream.writeln(f"       skipped: {reason}; a test that can't run is a failed one")


def run_here(names):
    """Runs tests in this process."""
    sys.path.insert(0, str(HERE))
    import harness

    def give_up():
        faulthandler.dump_traceback(all_threads=True)
        print(f"gave up after {FILE_S} s", file=sys.stderr, flush=True)
        harness.kill_all()
        os._exit(3)

    watchdog = threading.Timer(FILE_S, give_up)
    watchdog.daemon = True
    watchdog.start()
    suite = unittest.TestSuite()
    for name in names:
        suite.addTests(unittest.defaultTestLoader.loadTestsFromName("test_" + name))
    runner = unittest.TextTestRunner(stream=sys.stdout, resultclass=Result, verbosity=0)
    result = runner.run(suite)
    problems = result.failures + result.errors + result.skipped
    bad = len({getattr(test, "test_case", test).id() for test, _ in problems})
    if bad:
        print(f"repeat: HAYPILE_SEED={harness.seed()} tests/run --only interop {' '.join(names)}")
    print(f"interop: {max(result.testsRun - bad, 0)} passed, {bad} failed")
    return 1 if bad or result.testsRun == 0 else 0


def run_file(name):
    """Runs one file's tests in a process of its own; its output and whether all passed."""
    command = [sys.executable, str(Path(__file__).resolve()), "--here", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return done.stdout, done.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--here", action="store_true", help="in this process")
    parser.add_argument("--jobs", type=int, default=2, help="files at once")
    parser.add_argument("tests", nargs="*")
    options = parser.parse_args()
    if options.here:
        return run_here(options.tests)
    names = options.tests or sorted(path.stem.removeprefix("test_") for path in HERE.glob("test_*.py"))
    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(options.jobs, 1)) as pool:
        running = {pool.submit(run_file, name): name for name in names}
        for done in concurrent.futures.as_completed(running):
            output, status = done.result()
            print(f"== {running[done]}")
            lines = output.rstrip().splitlines()
            counts = [line for line in lines if line.startswith("interop: ")]
            print("\n".join(line for line in lines if line not in counts), flush=True)
            words = counts[-1].split() if counts else []
            passed += int(words[1]) if words else 0
            failed += int(words[3]) if words else 1
            if status != 0 and words and int(words[3]) == 0:
                failed += 1
    print(f"interop: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
