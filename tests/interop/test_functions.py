"""Libraries of functions as a node's: its replicas take them, a promoted one has them, checkpoints carry them."""

import subprocess
import unittest
from pathlib import Path

from harness import BINARY, Case, key_in

OK = (b"OK", True)
ADD = "redis.register_function('{0}', function(keys, args) return redis.call('incrby', keys[1], args[1] * {1}) end)"


def library(name, factor=1):
    return f"#!lua name={name}\n" + ADD.format(f"add_{name}", factor)


class Functions(Case):
    def group(self, *names, slots="0-9"):
        nodes = [self.node(name) for name in names]
        nodes[0].pkcluster("addslots", slots)
        for node, upstream in zip(nodes[1:], nodes):
            self.assertIn(node.do("SLAVEOF", "127.0.0.1", upstream.port), OK)
        return nodes

    def names(self, node):
        # In pairs: library_name and its value come first.
        return sorted(found[1].decode() for found in node.do("FUNCTION", "LIST"))

    def dump(self, node):
        return node.do("FUNCTION", "DUMP")

    def same(self, *nodes):
        self.wait(lambda: len({self.dump(node) for node in nodes}) == 1, lambda: f"{[self.names(node) for node in nodes]} are one")

    def test_replicas_take_their_masters_functions_and_a_promoted_one_has_them(self):
        master, replica, chained = self.group("master", "replica", "chained")
        self.assertEqual(b"one", master.do("FUNCTION", "LOAD", library("one")))
        self.assertEqual(b"two", master.do("FUNCTION", "LOAD", library("two", 10)))
        self.same(master, replica, chained)
        self.assertEqual(["one", "two"], self.names(chained))
        master.do("FUNCTION", "LOAD", "REPLACE", library("two", 100))
        master.do("FUNCTION", "DELETE", "one")
        self.same(master, replica, chained)
        for words in (("LOAD", library("three")), ("DELETE", "two"), ("FLUSH",), ("RESTORE", self.dump(master), "REPLACE")):
            self.assertIn("You can't write against a read only replica", replica.error("FUNCTION", *words))
        # The master dies, and the replica as well: it has them on its disk.
        master.kill()
        replica.kill()
        replica.start()
        self.assertEqual(["two"], self.names(replica))
        self.assertIn(replica.do("SLAVEOF", "NO", "ONE"), OK)
        self.assertEqual(500, replica.do("FCALL", "add_two", 1, key_in(3, "n"), 5))
        self.assertEqual(b"four", replica.do("FUNCTION", "LOAD", library("four")))
        # Who comes back takes what there is now.
        master.start()
        self.assertIn(master.do("SLAVEOF", "127.0.0.1", replica.port), OK)
        self.same(replica, master, chained)
        self.assertEqual(["four", "two"], self.names(master))
        replica.do("FUNCTION", "FLUSH")
        self.same(replica, master, chained)
        self.assertEqual([], self.names(master))

    def test_a_node_that_is_handed_all_slots_has_the_functions(self):
        master, replica = self.group("master", "replica")
        master.do("FUNCTION", "LOAD", library("one"))
        self.same(master, replica)
        self.assertIn(replica.do("SLAVEOF", "NO", "ONE"), OK)
        self.assertEqual("Master", replica.slot(3).role)
        self.assertEqual(7, replica.do("FCALL", "add_one", 1, key_in(3, "n"), 7))
        self.assertEqual(b"two", replica.do("FUNCTION", "LOAD", library("two")))

    def test_who_owns_a_slot_or_follows_several_nodes_keeps_its_own(self):
        one, two, node = (self.node(name) for name in ("one", "two", "node"))
        one.pkcluster("addslots", "0-4")
        two.pkcluster("addslots", "5-9")
        for owner in (one, two):
            owner.do("FUNCTION", "LOAD", library("theirs"))
        node.do("FUNCTION", "LOAD", library("ours"))
        node.pkcluster("addslots", "0-10")
        node.pkcluster("slotsslaveof", "127.0.0.1", one.port, "0-4")
        # It owns slot 10.
        self.assertEqual(b"more", node.do("FUNCTION", "LOAD", library("more")))
        node.pkcluster("slotsslaveof", "127.0.0.1", two.port, "5-9")
        node.pkcluster("removeslots", "10")
        # It follows two.
        self.assertEqual(b"most", node.do("FUNCTION", "LOAD", library("most")))
        self.wait_until_slave_has_all(one, node, range(5))
        self.wait_until_slave_has_all(two, node, range(5, 10))
        self.assertEqual(["more", "most", "ours"], self.names(node))
        own = self.dump(node)
        # One alone is left.
        node.pkcluster("slotsslaveof", "no", "one", "5-9", "force")
        node.pkcluster("removeslots", "5-9")
        self.same(one, node)
        self.assertEqual(["theirs"], self.names(node))
        self.assertEqual(own, (Path(node.dir) / "functions.before").read_bytes())

    def test_a_master_that_never_had_a_library_takes_none_away(self):
        master, replica = self.node("master"), self.node("replica")
        master.pkcluster("addslots", "0-9")
        replica.do("FUNCTION", "LOAD", library("ours"))
        self.assertIn(replica.do("SLAVEOF", "127.0.0.1", master.port), OK)
        self.wait_until_slave_has_all(master, replica, range(10))
        self.assertIn("read only replica", replica.error("FUNCTION", "FLUSH"))
        # Another replica that begins with none stays so, which shows that it was asked.
        self.assertIsNone(master.do("HAYPILE.FUNCTIONS", "-"))
        self.assertEqual(["ours"], self.names(replica))
        master.do("FUNCTION", "LOAD", library("theirs"))
        self.same(master, replica)

    def test_what_a_masters_functions_replace_is_kept_and_disturbs_nobody(self):
        master, node = self.node("master"), self.node("replica", "--masterauth", "nobody-asks-for-it")
        master.pkcluster("addslots", "0-9")
        # It never had any, and says now that it has none.
        master.do("FUNCTION", "FLUSH")
        node.do("FUNCTION", "LOAD", library("ours"))
        own = self.dump(node)
        self.assertIn(node.do("SLAVEOF", "127.0.0.1", master.port), OK)
        self.same(master, node)
        self.assertEqual([], self.names(node))
        kept = Path(node.dir) / "functions.before"
        self.assertEqual(own, kept.read_bytes())
        self.wait(lambda: "functions.before" in node.log.read_text(), "the log names the file")
        node.kill()
        checked = subprocess.run([BINARY, "check", str(node.dir)], capture_output=True, text=True, timeout=120)
        self.assertEqual(0, checked.returncode, checked.stdout)
        node.start()
        self.assertEqual([], self.names(node))
        master.do("FUNCTION", "RESTORE", kept.read_bytes())
        self.same(master, node)
        self.assertEqual(["ours"], self.names(node))
        self.assertEqual(own, kept.read_bytes())

    def test_checkpoints_carry_functions_and_old_ones_go_with_them(self):
        node = self.node("node", "--standalone", "--backup-keep", "2")
        node.do("FUNCTION", "LOAD", library("one"))
        node.do("SET", "n", 1)
        folders = []
        for _ in range(3):
            node.do("SAVE")
            folders.append(Path(node.client().info("persistence")["checkpoint_last_dir"]))
        self.assertEqual([False, True, True], [folder.exists() for folder in folders])
        copy = self.node("copy", "--standalone", start=False)
        copy.dir = folders[2]
        copy.start()
        self.assertEqual(6, copy.do("FCALL", "add_one", 1, "n", 5))


if __name__ == "__main__":
    unittest.main()
