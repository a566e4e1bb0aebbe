"""Bad input from clients and operators: each a clear error that names the thing; no crash, no unbounded memory."""

import socket
import unittest

import redis

from harness import Case, StartFailed, free_port, key_in

PATIENCE_S = 30


class Wire(Case):
    def setUp(self):
        super().setUp()
        self.it = self.node("node", "--standalone")
        self.it.do("SET", "k", "v")

    def send(self, *parts, close=False):
        """Sends bytes on a connection of their own; everything that comes back until the node closes, or until its
        first line if it does not."""
        with socket.create_connection(("127.0.0.1", self.it.port), timeout=PATIENCE_S) as connection:
            try:
                for part in parts:
                    connection.sendall(part)
                if close:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the node has closed already: what it said is still to be read
            answer = b""
            while close or b"\n" not in answer:
                try:
                    got = connection.recv(65536)
                except ConnectionResetError:
                    break
                if not got:
                    break
                answer += got
            return answer

    def well(self):
        self.assertEqual(self.it.do("GET", "k"), b"v")
        self.assertTrue(self.it.alive())

    def test_malformed_requests_get_a_protocol_error_and_the_connection_is_closed(self):
        cases = {
            b"*1\r\n:1\r\n": b"expected '$'",
            b"*1\r\n$x\r\n": b"invalid bulk length",
            b"*1\r\n$-5\r\n": b"invalid bulk length",
            b"*x\r\n": b"invalid multibulk length",
            b"*1048577\r\n": b"invalid multibulk length",
            b"*2147483648\r\n": b"invalid multibulk length",
            b"*99999999999999999999\r\n": b"invalid multibulk length",
            b"*1\r\n$9223372036854775807\r\n": b"invalid bulk length",
            b"*1\r\n$99999999999999999999999\r\n": b"invalid bulk length",
            b"*1\r\n$536870913\r\n": b"invalid bulk length",
            b'set "unbalanced\r\n': b"unbalanced quotes",
        }
        for sent, words in cases.items():
            with self.subTest(sent=sent):
                answer = self.send(sent, close=True)
                self.assertTrue(answer.startswith(b"-"), answer)
                self.assertIn(b"Protocol error", answer)
                self.assertIn(words, answer)
        self.well()

    def test_nested_arrays_are_refused_however_deep(self):
        for depth in (2, 100, 20000):
            answer = self.send(b"*1\r\n" * depth, close=True)
            self.assertIn(b"expected '$'", answer)
        self.well()

    def test_lines_without_an_end_are_cut_off(self):
        for start in (b"", b"*", b"*1\r\n$"):
            answer = self.send(start + b"1" * (1 << 20), close=True)
            self.assertIn(b"Protocol error", answer)
        self.well()

    def test_random_bytes_never_hurt(self):
        for _ in range(200):
            self.send(self.random.randbytes(self.random.randrange(1, 400)), close=True)
        for _ in range(200):
            request = bytearray(b"*3\r\n$3\r\nSET\r\n$5\r\nother\r\n$3\r\nabc\r\n" * 3)
            for _ in range(self.random.randrange(1, 4)):
                request[self.random.randrange(len(request))] = self.random.randrange(256)
            self.send(bytes(request), close=True)
        self.well()

    def test_announced_lengths_take_no_memory_until_the_bytes_come(self):
        before = self.it.rss_bytes()
        connections = []
        for _ in range(64):
            connection = socket.create_connection(("127.0.0.1", self.it.port), timeout=PATIENCE_S)
            connection.sendall(b"*1000000\r\n$536870912\r\nabc")
            connections.append(connection)
        # What came after them has been answered, so they have been read.
        for _ in range(10):
            self.well()
        self.assertLess(self.it.rss_bytes() - before, 64 << 20)
        for connection in connections:
            connection.close()
        self.well()

    def test_a_client_that_never_reads_is_not_read_from_for_ever(self):
        self.it.do("SET", "big", b"x" * (1 << 20))
        before = self.it.rss_bytes()
        with socket.create_connection(("127.0.0.1", self.it.port), timeout=PATIENCE_S) as connection:
            connection.setblocking(False)
            sent, request = 0, b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n" * 100
            for _ in range(500):
                try:
                    sent += connection.send(request)
                except BlockingIOError:
                    self.well()
            self.assertLess(self.it.rss_bytes() - before, 256 << 20, f"after {sent} bytes of requests")
        self.well()

    def test_requests_before_auth_are_kept_small(self):
        node = self.node("locked", "--standalone", "--requirepass", "secret", password="secret")
        self.it, it = node, self.it
        self.assertIn(b"unauthenticated", self.send(b"*1000\r\n", close=True))
        self.assertIn(b"unauthenticated", self.send(b"*2\r\n$4\r\nAUTH\r\n$20000000\r\n", close=True))
        self.assertIn(b"NOAUTH", self.send(b"GET k\r\n"))
        self.it = it

    def test_wrong_commands_get_redis_own_texts(self):
        cases = [
            (("NOSUCH", "a"), "unknown command 'NOSUCH'"),
            (("GET",), "wrong number of arguments for 'get' command"),
            (("SET", "k", "v", "EX", "0"), "invalid expire time in 'set' command"),
            (("SET", "k", "v", "NOPE"), "syntax error"),
            (("INCR", "k"), "value is not an integer or out of range"),
            (("LPUSH", "k", "x"), "WRONGTYPE"),
            (("SELECT", "1"), "out of range"),
            (("SELECT", "x"), "value is not an integer or out of range"),
            (("SETRANGE", "r", "536870912", "x"), "maximum allowed size"),
            (("SETBIT", "b", "4294967296", "1"), "bit offset is not an integer or out of range"),
        ]
        for words, text in cases:
            with self.subTest(words=words):
                said = self.it.error(*words)
                self.assertIn(text.replace("WRONGTYPE", "wrong kind of value"), said)
        self.well()


