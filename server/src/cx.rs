//! What a data command gets to work with, and how it fails.

use std::borrow::Cow;

use bytes::Bytes;
use haypile_engine::clock::TimeMs;
use haypile_engine::error::Error;
use haypile_engine::key::Key;
use haypile_engine::tx::{Stop, Tx};
use haypile_engine::types::Slot;
use haypile_engine::value::Value;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use crate::blocked::Awaited;
use crate::execute::{self, Hindrance};
use crate::kept::Kept;
use crate::kind::Kind;
use crate::node::Node;
use crate::notify::Event;
use crate::number;
use crate::resp::ReplyWriter;
use crate::table::Flags;

/// Why a command gave no answer of its own.
#[derive(Debug)]
pub enum Fail {
    /// The engine stopped it: run it again after a fetch, or give up.
    Stop(Stop),
    /// The client is told this; the text begins with a code. Nothing that the command wrote is kept.
    Error(Cow<'static, str>),
    /// There is nothing yet, and the command waits for it. What it replied is the answer if it does not get anything.
    Blocks(Blocks),
    /// It runs for long, and keeps a worker from others: it is to be run again off the workers. Nothing of it is kept.
    Long,
}

/// Where a command runs, which says for how long it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// On a worker, by itself: it can be run elsewhere.
    Worker,
    /// On a worker, among others: it has to end there.
    Transaction,
    /// Off the workers.
    Aside,
}

/// Which slots a command may use, where only its run shows which keys it needs: scripts, and SORT with BY and GET.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Those of its keys.
    Keys,
    /// The same, and it may ask for all.
    MayAsk,
    /// It has asked: it is to be run again.
    Asked,
    /// All slots of the node: they are locked.
    Node,
    /// It needs a slot that can't be used right now: it is to be run again once that may have changed.
    Waits(Slot),
}

/// How a command waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocks {
    /// For how long; for ever if `None`.
    pub timeout_ms: Option<u64>,
    /// Whether it waits for its first key and needs the others too; else it waits for any one key, and needs no other.
    pub needs_all: bool,
    /// What it is run again with, where its own arguments mean what is so when it comes.
    pub args: Option<Vec<Bytes>>,
}

impl Blocks {
    /// Waits for any one of its keys.
    #[must_use]
    pub fn for_any(timeout_ms: Option<u64>) -> Blocks {
        Blocks { timeout_ms, needs_all: false, args: None }
    }

    /// Waits for its first key, and needs the others too.
    #[must_use]
    pub fn for_first(timeout_ms: Option<u64>) -> Blocks {
        Blocks { timeout_ms, needs_all: true, args: None }
    }
}

