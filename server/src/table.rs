//! What a command is, and the table of all commands.
//!
//! Every file in `commands/` exports `COMMANDS`, made with the builders of `rows`; this file joins them and finds one by
//! its name, in any case. The table is built once, at the first look. A command that has second words (`CLIENT LIST`)
//! has a row for each: what such a word means is a command of its own, with its own arity, flags and keys.

use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;

use crate::commands;
use crate::commands::sub;
use crate::cx::{Cx, Fail};
use crate::session::{SessionCx, Taken};

mod rows;

pub use rows::Group;

/// Properties of a command, as a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(u16);

impl Flags {
    /// None of the others.
    pub const NONE: Flags = Flags(0);
    /// May change data: runs on a slot's master only.
    pub const WRITE: Flags = Flags(1);
    /// Reads data: runs on a replica too.
    pub const READONLY: Flags = Flags(1 << 1);
    /// For the operator.
    pub const ADMIN: Flags = Flags(1 << 2);
    /// Takes constant or logarithmic time.
    pub const FAST: Flags = Flags(1 << 3);
    /// May come before AUTH.
    pub const NO_AUTH: Flags = Flags(1 << 4);
    /// Refused within a transaction and a script.
    pub const NO_MULTI: Flags = Flags(1 << 5);
    /// Can do harm or take long: an operator may want to restrict it.
    pub const DANGEROUS: Flags = Flags(1 << 6);
    /// Runs at once within a transaction, before its EXEC.
    pub const UNQUEUED: Flags = Flags(1 << 7);
    /// May be sent in RESP2 by who listens to channels.
    pub const LISTENING: Flags = Flags(1 << 8);

    /// Answers a codis-server, which takes nothing but an ack: a failure is one too, and ends the connection.
    pub const ACKED: Flags = Flags(1 << 9);

    /// For the operator alone, where that is restricted: see [`crate::operator`].
    pub const OPERATOR: Flags = Flags(1 << 10);

    /// Not on keys, and locks slots all the same, each in its turn.
    pub const OVER_SLOTS: Flags = Flags(1 << 11);

