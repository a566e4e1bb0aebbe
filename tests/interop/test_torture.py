"""`haypile torture`: it clears servers that keep their promise, convicts those that don't, and says so as a user needs it.

The convicts are redis-server without a log, and a tiny server (canary.py) with one fault at a time.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import unittest
from pathlib import Path

from harness import BINARY, LONG, Case, eventually, seed

CANARY = Path(__file__).with_name("canary.py")
SECONDS = 20 if LONG else 2
HAYPILE = f"{shlex.quote(str(BINARY))} serve --standalone --port {{port}} --dir {{dir}} --log-segment-bytes 1mb"
REDIS = "redis-server --port {port} --dir {dir} --save '' --appendonly "


def canary(fault):
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(CANARY))} {{port}} {{dir}} {fault}"


class Torture(Case):
    def torture(self, server, *flags, seconds=SECONDS, timeout=300):
        """Runs it in the test's folder: (exit status, what it printed, its JSON)."""
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        command = [BINARY, "torture", "--server", server, "--json", result]
        if "--replay" not in flags:
            command += ["--seed", str(seed()), "--seconds", str(seconds)]
        # Folders of servers that were convicted stay for the user; here they go with the test.
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        done = subprocess.run([*command, *flags], cwd=self.folder, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=timeout)
        found = json.loads(result.read_text()) if result.exists() else None
        return done.returncode, done.stdout, found

    def cleared(self, server, *flags, **more):
        status, output, result = self.torture(server, *flags, **more)
        self.assertEqual(status, 0, output)
        self.assertEqual(result["verdict"], "clean", output)
        self.assertGreater(result["operations"], 100, output)
        self.assertEqual(result["refused"], 0, output)
        self.assertEqual(result["violations"], [], output)
        self.assertIn("CLEAN", output)
        return output, result

    def convicted(self, server, kinds, *flags, seconds=5):
        """It must be found guilty of one of these kinds; the script that it leaves."""
        status, output, result = self.torture(server, *flags, seconds=max(SECONDS, seconds))
        self.assertEqual(status, 1, output)
        self.assertEqual(result["verdict"], "violation", output)
        # One fault shows in many ways: what it is for must be among them.
        self.assertTrue({violation["kind"] for violation in result["violations"]} & set(kinds), output)
        self.assertIn("VIOLATION", output)
        self.assertIn(f"--seed {seed()} ", output)
        return self.folder / result["script"], output, result

    # Those that keep their promise.

    def test_haypile_keeps_its_promise_when_killed_with_sync_always(self):
        self.cleared(HAYPILE + " --sync always")

    def test_haypile_keeps_even_the_strict_promise_when_killed_with_sync_everysec(self):
        self.cleared(HAYPILE + " --sync everysec")

    def test_haypile_keeps_even_the_strict_promise_when_killed_with_sync_no(self):
        self.cleared(HAYPILE + " --sync no")

    def test_haypile_keeps_its_promise_when_it_is_asked_to_end(self):
        _, result = self.cleared(HAYPILE, "--kill", "sigterm")
        self.assertGreater(result["kills"], 0)

    def test_haypile_keeps_its_promise_when_nobody_kills_it(self):
        _, result = self.cleared(HAYPILE, "--kill", "none", "--clients", "3", "--keys", "50")
        self.assertEqual(result["kills"], 0)
        self.assertGreater(result["keys_read_back"], 0)

    def test_redis_with_a_log_that_is_always_synced_is_cleared(self):
        _, result = self.cleared(REDIS + "yes --appendfsync always")
        self.assertEqual(result["not_tested"], [])

    def test_redis_with_a_log_keeps_the_promise_of_everysec(self):
        self.cleared(REDIS + "yes --appendfsync everysec", "--promise", "everysec", seconds=max(SECONDS, 4))

    def test_redis_without_a_log_keeps_the_promise_of_nothing(self):
        self.cleared(REDIS + "no", "--promise", "none")

    def test_an_honest_canary_is_cleared_so_that_the_others_are_convicted_for_their_fault(self):
        output, result = self.cleared(canary("honest"))
        self.assertEqual(result["not_tested"], ["lists", "sets", "sorted sets", "SCAN"])
        self.assertIn("recovery, ms", output)

    def test_a_good_verdict_whose_file_can_not_be_written_is_none(self):
        command = [BINARY, "torture", "--server", canary("honest"), "--seconds", "1", "--json", "nowhere/result.json"]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, text=True, timeout=100)
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertIn("nowhere/result.json", done.stdout)

    # Those that don't.

    def test_redis_without_a_log_is_convicted_of_losing_what_it_acknowledged(self):
        script, output, result = self.convicted(REDIS + "no", ["lost"], seconds=40)
        # Nothing in it hangs on what comes first: it is the same each time.
        self.assertEqual(result["repeats"], result["repeats_of"], output)
        self.assertNotIn("&", "".join(line for line in script.read_text().splitlines() if line.startswith("c")), output)
        text = script.read_text()
        commands = [line for line in text.splitlines() if line.startswith("c")]
        self.assertLessEqual(len(commands), 2, text)
        # The script is what it says: it convicts this server, and clears one that keeps its promise.
        status, output, _ = self.torture(REDIS + "no", "--replay", script)
        self.assertEqual(status, 1, output)
        status, output, _ = self.torture(REDIS + "yes --appendfsync always", "--replay", script)
        self.assertEqual(status, 0, output)

    def test_dropped_writes_are_found_and_the_script_is_small(self):
        script, output, result = self.convicted(canary("drops"), ["lost", "disordered", "wrong-answer"], seconds=24)
        self.assertGreater(result["repeats"], 0, output)
        self.assertLess(len(script.read_text().splitlines()), 150)

    def test_a_buffer_in_the_process_is_found_even_where_everysec_is_promised(self):
        self.convicted(canary("forgets"), ["lost"])
        self.cleared(canary("forgets"), "--promise", "none")

    def test_commands_applied_by_half_are_found_whatever_is_promised(self):
        for promise in ("always", "none"):
            self.convicted(canary("halves"), ["halved", "disordered"], "--promise", promise)

    def test_deleted_data_that_comes_back_is_found(self):
        self.convicted(canary("revives"), ["lost", "returned", "disordered"])

    def test_writes_in_another_order_and_a_start_that_does_some_twice_are_found_whatever_is_promised(self):
        for fault, kinds in (("swaps", ["halved", "disordered"]), ("repeats", ["disordered", "invented"])):
            self.convicted(canary(fault), kinds, "--promise", "none", seconds=20)

    def test_former_values_after_a_start_are_found(self):
        self.convicted(canary("ages"), ["lost", "returned", "disordered"])

    def test_a_command_that_is_refused_and_done_all_the_same_is_found(self):
        self.convicted(canary("refuses"), ["wrong-answer", "invented", "disordered"])

    def test_values_that_nobody_wrote_are_found_whatever_is_promised(self):
        for promise in ("always", "none"):
            self.convicted(canary("invents"), ["invented"], "--promise", promise)

    def test_deadlines_that_are_forgotten_are_found(self):
        self.convicted(canary("unexpires"), ["expiry", "returned", "wrong-answer"])

    def test_wrong_answers_are_found_without_any_kill(self):
        self.convicted(canary("lies"), ["wrong-answer"], "--kill", "none")

    def test_a_server_that_ends_by_itself_is_convicted_and_its_status_told(self):
        _, output, _ = self.convicted(canary("dies"), ["died"])
        self.assertIn("exit status: 7", output)

    def test_a_server_that_does_not_start_again_is_convicted_with_its_last_words(self):
        _, output, _ = self.convicted(canary("lame"), ["not-back"])
        self.assertIn("the log is damaged", output)

    if LONG:

        def test_more_faults_that_are_rare_or_show_after_a_start_only_are_found(self):
            for fault, kinds, promise in (
                ("rarely", ["lost", "disordered"], "none"),
                ("lags", ["lost", "halved"], "everysec"),
                ("strays", ["disordered", "invented", "returned"], "none"),
                ("stretches", ["expiry"], "none"),
            ):
                self.convicted(canary(fault), kinds, "--promise", promise)

        def test_a_server_that_does_not_end_when_it_is_asked_to_is_convicted(self):
            self.convicted(canary("hangs"), ["stuck"], "--kill", "sigterm")

    # What it can't judge, and how it ends.

    def test_what_can_not_run_ends_with_2_and_says_why(self):
        for server, why in [
            ("sh -c 'echo no disk; exit 3' {port} {dir}", "no disk"),
            ("no-such-server {port} {dir}", "no-such-server"),
            ("redis-server --port {port}", "{dir}"),
            ("redis-server --dir {dir}", "{port}"),
            ("redis-server --port {port} --dir {dir} --requirepass x", "NOAUTH"),
        ]:
            status, output, result = self.torture(server)
            self.assertEqual(status, 2, output)
            self.assertIn(why, output)
            self.assertEqual(result["verdict"], "could-not-run")
        status, output, _ = self.torture(HAYPILE, "--promise", "perhaps")
        self.assertEqual(status, 2, output)
        self.assertIn("everysec", output)

    def test_a_wrong_script_is_named_by_its_line(self):
        script = self.folder / "wrong.txt"
        script.write_text("promise always\nc0 SET a b\nc0 DANCE\n")
        status, output, _ = self.torture(HAYPILE, "--replay", script)
        self.assertEqual(status, 2, output)
        self.assertIn("wrong.txt: line 3: the tester does not know this command: DANCE", output)

    def test_a_script_by_hand_is_played_with_its_kills(self):
        script = self.folder / "mine.txt"
        script.write_text("""
            # as a user writes it
            promise always
            c0 SET a one ; INCR n
            c1 RPUSH l x y z
            c1 HSET h f v g w &
            kill sigkill 200us
            kill start 1000us
            c0 APPEND a -two ; GET a
            kill sigterm 0us
            c1 LRANGE l 0 -1
            kill none 0us
        """)
        status, output, result = self.torture(HAYPILE, "--replay", script)
        self.assertEqual(status, 0, output)
        self.assertEqual(result["verdict"], "clean")
        status, output, result = self.torture(REDIS + "no", "--replay", script)
        self.assertEqual(status, 1, output)

    def test_nothing_stays_behind_when_it_is_interrupted(self):
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        command = [BINARY, "torture", "--server", f"sh -c '{canary('honest')}; true'", "--seconds", "600"]
        with subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                # It has told its seed: the server runs.
                while "seed" not in process.stdout.readline():
                    self.assertIsNone(process.poll())
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=60)
            finally:
                process.kill()
        self.assertEqual(process.returncode, 2, output)
        self.assertIn("interrupted", output)
        eventually(lambda: not self.servers(), lambda: f"no server is left: {self.servers()}")
        self.assertEqual([path.name for path in self.folder.iterdir() if path.name.startswith("haypile-torture-")], [])

    def servers(self):
        """Processes whose command names this test's folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if str(self.folder).encode() in words:
                found.append(words.replace(b"\0", b" "))
        return found


if __name__ == "__main__":
    unittest.main()