/// Reads for how long a command waits: seconds, with a fraction.
///
/// # Errors
/// In Redis' words.
pub fn timeout(text: &[u8]) -> Result<Option<u64>, Fail> {
    let seconds = number::double(text)
        .filter(|seconds| seconds.is_finite())
        .ok_or_else(|| Fail::error("ERR timeout is not a float or out of range"))?;
    let ms = (seconds * 1000.0).ceil();
    if ms < 0.0 {
        return Err(Fail::error("ERR timeout is negative"));
    }
    // Beyond this a moment from now is not one that Redis can name either.
    if ms > 9.2e18 {
        return Err(Fail::error("ERR timeout is out of range"));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it was looked at
    Ok(Some(ms as u64).filter(|ms| *ms > 0))
}

impl From<Stop> for Fail {
    fn from(stop: Stop) -> Fail {
        Fail::Stop(stop)
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Fail {
        Fail::Stop(Stop::Failed(error))
    }
}

impl Fail {
    /// An error with these words; they begin with a code.
    pub fn error(text: impl Into<Cow<'static, str>>) -> Fail {
        Fail::Error(text.into())
    }

    /// The options make no sense.
    #[must_use]
    pub fn syntax() -> Fail {
        Fail::error("ERR syntax error")
    }

    /// The key holds another type.
    #[must_use]
    pub fn wrong_type() -> Fail {
        Fail::error("WRONGTYPE Operation against a key holding the wrong kind of value")
    }

    /// A whole number was wanted.
    #[must_use]
    pub fn not_integer() -> Fail {
        Fail::error("ERR value is not an integer or out of range")
    }

    /// A number was wanted.
    #[must_use]
    pub fn not_float() -> Fail {
        Fail::error("ERR value is not a valid float")
    }

    /// The number of arguments is wrong in a way that the table can't see.
    #[must_use]
    pub fn arity(command: &str) -> Fail {
        Fail::error(format!("ERR wrong number of arguments for '{command}' command"))
    }
}

/// Reads an argument as a whole number.
///
/// # Errors
/// In Redis' words if it is none.
pub fn integer(text: &[u8]) -> Result<i64, Fail> {
    number::integer(text).ok_or_else(Fail::not_integer)
}

/// Reads an argument as a whole number within limits.
///
/// # Errors
/// `message` (with its code) if it is out of them, Redis' words if it is no number.
pub fn integer_in(text: &[u8], from: i64, to: i64, message: &'static str) -> Result<i64, Fail> {
    let value = integer(text)?;
    if (from..=to).contains(&value) { Ok(value) } else { Err(Fail::error(message)) }
}

/// Reads an argument as a number.
///
/// # Errors
/// In Redis' words if it is none.
pub fn double(text: &[u8]) -> Result<f64, Fail> {
    number::double(text).ok_or_else(Fail::not_float)
}

/// Whether an argument is this option, in any case.
#[must_use]
pub fn is(text: &[u8], option: &str) -> bool {
    text.eq_ignore_ascii_case(option.as_bytes())
}

/// What a data command works with. Everything it does goes through here.
pub struct Cx<'a> {
    /// The slots of all its keys, locked.
    pub tx: Tx<'a>,
    /// Its arguments; the first is its name.
    pub args: &'a [&'a [u8]],
    /// Its keys, in the order in which the table finds them.
    pub keys: &'a [Key],
    /// Where its reply goes.
    pub reply: &'a mut ReplyWriter,
    /// Drawn once for the command, however often it runs: see [`Cx::rng`].
    pub seed: u64,
    /// The node, for what is no data of a slot.
    pub node: &'a Node,
    /// The arguments of commands that it runs, if it is a script.
    pub kept: &'a Kept<'a>,
    /// Where it runs.
    pub turn: Turn,
    /// Whether a script calls it.
    pub in_script: bool,
    /// Which slots it may use.
    pub reach: Reach,
    /// The keys of its slots that others wait for.
    pub awaited: Awaited<'a>,
    /// What it tells who listens to keys, once it is committed.
    pub events: Vec<Event>,
}

impl<'a> Cx<'a> {
    /// Checks that it may use a key which it has not named as one, as a command with these flags would; `words` are the error
    /// where no more than the slots of its keys may be used.
    ///
    /// # Errors
    /// A miss if it has to be run again with all slots; else for the client.
    pub fn check_reach(
        &mut self,
        key: &Key,
        flags: Flags,
        words: impl FnOnce() -> String,
    ) -> Result<(), Fail> {
        let slot = key.slot();
        match (self.tx.covers(key), self.reach) {
            (true, reach) => {
                let write = flags.has(Flags::WRITE);
                // Else it was locked as one of the command's own, and looked at as such.
                if reach == Reach::Node || self.turn == Turn::Transaction {
                    self.check_slot(slot, write)?;
                }
                if write && self.node.leaving.any() && self.node.leaving.has(key.user()) {
                    return Err(self.run_again(Reach::Waits(slot)));
                }
                Ok(())
            }
            (false, Reach::MayAsk) => Err(self.run_again(Reach::Asked)),
            (false, Reach::Node) => {
                Err(Fail::error(format!("ERR Partition not found: slot {slot} is not on this node")))
            }
            (false, Reach::Keys | Reach::Asked | Reach::Waits(_)) => Err(Fail::error(words())),
        }
    }