class Operator(Case):
    def setUp(self):
        super().setUp()
        self.it = self.node("node")
        self.it.pkcluster("addslots", "0-3")

    def test_groups_that_make_no_sense_are_refused_and_change_nothing(self):
        for verb in ("addslots", "removeslots", "delslots"):
            for group in ("1024", "0-1024", "4294967296", "0-4294967295", "18446744073709551616", "3-1", "-1", "1-",
                          "a", "1-2-3", " 1", "+1", "0x1", "1;2"):
                with self.subTest(verb=verb, group=group):
                    said = self.it.error("PKCLUSTER", verb, group)
                    self.assertTrue(said, "an error says something")
                    self.assertEqual(set(self.it.slots()), {0, 1, 2, 3})
        for group in ("1024", "4294967296", "0-4294967295"):
            self.assertIn("out of range", self.it.error("PKCLUSTER", "addslots", group))
        self.assertLess(self.it.peak_bytes(), 512 << 20)

    def test_an_empty_group_and_a_trailing_comma_are_fine(self):
        for group in ("", ","):
            self.assertEqual(self.it.pkcluster("addslots", group), b"OK")
            self.assertEqual(self.it.pkcluster("delslots", group), b"OK")
        self.assertEqual(self.it.pkcluster("addslots", "0,1,2,"), b"OK", "what is there already is fine")
        self.assertEqual(set(self.it.slots()), {0, 1, 2, 3})
        self.assertIn("Slots set empty", self.it.error("PKCLUSTER", "slotsslaveof", "127.0.0.1", 1, ""))

    def test_a_call_that_is_wrong_in_one_slot_changes_none(self):
        self.assertIn("1024", self.it.error("PKCLUSTER", "addslots", "10-12,1024"))
        self.assertEqual(set(self.it.slots()), {0, 1, 2, 3})
        said = self.it.error("PKCLUSTER", "slotsslaveof", "127.0.0.1", free_port(), "3,9")
        self.assertIn("9", said)
        self.assertEqual(self.it.slot(3).role, "Master")

    def test_itself_as_master_is_refused_by_every_name(self):
        for host in ("127.0.0.1", "localhost"):
            said = self.it.error("PKCLUSTER", "slotsslaveof", host, self.it.port, "1")
            self.assertTrue("itself" in said or "self" in said or "this node" in said, said)
            self.assertEqual(self.it.slot(1).role, "Master", said)
        self.assertEqual(self.it.do("SET", key_in(1, "k"), "v"), True)

    def test_an_unknown_host_a_closed_port_and_a_silly_port_are_named(self):
        closed = free_port()
        self.assertIn("no-such-host.invalid", self.it.error("PKCLUSTER", "slotsslaveof", "no-such-host.invalid", 1234, "1"))
        self.assertIn(str(closed), self.it.error("PKCLUSTER", "slotsslaveof", "127.0.0.1", closed, "1"))
        for port in ("0", "65536", "-1", "x", "4294967296"):
            self.assertTrue(self.it.error("PKCLUSTER", "slotsslaveof", "127.0.0.1", port, "1"))
        self.assertEqual(self.it.slot(1).role, "Master")
        self.assertEqual(self.it.do("SET", key_in(1, "k"), "v"), True)

    def test_a_wrong_password_for_the_master_is_told(self):
        master = self.node("master", "--requirepass", "right", password="right")
        master.pkcluster("addslots", "1")
        replica = self.node("replica", "--masterauth", "wrong")
        replica.pkcluster("addslots", "1")
        try:
            replica.pkcluster("slotsslaveof", "127.0.0.1", master.port, "1")
        except redis.ResponseError as error:
            said = str(error)
        else:
            said = self.wait(lambda: (info := replica.slot(1)) and info.status != "kConnected" and "pass" in info.text.lower()
                             and info.text, lambda: f"the reason names the password: {replica.slot(1).text}")
        self.assertIn("pass", said.lower())
        self.assertTrue(replica.alive() and master.alive())

    def test_words_that_pkcluster_does_not_know_are_refused(self):
        for words in (("bogus",), ("addslots",), ("addslots", "1", "0", "x"), ("slotsslaveof", "1"),
                      ("slotsslaveof", "127.0.0.1", "1", "1", "nope"), ("addtable", "1", "16"), ("deltable", "0"), ()):
            with self.subTest(words=words):
                self.assertTrue(self.it.error("PKCLUSTER", *words))
        self.assertEqual(set(self.it.slots()), {0, 1, 2, 3})

    def test_a_key_of_an_absent_slot_names_the_slot_and_the_remedy(self):
        said = self.it.error("GET", "foo")
        self.assertIn("Partition not found", said)
        self.assertIn("289", said)
        self.assertIn("addslots", said.lower())

    def test_data_commands_on_another_database_are_refused_behind_codis(self):
        for number in range(16):
            client = self.it.client(db=0)
            client.connection_pool.max_connections = 1
            pipeline = client.pipeline(transaction=False)
            pipeline.execute_command("SELECT", number)
            pipeline.execute_command("GET", key_in(1, "k"))
            selected, got = pipeline.execute(raise_on_error=False)
            self.assertIn(selected, (True, b"OK"))
            self.assertEqual(isinstance(got, Exception), number != 0, got)
            client.close()
        self.assertTrue(self.it.error("SELECT", 16))

    def test_resp3_is_refused_behind_codis(self):
        self.assertTrue(self.it.error("HELLO", "3"))


