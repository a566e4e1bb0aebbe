//! The requests of a batch that come next: some are taken apart before the first of them runs, so that what all of them
//! will touch comes from memory together ([`Engine::bring_near`]).
//!
//! It is kept where arguments lie, not what they are. An inline command's words lie in the parser, which has room for those
//! of one: such a request is the last of its group.

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;
use std::ops::Range;

use haypile_engine::engine::Engine;
use haypile_engine::key::Key;
use haypile_engine::memtable::Guess;
use haypile_engine::near::Look;
use smallvec::SmallVec;

use crate::resp::{Args, Limits, Parsed, Parser, ProtocolError};
use crate::table::{self, Command, Run, Unfit};
use crate::touches;

/// So many requests are a group.
const REQUESTS_MAX: usize = 16;
/// The keys of a request that has more are found when it runs.
const KEYS_MAX: usize = 8;

/// Room for more places is not kept.
const PLACES_KEPT_MAX: usize = 1024;

/// Where the elements that a request will touch probably are.
pub type Guesses = SmallVec<[Guess; 3]>;

/// A request that was found.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Where it begins and ends in the batch.
    start: usize,
    end: usize,
    /// Its places are `args` ones from here on.
    first: usize,
    args: usize,
    /// How many of the keys that were found are its own; 0 if they were not looked for.
    keys: usize,
    /// What it asks for.
    pub command: Result<&'static Command, Unfit>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Ahead {
    requests: Vec<Request>,
    /// The first that has not been begun.
    next: usize,
    /// Where the requests' arguments lie in the batch.
    places: Vec<Range<usize>>,
    /// The keys of those that have not been begun, in order.
    keys: VecDeque<Key>,
    positions: Vec<usize>,
    /// What will be touched in the collections at the keys, and where that probably is, for each request.
    looks: Vec<Look>,
    guesses: Vec<Guesses>,
    /// Bytes of the batch that were taken apart, and those of them that were begun.
    parsed: usize,
    begun: usize,
    /// What came after these requests.
    error: Option<ProtocolError>,
}

impl Ahead {
    /// The batch's next request; `None` if there is no whole one. `batch` are all its bytes.
    ///
    /// # Errors
    /// If what comes next is none.
    pub fn next(
        &mut self,
        parser: &mut Parser,
        batch: &[u8],
        limits: &Limits,
        engine: &Engine,
    ) -> Result<Option<Request>, ProtocolError> {
        if self.next == self.requests.len() {
            self.find(parser, batch, limits);
            self.bring_near(engine);
        }
        let Some(&request) = self.requests.get(self.next) else {
            self.begun = self.parsed;
            return self.error.take().map_or(Ok(None), Err);
        };
        self.next += 1;
        self.begun = request.end;
        Ok(Some(request))
    }

    /// Finds the next group.
    pub fn find(&mut self, parser: &mut Parser, batch: &[u8], limits: &Limits) {
        self.requests.clear();
        self.places.clear();
        self.keys.clear();
        self.looks.clear();
        self.guesses.clear();
        self.next = 0;
        while self.requests.len() < REQUESTS_MAX && self.error.is_none() {
            let start = self.parsed;
            match parser.next(&batch[start..], limits) {
                Ok(Parsed::Request(bytes)) => {
                    self.parsed += bytes;
                    let args = parser.args(&batch[start..]);
                    let command = table::resolve(&args);
                    let keys = find_keys(command, &args, &mut self.positions, &mut self.keys);
                    if keys == 1
                        && let Ok(command) = command
                    {
                        let (by, key) = (self.requests.len(), self.keys.len() - 1);
                        touches::find(command, &args, by, key, &mut self.looks);
                    }
                    let (first, args) = (self.places.len(), args.len());
                    self.requests.push(Request { start, end: self.parsed, first, args, keys, command });
                    if parser.is_inline() || !limits.authenticated {
                        break;
                    }
                    let places = parser.places().iter();
                    self.places.extend(places.map(|place| start + place.start..start + place.end));
                }
                Ok(Parsed::Nothing(bytes)) => self.parsed += bytes,
                Ok(Parsed::Incomplete) => break,
                Err(error) => self.error = Some(error),
            }
        }
    }

    /// Whether there is something to run or to refuse.
    #[must_use]
    pub fn has_found(&self) -> bool {
        !self.requests.is_empty() || self.error.is_some()
    }

    /// Brings near what the group will touch, if that is more than one key.
    pub fn bring_near(&mut self, engine: &Engine) {
        if self.keys.len() > 1 {
            let keys: SmallVec<[&Key; REQUESTS_MAX]> = self.keys.iter().collect();
            engine.bring_near(&keys);
            if !self.looks.is_empty() {
                self.guesses.resize_with(self.requests.len(), Guesses::new);
                engine.bring_elements_near(&keys, &self.looks, |by, guess| self.guesses[by].push(guess));
            }
        }
    }

    /// What the group will touch, if it is a single request and will touch anything: for who brings near what many batches
    /// touch.
    #[must_use]
    pub fn single(&self) -> Option<(impl Iterator<Item = &Key>, &[Look])> {
        (self.requests.len() == 1 && !self.keys.is_empty()).then(|| (self.keys.iter(), &self.looks[..]))
    }

