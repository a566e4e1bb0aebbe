#!/usr/bin/env python3
"""Writes a real Redis' (7.0) replies behind the commands of a script of `command -> reply` lines, as unit tests of
commands read them: line ends of a reply are blanks. A name that ends in `.resp3` is recorded in RESP3.

    tests/differential/record.py server/src/commands/lists/replies.resp2 ...
"""
import shlex, subprocess, sys, tempfile

from lists_zsets import connect, free_port

WIDTH = 60


def main():
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(redis, stdout=subprocess.DEVNULL)
        try:
            for path in sys.argv[1:]:
                record(path, connect(port, 3 if path.endswith(".resp3") else 2, server))
        finally:
            server.kill()
            server.wait()


def record(path, client):
    client.run([b"FLUSHALL"])
    with open(path) as file:
        commands = [line.split("->")[0].strip() for line in file]
    with open(path, "w") as file:
        for command in commands:
            reply = ""
            if command:
                raw, _ = client.run([word.encode() for word in shlex.split(command)])
                reply = f"{command.ljust(WIDTH)} -> {raw.replace(bytes([13, 10]), b' ').decode().rstrip()}"
            file.write(reply + "\n")


if __name__ == "__main__":
    main()
