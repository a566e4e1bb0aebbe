"""Checkpoints of a running node: taken while clients write, opened by other nodes, followed on, cut by kills."""

import os
import shutil
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from harness import BINARY, LONG, Case, key_in

SLOTS = list(range(6))
KEYS = 40
SMALL = ("--maxmemory", str(16 << 20), "--log-segment-bytes", str(1 << 20))


class Historian(threading.Thread):
    """Writes one slot, one command after another, so that every state that it ever had follows from one number."""

    def __init__(self, node, slot, value):
        super().__init__(daemon=True)
        self.node, self.slot, self.value = node, slot, value
        self.keys = [key_in(slot, f"h{number}:") for number in range(KEYS)]
        self.acked = self.sent = 0
        self.stopping = threading.Event()
        self.failure = None

    def run(self):
        try:
            client = self.node.client()
            while not self.stopping.is_set():
                first, self.sent = self.sent, self.sent + 20
                pipeline = client.pipeline(transaction=False)
                for number in range(first + 1, self.sent + 1):
                    pipeline.set(self.keys[number % KEYS], b"%d:" % number + self.value)
                pipeline.execute()
                self.acked = self.sent
            client.close()
        except BaseException as failure:
            self.failure = failure

    def stop(self):
        self.stopping.set()
        self.join(60)
        if self.failure:
            raise self.failure

    def count_in(self, client):
        """After how many of its writes the slot is as it is found; an error if that is no state it ever had."""
        found = [client.get(key) for key in self.keys]
        last = max((int(value.split(b":")[0]) for value in found if value), default=0)
        for place, value in enumerate(found):
            wanted = last - (last - place) % KEYS
            expected = b"%d:" % wanted + self.value if wanted > 0 else None
            assert value == expected, f"slot {self.slot}, key {place}, after {last}: {value and value[:20]!r}"
        return last


