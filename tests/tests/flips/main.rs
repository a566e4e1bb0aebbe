//! A bit is flipped in every kind of byte of every file, after a clean stop, a kill and a loss of power: the next start
//! or read says which file, slot and seqs it hit, or all data is exactly right. Never wrong data, never a panic, and
//! fewer records only where nothing on the disk says that they were synced.
//!
//! `HAYPILE_SEED=N cargo test -p haypile-tests --test flips` tries other bits; `HAYPILE_LONG=1` tries every byte. With
//! `--nocapture` it shows how many bytes there are of each kind, how many were tried and what came of them.

mod regions;
mod store;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use haypile_engine::background::Job;
use haypile_engine::error::Error;
use haypile_engine::fs::memory::MemoryFs;
use haypile_engine::random::Coin;
use haypile_engine::sst::read_directory;
use haypile_engine::types::{Seq, Slot};

use regions::{Region, Span, regions};
use store::{Content, Left, Stopped, make, open, open_without_caches, read_all};

/// What came of a flip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// An error that says where.
    Reported,
    /// All data is there.
    Harmless,
    /// What nothing promised is gone.
    Cut,
}

/// A store that was left behind, and what it holds as it is.
struct Case {
    left: Left,
    regions: Vec<Region>,
    holds: Content,
}

impl Case {
    fn new(stopped: Stopped, seed: u64) -> Case {
        let left = make(stopped, seed);
        let holds = read_all(&open(&left.fs.restart()).expect("opens")).expect("reads");
        if !matches!(stopped, Stopped::PowerLost(_)) {
            assert_eq!(Some(&holds), left.states.last().map(|(_, state)| state));
        }
        Case { regions: regions(&left.fs), left, holds }
    }

    /// Flips a bit under a node that runs, and reads everything.
    fn flip_running(&self, region: &Region, offset: u64, bit: u8) -> Result<Outcome, String> {
        let fs = self.left.fs.restart();
        let engine = open_without_caches(&fs).expect("opens");
        fs.flip(&region.path, offset, bit).expect("the file is there");
        match caught(|| read_all(&engine))? {
            Err(error) => is_told(&error, region).map(|()| Outcome::Reported),
            Ok(content) if content == self.holds => Ok(Outcome::Harmless),
            Ok(_) => Err("wrong data, and nobody said so".to_owned()),
        }
    }

    /// Flips a bit and looks at everything.
    fn flip(&self, region: &Region, offset: u64, bit: u8, work: bool) -> Result<Outcome, String> {
        let fs = self.left.fs.restart();
        fs.flip(&region.path, offset, bit).expect("the file is there");
        let seen = caught(|| look(&fs, work))?;
        match seen {
            Err(error) => is_told(&error, region).map(|()| Outcome::Reported),
            Ok(content) if content == self.holds => Ok(Outcome::Harmless),
            Ok(_) if region.promised => Err("wrong data, and nobody said so".to_owned()),
            Ok(content) if self.left.states.iter().any(|(_, state)| *state == content) => Ok(Outcome::Cut),
            Ok(_) => Err("a state that never was".to_owned()),
        }
    }
}

/// What work gives, with a panic as an error.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref().map(|text: &&str| (*text).to_owned()));
        format!("panic: {}", text.unwrap_or_default())
    })
}

/// Opens a store and reads all of it, twice; `work` lets background work go first, which reads what it finds too.
fn look(fs: &MemoryFs, work: bool) -> Result<Content, Error> {
    let engine = open(fs)?;
    if work {
        engine.flush_all()?;
        engine.step(Job::Compact)?;
    }
    let content = read_all(&engine)?;
    drop(engine);
    let again = read_all(&open(&fs.restart())?)?;
    assert_eq!(content, again, "the next start finds something else");
    Ok(content)
}

