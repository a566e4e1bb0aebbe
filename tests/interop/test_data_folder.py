"""The data folder: in use, of a newer format, not ours, not permitted, damaged, full. Each a clear error that names the
thing; nothing is made worse, nothing is silently cut."""

import fcntl
import os
import shutil
import subprocess
import threading
import time
import unittest
import zlib

import redis

from harness import Case, StartFailed, eventually, is_root, key_in


class Folder(Case):
    def refused(self, node):
        """Starts a node that must not start; what it says."""
        node.may_end_with |= {1}
        with self.assertRaises(StartFailed) as raised:
            node.start()
        self.assertEqual(raised.exception.status, 1, raised.exception.output)
        self.assertNotIn("panicked", raised.exception.output)
        return raised.exception.output

    def filled(self, *flags, stop="stop"):
        """A node that has data in log and files, stopped."""
        node = self.node("node", "--slots", "0-9", "--maxmemory", str(16 << 20), "--log-segment-bytes", str(1 << 20), *flags)
        client = node.client()
        value = self.random.randbytes(1000)
        for start in range(0, 20000, 1000):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, start + 1000):
                pipeline.set(key_in(number % 10, f"k{number}"), b"%d:" % number + value)
            pipeline.execute()
        eventually(lambda: any((node.dir / "data").glob("*.pack")), "data was flushed to files")
        getattr(node, stop)()
        self.value = value
        return node

    def everything_is_there(self, node):
        client = node.client()
        for start in range(0, 20000, 1000):
            keys = [key_in(number % 10, f"k{number}") for number in range(start, start + 1000)]
            for number, got in zip(range(start, start + 1000), client.mget(keys)):
                self.assertEqual(got, b"%d:" % number + self.value)

    def test_a_folder_in_use_by_another_process_is_refused_and_the_other_goes_on(self):
        node = self.node("node", "--standalone")
        node.do("SET", "k", "v")
        second = self.node("second", "--standalone", start=False)
        second.dir = node.dir
        said = self.refused(second)
        self.assertIn(str(node.dir), said)
        self.assertIn("in use", said)
        # It waits a while, for one that was killed and still ends, and says so once.
        self.assertEqual(said.count("waiting up to 2 s"), 1, said)
        self.assertEqual(node.do("GET", "k"), b"v")

    def test_a_start_waits_for_a_folder_whose_last_process_still_ends(self):
        node = self.node("node", "--standalone")
        node.do("SET", "k", "v")
        node.kill()
        failed = []

        def start():
            try:
                node.start()
            except StartFailed as why:
                failed.append(why)

        node.may_end_with |= {1}
        # As a killed process does whose last thread is within a sync. A machine may be so slow that it is let go too late.
        while True:
            node.log.unlink()
            failed.clear()
            starting = threading.Thread(target=start)
            with open(node.dir / "LOCK", "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                began = time.monotonic()
                starting.start()
                self.wait(lambda: failed or node.log.exists() and "waiting up to 2 s" in node.said(), "the start waits")
            in_time = time.monotonic() - began < 2
            starting.join()
            if not failed:
                break
            self.assertFalse(in_time, failed)
        self.assertEqual(node.said().count("waiting up to"), 1, node.said())
        self.assertEqual(node.do("GET", "k"), b"v")

    def test_a_folder_without_permission_is_named(self):
        node = self.node("node", "--standalone")
        node.stop()
        if is_root():
            # root may do anything: the node runs as nobody, who can reach the program and the log but not the folder.
            shared = self.folder / "shared"
            shared.mkdir()
            os.chmod(node.dir, 0o700)
            node.wrap = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
            paths = [*self.folder.parents][::-1] + [self.folder]
            closed = [path for path in paths if not os.stat(path).st_mode & 0o001]
            if closed:
                # The way to the test's folder is closed to others: another one that is open to all.
                open_to_all = self.open_folder()
                moved = open_to_all / "node"
                shutil.move(node.dir, moved)
                node.dir = moved
            binary = self.open_folder() / "haypile"
            from harness import BINARY

            shutil.copy(BINARY, binary)
            os.chmod(binary, 0o755)
            node.binary = binary
        else:
            os.chmod(node.dir, 0)
        said = self.refused(node)
        if not is_root():
            os.chmod(node.dir, 0o700)
        self.assertIn(str(node.dir), said)
        self.assertIn("ermission", said)

    def open_folder(self):
        import tempfile
        from pathlib import Path

        folder = Path(tempfile.mkdtemp())
        os.chmod(folder, 0o755)
        self.addCleanup(shutil.rmtree, folder, True)
        return folder

    def test_a_folder_that_is_a_file_or_not_ours_is_named(self):
        node = self.node("node", "--standalone", start=False)
        node.dir.write_text("I am a file")
        self.assertIn(str(node.dir), self.refused(node))
        self.assertEqual(node.dir.read_text(), "I am a file")
        node.dir.unlink()
        node.dir.symlink_to("nowhere")
        self.assertIn("a link that leads nowhere", self.refused(node))

    def test_a_newer_format_is_told_and_left_as_it_is(self):
        node = self.filled()
        cases = {
            "log": (sorted((node.dir / "log").glob("*.log"))[-1], self.newer_segment),
            "manifest": (None, self.newer_manifest),
        }
        for name, (path, change) in cases.items():
            with self.subTest(of=name):
                # Every start begins a new manifest file: which one it is is looked up when it is needed.
                path = path or self.manifest(node)
                before = path.read_bytes()
                path.write_bytes(change(before))
                changed = path.read_bytes()
                said = self.refused(node)
                self.assertIn(path.name, said)
                self.assertIn("newer", said)
                self.assertEqual(path.read_bytes(), changed, "left as it is")
                path.write_bytes(before)
        node.start()
        self.everything_is_there(node)

    def manifest(self, node):
        return node.dir / "manifest" / (node.dir / "manifest" / "CURRENT").read_text().split()[0]

    def newer_segment(self, content):
        """Version 2 in the header of a segment, with the checksum that belongs to it."""
        header = bytearray(content[:64])
        self.assertEqual(header[4:8], b"HPLG")
        header[8:10] = (2).to_bytes(2, "little")
        header[0:4] = zlib.crc32(header[4:64]).to_bytes(4, "little")
        return bytes(header) + content[64:]

    def newer_manifest(self, content):
        """Version 2 in the first frame of a manifest."""
        length = int.from_bytes(content[4:8], "little")
        frame = bytearray(content[: 32 + length])
        self.assertEqual(frame[18:24], b"HPMANI")
        frame[16:18] = (2).to_bytes(2, "little")
        frame[0:4] = zlib.crc32(frame[4:]).to_bytes(4, "little")
        return bytes(frame) + content[32 + length :]

    def test_flipped_bits_anywhere_are_told_and_never_served(self):
        node = self.filled()
        flips = 60
        files = [path for folder in ("log", "manifest", "data") for path in sorted((node.dir / folder).iterdir())
                 if path.suffix != ".tmp" and path.stat().st_size]
        reported = 0
        for number in range(flips):
            path = files[number % len(files)]
            content = path.read_bytes()
            used = len(content.rstrip(b"\0"))
            at = self.random.randrange(max(used, 1))
            flipped = bytearray(content)
            flipped[at] ^= 1 << self.random.randrange(8)
            with self.subTest(file=path.name, at=at):
                path.write_bytes(flipped)
                reported += self.start_or_report(node, path)
            # Back as it was, and as a start leaves it: a copy of the folder was what ran.
            path.write_bytes(content)
        self.assertGreater(reported, flips // 4, "most of what is stored is checked")
        node.start()
        self.everything_is_there(node)

    def start_or_report(self, node, path):
        """Runs a copy of the folder: it refuses to start, or refuses to read, naming the file, or all is well."""
        from harness import Node

        copy = Node(self.folder, "copy", *node.flags)
        self.nodes.append(copy)
        shutil.rmtree(copy.dir, ignore_errors=True)
        shutil.copytree(node.dir, copy.dir)
        copy.may_end_with |= {1}
        try:
            copy.start()
        except StartFailed as failed:
            self.assertEqual(failed.status, 1, failed.output)
            self.assertNotIn("panicked", failed.output)
            self.assertTrue(path.name in failed.output or "manifest" in failed.output, failed.output)
            return 1
        told = 0
        client = copy.client()
        for start in range(0, 20000, 1000):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, start + 1000):
                pipeline.get(key_in(number % 10, f"k{number}"))
            for number, got in zip(range(start, start + 1000), pipeline.execute(raise_on_error=False)):
                if isinstance(got, Exception):
                    told = 1
                    self.assertIn(path.name, str(got))
                else:
                    self.assertEqual(got, b"%d:" % number + self.value, "served wrong data")
        copy.kill()
        self.nodes.remove(copy)
        return told

    def test_a_file_that_is_missing_is_named(self):
        node = self.filled()
        for path in (self.manifest(node), sorted((node.dir / "data").glob("*.pack"))[0]):
            with self.subTest(file=path.name):
                kept = path.read_bytes()
                path.unlink()
                said = self.refused(node)
                self.assertIn(path.name, said)
                path.write_bytes(kept)
        node.start()
        self.everything_is_there(node)


class Full(Case):
    """A disk without space: a small file system of its own where we may mount one, else a limit on the size of files."""

    def test_a_full_disk_refuses_writes_serves_reads_and_heals(self):
        node = self.node("node", "--standalone", "--log-segment-bytes", str(1 << 20), "--maxmemory", str(16 << 20), start=False)
        limit = self.small_disk(node)
        node.start()
        limit.set()
        client = node.client()
        written = {}
        self.fill(client, written, "k")
        self.assertGreater(len(written), 10)
        self.assertTrue(node.alive())
        for key, wanted in written.items():
            self.assertEqual(client.get(key), wanted, "reads go on")
        # What the node frees meanwhile (log that is in files, files that were merged) is soon full again.
        self.fill(client, written, "more")
        limit.lift()
        eventually(lambda: self.writes(node), "writes go on once there is space", 60)
        for key, wanted in written.items():
            self.assertEqual(client.get(key), wanted)
        node.kill()
        node.start()
        client = node.client()
        for key, wanted in written.items():
            self.assertEqual(client.get(key), wanted, "nothing acknowledged is lost")
        self.assertEqual(client.get("after"), b"x")
        node.stop()

    def fill(self, client, written, name):
        """Writes until the node says that the disk is full."""
        value = self.random.randbytes(10_000)
        for number in range(20_000):
            key, told = f"{name}{number}", b"%d:" % number + value
            try:
                client.set(key, told)
            except redis.ResponseError as error:
                self.assertRegex(str(error), "(?i)space|full|too large")
                return
            written[key] = told
        self.fail("writes go on for ever on a full disk")

    def writes(self, node):
        try:
            return node.do("SET", "after", "x")
        except redis.ResponseError:
            return False

    def small_disk(self, node):
        node.dir.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(node.dir)], capture_output=True)
        if mounted.returncode == 0:
            self.addCleanup(subprocess.run, ["umount", "-l", str(node.dir)], check=True)
            return Mounted(node)
        node.dir.rmdir()
        return Limited(node)


class Mounted:
    """A tmpfs of 24 MiB, made larger later."""

    def __init__(self, node):
        self.node = node

    def set(self):
        pass

    def lift(self):
        subprocess.run(["mount", "-o", "remount,size=1g", str(self.node.dir)], check=True)


class Limited:
    """No file may grow: as good as a full disk to the node, where nothing can be mounted."""

    def __init__(self, node):
        self.node = node

    def set(self):
        # What the log has of segments is written on; no file that is to be larger than one can be.
        self._limit(str(1 << 20))

    def lift(self):
        self._limit("unlimited")

    def _limit(self, size):
        subprocess.run(["prlimit", "--pid", str(self.node.pid), f"--fsize={size}:unlimited"], check=True)


if __name__ == "__main__":
    unittest.main()