class Backup(Case):
    def histories(self, node, bytes_each=300):
        histories = [Historian(node, slot, self.random.randbytes(bytes_each).replace(b":", b";")) for slot in SLOTS]
        for history in histories:
            history.start()
        self.addCleanup(lambda: [history.stopping.set() for history in histories])
        self.grown(histories, 500)
        return histories

    def grown(self, histories, more):
        goals = [history.acked + more for history in histories]

        def grown():
            for history in histories:
                if history.failure:
                    raise history.failure
            return all(history.acked >= goal for history, goal in zip(histories, goals))

        self.wait(grown, f"{more} more writes to each slot")

    def told(self, node):
        return node.client().info("persistence")

    def saved(self, node):
        """Waits for the end of a BGSAVE; its folder."""
        self.wait(lambda: self.told(node)["rdb_bgsave_in_progress"] == 0, "the save ends")
        told = self.told(node)
        self.assertEqual((told["rdb_last_bgsave_status"], told.get("checkpoint_last_error", "")), ("ok", ""))
        return Path(told["checkpoint_last_dir"])

    def sound(self, folder):
        """`haypile check` has nothing to say about it."""
        done = subprocess.run([BINARY, "check", str(folder)], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("no problem", done.stdout)

    def on(self, folder, name, *flags, **more):
        """A node on a folder that is there."""
        node = self.node(name, *flags, start=False, **more)
        node.dir = folder
        node.start()
        return node

    def test_a_copy_under_load_is_a_prefix_of_each_slot_and_its_node_owns_nothing_until_told(self):
        node = self.node("node", "--slots", "0-9", *SMALL)
        histories = self.histories(node)
        for number in range(3):
            before = [history.acked for history in histories]
            folder = self.folder / f"copy{number}"
            node.pkcluster("checkpoint", str(folder))
            after = [history.sent for history in histories]
            self.sound(folder)
            copy = self.on(folder, f"on{number}", *SMALL)
            client = copy.client()
            counts = [history.count_in(client) for history in histories]
            for low, count, high in zip(before, counts, after):
                self.assertTrue(low <= count <= high, (before, counts, after))
            # It can't be a second owner by itself.
            key = key_in(0, "mine")
            self.assertIn("Server in read-only", copy.error("SET", key, "1"))
            info = copy.slot(0)
            self.assertEqual((info.role, info.master), ("Slave", "nobody:0"))
            self.assertEqual(info.term, node.slot(0).term)
            if number == 0:
                copy.pkcluster("slotsslaveof", "no", "one", "all")
                self.assertGreater(copy.slot(0).term, info.term)
                copy.do("SET", key, "1")
                copy.kill()
                copy.start()
                self.assertEqual(copy.do("GET", key), b"1")
                self.assertIsNone(node.do("GET", key))
            self.grown(histories, 500)
        for history in histories:
            history.stop()
        node.kill()
        node.start()
        self.assertEqual([history.count_in(node.client()) for history in histories], [history.acked for history in histories])

    def test_a_node_on_a_copy_follows_the_old_master_from_where_the_copy_ends(self):
        master = self.node("master", "--slots", "0-9")
        client = master.client()
        big = self.random.randbytes(10_000)
        for number in range(1000):
            client.set(key_in(number % 10, f"k{number}"), big)
        folder = self.folder / "copy"
        master.pkcluster("checkpoint", str(folder))
        for number in range(100):
            client.set(key_in(number % 10, f"new{number}"), b"%d" % number)
        client.delete(*[key_in(0, f"k{number}") for number in range(0, 1000, 10)])
        replica = self.on(folder, "replica")
        self.assertEqual(replica.do("GET", key_in(3, "k3")), big)
        replica.pkcluster("slotsslaveof", "127.0.0.1", master.port, "all")
        self.wait_until_slave_has_all(master, replica, range(10))
        sent = int(client.info("replication")["peer0"]["sent_bytes"])
        self.assertLess(sent, 1_000_000, "ten megabytes were in the copy already")
        for number in range(100):
            self.assertEqual(replica.do("GET", key_in(number % 10, f"new{number}")), b"%d" % number)
        self.assertEqual(replica.client().dbsize(), client.dbsize())
        # And from here on they are as any two: the slot is handed over, and back.
        replica.pkcluster("slotsslaveof", "no", "one", "4")
        self.assertEqual((replica.slot(4).role, master.slot(4).role), ("Master", "Slave"))
        self.assertIn("handed over", master.error("SET", key_in(4, "x"), "1"))

    def test_a_standalone_node_on_a_copy_serves_at_once(self):
        node = self.node("node", "--standalone", *SMALL)
        client = node.client()
        for number in range(5000):
            client.set(f"k{number}", number)
        self.assertTrue(client.bgsave())
        folder = self.saved(node)
        self.assertEqual(folder.parent, node.dir / "backup")
        client.flushall()
        shutil.copytree(folder, self.folder / "moved")
        copy = self.on(self.folder / "moved", "copy", "--standalone", *SMALL)
        self.assertEqual(copy.client().dbsize(), 5000)
        copy.do("SET", "k1", "other")
        copy.stop()
        copy.start()
        self.assertEqual((copy.do("GET", "k1"), copy.do("GET", "k4999")), (b"other", b"4999"))
        self.assertEqual(node.client().dbsize(), 0)

    def test_saves_are_named_kept_and_told_of(self):
        node = self.node("node", "--standalone", "--backup-dir", str(self.folder / "backups"), "--backup-keep", "2")
        client = node.client()
        started = client.execute_command("LASTSAVE")
        client.set("a", "1")
        self.assertTrue(client.save())
        first = self.saved(node)
        self.assertTrue(client.save() and client.save())
        kept = sorted((self.folder / "backups").iterdir())
        self.assertEqual(len(kept), 2)
        self.assertNotIn(first, kept)
        self.assertGreaterEqual(client.execute_command("LASTSAVE"), started)
        told = self.told(node)
        self.assertEqual((told["rdb_saves"], told["checkpoint_last_slots"], told["checkpoint_last_files_copied"]), (3, 1024, 0))
        self.assertIn("is there already", node.error("PKCLUSTER", "CHECKPOINT", str(kept[0])))
        self.assertEqual(self.told(node)["rdb_last_bgsave_status"], "err")
        self.assertIn("name another folder", node.error("PKCLUSTER", "CHECKPOINT", str(node.dir / "data" / "x")))
        # A node lives on it now: it is not an old copy any more.
        other = self.on(kept[0], "other", "--standalone")
        self.assertTrue(client.save() and client.save() and client.save())
        self.assertIn(kept[0], (self.folder / "backups").iterdir())
        self.assertEqual(other.do("GET", "a"), b"1")
        node.stop()
        node.start()
        self.assertTrue(node.client().save(), "a restart's names are its own")

    def test_a_copy_to_another_file_system_is_whole(self):
        node = self.node("node", "--slots", "0-9", *SMALL)
        histories = self.histories(node)
        elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.addCleanup(shutil.rmtree, elsewhere, ignore_errors=True)
        other_device = os.stat(elsewhere).st_dev != os.stat(node.dir).st_dev
        node.pkcluster("checkpoint", str(elsewhere / "copy"), "0-5")
        told = self.told(node)
        linked, copied = told["checkpoint_last_files_linked"], told["checkpoint_last_files_copied"]
        self.assertTrue(copied > 0 and linked == 0 if other_device else linked > 0 and copied == 0, (linked, copied))
        self.sound(elsewhere / "copy")
        copy = self.on(elsewhere / "copy", "copy")
        self.assertEqual(sorted(copy.slots()), SLOTS)
        for history in histories:
            history.count_in(copy.client())
            history.stop()

    def test_a_kill_during_a_save_leaves_whole_copies_only(self):
        node = self.node("node", "--slots", "0-9", "--backup-keep", "0", *SMALL)
        acked = 0
        for round_ in range(40 if LONG else 8):
            histories = self.histories(node)
            node.client().bgsave()
            # Anywhere in it: some of them are done by then.
            time.sleep(self.random.random() * 0.03)
            node.kill()
            for history in histories:
                history.stopping.set()
                history.join(60)
            node.start()
            acked = [history.acked for history in histories]
            client = node.client()
            for history, low in zip(histories, acked):
                self.assertGreaterEqual(history.count_in(client), low)
            client.flushall()
        node.client().bgsave()
        last = self.saved(node)
        found = sorted((node.dir / "backup").iterdir())
        self.assertEqual([path for path in found if "partial" in path.name], [])
        self.assertIn(last, found)
        for number, folder in enumerate(found):
            self.sound(folder)
            self.on(folder, f"copy{number}").stop()
        node.stop()
        self.sound(node.dir)


if __name__ == "__main__":
    unittest.main()
