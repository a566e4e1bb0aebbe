"""A master whose log lost its end, as a loss of power leaves it: kill -9 loses nothing, so the end is cut off its file by hand.
What its replica has of it comes back before the master serves again."""

import json
import subprocess

from harness import BINARY, Case, key_in

SLOTS = [0, 1, 2]


class Tails(Case):
    def log_of(self, node):
        command = [str(BINARY), "inspect", "log", str(node.dir), "--json"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(said.stdout)["log"]

    def pair(self, *flags):
        """A master that syncs nothing by itself, whose manifest knows its replica."""
        master = self.node("master", "--slots", "0-2", "--sync", "no", *flags)
        replica = self.node("replica", "--slots", "0-2")
        self.assertEqual(replica.pkcluster("slotsslaveof", "127.0.0.1", master.port, "0-2"), b"OK")
        self.wait_until_slave_has_all(master, replica, SLOTS)

        def known():
            # A registration: the address, and how many slots follow.
            wanted = replica.address.encode() + bytes([len(SLOTS)])
            return any(wanted in file.read_bytes() for file in (master.dir / "manifest").iterdir())

        self.wait(known, "the manifest knows the replica")
        return master, replica

    def fill(self, node, names, value):
        client = node.client()
        for slot in SLOTS:
            for name in names:
                client.set(key_in(slot, name), value)
        client.close()

    def cut(self, node, seqs):
        """Makes the log end before the first frame that holds a record after these of their slots."""
        rows = self.log_of(node)
        segment = frame = None
        for index, row in enumerate(rows):
            if row["what"] == "frame":
                segment, frame = row["segment"], row["offset"]
            elif row["what"] == "record" and row["seq"] > seqs.get(row["slot"], 0):
                break
        else:
            raise AssertionError("nothing to cut")
        elsewhere = [row for row in rows[index:] if row["what"] == "record" and row["segment"] != segment]
        self.assertEqual(elsewhere, [], "what is cut is the end of the last segment in use")
        file = next(file for file in (node.dir / "log").glob("*.log") if segment in file.name)
        with open(file, "r+b") as log:
            content = log.read()
            log.seek(frame)
            log.write(bytes(len(content) - frame))

    def lasts(self, node):
        return {slot: info.seq for slot, info in node.slots().items()}

    def test_a_master_takes_its_lost_end_back_from_its_replica(self):
        master, replica = self.pair("--tail-wait-ms", "300000")
        self.fill(master, ["kept"], "1")
        self.wait_until_slave_has_all(master, replica, SLOTS)
        before = self.lasts(master)
        self.fill(master, [f"lost{number}" for number in range(50)], "2")
        # Longer than what a replica reads at once; not so long that the log is synced for its sake.
        self.fill(master, ["long"], "x" * (300 << 10))
        self.wait_until_slave_has_all(master, replica, SLOTS)
        after = self.lasts(master)
        master.kill()
        self.cut(master, before)
        begin = master.log.stat().st_size
        self.assertIn("unclean stop", master.start())
        self.wait(lambda: all("state: master" in info.text for info in master.slots().values()), "it serves again")
        for slot in SLOTS:
            self.assertEqual(master.do("GET", key_in(slot, "kept")), b"1")
            for number in range(50):
                self.assertEqual(master.do("GET", key_in(slot, f"lost{number}")), b"2")
            self.assertEqual(master.do("STRLEN", key_in(slot, "long")), 300 << 10)
        self.assertEqual({slot: seq - 1 for slot, seq in self.lasts(master).items()}, after, "an epoch began after it")
        self.fill(master, ["after"], "3")
        self.wait_until_slave_has_all(master, replica, SLOTS)
        said = master.said(begin)
        self.assertNotIn("is copied", said, "the replica goes on where it was")
        self.assertIn(f"records={sum(after.values()) - sum(before.values())}", said)

    def test_without_its_replica_a_master_waits_for_as_long_as_it_is_told_and_serves(self):
        master, replica = self.pair("--tail-wait-ms", "300000")
        self.fill(master, ["kept"], "1")
        before = self.lasts(master)
        self.fill(master, ["lost"], "2")
        self.wait_until_slave_has_all(master, replica, SLOTS)
        replica.kill()
        master.kill()
        self.cut(master, before)
        master.start()
        self.assertIn("state: recovering", master.slot(1).text)
        master.do("CONFIG", "SET", "handover-hold-ms", "10")
        for words in (("GET", key_in(1, "kept")), ("SET", key_in(1, "new"), "3")):
            self.assertIn("asks its replicas", master.error(*words))
        self.assertIn("asks its replicas", master.error("PKCLUSTER", "REMOVESLOTS", "1"))
        replica.start()
        self.wait(lambda: "state: master" in master.slot(1).text, "it serves again")
        self.assertEqual(master.do("GET", key_in(1, "lost")), b"2")
        self.wait_until_slave_has_all(master, replica, SLOTS)

        # And once more, with nobody to wait for.
        replica.kill()
        master.kill()
        master.flags = [flag if flag != "300000" else "20" for flag in master.flags]
        master.start()
        self.wait(lambda: "state: master" in master.slot(1).text, "it serves again")
        self.assertEqual(master.do("GET", key_in(1, "kept")), b"1")

    def promoted(self):
        """A master that is back after its replica was promoted without it."""
        master, replica = self.pair("--tail-wait-ms", "300000")
        self.fill(master, ["kept"], "1")
        self.wait_until_slave_has_all(master, replica, SLOTS)
        master.kill()
        self.assertIn(replica.pkcluster("slotsslaveof", "no", "one", "all"), (b"OK", True))
        self.fill(replica, ["new"], "2")
        master.start()
        self.wait(lambda: "another node was promoted" in master.said(), "it hears of it")
        return master, replica

    def test_a_master_that_is_back_serves_nobody_where_another_was_promoted_meanwhile_and_follows_when_told(self):
        master, replica = self.promoted()
        for words in (("GET", key_in(1, "kept")), ("SET", key_in(1, "kept"), "old")):
            self.assertIn(f"slot 1 was taken over by {replica.address} ", master.error(*words))
        self.assertIn("may own the slot", master.error("PKCLUSTER", "SLOTSSLAVEOF", "NO", "ONE", "1"))
        # Stops of either change nothing, in order or not.
        master.stop()
        replica.kill()
        replica.start()
        master.start()
        self.wait(lambda: "taken over by" in master.error("GET", key_in(1, "kept")), "it hears of it again")
        self.assertIn(master.do("SLAVEOF", "127.0.0.1", replica.port), (b"OK", True))
        self.wait_until_slave_has_all(replica, master, SLOTS)
        for slot in SLOTS:
            self.assertEqual(master.do("GET", key_in(slot, "new")), b"2")

    def test_a_master_that_is_back_serves_again_when_who_was_promoted_follows_it(self):
        master, replica = self.promoted()
        self.assertIn(replica.do("SLAVEOF", "127.0.0.1", master.port), (b"OK", True))
        self.wait_until_slave_has_all(master, replica, SLOTS)
        self.assertIsNone(master.do("GET", key_in(1, "new")), "what the other had was given up")
        self.assertEqual(master.do("GET", key_in(1, "kept")), b"1")

    def test_a_master_that_is_back_is_told_to_own_its_slots_when_who_was_promoted_is_dead(self):
        master, replica = self.promoted()
        replica.kill()
        self.assertIn("taken over by", master.error("GET", key_in(1, "kept")))
        self.assertIn(master.pkcluster("slotsslaveof", "no", "one", "all"), (b"OK", True))
        self.assertEqual(master.do("GET", key_in(1, "kept")), b"1")

    def test_a_master_that_is_back_gives_up_what_another_took_over(self):
        master, replica = self.promoted()
        self.assertEqual(master.pkcluster("removeslots", "0-2"), b"OK")
        self.assertEqual(master.slots(), {})
        self.assertEqual(replica.do("GET", key_in(1, "new")), b"2")
