//! Reads of so much that they neither keep their slots locked nor a worker: they run on their slots as they were when they
//! came ([`haypile_engine::tx::still`]), on a thread of their own, and their replies leave while they are made.
//!
//! Only what a client asks for by itself goes this way: in a transaction and in a script all is done under locks.

use std::sync::{Mutex, MutexGuard};

use haypile_engine::tx::still::Still;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::*;
use crate::blocked::Awaited;

/// A read of more elements than these goes on so: some milliseconds.
pub(super) const ELEMENTS_MAX: usize = 32_768;

/// So many such reads run at a time: each has a thread, and keeps files and memtables.
const STREAMS_MAX: usize = 16;

/// Between two looks of a read whose client is slow at whether somebody waits for its place.
const LOOK: Duration = Duration::from_millis(250);

/// The places of such reads.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    wants: Mutex<Wants>,
}

/// How many wait, and for how many of them somebody gives up a place.
#[derive(Default, Debug)]
struct Wants {
    waiting: usize,
    /// At most `waiting`. A place that comes from elsewhere counts as a given one: then one more than needed may go.
    given: usize,
}

impl Default for Places {
    fn default() -> Places {
        Places { free: Arc::new(Semaphore::new(STREAMS_MAX)), wants: Mutex::default() }
    }
}

/// A wait for a place: counted until it ends, however it ends.
struct Waits<'a>(&'a Places);

impl<'a> Waits<'a> {
    fn begin(places: &'a Places) -> Waits<'a> {
        places.wants().waiting += 1;
        Waits(places)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut wants = self.0.wants();
        wants.waiting -= 1;
        wants.given = wants.given.saturating_sub(1);
    }
}

impl Places {
    /// A place, if one is free.
    #[must_use]
    pub fn free(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// Waits for a place.
    pub async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        let _waits = Waits::begin(self);
        self.free.clone().acquire_owned().await.ok()
    }

    /// Resolves once it is time to give a place up, since somebody waits for one: not before this time has passed.
    pub async fn wanted_after(&self, time: Duration) {
        tokio::time::sleep(time).await;
        while !self.may_give() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether one who waits has nobody yet who gives up a place for it; who asks does, then.
    fn may_give(&self) -> bool {
        let mut wants = self.wants();
        let may = wants.given < wants.waiting;
        wants.given += usize::from(may);
        may
    }

    fn wants(&self) -> MutexGuard<'_, Wants> {
        self.wants.lock().expect("no code panics while it holds this lock")
    }
}

/// A read that is to run so.
pub struct Job {
    pub(super) node: Arc<Node>,
    /// Which command it is.
    pub command: &'static Command,
    pub(super) body: Body,
    pub(super) args: Vec<Bytes>,
    pub(super) keys: Vec<Key>,
    pub(super) seed: u64,
    pub(super) proto: Proto,
    pub(super) still: Still,
    pub(super) permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Job").field(&self.command).finish()
    }
}

/// A reply that is being made. The read ends soon after this is dropped.
pub struct Stream {
    pieces: Receiver<Vec<u8>>,
    ran: JoinHandle<Ran>,
}

/// How a read ended, and what of its reply has not been given.
type Ran = (Result<(), Fail>, Vec<u8>);

/// Whether a command is one that may go on so.
pub(super) fn is_fit(command: &Command) -> bool {
    command.flags.has(Flags::READONLY) && command.group != crate::commands::scripting::GROUP
}

/// What is asked for.
pub(super) struct Asked<'a> {
    pub command: &'static Command,
    pub body: Body,
    pub args: &'a [&'a [u8]],
    pub keys: &'a [Key],
    pub seed: u64,
    pub proto: Proto,
}

/// Makes a read that has come to its limit one that goes on off the worker, on what the transaction sees. `permit` is its
/// place, if it has waited for one; `gate` is joined by what it saw.
pub(super) fn begin(
    node: &Arc<Node>,
    mut tx: Tx<'_>,
    asked: &Asked<'_>,
    permit: Option<OwnedSemaphorePermit>,
    gate: &mut Gate,
) -> Attempt {
    let Some(permit) = permit.or_else(|| node.streams.free()) else {
        return Attempt::Crowded;
    };
    // What has expired is noted before anybody hears of it.
    for key in asked.keys {
        match tx.read(key, |_| ()) {
            Ok(_) => {}
            Err(Stop::Miss) => return Attempt::Missed(tx.abandon()),
            Err(stop) => return Attempt::Done(Err(stop.into())),
        }
    }
    let still = tx.still();
    match tx.discard() {
        Ok(seen) => gate.join(seen),
        Err(error) => return Attempt::Done(Err(error.into())),
    }
    let Asked { command, body, args, keys, seed, proto } = *asked;
    let args = args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect();
    let (node, keys) = (node.clone(), keys.to_vec());
    Attempt::Streams(Box::new(Job { node, command, body, args, keys, seed, proto, still, permit }))
}

