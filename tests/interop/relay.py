"""The network between nodes: each node is reached by others through a relay, which can cut, hold up and slow what goes
through it. A node announces its relay's address, so that everything that nodes say to each other comes by here.

A connection that is held up is half-open: neither side hears of it, and new ones are accepted and say nothing. Clients
of the tests reach nodes at their own ports.
"""

import asyncio
import re
import threading

from harness import Node

PIECE_BYTES = 64 << 10
ANNOUNCED = re.compile(rb"HAYPILE\.SYNC.*?(127\.0\.0\.1:\d+)", re.DOTALL)
LOOK_S = 0.01


class Network:
    """All relays, in one thread with one loop."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays", daemon=True)
        self._thread.start()
        self._wires = set()
        self._servers = []
        self._held = {}
        self._slow = {}
        self.cuts = 0
        self.bytes = 0

    def relay(self, node):
        """Begins to listen for a node; the port. It is the node's for as long as the network is."""
        return self._call(self._listen(node))

    def cut(self, *nodes):
        """Ends the connections between two nodes, or all of one, without a word. How many there were."""
        return self._call(self._cut(nodes))

    def hold(self, ways, *nodes):
        """From now on nothing gets through between two nodes, or to and from one: towards who was reached ("in"), back
        ("out"), or both ways."""
        self._call(self._set(self._held, nodes, ways))

    def slow(self, seconds, *nodes):
        """Each piece that goes between two nodes, or to and from one, takes so long."""
        self._call(self._set(self._slow, nodes, seconds))

    def heal(self, *nodes):
        """Takes back what was done to these; without nodes, everything."""
        self._call(self._heal(nodes))

    def close(self):
        async def close():
            for server in self._servers:
                server.close()
            for wire in list(self._wires):
                wire.abort()

        self._call(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self, node):
        async def accepted(reader, writer):
            await Wire(self, node).carry(reader, writer)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def _cut(self, nodes):
        wires = [wire for wire in self._wires if wire.touches(nodes)]
        for wire in wires:
            wire.abort()
        self.cuts += len(wires)
        return len(wires)

    async def _set(self, table, nodes, value):
        table[frozenset(nodes)] = value

    async def _heal(self, nodes):
        for table in (self._held, self._slow):
            if nodes:
                table.pop(frozenset(nodes), None)
            else:
                table.clear()


class Wire:
    """One connection through a relay. Who opened it is known from its first words."""

    def __init__(self, network, server):
        self.network, self.server, self.client = network, server, None
        self._writers = []

    def touches(self, nodes):
        """Whether it is between these two, or this one's."""
        ends = {self.server.reach, self.client}
        return all(node.reach in ends for node in nodes)

    def abort(self):
        for writer in self._writers:
            writer.transport.abort()

    async def carry(self, reader, writer):
        self.network._wires.add(self)
        self._writers.append(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.server.port)
            self._writers.append(back)
            await asyncio.gather(self._pump(reader, back, "in"), self._pump(there, writer, "out"))
        except OSError:
            pass  # nobody listens, or it was cut
        finally:
            self.abort()
            self.network._wires.discard(self)

    async def _pump(self, reader, writer, way):
        while True:
            data = await reader.read(PIECE_BYTES)
            if self.client is None and way == "in" and (announced := ANNOUNCED.search(data)):
                self.client = announced[1].decode()
            while self._is_held(way):
                await asyncio.sleep(LOOK_S)
            for nodes, seconds in list(self.network._slow.items()):
                if self.touches(nodes):
                    await asyncio.sleep(seconds)
            if not data:
                break
            self.network.bytes += len(data)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    def _is_held(self, way):
        return any(ways in (way, "both") and self.touches(nodes) for nodes, ways in self.network._held.items())


class Relayed(Node):
    """A node that others reach through its relay."""

    def __init__(self, network, folder, name, *flags):
        super().__init__(folder, name, *flags)
        self.relay_port = network.relay(self)
        self.flags += ["--announce", self.reach]

    @property
    def reach(self):
        """Where other nodes find it."""
        return f"127.0.0.1:{self.relay_port}"