    /// Says where an element that the single request touches probably is.
    pub fn guess(&mut self, guess: Guess) {
        if self.guesses.is_empty() {
            self.guesses.push(Guesses::new());
        }
        self.guesses[0].push(guess);
    }

    /// The keys of the request that has just been given; none if they are still to be found.
    pub fn take_keys(&mut self, request: &Request) -> Drain<'_, Key> {
        self.keys.drain(..request.keys)
    }

    /// Where the elements that the request that has just been given touches probably are.
    #[must_use]
    pub fn guesses(&self) -> &[Guess] {
        let guesses = self.next.checked_sub(1).and_then(|number| self.guesses.get(number));
        guesses.map_or(&[], |guesses| guesses)
    }

    /// A request's arguments.
    #[must_use]
    pub fn args<'a>(&'a self, request: &Request, parser: &'a Parser, batch: &'a [u8]) -> Args<'a> {
        match self.places.get(request.first..request.first + request.args) {
            Some(places) => places.iter().map(|place| &batch[place.clone()]).collect(),
            // It is the last one that was parsed.
            None => parser.args(&batch[request.start..]),
        }
    }

    /// Whether it has taken more memory than a batch usually needs: a request with very many arguments.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.places.capacity().max(self.positions.capacity()) > PLACES_KEPT_MAX
    }

    /// Ends a batch; says how many of its bytes were begun.
    pub fn end(&mut self) -> usize {
        self.requests.clear();
        self.next = 0;
        self.parsed = 0;
        self.error = None;
        std::mem::take(&mut self.begun)
    }
}

/// Finds a data command's keys, unless they are many; says how many there are.
fn find_keys(
    command: Result<&'static Command, Unfit>,
    args: &[&[u8]],
    positions: &mut Vec<usize>,
    keys: &mut VecDeque<Key>,
) -> usize {
    let Some(command) = command.ok().filter(|command| matches!(command.run, Run::Data(_))) else { return 0 };
    positions.clear();
    command.keys.positions(args, positions);
    if positions.len() > KEYS_MAX {
        return 0;
    }
    keys.extend(positions.iter().map(|&at| Key::new(args[at])));
    positions.len()
}

#[cfg(test)]
mod tests {
    use haypile_engine::testing;
    use proptest::prelude::*;

    use super::*;

    /// What was found of a batch: the requests' arguments, the bytes that were begun, and how it ended.
    type Found = (Vec<Vec<Vec<u8>>>, usize, Option<ProtocolError>);

    fn one_by_one(batch: &[u8], limits: &Limits) -> Found {
        let (mut parser, mut taken, mut found) = (Parser::default(), 0, Vec::new());
        loop {
            match parser.next(&batch[taken..], limits) {
                Ok(Parsed::Request(bytes)) => {
                    found.push(parser.args(&batch[taken..]).iter().map(|arg| arg.to_vec()).collect());
                    taken += bytes;
                }
                Ok(Parsed::Nothing(bytes)) => taken += bytes,
                Ok(Parsed::Incomplete) => return (found, taken, None),
                Err(error) => return (found, taken, Some(error)),
            }
        }
    }

    fn ahead(batch: &[u8], limits: &Limits, engine: &Engine) -> Found {
        let (mut parser, mut ahead, mut found) = (Parser::default(), Ahead::default(), Vec::new());
        let error = loop {
            match ahead.next(&mut parser, batch, limits, engine) {
                Ok(None) => break None,
                Err(error) => break Some(error),
                Ok(Some(request)) => {
                    let known: Vec<Key> = ahead.take_keys(&request).collect();
                    let args = ahead.args(&request, &parser, batch);
                    assert_eq!(
                        request.command.ok().map(|command| command.name),
                        table::resolve(&args).ok().map(|command| command.name)
                    );
                    let mut keys = VecDeque::new();
                    find_keys(request.command, &args, &mut Vec::new(), &mut keys);
                    assert!(known.is_empty() || keys == known, "{known:?}");
                    found.push(args.iter().map(|arg| arg.to_vec()).collect());
                }
            }
        };
        (found, ahead.end(), error)
    }

    fn request() -> impl Strategy<Value = Vec<u8>> {
        let array = |words: Vec<&str>| {
            let mut out = format!("*{}\r\n", words.len()).into_bytes();
            words.iter().for_each(|word| out.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes()));
            out
        };
        prop_oneof![
            6 => Just(array(vec!["get", "k"])),
            2 => Just(array(vec!["mset", "a", "1", "{b}c", "2"])),
            2 => Just(array(vec!["del", "1", "2", "3", "4", "5", "6", "7", "8", "9"])),
            1 => Just(array(vec!["nosuch"])),
            1 => Just(array(vec!["ping"])),
            1 => Just(b"set inline 'a b'\r\n".to_vec()),
            1 => Just(b"\r\n".to_vec()),
            1 => Just(b"*0\r\n".to_vec()),
            1 => Just(b"*x\r\n".to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn what_is_found_ahead_is_what_is_found_one_by_one(
            requests in proptest::collection::vec(request(), 0..50),
            cut in 0_usize..40,
            authenticated in any::<bool>(),
        ) {
            let engine = testing::engine();
            let limits = Limits { authenticated, ..Limits::default() };
            let batch = requests.concat();
            let batch = &batch[..batch.len().saturating_sub(cut)];
            prop_assert_eq!(ahead(batch, &limits, &engine), one_by_one(batch, &limits));
        }
    }
}