    /// Waits for what comes of itself: that is no time that it takes.
    pub const HELD: Flags = Flags(1 << 12);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` is in the set.
    #[must_use]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Where a command's keys stand among its arguments (0 is the command's name).
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// It has none.
    None,
    /// From `first` to `last`, each `step`-th. A negative `last` counts from the end: -1 is the last argument.
    Range {
        /// The first key's position.
        first: usize,
        /// The last one's.
        last: isize,
        /// From one to the next.
        step: usize,
    },
    /// The arguments decide: the function appends the keys' positions. Where the arguments make no sense it appends
    /// nothing, and the command, which runs then with no key, answers the error.
    Custom(fn(args: &[&[u8]], positions: &mut Vec<usize>)),
}

impl Keys {
    /// One key, right after the name.
    pub const FIRST: Keys = Keys::Range { first: 1, last: 1, step: 1 };
    /// Two keys, right after the name.
    pub const FIRST_TWO: Keys = Keys::Range { first: 1, last: 2, step: 1 };
    /// All arguments are keys.
    pub const ALL: Keys = Keys::Range { first: 1, last: -1, step: 1 };

    /// Appends the positions of the keys in `args`.
    pub fn positions(&self, args: &[&[u8]], positions: &mut Vec<usize>) {
        match *self {
            Keys::None => {}
            Keys::Range { first, last, step } => {
                let last = match usize::try_from(last) {
                    Ok(last) => last.min(args.len().saturating_sub(1)),
                    Err(_) => args.len().saturating_sub(last.unsigned_abs()),
                };
                let mut at = first;
                while at <= last {
                    positions.push(at);
                    at += step;
                }
            }
            Keys::Custom(find) => find(args, positions),
        }
    }
}

/// The positions of keys that follow their number, which stands at `at`; for [`Keys::Custom`].
pub fn numbered_keys(args: &[&[u8]], at: usize, positions: &mut Vec<usize>) {
    let count = args.get(at).and_then(|text| crate::number::integer(text));
    let Some(count) = count.and_then(|count| usize::try_from(count).ok()) else { return };
    if count <= args.len().saturating_sub(at + 1) {
        positions.extend(at + 1..=at + count);
    }
}

/// What an async command gives back.
pub type Pending<'a> = Pin<Box<dyn Future<Output = Result<(), Fail>> + 'a>>;

/// See [`Command::at_once`].
pub type AtOnce = fn(&mut SessionCx<'_>) -> Result<bool, Fail>;

/// How a command is run.
#[derive(Clone, Copy)]
pub enum Run {
    /// On the data of its keys' slots, all of them locked. It is plain code without waiting, and may be run again from
    /// the start after a cache miss (its reply cut off, its writes dropped): no effect outside its [`Cx`].
    Data(fn(&mut Cx<'_>) -> Result<(), Fail>),
    /// On the session and the node. Runs once, waits for nothing.
    Session(fn(&mut SessionCx<'_>) -> Result<(), Fail>),
    /// On the session and the node, and may wait. What came before it in the batch is written and answered first.
    Async(for<'a> fn(&'a mut SessionCx<'_>) -> Pending<'a>),
    /// As an async one, and may wait for ever. Within a transaction it does what the first function does, and waits for
    /// nothing.
    Waiting(fn(&mut SessionCx<'_>) -> Result<(), Fail>, for<'a> fn(&'a mut SessionCx<'_>) -> Pending<'a>),
    /// The commands that came since MULTI, as one.
    Exec,
    /// Nothing by itself: its second word says what.
    Family,
    /// Takes the connection over for good, for another protocol. What came before it is answered first.
    Takeover(fn(Taken) -> Pin<Box<dyn Future<Output = ()>>>),
}

/// What a command is beside Redis' of this name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stand {
    /// As in Redis.
    Same,
    /// In this it differs.
    Differs(&'static str),
    /// It is there to be refused, with these words.
    Refused(&'static str),
    /// Redis has none of this name.
    Own,
}

/// One command, or one second word of a command.
#[derive(Clone, Copy)]
pub struct Command {
    /// Its name, in lower case; of a second word `client|list`.
    pub name: &'static str,
    /// The number of arguments with the name; if negative, at least so many.
    pub arity: i32,
    /// Its properties.
    pub flags: Flags,
    /// Where its keys are.
    pub keys: Keys,
    /// Its group in Redis' documentation: `string`, `hash`, `server` ...
    pub group: &'static str,
    /// The version of Redis that has had it first.
    pub since: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// How it is run.
    pub run: Run,
    /// Of an async one: tries to do all of it at once, without waiting. Where it says no (`false`), nothing has happened, and it
    /// is run as an async one.
    pub at_once: Option<AtOnce>,
    /// Its second words.
    pub subs: &'static [Command],
    /// What it is beside Redis'.
    pub stand: Stand,
    /// Its place among all commands and second words, from 0 without a gap: see [`count`]. The table sets it.
    pub id: usize,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Command").field(&self.name).finish()
    }
}

impl Command {
    /// Whether it may be called with so many arguments (the name included).
    #[must_use]
    pub fn takes(&self, args: usize) -> bool {
        let arity = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        if self.arity >= 0 { args == arity } else { args >= arity }
    }

    /// Its second word of this name, in any case.
    #[must_use]
    pub fn sub(&self, word: &[u8]) -> Option<&'static Command> {
        self.subs.iter().find(|sub| sub.word().as_bytes().eq_ignore_ascii_case(word))
    }

    /// Its name without that of the command whose second word it is.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, word)| word)
    }
}

/// Why a request names no command that can be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// There is none of this name.
    Unknown,
    /// Of this command there is no such second word.
    UnknownSub(&'static str),
    /// This one takes another number of arguments.
    Arity(&'static str),
}

/// The command that a request means, with its second word if it has one; it may be called with so many arguments.
///
/// # Errors
/// If there is none.
pub fn resolve(args: &[&[u8]]) -> Result<&'static Command, Unfit> {
    let name = args.first().map_or(&b""[..], |name| &name[..]);
    let mut command = find(name).ok_or(Unfit::Unknown)?;
    if let ([_, ..], Some(word)) = (command.subs, args.get(1)) {
        command = command.sub(word).ok_or(Unfit::UnknownSub(command.name))?;
    }
    if command.takes(args.len()) { Ok(command) } else { Err(Unfit::Arity(command.name)) }
}

/// All commands, and where to find each.
struct Table {
    commands: Vec<&'static Command>,
    /// How many there are, with all second words.
    count: usize,
    /// Perfect: under `seed` no two names fall on the same place.
    places: Vec<Option<&'static Command>>,
    seed: u64,
}

const PLACES: usize = 8192;

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new(commands::ALL));

impl Table {
    fn new(groups: &[&'static [Command]]) -> Table {
        let mut count = 0;
        let mut number = |mut command: Command| {
            command.id = count;
            count += 1;
            command
        };
        let mut rows: Vec<Command> = groups.iter().flat_map(|group| group.iter()).copied().collect();
        rows.sort_by_key(|command| command.name);
        for command in &mut rows {
            *command = number(*command);
            if !command.subs.is_empty() {
                let mut subs: Vec<Command> = command.subs.to_vec();
                subs.sort_by_key(|sub| sub.name);
                subs.push(sub::help_row(command));
                // The table is built once and lives as long as the process.
                command.subs = Vec::leak(subs.into_iter().map(&mut number).collect());
            }
        }
        let commands: Vec<&'static Command> = Vec::leak(rows).iter().collect();
        for pair in commands.windows(2) {
            assert_ne!(pair[0].name, pair[1].name, "two commands have one name");
        }
        let (seed, places) = (0..)
            .find_map(|seed| Some((seed, Table::place(&commands, seed)?)))
            .expect("some seed parts a few hundred names over thousands of places");
        Table { commands, count, places, seed }
    }

    fn place(commands: &[&'static Command], seed: u64) -> Option<Vec<Option<&'static Command>>> {
        let mut places = vec![None; PLACES];
        for command in commands {
            let place = &mut places[place_of(command.name.as_bytes(), seed)];
            if place.is_some() {
                return None;
            }
            *place = Some(*command);
        }
        Some(places)
    }
}

fn place_of(name: &[u8], seed: u64) -> usize {
    let hash = name.iter().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from((hash ^ hash >> 32) % PLACES as u64).expect("below the number of places")
}

/// The command of this name, in any case.
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static Command> {
    let command = TABLE.places[place_of(name, TABLE.seed)]?;
    command.name.as_bytes().eq_ignore_ascii_case(name).then_some(command)
}

/// All commands, by name.
#[must_use]
pub fn all() -> &'static [&'static Command] {
    &TABLE.commands
}

/// The command or second word (`client|list`) of this name, in any case.
#[must_use]
pub fn named(name: &[u8]) -> Option<&'static Command> {
    match name.iter().position(|byte| *byte == b'|') {
        Some(bar) => find(&name[..bar])?.sub(&name[bar + 1..]),
        None => find(name),
    }
}

/// How many commands and second words there are: each has its number below it.
#[must_use]
pub fn count() -> usize {
    TABLE.count
}

/// All commands by name, each followed by its second words.
pub fn every() -> impl Iterator<Item = &'static Command> {
    all().iter().flat_map(|command| std::iter::once(*command).chain(command.subs))
}

#[cfg(test)]
mod tests;