    /// Checks that the node serves a locked slot that the command has not named.
    ///
    /// # Errors
    /// A miss if that may be so soon; else for the client.
    pub fn check_slot(&mut self, slot: Slot, write: bool) -> Result<(), Fail> {
        match execute::hindrance_at(&self.tx, slot, write) {
            None if write => self.node.require_replicas(&[slot]),
            None => Ok(()),
            Some(Hindrance::Fenced(_)) => Err(self.run_again(Reach::Waits(slot))),
            Some(Hindrance::Refused(text) | Hindrance::Gone(_, text)) => Err(Fail::error(text)),
        }
    }

    /// Ends this run of the command: nothing of it is kept, and it runs again once what it needs may be there.
    fn run_again(&mut self, needs: Reach) -> Fail {
        self.reach = needs;
        Fail::Stop(Stop::Miss)
    }

    /// Checks that all slots of the node are locked for it; `words` are the error where it may not ask for them.
    ///
    /// # Errors
    /// A miss if it has to be run again with all slots; else for the client.
    pub fn check_reach_all(&mut self, words: impl FnOnce() -> String) -> Result<(), Fail> {
        match self.reach {
            Reach::Node => Ok(()),
            Reach::MayAsk => Err(self.run_again(Reach::Asked)),
            Reach::Keys | Reach::Asked | Reach::Waits(_) => Err(Fail::error(words())),
        }
    }

    /// An argument; 0 is the name.
    ///
    /// # Panics
    /// If there are fewer: the table's arity is wrong.
    #[must_use]
    pub fn arg(&self, index: usize) -> &'a [u8] {
        self.args[index]
    }

    /// A key.
    ///
    /// # Panics
    /// If there are fewer: the table's key positions are wrong.
    #[must_use]
    pub fn key(&self, index: usize) -> &'a Key {
        &self.keys[index]
    }

    /// The time in the slot of the key: what relative expiries count from.
    #[must_use]
    pub fn now(&self, key: &Key) -> TimeMs {
        self.tx.now(key.slot())
    }

    /// Random numbers; the same ones if the command runs again, so that it asks for the blocks that were fetched for it.
    #[must_use]
    pub fn rng(&self) -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(self.seed)
    }

    /// What `open` makes of the value at a key, which must be of this type, where it lies.
    ///
    /// # Errors
    /// WRONGTYPE, what `open` says, or what the engine meets.
    pub fn open<T, E: Into<Fail>>(
        &mut self,
        key: &Key,
        kind: Kind,
        open: impl FnOnce(&Value<&[u8]>) -> Result<T, E>,
    ) -> Result<Option<T>, Fail> {
        match self.tx.read(key, |value| (value.kind == kind as u8).then(|| open(&value)))? {
            None => Ok(None),
            Some(None) => Err(Fail::wrong_type()),
            Some(Some(opened)) => opened.map(Some).map_err(Into::into),
        }
    }

    /// As [`Cx::open`], for a command that only reads: what is opened may be replied with where it lies.
    ///
    /// # Errors
    /// As there.
    pub fn show<T, E: Into<Fail>>(
        &mut self,
        key: &Key,
        kind: Kind,
        show: impl FnOnce(&Value<&[u8]>, &mut ReplyWriter) -> Result<T, E>,
    ) -> Result<Option<T>, Fail> {
        let reply = &mut *self.reply;
        match self.tx.look(key, |value| (value.kind == kind as u8).then(|| show(&value, reply)))? {
            None => Ok(None),
            Some(None) => Err(Fail::wrong_type()),
            Some(Some(shown)) => shown.map(Some).map_err(Into::into),
        }
    }

    /// The value at a key, which must be of this type.
    ///
    /// # Errors
    /// WRONGTYPE, or what the engine meets.
    pub fn read(&mut self, key: &Key, kind: Kind) -> Result<Option<Value>, Fail> {
        match self.tx.get(key)? {
            Some(value) if value.kind != kind as u8 => Err(Fail::wrong_type()),
            other => Ok(other),
        }
    }
}