/// Whether an error says where the damage is and what it hit.
fn is_told(error: &Error, region: &Region) -> Result<(), String> {
    let Error::Corrupt { path, what, .. } = error else {
        return Err(format!("not told as damage: {error}"));
    };
    if *path != region.path {
        return Err(format!("another file is blamed: {error}"));
    }
    let named = spans(what);
    let is_named = |(slot, first, last): &Span| {
        named.iter().any(|(other, from, to)| other == slot && from <= first && last <= to)
    };
    if let Some(span) = region.holds.iter().find(|span| !is_named(span)) {
        return Err(format!("{span:?} was hit and is not named: {error}"));
    }
    let words: Vec<&str> = what.split([' ', ',']).collect();
    let tells_of = |slot: &&Slot| words.windows(2).any(|pair| pair == ["slot", &slot.to_string()]);
    if let Some(slot) = region.about.iter().find(|slot| !tells_of(slot)) {
        return Err(format!("it is about slot {slot}, which is not named: {error}"));
    }
    // A logical frame's parts are on disk in several places, each of which may be hit by itself. All else is told exactly.
    let exact = ["log frame", "log record", "log clean stop", "manifest edits", "manifest state"];
    if exact.iter().any(|kind| region.kind.starts_with(kind)) {
        let held = |slot: Slot, seq: Seq| {
            region.holds.iter().any(|(of, from, to)| *of == slot && *from <= seq && seq <= *to)
        };
        let other =
            named.iter().find(|(slot, first, last)| (first.0..=last.0).any(|seq| !held(*slot, Seq(seq))));
        if let Some(span) = other {
            return Err(format!("{span:?} is named and was not hit: {error}"));
        }
        if what.ends_with("can't be told") || what.ends_with("perhaps more") {
            return Err(format!("one flipped bit, and not told exactly: {error}"));
        }
    }
    Ok(())
}

/// The `slot N seq A..B` of a text.
fn spans(text: &str) -> Vec<Span> {
    let mut out = Vec::new();
    for part in text.split("slot ").skip(1) {
        let number =
            |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
        let slot = number(part).and_then(|number| Slot::new(u16::try_from(number).ok()?));
        let seqs = part.split_once(" seq ").and_then(|(before, rest)| {
            let (first, last) = rest.split_once("..")?;
            let close = before.chars().all(|letter| letter.is_ascii_digit());
            close.then_some((number(first)?, number(last)?))
        });
        if let (Some(slot), Some((first, last))) = (slot, seqs) {
            out.push((slot, Seq(first), Seq(last)));
        }
    }
    out
}

#[derive(Default)]
struct Tally {
    bytes: u64,
    tried: u64,
    outcomes: [u64; 3],
}

fn is_long() -> bool {
    std::env::var("HAYPILE_LONG").is_ok_and(|value| value == "1")
}

fn seed() -> u64 {
    std::env::var("HAYPILE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Where to flip in the regions of one kind: every byte, or some with each end of some region among them.
fn places(all: &[&Region], coin: &mut Coin) -> Vec<(usize, u64, u8)> {
    let mut out = Vec::new();
    let mut push = |index: usize, offset: u64, coin: &mut Coin| {
        out.push((index, offset, u8::try_from(coin.below(8)).expect("a bit")));
    };
    let bytes: u64 = all.iter().map(|region| region.to - region.from).sum();
    if is_long() && bytes < 64 << 10 {
        for (index, region) in all.iter().enumerate() {
            (region.from..region.to).for_each(|offset| push(index, offset, coin));
        }
        return out;
    }
    for round in 0..if is_long() { 2000 } else { 12 } {
        let index = coin.below(all.len());
        let region = all[index];
        let offset = match round {
            0 => region.from,
            1 => region.to - 1,
            _ => region.from + coin.next_u64() % (region.to - region.from),
        };
        push(index, offset, coin);
    }
    out
}

/// Flips bits of the kinds of bytes that are wanted, and says what came of them.
fn flip_everywhere(
    case: &Case,
    what: &str,
    wanted: impl Fn(&str) -> bool,
    flip: impl Fn(&Region, u64, u8, &mut Coin) -> Result<Outcome, String>,
) -> BTreeMap<&'static str, Tally> {
    let seed = seed();
    let mut coin = Coin::new(seed);
    let mut kinds: BTreeMap<&'static str, Vec<&Region>> = BTreeMap::new();
    let regions = case.regions.iter().filter(|region| wanted(region.kind));
    regions.for_each(|region| kinds.entry(region.kind).or_default().push(region));
    let mut tallies = BTreeMap::new();
    let mut wrong = Vec::new();
    for (kind, all) in kinds {
        let tally: &mut Tally = tallies.entry(kind).or_default();
        tally.bytes = all.iter().map(|region| region.to - region.from).sum();
        for (index, offset, bit) in places(&all, &mut coin) {
            tally.tried += 1;
            match flip(all[index], offset, bit, &mut coin) {
                Ok(outcome) => tally.outcomes[outcome as usize] += 1,
                Err(why) => {
                    let path = all[index].path.display();
                    wrong.push(format!("{kind}: {path} byte {offset} bit {bit}: {why}"));
                }
            }
        }
    }
    let mut table =
        format!("{what:24}{:>8}{:>7}{:>10}{:>10}{:>5}\n", "bytes", "tried", "reported", "harmless", "cut");
    for (kind, Tally { bytes, tried, outcomes: [reported, harmless, cut] }) in &tallies {
        table += &format!("{kind:24}{bytes:>8}{tried:>7}{reported:>10}{harmless:>10}{cut:>5}\n");
    }
    println!("{table}");
    assert!(
        wrong.is_empty(),
        "{} of them:\n{}\nHAYPILE_SEED={seed} cargo test -p haypile-tests --test flips",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
    tallies
}

/// Flips bits of every kind of byte of a store that was left behind.
fn flip_left(stopped: Stopped) -> BTreeMap<&'static str, Tally> {
    let case = Case::new(stopped, seed());
    let flip = |region: &Region, offset, bit, coin: &mut Coin| {
        let work = coin.chance(1, 3);
        case.flip(region, offset, bit, work)
    };
    flip_everywhere(&case, &format!("{stopped:?}"), |_| true, flip)
}

/// The kinds of bytes that a store has however it was left behind.
const KINDS: [&str; 24] = [
    "log segment header",
    "log frame header",
    "log record header",
    "log record body",
    "log frame padding",
    "log part header",
    "log part body",
    "log seal header",
    "log slot index",
    "log blank",
    "log blank, sealed",
    "log trailer",
    "log trailer, blank",
    "manifest CURRENT",
    "manifest state header",
    "manifest state",
    "manifest edits",
    "pack block, raw",
    "pack block, LZ4",
    "pack block trailer",
    "pack filter",
    "pack index",
    "pack properties",
    "pack run footer",
];

fn assert_all_kinds(tallies: &BTreeMap<&'static str, Tally>, more: &[&str]) {
    let missing = KINDS.iter().chain(more).filter(|kind| !tallies.contains_key(**kind));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new(), "the store has none of these");
}

