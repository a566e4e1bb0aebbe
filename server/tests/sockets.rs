//! What clients see over a socket.

mod common;

use common::{Client, command, standalone, start, start_on};
use haypile_engine::engine::SyncMode;
use haypile_engine::fs::memory::MemoryFs;
use haypile_server::config::Settings;

#[test]
fn a_pipeline_is_answered_in_order_however_it_is_cut() {
    let node = start(standalone());
    let mut pipeline = Vec::new();
    let mut replies = String::new();
    for n in 0..50 {
        let (key, value) = (format!("key:{n}"), format!("value\r\n{n}"));
        pipeline.extend(command(&[b"SET", key.as_bytes(), value.as_bytes()]));
        pipeline.extend(command(&[b"get", key.as_bytes()]));
        pipeline.extend_from_slice(b"nosuch\r\n");
        replies.push_str(&format!(
            "+OK\r\n${}\r\n{value}\r\n-ERR unknown command 'nosuch', with args beginning with: \r\n",
            value.len()
        ));
    }
    let mut whole = Client::connect(node.address);
    whole.send(&pipeline);
    whole.expect(&replies);
    let mut cut = Client::connect(node.address);
    pipeline.iter().for_each(|byte| cut.send(&[*byte]));
    cut.expect(&replies);
    node.stop().expect("a clean stop");
}

