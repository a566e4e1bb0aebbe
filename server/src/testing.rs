//! For tests of commands, here and in `fuzz`: a node without sockets, and replies as text that can be compared.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use haypile_engine::clock::SystemClock;
use haypile_engine::engine::{Engine, Gate, Options};
use haypile_engine::fs::Fs;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::testing;
use haypile_engine::types::Slot;
use haypile_replication::hub::{self, Replication};

use crate::config::Settings;
use crate::execute::{self, Begun, Next, Runner, Scratch};
use crate::node::Node;
use crate::resp::{Proto, ReplyWriter, split_words};
use crate::session::Session;
use crate::table::Run;

/// A connection to a node of its own that has all slots.
pub struct Bench {
    /// The node.
    pub node: Arc<Node>,
    /// The connection.
    pub session: Session,
    runtime: tokio::runtime::Runtime,
    scratch: Scratch,
    proto: Proto,
    /// Whether the node ends with it.
    first: bool,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.first {
            self.node.replication.shutdown();
        }
    }
}

impl Bench {
    /// A standalone node, spoken to in RESP2.
    #[allow(clippy::new_without_default)] // a default that starts a runtime would surprise
    pub fn new() -> Bench {
        Bench::with(Settings { standalone: true, ..Settings::default() })
    }

    /// A node with these settings.
    pub fn with(settings: Settings) -> Bench {
        Bench::on(Arc::new(testing::engine()), settings)
    }

    /// A node with these settings on a store that the test has opened.
    pub fn on(engine: Arc<Engine>, settings: Settings) -> Bench {
        let fs = MemoryFs::new();
        fs.create_dir_all(Path::new(&settings.dir)).expect("an empty file system takes a folder");
        let nobody = hub::Settings::new("127.0.0.1:1".to_owned());
        let replication = Replication::start(engine.clone(), nobody).expect("a thread");
        let node = Arc::new(Node::new(engine, replication, Arc::new(fs), settings, None, 0));
        node.tell_of_expired();
        Bench::connected(node, true)
    }

    /// One more connection to the node; not to be used after the first.
    #[must_use]
    pub fn beside(&self) -> Bench {
        Bench::connected(self.node.clone(), false)
    }

    fn connected(node: Arc<Node>, first: bool) -> Bench {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let client = node.clients.enter(nowhere, nowhere, -1, 0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let session = Session::new(client, true);
        Bench { node, session, runtime, scratch: Scratch::default(), proto: Proto::Resp2, first }
    }

    /// A standalone node whose data these commands have made, all of it in files and nothing in memory.
    pub fn cold(commands: impl IntoIterator<Item = String>) -> Bench {
        let fs = Arc::new(MemoryFs::new());
        let open = || {
            let options = Options { log_segment_bytes: 1 << 20, ..Options::default() };
            let clock = Arc::new(SystemClock::new());
            Arc::new(Engine::open(fs.clone(), Path::new("/haypile"), clock, options).expect("it opens").0)
        };
        let settings = Settings { standalone: true, ..Settings::default() };
        let engine = open();
        engine.add_slots(&Slot::all().collect::<Vec<_>>()).expect("slots are added");
        let mut bench = Bench::on(engine, settings.clone());
        for command in commands {
            let reply = bench.run(&command);
            assert!(!reply.starts_with('-'), "{reply}");
        }
        bench.node.engine.close().expect("it stops cleanly");
        drop(bench);
        Bench::on(open(), settings)
    }

    /// Runs a command; its reply, and how often it had to wait for blocks and was run again.
    pub fn run_counted(&mut self, line: &str) -> (String, u64) {
        let fetches = |bench: &Bench| bench.node.stats.keyspace_fetches.load(Ordering::Relaxed);
        let before = fetches(self);
        let reply = self.run(line);
        (reply, fetches(self) - before)
    }

    /// Speaks RESP3 from here on.
    pub fn resp3(mut self) -> Bench {
        self.proto = Proto::Resp3;
        self
    }

    /// Runs a command given as an inline command (words, quotes); its reply with line ends as blanks, such as
    /// `$3 abc` or `*2 :1 :2`.
    pub fn run(&mut self, line: &str) -> String {
        let words = split_words(line.as_bytes()).expect("balanced quotes");
        let reply = self.run_raw(&words);
        String::from_utf8_lossy(&reply).replace("\r\n", " ").trim_end().to_owned()
    }

    /// Runs a command; its reply as it would be sent.
    pub fn run_raw(&mut self, args: &[impl AsRef<[u8]>]) -> Vec<u8> {
        let args = &args.iter().map(AsRef::as_ref).collect::<Vec<_>>()[..];
        let handle = self.runtime.handle().clone();
        let _within = handle.enter();
        if self.node.engine.is_full() {
            // No background work runs here, and writes would wait for it.
            self.node.engine.flush_all().expect("a disk in memory takes it");
        }
        let mut reply = ReplyWriter::new(self.proto);
        let mut gate = Gate::default();
        let checked = execute::check(&self.node, &self.session, args);
        let mut since_ns = self.node.nanos();
        let mut runner = Runner {
            node: &self.node,
            session: &mut self.session,
            args,
            now: self.node.wall(),
            since_ns: &mut since_ns,
            scratch: &mut self.scratch,
            reply: &mut reply,
            gate: &mut gate,
        };
        match checked {
            Err(text) => runner.refuse(&text),
            Ok(checked) => {
                let next = match runner.begin(checked) {
                    Begun::Done(next) => next,
                    // There is nobody else who could bring what it waits for: its time is over at once.
                    Begun::Waits(waits) if waits.blocks() && !matches!(checked.0.run, Run::Waiting(..)) => {
                        runner.reply.null_array();
                        Next::Go
                    }
                    Begun::Waits(waits) => self.runtime.block_on(runner.go_on(checked, waits)),
                };
                assert!(matches!(next, Next::Go), "{next:?}");
            }
        }
        self.proto = reply.proto();
        self.session.written.records.clear();
        self.node.engine.write().expect("the log takes it");
        self.node.deliver(&mut self.session.outbox);
        reply.as_bytes().to_vec()
    }

    /// Runs lines of `command -> expected reply` (blanks around the arrow and empty lines don't matter).
    ///
    /// # Panics
    /// At the first line whose reply is another.
    pub fn check(&mut self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (command, expected) = line.split_once("->").expect("command -> reply");
            assert_eq!(self.run(command.trim()), expected.trim(), "{}", command.trim());
        }
    }
}

#[test]
fn a_bench_runs_commands_and_shows_their_replies() {
    Bench::new().check(
        "get k                -> $-1
         set k \"a b\"        -> +OK
         GET k                -> $3 a b
         get                  -> -ERR wrong number of arguments for 'get' command
         ping                 -> +PONG
         select 1             -> -ERR DB index is out of range
         nosuch a             -> -ERR unknown command 'nosuch', with args beginning with: 'a'",
    );
}