#[test]
fn a_flipped_bit_after_a_clean_stop_is_reported_or_harmless() {
    let tallies = flip_left(Stopped::Cleanly);
    assert_all_kinds(&tallies, &["log clean stop", "manifest confirmation", "pack directory", "pack footer"]);
    let cut: u64 = tallies.values().map(|tally| tally.outcomes[Outcome::Cut as usize]).sum();
    assert_eq!(cut, 0, "a clean stop promises everything");
}

#[test]
fn a_flipped_bit_after_a_kill_is_reported_or_harmless_or_in_what_nothing_promised() {
    let tallies = flip_left(Stopped::Killed);
    assert_all_kinds(&tallies, &["log spare", "manifest confirmation"]);
}

#[test]
fn a_flipped_bit_after_a_loss_of_power_is_reported_or_harmless_or_in_what_nothing_promised() {
    let torn = (0..if is_long() { 3 } else { 2 }).filter(|crash| {
        let tallies = flip_left(Stopped::PowerLost(*crash));
        assert_all_kinds(&tallies, &[]);
        tallies.contains_key("log torn")
    });
    assert!(torn.count() > 0, "no loss of power tore the log");
}

#[test]
fn a_flipped_bit_under_a_running_node_is_reported_by_whoever_reads_it() {
    let case = Case::new(Stopped::Cleanly, seed());
    // The manifest is in memory while a node runs.
    let is_read = |kind: &str| !kind.starts_with("manifest");
    let tallies = flip_everywhere(&case, "Running", is_read, |region, offset, bit, _| {
        case.flip_running(region, offset, bit)
    });
    for kind in ["log frame header", "log record body", "log part body", "pack block, raw", "pack block, LZ4"]
    {
        let tally = &tallies[kind];
        assert_eq!(tally.outcomes[Outcome::Reported as usize], tally.tried, "{kind}");
    }
}

#[test]
fn tools_that_read_a_pack_by_itself_report_a_flipped_bit_of_its_ends() {
    let case = Case::new(Stopped::Cleanly, seed());
    let ends = ["pack directory", "pack footer", "pack run footer", "pack properties"];
    for region in case.regions.iter().filter(|region| ends.contains(&region.kind)) {
        for offset in region.from..region.to {
            let fs = case.left.fs.restart();
            fs.flip(&region.path, offset, 3).expect("the file is there");
            match read_directory(&fs, Path::new(&region.path)) {
                Err(Error::Corrupt { path, .. }) => assert_eq!(path, region.path),
                other => panic!("{}: byte {offset}: {other:?}", region.kind),
            }
        }
    }
}
