"""`haypile check`, `inspect` and `repair` as an operator types them: exit statuses, help, a node that refuses to start and
says what to type, and that starts again afterwards."""

import json
import re
import subprocess

from harness import BINARY, Case, StartFailed, key_in


class Tools(Case):
    def haypile(self, *args, status=0, stdin=subprocess.DEVNULL):
        done = subprocess.run([str(BINARY), *map(str, args)], stdin=stdin, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, status, f"{args}: {done.stdout}\n{done.stderr}")
        return done

    def filled(self):
        node = self.node("node", "--slots", "0-3", "--sync", "always")
        client = node.client()
        for number in range(400):
            client.set(key_in(number % 4, f"k{number}"), f"value of {number} ".encode() * 5)
        node.kill()
        return node

    def test_a_store_is_checked_inspected_repaired_and_served_again(self):
        node = self.filled()
        said = self.haypile("check", node.dir).stdout
        self.assertTrue(said.endswith("no problem\n"), said)
        for kind in ("log", "manifest", "pack", "sst", "tree"):
            self.haypile("inspect", kind, node.dir)
            tables = json.loads(self.haypile("inspect", kind, node.dir, "--json").stdout)
            self.assertEqual(tables["store"][0]["in_use"], False)
        tables = json.loads(self.haypile("inspect", "slot", node.dir, "2", "--json").stdout)
        self.assertEqual(tables["slot"][0]["state"], "master")

        log = sorted((node.dir / "log").glob("*.log"))[0]
        content = bytearray(log.read_bytes())
        at = content.index(b"value of 102 ")
        content[at] ^= 1
        log.write_bytes(content)
        node.may_end_with |= {1}
        with self.assertRaises(StartFailed) as raised:
            node.start()
        wanted = re.search(r"haypile repair (\S+) --slots (\S+)", raised.exception.output)
        self.assertIsNotNone(wanted, raised.exception.output)
        self.assertEqual((wanted[1], wanted[2]), (str(node.dir), "2"))

        said = self.haypile("check", node.dir, status=1).stdout
        self.assertIn("slot 2 seq", said)
        refused = self.haypile("repair", node.dir, "--slots", "1", "--yes", status=2)
        self.assertIn("--slots 1-2", refused.stderr)
        asked = self.haypile("repair", node.dir, "--slots", "2", status=2)
        self.assertIn("--yes", asked.stdout)
        self.haypile("repair", node.dir, "--slots", "2", "--yes")
        self.haypile("check", node.dir)
        self.assertTrue(any((node.dir / "trash" / "log").iterdir()))
        for kind, folder in (("log", "log"), ("manifest", "manifest"), ("pack", "data"), ("sst", "data")):
            file = next(file for file in sorted((node.dir / folder).iterdir()) if file.suffix in ("", ".log", ".pack"))
            tables = json.loads(self.haypile("inspect", kind, file, "--json").stdout)
            self.assertTrue(any(rows for rows in tables.values() if isinstance(rows, list)), tables)
        node.start()
        client = node.client()
        for number in range(400):
            if number % 4 != 2:
                self.assertEqual(client.get(key_in(number % 4, f"k{number}")), f"value of {number} ".encode() * 5)
        node.do("PKCLUSTER", "ADDSLOTS", "2")
        client.set(key_in(2, "again"), b"1")

    def test_a_folder_in_use_is_inspected_but_not_checked(self):
        node = self.node("node", "--standalone")
        node.do("SET", "k", "v")
        tables = json.loads(self.haypile("inspect", "tree", node.dir, "--json").stdout)
        self.assertEqual(tables["store"][0]["in_use"], True)
        for args in (("check", node.dir), ("repair", node.dir, "--slots", "1", "--yes")):
            self.assertIn("in use", self.haypile(*args, status=2).stderr)
        self.assertEqual(node.do("GET", "k"), b"v")

    def test_wrong_arguments_and_folders_are_named(self):
        missing = self.folder / "nothing"
        self.assertIn(str(missing), self.haypile("check", missing, status=2).stderr)
        self.assertIn(str(missing), self.haypile("inspect", "tree", missing, status=2).stderr)
        self.assertIn("no store", self.haypile("inspect", "slot", self.folder, "7", status=2).stderr)
        self.assertIn("1024", self.haypile("repair", missing, "--slots", "1024", status=2).stderr)
        for args in (("check",), ("inspect",), ("inspect", "nonsense", "x"), ("repair", missing), ("inspect", "slot", "x", "9999")):
            self.haypile(*args, status=2)
        for args in (("check", "--help"), ("inspect", "--help"), ("repair", "--help"), ("inspect", "log", "--help")):
            self.assertIn("Usage", self.haypile(*args).stdout)
        self.assertFalse(missing.exists())
        for kind in ("pack", "sst"):
            self.assertIn(str(self.folder), self.haypile("inspect", kind, self.folder, status=2).stderr)

    def test_a_folder_in_the_place_of_the_lock_is_a_problem(self):
        node = self.node("node", "--standalone")
        node.stop()
        self.haypile("check", node.dir)
        (node.dir / "LOCK").unlink()
        (node.dir / "LOCK").mkdir()
        self.assertIn("LOCK", self.haypile("check", node.dir, status=1).stdout)
