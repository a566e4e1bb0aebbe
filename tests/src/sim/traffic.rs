//! What travels: messages from queue to queue, the turns of both sides of a connection, as `replication/src/run.rs`
//! and `transport.rs` take them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use haypile_engine::slot::Role;
use haypile_engine::types::Slot;
use haypile_replication::grants;
use haypile_replication::message::{Message, Purpose as HelloPurpose};
use haypile_replication::peer::Peer;
use haypile_replication::receiver::RETRY_MS_MIN;
use haypile_replication::registry::{PeerCommand, PeerEntry};
use tokio::sync::mpsc::unbounded_channel;

use super::net::{Conn, Delivery, Purpose, Way};
use super::node::{ConnId, Followed, Running, address, node_at};
use super::told;
use super::world::World;

/// A grant that is not answered for so long is asked about.
const GRANT_PATIENCE_MS: u64 = 2000;
/// Messages that may wait on a connection before nothing more is read for it.
const QUEUED_MAX: usize = 40;
/// A connection on which one side hears nothing for so long is given up by it.
const SILENCE_MS_MAX: u64 = 10_000;

impl World<'_> {
    pub(super) fn deliver_something(&mut self) -> Result<(), String> {
        let possible = self.deliveries();
        let Some(&delivery) = self.random.pick(&possible) else { return Ok(()) };
        let count = 1 + self.random.below(4);
        self.deliver(delivery, count)
    }

    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        let now_ms = self.now_ms();
        let mut possible = Vec::new();
        for (&id, conn) in &self.conns {
            if self.parted(conn.client, conn.server) {
                continue;
            }
            let there = |way: &Way| way.has_arrived(now_ms) || (conn.cut && way.is_empty());
            if conn.server_open && there(&conn.to_server) {
                possible.push(Delivery::ToServer(id));
            }
            if conn.client_open && there(&conn.to_client) {
                possible.push(Delivery::ToClient(id));
            }
        }
        possible
    }

    pub(super) fn deliver(&mut self, delivery: Delivery, count: usize) -> Result<(), String> {
        match delivery {
            Delivery::ToServer(id) => self.deliver_to_server(id, count),
            Delivery::ToClient(id) => self.deliver_to_client(id, count),
        }
    }

    fn take(&mut self, id: ConnId, to_server: bool, count: usize) -> Vec<Message> {
        let Some(conn) = self.conns.get_mut(&id) else { return Vec::new() };
        let now_ms = self.now.load(Ordering::Relaxed);
        let (client, server) = (conn.client, conn.server);
        let way = if to_server { &mut conn.to_server } else { &mut conn.to_client };
        let messages = way.take(count, now_ms);
        let heard = if to_server { &mut conn.server_heard_ms } else { &mut conn.client_heard_ms };
        *heard = now_ms;
        for message in &messages {
            let (from, to) = if to_server { (client, server) } else { (server, client) };
            self.copies += usize::from(matches!(message, Message::CopyBegin { .. }));
            self.note(|| format!("{from} -> {to} #{id} {}", summary(message)));
        }
        messages
    }

    fn deliver_to_server(&mut self, id: ConnId, count: usize) -> Result<(), String> {
        let messages = self.take(id, true, count);
        let now_ms = self.now_ms();
        let Some(conn) = self.conns.get(&id) else { return Ok(()) };
        let (client, server) = (conn.client, conn.server);
        if messages.is_empty() {
            self.close_server(id);
            return Ok(());
        }
        for message in messages {
            if let Message::Hello { purpose, .. } = message {
                self.accept(id, client, server, purpose);
                continue;
            }
            if let Message::TailAsk(asks) = &message {
                self.note_asked(server, id, asks);
            }
            let Some(running) = &mut self.nodes[server].running else { return Ok(()) };
            let Some(followed) = running.followed.get_mut(&id) else { return Ok(()) };
            if let Err(why) = followed.peer.on_message(message, now_ms) {
                if self.nodes[server].faulty {
                    self.close_server(id);
                    return Ok(());
                }
                return Err(format!("node {server} says that node {client} breaks the protocol: {why}"));
            }
        }
        self.serve(server, id);
        Ok(())
    }

    fn accept(&mut self, id: ConnId, client: usize, server: usize, purpose: HelloPurpose) {
        let now_ms = self.now_ms();
        // The hello came from the start of the node that opened the connection: its name stays.
        let Some(from) = self.nodes[client].engine().map(|engine| engine.node()) else {
            self.close_server(id);
            return;
        };
        let Some(running) = &mut self.nodes[server].running else { return };
        let (engine, registry) = (Arc::clone(running.engine), Arc::clone(&running.registry));
        let mut peer = Peer::new(Arc::clone(&engine), Arc::clone(&registry), from, address(client));
        peer.came_for(purpose);
        let (commands, inbox) = unbounded_channel();
        let number = registry.next_number();
        let stream = purpose == HelloPurpose::Stream;
        if stream {
            engine.register_replica(from, &address(client));
            let entry = PeerEntry {
                number,
                address: address(client),
                shipper: peer.shipper(),
                follower: peer.follower(),
                since: engine.clock().wall(),
                commands,
            };
            registry.add_peer(from, entry);
        }
        running.followed.insert(id, Followed { peer, inbox, number, from, stream, beat_ms: now_ms });
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.send_to_client([Message::HelloOk { node: engine.node(), features: 0 }], now_ms);
        }
    }

    /// A peer's turn: what the node wants of it, what is to be read for it.
    fn serve(&mut self, server: usize, id: ConnId) {
        let now_ms = self.now_ms();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Some(running) = &mut self.nodes[server].running else { return };
        let Some(followed) = running.followed.get_mut(&id) else { return };
        let mut stop = false;
        while let Ok(command) = followed.inbox.try_recv() {
            stop |= matches!(command, PeerCommand::Stop(_));
            followed.peer.on_command(command, now_ms);
        }
        followed.peer.on_time(now_ms);
        if followed.stream && now_ms >= followed.beat_ms {
            followed.peer.heartbeat();
            followed.beat_ms = now_ms + 1000;
        }
        if followed.peer.waits_at().is_some_and(|at| running.engine.log_end() > at) {
            followed.peer.log_grew();
        }
        if conn.to_client.len() < QUEUED_MAX {
            stop |= followed.peer.pump().is_err();
        }
        conn.send_to_client(followed.peer.take_out(), now_ms);
        stop |= followed.stream && now_ms > conn.server_heard_ms + SILENCE_MS_MAX;
        if stop {
            conn.cut(usize::MAX, usize::MAX);
            self.close_server(id);
        }
    }

    fn close_server(&mut self, id: ConnId) {
        let now_ms = self.now_ms();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        (conn.cut, conn.server_open) = (true, false);
        conn.to_server.clear();
        let server = conn.server;
        if let Some(running) = &mut self.nodes[server].running
            && let Some(mut followed) = running.followed.remove(&id)
        {
            running.registry.remove_peer(followed.from, followed.number);
            followed.peer.lost(now_ms);
        }
        self.note(|| format!("{server} closes #{id}"));
        self.conns.retain(|_, conn| conn.client_open || conn.server_open);
    }

    fn deliver_to_client(&mut self, id: ConnId, count: usize) -> Result<(), String> {
        let messages = self.take(id, false, count);
        let now_ms = self.now_ms();
        let Some(conn) = self.conns.get(&id) else { return Ok(()) };
        let (client, purpose) = (conn.client, conn.purpose.clone());
        if messages.is_empty() {
            self.close_client(id, "cut");
            return Ok(());
        }
        match purpose {
            Purpose::Stream(upstream) => {
                let Some(running) = &mut self.nodes[client].running else { return Ok(()) };
                let Some(following) = running.following.get_mut(&upstream) else { return Ok(()) };
                for message in messages {
                    match message {
                        Message::HelloOk { node, .. } => {
                            following.conn = Some((id, true));
                            following.link.connected(node, now_ms);
                        }
                        message => following.link.on_message(message, now_ms),
                    }
                }
                self.link_turn(client, &upstream);
                Ok(())
            }
            Purpose::Grants(open) => {
                for message in messages {
                    self.grant_answer(client, &open, message)?;
                }
                Ok(())
            }
            Purpose::Tail(from) => {
                messages.into_iter().try_for_each(|message| self.tail_answer(client, id, from, message))
            }
        }
    }

    /// A link's turn: what the node wants of it, its timers, its connection.
    pub(super) fn link_turn(&mut self, client: usize, upstream: &str) {
        let now_ms = self.now_ms();
        let Some(running) = &mut self.nodes[client].running else { return };
        let Some(following) = running.following.get_mut(upstream) else { return };
        while let Ok(command) = following.inbox.try_recv() {
            following.link.on_command(command, now_ms);
        }
        let greeted = following.conn.filter(|(_, greeted)| *greeted);
        let Some((id, _)) = greeted else {
            let waits = following.conn.is_none() && following.link.slot_count() > 0;
            if waits && now_ms >= following.retry_ms {
                self.dial(client, upstream);
            }
            return;
        };
        following.link.on_time(now_ms);
        let broken = following.link.finish_batch(now_ms);
        let out = following.link.take_out();
        let idle = following.link.slot_count() == 0 && following.link.next_deadline_ms().is_none();
        let mut silent = false;
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.send_to_server(out, now_ms);
            silent = now_ms > conn.client_heard_ms + SILENCE_MS_MAX;
        }
        if let Some(why) = broken {
            self.note(|| format!("{client} gives #{id} up: {why}"));
            self.close_client(id, &why);
        } else if silent {
            self.close_client(id, "nothing came");
        } else if idle {
            self.close_client(id, "nothing is followed any more");
        }
    }

    fn dial(&mut self, client: usize, upstream: &str) {
        let now_ms = self.now_ms();
        let Some(server) = node_at(upstream) else { return };
        let up = self.nodes[server].running.is_some() && !self.parted(client, server);
        let Some(running) = &mut self.nodes[client].running else { return };
        let Some(following) = running.following.get_mut(upstream) else { return };
        if !up {
            following.retry_ms = now_ms + RETRY_MS_MIN;
            return;
        }
        self.conns_made += 1;
        let id = self.conns_made;
        following.conn = Some((id, false));
        let pace = self.pace(client, server);
        let mut conn = Conn::new(client, server, Purpose::Stream(upstream.to_owned()), pace, now_ms);
        conn.send_to_server([Message::Hello { features: 0, purpose: HelloPurpose::Stream }], now_ms);
        self.conns.insert(id, conn);
        self.note(|| format!("{client} dials {server} #{id}"));
    }

    pub(super) fn close_client(&mut self, id: ConnId, why: &str) {
        let now_ms = self.now_ms();
        let Some(conn) = self.conns.get_mut(&id) else { return };
        (conn.cut, conn.client_open) = (true, false);
        conn.to_client.clear();
        let (client, purpose) = (conn.client, conn.purpose.clone());
        if let Some(running) = &mut self.nodes[client].running {
            match purpose {
                Purpose::Stream(upstream) => {
                    if let Some(following) = running.following.get_mut(&upstream)
                        && following.conn.is_some_and(|(current, _)| current == id)
                    {
                        following.conn = None;
                        following.retry_ms = now_ms + RETRY_MS_MIN;
                        following.link.disconnected(why, now_ms);
                    }
                }
                Purpose::Grants(_) => drop(running.asking.remove(&id)),
                Purpose::Tail(_) => self.tail_lost(client, id),
            }
        }
        self.note(|| format!("{client} closes #{id}: {why}"));
        self.conns.retain(|_, conn| conn.client_open || conn.server_open);
    }

    /// A node goes round all that it has to do.
    pub(super) fn turn(&mut self, node: usize) -> Result<(), String> {
        let Some(running) = &self.nodes[node].running else { return Ok(()) };
        let upstreams: Vec<String> = running.following.keys().cloned().collect();
        let peers: Vec<ConnId> = running.followed.keys().copied().collect();
        upstreams.iter().for_each(|upstream| self.link_turn(node, upstream));
        peers.into_iter().for_each(|id| self.serve(node, id));
        self.forget_copies(node);
        self.ask_about_grants(node);
        self.ask_for_tails(node)
    }

    /// Copies whose replicas did not come back are let go of, with the log after them.
    fn forget_copies(&mut self, node: usize) {
        let now_ms = self.now_ms();
        let Some(running) = &self.nodes[node].running else { return };
        for (from, slot) in running.registry.copies().expire(now_ms) {
            let serves = |followed: &Followed| {
                let shipper = followed.peer.shipper();
                let phase = shipper.lock().expect("no panic").phase(slot);
                followed.from == from && phase.is_some()
            };
            if !running.followed.values().any(serves) {
                running.engine.unpin(from, slot);
            }
        }
    }

    fn ask_about_grants(&mut self, node: usize) {
        let now_ms = self.now_ms();
        let Some(running) = &mut self.nodes[node].running else { return };
        // The product looks through all slots; here a few are used, and this is asked at every turn.
        let is_granted = |slot: &Slot| matches!(running.engine.role(*slot), Role::Granted { .. });
        let open = if self.slots.iter().any(is_granted) { grants::open(running.engine) } else { Vec::new() };
        running.grants.retain(|_, (known, _)| open.contains(known));
        for grant in open {
            running.grants.entry(grant.slot).or_insert((grant, now_ms));
        }
        if !running.asking.is_empty() {
            return;
        }
        let due = running.grants.values().find(|(_, since)| now_ms >= since + GRANT_PATIENCE_MS).cloned();
        let Some((grant, _)) = due else { return };
        running.grants.insert(grant.slot, (grant.clone(), now_ms));
        let Some(server) = node_at(&grant.address) else { return };
        if self.nodes[server].running.is_none() || self.parted(node, server) {
            return;
        }
        self.conns_made += 1;
        let id = self.conns_made;
        let ask = Message::GrantAsk(vec![(grant.slot, grant.ended, grant.seq)]);
        let open = vec![grant];
        if let Some(running) = &mut self.nodes[node].running {
            running.asking.insert(id, open.clone());
        }
        let mut conn = Conn::new(node, server, Purpose::Grants(open), self.pace(node, server), now_ms);
        conn.send_to_server([Message::Hello { features: 0, purpose: HelloPurpose::Question }, ask], now_ms);
        self.conns.insert(id, conn);
        self.note(|| format!("{node} asks {server} about its grant #{id}"));
    }

    fn grant_answer(&mut self, node: usize, open: &[grants::Open], message: Message) -> Result<(), String> {
        let Some(running): Option<&mut Running<'_>> = self.nodes[node].running.as_mut() else {
            return Ok(());
        };
        let engine = running.engine;
        let mut finished = None;
        match message {
            Message::HelloOk { node: answering, .. } => {
                if !open.iter().all(|grant| grant.to == answering) {
                    return Err(format!("a node changed its name: {answering}"));
                }
            }
            Message::GrantTaken(taken) => {
                let from = open.first().expect("asked about one").to;
                grants::taken(engine, from, &taken);
                finished = Some(format!("{node} hears what began: {taken:?}"));
            }
            Message::GrantRefused { slot, why } => {
                let grant = open.iter().find(|grant| grant.slot == slot).expect("asked about it");
                grants::refused(engine, grant, &why).map_err(|error| told(&error))?;
                finished = Some(format!("{node} slot {slot} is refused: {why}"));
            }
            Message::GrantPending(slot) => finished = Some(format!("{node} slot {slot}: pending")),
            other => return Err(format!("an answer about a grant: {other:?}")),
        }
        if let Some(finished) = finished {
            self.note(|| finished);
            let id = self.nodes[node].running.as_ref().and_then(|r| r.asking.keys().next().copied());
            if let Some(id) = id {
                self.close_client(id, "answered");
            }
        }
        Ok(())
    }
}

/// A message in few words.
fn summary(message: &Message) -> String {
    match message {
        Message::Records { data, more, .. } => format!("Records {} bytes more {more}", data.len()),
        Message::CopyChunk { data, .. } => format!("CopyChunk {} bytes", data.len()),
        other => {
            let mut text = format!("{other:?}");
            text.truncate(200);
            text
        }
    }
}