class Flags(Case):
    def refused(self, *flags):
        node = self.node("wrong", *flags, start=False)
        node.may_end_with |= {1, 2}
        with self.assertRaises(StartFailed) as raised:
            node.start()
        self.assertIn(raised.exception.status, (1, 2))
        self.assertNotIn("panicked", raised.exception.output)
        return raised.exception.output

    def test_wrong_flags_are_named(self):
        self.assertIn("--nosuch", self.refused("--nosuch", "1"))
        self.assertIn("sometimes", self.refused("--sync", "sometimes"))
        self.assertIn("4294967296", self.refused("--slots", "4294967296"))
        self.assertIn("203.0.113.77", self.refused("--bind", "203.0.113.77"))

    def test_a_configuration_file_is_read_and_a_wrong_line_in_it_is_named(self):
        path = self.folder / "node.conf"
        path.write_text("# a comment\nslots 0-9\nsync always\n\nrequirepass \"a b\"\n")
        node = self.node("node", "--config", str(path), password="a b")
        self.assertEqual(len(node.slots()), 10)
        self.assertEqual(node.do("CONFIG", "GET", "sync"), [b"sync", b"always"])
        path.write_text("slots 0-9\nnosuch 1\n")
        said = self.refused("--config", str(path))
        self.assertIn(str(path), said)
        self.assertIn("nosuch", said)
        self.assertIn("2", said)
        self.assertIn("absent.conf", self.refused("--config", str(self.folder / "absent.conf")))


if __name__ == "__main__":
    unittest.main()