#[test]
fn what_is_no_request_is_told_and_the_connection_ends() {
    let node = start(standalone());
    for (bytes, reply) in [
        (&b"*1\r\n$-5\r\n"[..], "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*9999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"ping\r\n*1\r\n+x\r\n", "+PONG\r\n-ERR Protocol error: expected '$', got '+'\r\n"),
        (b"set k \"v\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
    ] {
        let mut client = Client::connect(node.address);
        client.send(bytes);
        client.expect(reply);
        assert_eq!(client.rest(), "");
    }
    let mut client = Client::connect(node.address);
    client.ask("quit", "+OK\r\n");
    assert_eq!(client.rest(), "");
    node.stop().expect("a clean stop");
}

#[test]
fn a_stranger_gets_no_data_and_no_memory() {
    let node = start(Settings { requirepass: "secret".into(), ..standalone() });
    let mut client = Client::connect(node.address);
    client.ask("get k", "-NOAUTH Authentication required.\r\n");
    client.send(b"*11\r\n");
    client.expect("-ERR Protocol error: unauthenticated multibulk length\r\n");
    assert_eq!(client.rest(), "");
    let mut client = Client::connect(node.address);
    client.ask("auth secret", "+OK\r\n");
    client.ask("get k", "$-1\r\n");
    client.send(&command(&[
        b"mget",
        &[b'k'; 20_000],
        b"1",
        b"2",
        b"3",
        b"4",
        b"5",
        b"6",
        b"7",
        b"8",
        b"9",
        b"10",
    ]));
    client.expect("*11\r\n$-1\r\n");
    node.stop().expect("a clean stop");
}

#[test]
fn large_values_go_through_and_a_slow_reader_holds_up_nobody() {
    let node = start(Settings { reply_bytes_max: 64 << 10, ..standalone() });
    let value = vec![b'x'; 4 << 20];
    let mut client = Client::connect(node.address);
    client.send(&command(&[b"set", b"large", &value]));
    client.expect("+OK\r\n");
    // The replies are more than any socket buffer takes: the node stops reading this client, not the others.
    let asks = 20;
    (0..asks).for_each(|_| client.send(b"get large\r\n"));
    let mut other = Client::connect(node.address);
    other.ask("ping", "+PONG\r\n");
    let reply = format!("${}\r\n{}\r\n", value.len(), String::from_utf8_lossy(&value));
    (0..asks).for_each(|_| client.expect(&reply));
    node.stop().expect("a clean stop");
}

#[test]
fn too_many_clients_are_told_so() {
    let node = start(Settings { maxclients: 2, ..standalone() });
    let mut kept = [Client::connect(node.address), Client::connect(node.address)];
    kept.iter_mut().for_each(|client| client.ask("ping", "+PONG\r\n"));
    assert_eq!(Client::connect(node.address).rest(), "-ERR max number of clients reached\r\n");
    kept[0].ask("quit", "+OK\r\n");
    assert_eq!(kept[0].rest(), "");
    // The place is free as soon as the connection has left the list, which is before its socket closes.
    kept[1].ask("config set maxclients 3", "+OK\r\n");
    Client::connect(node.address).ask("ping", "+PONG\r\n");
    node.stop().expect("a clean stop");
}

#[test]
fn a_client_is_killed_from_another_worker_even_while_it_waits() {
    let node = start(standalone());
    let mut victims: Vec<Client> = (0..4).map(|_| Client::connect(node.address)).collect();
    victims.iter_mut().for_each(|victim| victim.ask("ping", "+PONG\r\n"));
    let mut killer = Client::connect(node.address);
    killer.ask("client kill type normal", ":4\r\n");
    victims.iter_mut().for_each(|victim| assert_eq!(victim.rest(), ""));
    killer.ask("client kill id 1", ":0\r\n");
    killer.ask("client kill type normal skipme no", ":1\r\n");
    assert_eq!(killer.rest(), "");
    node.stop().expect("a clean stop");
}

#[test]
fn an_idle_client_is_closed_after_the_timeout() {
    let node = start(Settings { timeout_s: 1, ..standalone() });
    let mut client = Client::connect(node.address);
    client.ask("ping", "+PONG\r\n");
    assert_eq!(client.rest(), "");
    node.stop().expect("a clean stop");
}

#[test]
fn shutdown_answers_what_came_before_and_keeps_everything() {
    let fs = MemoryFs::new();
    let node = start_on(&fs, standalone());
    let mut client = Client::connect(node.address);
    client.send(b"set k v\r\nset e v px 100000000\r\nshutdown\r\n");
    client.expect("+OK\r\n+OK\r\n");
    assert_eq!(client.rest(), "");
    node.wait().expect("a clean stop");
    let node = start_on(&fs, standalone());
    assert!(node.opened.clean && !node.opened.fresh);
    let mut client = Client::connect(node.address);
    client.ask("get k", "$1\r\nv\r\n");
    client.ask("exists e", ":1\r\n");
    node.stop().expect("a clean stop");
}

#[test]
fn a_node_behind_codis_has_no_slots_until_it_is_given_some() {
    let node = start(Settings { slots: "579".into(), standalone: false, ..standalone() });
    let mut client = Client::connect(node.address);
    client.ask("set a 1", "+OK\r\n");
    client.send(b"get b\r\nmget a b\r\nping\r\n");
    for _ in 0..2 {
        client.expect(
            "-ERR Partition not found: slot 1017 is not on this node; send the key to the node that has it, or add it \
             here: PKCLUSTER ADDSLOTS 1017\r\n",
        );
    }
    client.expect("+PONG\r\n");
    client.ask("hello 3", "-NOPROTO unsupported protocol version\r\n");
    client.ask("dbsize", ":1\r\n");
    node.stop().expect("a clean stop");
}

#[test]
fn writers_on_both_workers_never_tear_a_command_over_several_slots() {
    let node = start(standalone());
    let address = node.address;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for round in 0..200 {
                    client.ask(
                        &format!("mset a {writer}:{round} b {writer}:{round} c {writer}:{round}"),
                        "+OK\r\n",
                    );
                    client.send(b"mget a b c\r\n");
                    let mut seen = Vec::new();
                    client.expect("*3\r\n");
                    (0..3).for_each(|_| seen.push(client.bulk()));
                    assert!(seen.iter().all(|value| *value == seen[0]), "{seen:?}");
                    client.send(b"incr count\r\n");
                    client.line();
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().expect("no torn command"));
    Client::connect(address).ask("get count", "$3\r\n800\r\n");
    node.stop().expect("a clean stop");
}

#[test]
fn a_new_connection_is_heard_while_a_script_has_the_only_worker() {
    let settings = Settings { worker_threads: 1, script_ms_max: 600_000, ..standalone() };
    let running = start(settings);
    let mut runs = Client::connect(running.address);
    runs.send(b"EVAL \"while true do end\" 0\r\n");
    // Before the script runs there is nothing to kill; who comes in its first moments waits with it.
    let killed = (0..300).any(|_| {
        let mut kills = Client::connect(running.address);
        kills.send(b"SCRIPT KILL\r\n");
        kills.line_soon().is_some_and(|line| line == "+OK")
    });
    assert!(killed, "nobody was heard");
    assert!(runs.line().contains("Script killed by user"));
    running.stop().expect("the node stops");
}

#[test]
fn a_long_script_keeps_no_worker_and_others_are_told_that_it_is_busy() {
    let settings =
        Settings { worker_threads: 1, script_busy_ms: 300, script_ms_max: 600_000, ..standalone() };
    let running = start(settings);
    let [mut runs, mut other] = [(); 2].map(|()| Client::connect(running.address));
    other.ask("set elsewhere 1", "+OK\r\n");
    runs.send(b"EVAL \"redis.call('set', KEYS[1], 1) while true do end\" 1 k\r\n");
    let busy = "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
    // Until the script has begun there is nothing to wait for.
    let told = (0..3000).any(|_| {
        other.send(b"exists k\r\n");
        other.line() == busy
    });
    assert!(told, "nobody was told");
    // The connections of its worker, and the slots that it does not hold, are served.
    other.ask("incr elsewhere", ":2\r\n");
    for line in ["dbsize", "set k 2", "eval \"return 1\" 1 k", "scan 0"] {
        other.ask(line, &format!("{busy}\r\n"));
    }
    other.ask("multi", "+OK\r\n");
    other.ask("incr k", "+QUEUED\r\n");
    other.ask("exec", &format!("-EXECABORT Transaction discarded because of: {}\r\n", &busy[1..]));
    other.ask("script kill", "+OK\r\n");
    assert!(runs.line().contains("Script killed by user"));
    other.ask("exists k", ":0\r\n");
    running.stop().expect("the node stops");
}

#[test]
fn a_long_script_ends_with_what_it_did_and_who_waited_for_it_goes_on() {
    let running = start(Settings { worker_threads: 1, ..standalone() });
    let [mut runs, mut other] = [(); 2].map(|()| Client::connect(running.address));
    let script = "local function ms() local t = redis.call('time') return t[1] * 1000 + t[2] / 1000 end \
         local begin = ms() while ms() < begin + 300 do end return redis.call('incr', KEYS[1])";
    runs.send(&common::command(&[b"EVAL", script.as_bytes(), b"1", b"k"]));
    other.send(b"INCR k\r\n");
    let mut counted = [runs.line(), other.line()];
    counted.sort();
    assert_eq!(counted, [":1", ":2"]);
    other.ask("get k", "$1\r\n2\r\n");
    running.stop().expect("the node stops");
}

#[test]
fn a_client_that_leaves_while_it_waits_is_forgotten_though_it_has_sent_more() {
    let running = start(standalone());
    let mut other = Client::connect(running.address);
    let mut waiting = |wanted: usize| {
        (0..600).any(|_| {
            other.send(b"info clients\r\n");
            let told = other.bulk();
            std::thread::yield_now();
            let is = told.contains(&format!("blocked_clients:{wanted}\r\n"));
            if !is {
                other.ask("debug sleep 0.05", "+OK\r\n");
            }
            is
        })
    };
    let mut leaves = Client::connect(running.address);
    leaves.send(b"BLPOP l 0\r\nPING\r\n");
    assert!(waiting(1));
    drop(leaves);
    assert!(waiting(0));
    other.ask("rpush l a", ":1\r\n");
    other.ask("llen l", ":1\r\n");
    running.stop().expect("the node stops");
}

#[test]
fn clients_of_one_worker_that_send_at_once_are_answered_each_in_its_order() {
    for sync in [SyncMode::EverySec, SyncMode::Always] {
        let node = start(Settings { worker_threads: 1, sync, ..standalone() });
        let address = node.address;
        let clients = (0..8).map(|number| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for round in 1..=100 {
                    client.ask(&format!("incr own:{number}"), &format!(":{round}\r\n"));
                    client.send(
                        format!("hset all {number}:{round} {round}\r\nhget all {number}:{round}\r\n")
                            .as_bytes(),
                    );
                    client.expect(&format!(":1\r\n${}\r\n{round}\r\n", round.to_string().len()));
                    // A score that goes up, and members beside those of the others.
                    client.ask(
                        &format!("zadd ranks {round} {number}"),
                        if round == 1 { ":1\r\n" } else { ":0\r\n" },
                    );
                    client.ask(&format!("zadd ranks {round} {number}:{round}"), ":1\r\n");
                    client.send(format!("rpush to:{} {round}\r\n", number ^ 1).as_bytes());
                    // The other may not have taken the last one yet.
                    client.line();
                    client.send(format!("blpop to:{number} 0\r\n").as_bytes());
                    client.expect(&format!(
                        "*2\r\n$4\r\nto:{number}\r\n${}\r\n{round}\r\n",
                        round.to_string().len()
                    ));
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().for_each(|client| client.join().expect("every answer was its own"));
        let mut client = Client::connect(address);
        client.ask("hlen all", ":800\r\n");
        client.ask("zcard ranks", ":808\r\n");
        client.ask("zcount ranks 100 100", ":16\r\n");
        client.ask("zrank ranks 0:1", ":0\r\n");
        node.stop().expect("a clean stop");
    }
}

#[test]
fn who_waits_for_a_list_is_served_by_a_script_without_keys_in_a_transaction() {
    let node = start(standalone());
    let (mut waits, mut serves) = (Client::connect(node.address), Client::connect(node.address));
    waits.send(b"blpop l 0\r\n");
    loop {
        serves.send(b"client list\r\n");
        if serves.bulk().contains("flags=b") {
            break;
        }
    }
    serves.ask("multi", "+OK\r\n");
    serves.ask("eval \"return redis.call('lpush', 'l', 'x')\" 0", "+QUEUED\r\n");
    serves.ask("exec", "*1\r\n:1\r\n");
    waits.expect("*2\r\n$1\r\nl\r\n$1\r\nx\r\n");
    node.stop().expect("a clean stop");
}