impl Job {
    /// Begins to read.
    #[must_use]
    pub fn start(self) -> Stream {
        let (give, pieces) = channel(1);
        Stream { pieces, ran: tokio::task::spawn_blocking(move || self.run(&give)) }
    }

    fn run(self, give: &Sender<Vec<u8>>) -> Ran {
        let Job { node, command, body, args, keys, seed, proto, still, permit } = self;
        let args: Vec<&[u8]> = args.iter().map(|arg| &arg[..]).collect();
        let still = Arc::new(still);
        let mut fetched = Fetched::default();
        let ran = loop {
            let (to, reader) = (give.clone(), still.clone());
            let mut reply = ReplyWriter::new(proto);
            reply.pour_into(move |piece| {
                if to.blocking_send(piece).is_err() {
                    reader.end();
                }
            });
            let kept = Kept::default();
            let (done, wanted) = {
                let mut cx = Cx {
                    tx: node.engine.begin_still(&still, &fetched),
                    args: &args,
                    keys: &keys,
                    reply: &mut reply,
                    seed,
                    node: &node,
                    kept: &kept,
                    turn: Turn::Aside,
                    in_script: false,
                    reach: Reach::Keys,
                    awaited: Awaited::default(),
                    events: Vec::new(),
                };
                (body(&mut cx), cx.tx.abandon())
            };
            // A block that could not be read: now it is heard why.
            if matches!(done, Err(Fail::Stop(Stop::Miss))) && !reply.has_poured() && !still.has_ended() {
                match node.engine.fetch(wanted, &mut fetched) {
                    Ok(()) => continue,
                    Err(error) => break (Err(error.into()), Vec::new()),
                }
            }
            break (done, reply.as_bytes().to_vec());
        };
        if let Some(still) = Arc::into_inner(still)
            && let Err(error) = node.engine.end_still(still)
        {
            tracing::warn!(command = command.name, %error, "what a long read has left in memory is not in a file yet");
        }
        drop(permit);
        ran
    }
}

impl Stream {
    /// The next piece of the reply; `None` when it has ended.
    pub async fn piece(&mut self) -> Option<Vec<u8>> {
        self.pieces.recv().await
    }

    /// How it ended, and the last piece.
    pub async fn end(self) -> Ran {
        self.ran.await.unwrap_or_else(|_| (Err(Fail::error("ERR the node stops")), Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All places, and so many reads that wait for one.
    async fn crowded(
        places: &Arc<Places>,
        waiting: usize,
    ) -> (Vec<OwnedSemaphorePermit>, Vec<JoinHandle<Option<OwnedSemaphorePermit>>>) {
        let taken = std::iter::from_fn(|| places.free()).collect();
        let mut waits = Vec::new();
        for _ in 0..waiting {
            let places = Arc::clone(places);
            waits.push(tokio::spawn(async move { places.wait().await }));
        }
        while places.wants().waiting < waiting {
            tokio::task::yield_now().await;
        }
        (taken, waits)
    }

    #[tokio::test]
    async fn for_each_who_waits_one_gives_up_its_place_whatever_was_served_before() {
        let places = Arc::new(Places::default());
        assert!(!places.may_give());
        let (mut taken, waits) = crowded(&places, 3).await;
        let mut served = Vec::new();
        // One after another: who is served takes no other's turn.
        for wait in waits {
            assert!(places.may_give());
            drop(taken.pop());
            served.push(wait.await.expect("it ends"));
        }
        assert!(served.iter().all(Option::is_some));
        assert!(!places.may_give());
    }

    #[tokio::test]
    async fn no_more_give_up_their_places_than_wait_and_who_leaves_is_not_counted() {
        let places = Arc::new(Places::default());
        let (mut taken, waits) = crowded(&places, 4).await;
        assert_eq!([(); 5].map(|()| places.may_give()), [true, true, true, true, false]);
        let (mut waits, mut served) = (waits.into_iter(), Vec::new());
        for wait in waits.by_ref().take(2) {
            drop(taken.pop());
            served.push(wait.await.expect("it ends").expect("a place"));
        }
        // Two wait, for whom two have gone.
        assert!(!places.may_give());
        for wait in waits {
            wait.abort();
            assert!(wait.await.is_err());
        }
        assert!(!places.may_give());
        drop(served);
        let (free, mut waits) = crowded(&places, 1).await;
        assert!(places.may_give());
        drop(free);
        assert!(waits.pop().expect("one").await.expect("it ends").is_some());
        assert!(!places.may_give());
    }
}
