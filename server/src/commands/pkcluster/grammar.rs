//! What PKCLUSTER's words mean: text in, a request or the client's error out. Pure.
//!
//! The grammar is Pika's, in any case, with what its users got wrong forgiven: both spellings of every name, the
//! table as `0` or `db0`, `force` and table in any order. Errors contain Pika's words, which tools look for, and go
//! on with what was wrong. Nothing is allocated by the size of a number in the text.
//!
//! ```text
//! addslots GROUP [table]                      delslots | removeslots GROUP [table]
//! slotsslaveof no one GROUP|all [force] [table]
//! slotsslaveof HOST PORT GROUP|all [force] [table]      also slotslaveof, slotslave, slotsync
//! handover HOST PORT GROUP|all [timeout MS] [dryrun] [then follow|drop]
//! digest GROUP|all [at MS]
//! checkpoint DIR [GROUP|all] [table]
//! info slot [[db0:]GROUP|all]                 info table [table]
//!
//! GROUP = element *("," element), element = N | N-M; empty elements count for nothing
//! ```

use haypile_engine::types::{SLOT_COUNT, Slot};

use crate::topology::Force;

/// The longest name of a host, as in DNS.
const HOST_BYTES_MAX: usize = 255;
/// How much of a client's word an error repeats.
const SHOWN_CHARS: usize = 40;

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Own these slots.
    AddSlots(Vec<Slot>),
    /// Give these slots up with their data.
    RemoveSlots(Vec<Slot>),
    /// Follow another node.
    Follow {
        /// `host:port` of that node.
        master: String,
        /// For which slots.
        slots: Choice,
        /// Whether unrelated data here may be replaced.
        force: Force,
    },
    /// Follow nobody any more.
    NoOne {
        /// For which slots.
        slots: Choice,
        /// Whether to take them without asking their master.
        force: Force,
    },
    /// Hand slots over to a node that follows them.
    HandOver {
        /// `host:port` of that node.
        to: String,
        /// Which.
        slots: Choice,
        /// For how long writes may be held back; the configured time if it is not said.
        timeout_ms: Option<u64>,
        /// Only look whether it could begin.
        rehearsal: bool,
        /// What becomes of the slots here.
        then: Then,
    },
    /// Tell the slots' contents in short, as of a time in milliseconds.
    Digest(Choice, Option<u64>),
    /// Make a checkpoint.
    Checkpoint {
        /// Its folder.
        dir: String,
        /// Of which slots.
        slots: Choice,
    },
    /// Show slots.
    InfoSlot(Choice),
    /// Show the table's counters; both totals too unless it was named.
    InfoTable(Totals),
    /// Nothing that this node knows: the answer is empty, as Pika's.
    InfoUnknown,
    /// Show the grammar.
    Help,
}

/// What becomes of a slot here once it was handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Then {
    /// It stays as it is: neither served nor removed.
    #[default]
    Stay,
    /// It follows its new owner.
    Follow,
    /// It is removed.
    Drop,
}

/// Which slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Those of this node.
    All,
    /// These, ascending, each once.
    Group(Vec<Slot>),
}

/// Whether `info table` shows the totals: Pika's form for one named table lacks them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Totals {
    /// Seven lines.
    Shown,
    /// Five lines.
    Left,
}

/// What `PKCLUSTER HELP` answers.
pub const HELP: &[&str] = &[
    "PKCLUSTER <subcommand> ...: slots 0 to 1023, a group is like 5 or 0-511 or 1,3,8-10",
    "ADDSLOTS <group>",
    "    Own these slots. Those that are here already stay as they are.",
    "DELSLOTS <group> (also REMOVESLOTS)",
    "    Give these slots up with their data. They must follow nobody and have no replicas, or be handed over.",
    "SLOTSSLAVEOF <host> <port> <group|all> [force] (also SLOTSLAVEOF, SLOTSLAVE, SLOTSYNC)",
    "    Let these slots follow another node. force replaces data that the other node does not know.",
    "SLOTSSLAVEOF NO ONE <group|all> [force]",
    "    Make this node the owner of slots that follow another; force does not ask that one.",
    "HANDOVER <host> <port> <group|all> [TIMEOUT <ms>] [DRYRUN] [THEN FOLLOW|DROP]",
    "    Hand these slots over to a node that follows them; writes wait meanwhile. DRYRUN only tells whether it could.",
    "DIGEST <group|all> [AT <ms>]",
    "    Tell the slots' contents in short: equal on all nodes with the same epoch and seq, as of one time.",
    "CHECKPOINT <dir> [<group|all>]",
    "    Make a copy of slots as they are now, by hard links, in a new folder that a node can be started on.",
    "INFO SLOT [<group|all>]",
    "    Show slots: position, role, replicas and their lag, or master and state.",
    "INFO TABLE",
    "    Show counters.",
];

/// Reads a command; the first word is `pkcluster` itself.
///
/// # Errors
/// The text for the client, with its code.
pub fn parse(words: &[&[u8]]) -> Result<Request, String> {
    let Some(name) = words.get(1) else {
        return Err(
            "ERR unknown or unsupported command 'pkcluster': a subcommand is missing, see PKCLUSTER HELP"
                .to_owned(),
        );
    };
    let rest = &words[2..];
    match &name.to_ascii_lowercase()[..] {
        b"addslots" => one_group(rest, "ADDSLOTS").map(Request::AddSlots),
        b"delslots" | b"removeslots" => one_group(rest, "DELSLOTS").map(Request::RemoveSlots),
        b"slotsslaveof" | b"slotslaveof" | b"slotslave" | b"slotsslave" | b"slotsync" => slots_slave_of(rest),
        b"handover" => hand_over(rest),
        b"digest" => digest(rest),
        b"checkpoint" => checkpoint(rest),
        b"info" => info(rest),
        b"addtable" | b"deltable" => Err(format!(
            "ERR {} is not supported: this node has one table, 0 (db0), which is always there",
            shown(name)
        )),
        b"help" => Ok(Request::Help),
        _ => {
            let name = shown(&name.to_ascii_lowercase());
            Err(format!("ERR unknown or unsupported command 'pkcluster{name}': see PKCLUSTER HELP"))
        }
    }
}

fn one_group(words: &[&[u8]], name: &str) -> Result<Vec<Slot>, String> {
    let usage = || format!("ERR syntax error: PKCLUSTER {name} <group> [table]");
    let (text, trailing) = words.split_first().ok_or_else(usage)?;
    let slots = group(text)?;
    match Trailing::parse(trailing)? {
        Trailing { force: Force::Yes, .. } => Err(usage()),
        Trailing { table: Some(Table::Other(table)), .. } => {
            Err(format!("ERR Internal error: table not found! There is no {table}: {ONE_TABLE}"))
        }
        _ => Ok(slots),
    }
}

fn slots_slave_of(words: &[&[u8]]) -> Result<Request, String> {
    let [first, second, slots, trailing @ ..] = words else {
        return Err("ERR wrong number of arguments for 'pkclusterslotsslaveof' command: \
                    PKCLUSTER SLOTSSLAVEOF NO ONE|<host> <port> <group|all> [force] [table]"
            .to_owned());
    };
    let no_one = is(first, "no") && is(second, "one");
    let master = if no_one { String::new() } else { address(first, second)? };
    let slots = choice(slots)?;
    let Trailing { force, table } = Trailing::parse(trailing)?;
    if let Some(Table::Other(table)) = table {
        return Err(format!("ERR invalid Table for '{table}': {ONE_TABLE}"));
    }
    if slots == Choice::Group(Vec::new()) {
        return Err("ERR Slots set empty: name slots, such as 5 or 0-511, or all".to_owned());
    }
    Ok(if no_one { Request::NoOne { slots, force } } else { Request::Follow { master, slots, force } })
}

fn hand_over(words: &[&[u8]]) -> Result<Request, String> {
    let usage = || {
        "ERR syntax error: PKCLUSTER HANDOVER <host> <port> <group|all> [TIMEOUT <ms>] [DRYRUN] [THEN FOLLOW|DROP]"
            .to_owned()
    };
    let [host, port, slots, rest @ ..] = words else { return Err(usage()) };
    let to = address(host, port)?;
    let slots = choice(slots)?;
    if slots == Choice::Group(Vec::new()) {
        return Err("ERR Slots set empty: name slots, such as 5 or 0-511, or all".to_owned());
    }
    let (mut timeout_ms, mut rehearsal, mut then) = (None, false, None);
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        if is(word, "timeout") && timeout_ms.is_none() {
            timeout_ms = Some(milliseconds(rest.next().ok_or_else(usage)?)?);
        } else if is(word, "dryrun") && !rehearsal {
            rehearsal = true;
        } else if is(word, "then") && then.is_none() {
            then = match rest.next() {
                Some(what) if is(what, "follow") => Some(Then::Follow),
                Some(what) if is(what, "drop") => Some(Then::Drop),
                _ => return Err(usage()),
            };
        } else {
            return Err(usage());
        }
    }
    Ok(Request::HandOver { to, slots, timeout_ms, rehearsal, then: then.unwrap_or_default() })
}

fn digest(words: &[&[u8]]) -> Result<Request, String> {
    match words {
        [slots] => Ok(Request::Digest(choice(slots)?, None)),
        [slots, at, ms] if is(at, "at") => Ok(Request::Digest(choice(slots)?, Some(milliseconds(ms)?))),
        _ => Err("ERR syntax error: PKCLUSTER DIGEST <group|all> [AT <ms>]".to_owned()),
    }
}

fn milliseconds(word: &[u8]) -> Result<u64, String> {
    let number = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("ERR value is not an integer or out of range: '{}'", shown(word)))
}

fn checkpoint(words: &[&[u8]]) -> Result<Request, String> {
    let usage = || "ERR syntax error: PKCLUSTER CHECKPOINT <dir> [<group|all>]".to_owned();
    let (dir, rest) = words.split_first().ok_or_else(usage)?;
    let dir = std::str::from_utf8(dir).ok().filter(|dir| !dir.is_empty() && !dir.contains('\0'));
    let dir = dir.ok_or("ERR Invalid Argument: a checkpoint needs the name of a folder")?.to_owned();
    let (slots, trailing) = match rest {
        [] => (Choice::All, rest),
        [slots, trailing @ ..] => (choice(slots)?, trailing),
    };
    match Trailing::parse(trailing)? {
        Trailing { force: Force::Yes, .. } => Err(usage()),
        Trailing { table: Some(Table::Other(table)), .. } => {
            Err(format!("ERR invalid Table for '{table}': {ONE_TABLE}"))
        }
        _ if slots == Choice::Group(Vec::new()) => {
            Err("ERR Slots set empty: name slots, such as 5 or 0-511, or all".to_owned())
        }
        _ => Ok(Request::Checkpoint { dir, slots }),
    }
}

fn info(words: &[&[u8]]) -> Result<Request, String> {
    let arity = || Err("ERR wrong number of arguments for 'pkclusterinfo' command".to_owned());
    let (section, rest) = match words {
        [] => return arity(),
        [section, rest @ ..] => (section, rest),
    };
    if rest.len() > 1 {
        return arity();
    }
    if is(section, "table") {
        return match rest.first().map(|word| table(word)) {
            None => Ok(Request::InfoTable(Totals::Shown)),
            Some(Some(Table::Zero)) => Ok(Request::InfoTable(Totals::Left)),
            Some(Some(Table::Other(_))) => Ok(Request::InfoUnknown),
            Some(None) => Err(format!("ERR Invalid Argument: '{}' is no table", shown(rest[0]))),
        };
    }
    if !is(section, "slot") {
        return Ok(Request::InfoUnknown);
    }
    let Some(word) = rest.first() else { return Ok(Request::InfoSlot(Choice::All)) };
    let invalid = |why: &str| format!("ERR Invalid Argument: {}", why.strip_prefix("ERR ").unwrap_or(why));
    let slots = match word.iter().position(|&byte| byte == b':') {
        None => word,
        Some(colon) => match table(&word[..colon]) {
            Some(Table::Zero) => &word[colon + 1..],
            Some(Table::Other(_)) => return Ok(Request::InfoUnknown),
            None => return Err(invalid(&format!("'{}' is no table", shown(&word[..colon])))),
        },
    };
    choice(slots).map(Request::InfoSlot).map_err(|why| invalid(&why))
}

/// Reads a host and a port as `host:port`.
///
/// # Errors
/// The text for the client, with its code.
pub fn address(host: &[u8], port: &[u8]) -> Result<String, String> {
    let sound = |text: &&str| {
        (1..=HOST_BYTES_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() && c != ',')
    };
    let name = std::str::from_utf8(host).ok().filter(sound).ok_or_else(|| {
        format!("ERR Invalid Argument: '{}' is no host: give an IP address or a name", shown(host))
    })?;
    let number = std::str::from_utf8(port).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let port =
        number.and_then(|text| text.parse::<u16>().ok()).filter(|port| *port > 0).ok_or_else(|| {
            format!(
                "ERR value is not an integer or out of range: port '{}', ports are 1 to 65535",
                shown(port)
            )
        })?;
    Ok(if name.contains(':') && !name.starts_with('[') {
        format!("[{name}]:{port}")
    } else {
        format!("{name}:{port}")
    })
}

const ONE_TABLE: &str = "this node has one table, 0 (db0)";

/// A table by its number.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Table {
    Zero,
    /// As `dbN`.
    Other(String),
}

/// Reads `N` or `dbN`; `None` if it is neither.
fn table(word: &[u8]) -> Option<Table> {
    let lower = word.to_ascii_lowercase();
    let digits = lower.strip_prefix(b"db").unwrap_or(&lower);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zero = digits.iter().all(|&digit| digit == b'0');
    Some(if zero { Table::Zero } else { Table::Other(format!("db{}", shown(digits))) })
}

/// What may follow a group, in any order.
#[derive(Default)]
struct Trailing {
    force: Force,
    table: Option<Table>,
}

impl Trailing {
    fn parse(words: &[&[u8]]) -> Result<Trailing, String> {
        let mut trailing = Trailing::default();
        for word in words {
            if (is(word, "force") || is(word, "-f")) && trailing.force == Force::No {
                trailing.force = Force::Yes;
            } else if trailing.table.is_none()
                && let Some(table) = table(word)
            {
                trailing.table = Some(table);
            } else {
                return Err(format!("ERR syntax error: '{}' is not expected here", shown(word)));
            }
        }
        Ok(trailing)
    }
}

fn choice(text: &[u8]) -> Result<Choice, String> {
    if is(text, "all") { Ok(Choice::All) } else { group(text).map(Choice::Group) }
}

/// Reads a group of slots.
fn group(text: &[u8]) -> Result<Vec<Slot>, String> {
    let mut chosen = [false; SLOT_COUNT as usize];
    for element in text.split(|&byte| byte == b',').filter(|element| !element.is_empty()) {
        let (first, last) = match element.iter().position(|&byte| byte == b'-') {
            Some(dash) => (slot(&element[..dash], element)?, slot(&element[dash + 1..], element)?),
            None => {
                let slot = slot(element, element)?;
                (slot, slot)
            }
        };
        if first > last {
            return Err(format!(
                "ERR Corruption: syntax error: the range '{}' goes backwards",
                shown(element)
            ));
        }
        chosen[first.index()..=last.index()].fill(true);
    }
    Ok(Slot::all().filter(|slot| chosen[slot.index()]).collect())
}

fn slot(text: &[u8], element: &[u8]) -> Result<Slot, String> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(format!(
            "ERR Corruption: syntax error: '{}' is no slot and no range of slots (such as 5 or 0-511)",
            shown(element)
        ));
    }
    let zeros = text.iter().take_while(|&&byte| byte == b'0').count();
    let digits = &text[zeros.min(text.len() - 1)..];
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u16>().ok());
    number.and_then(Slot::new).ok_or_else(|| {
        format!(
            "ERR Corruption: partition index out of range: {}, slots are 0 to {}",
            shown(digits),
            SLOT_COUNT - 1
        )
    })
}

fn is(word: &[u8], expected: &str) -> bool {
    word.eq_ignore_ascii_case(expected.as_bytes())
}

/// A client's word as an error may repeat it: short, without control characters.
fn shown(word: &[u8]) -> String {
    let text = String::from_utf8_lossy(&word[..word.len().min(4 * SHOWN_CHARS)]).into_owned();
    let clean = |c: char| if c.is_control() { '?' } else { c };
    let mut out: String = text.chars().take(SHOWN_CHARS).map(clean).collect();
    if text.chars().count() > SHOWN_CHARS || word.len() > 4 * SHOWN_CHARS {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot_group;

    /// A request in few words, so that the tables below can be read.
    fn parsed(line: &str) -> String {
        let words = crate::resp::split_words(line.as_bytes()).expect("balanced quotes");
        let words: Vec<&[u8]> = words.iter().map(|word| &word[..]).collect();
        let which = |slots: &Choice| match slots {
            Choice::All => "all".to_owned(),
            Choice::Group(slots) => format!("[{}]", slot_group::show(slots)),
        };
        match parse(&words) {
            Ok(Request::AddSlots(slots)) => format!("add [{}]", slot_group::show(&slots)),
            Ok(Request::RemoveSlots(slots)) => format!("remove [{}]", slot_group::show(&slots)),
            Ok(Request::Follow { master, slots, force }) => {
                format!("follow {master} {} {force:?}", which(&slots))
            }
            Ok(Request::NoOne { slots, force }) => format!("no one {} {force:?}", which(&slots)),
            Ok(Request::Checkpoint { dir, slots }) => format!("checkpoint {dir} {}", which(&slots)),
            Ok(Request::HandOver { to, slots, timeout_ms, rehearsal, then }) => {
                format!("hand {} to {to} {timeout_ms:?} {rehearsal} {then:?}", which(&slots))
            }
            Ok(Request::Digest(slots, at)) => format!("digest {} {at:?}", which(&slots)),
            Ok(Request::InfoSlot(slots)) => format!("info {}", which(&slots)),
            Ok(Request::InfoTable(totals)) => format!("table {totals:?}"),
            Ok(Request::InfoUnknown) => "nothing".to_owned(),
            Ok(Request::Help) => "help".to_owned(),
            Err(text) => text,
        }
    }

    #[test]
    fn what_is_well_formed_is_understood_in_every_spelling() {
        let table = [
            ("pkcluster addslots 0-3,8,2-4", "add [0-4,8]"),
            ("PKCLUSTER ADDSLOTS 5 0", "add [5]"),
            ("pkcluster addslots 007 db0", "add [7]"),
            ("pkcluster addslots ,,1,", "add [1]"),
            ("pkcluster addslots ,", "add []"),
            ("pkcluster addslots \"\"", "add []"),
            ("pkcluster addslots 0000000000000000000001023", "add [1023]"),
            ("pkcluster delslots \"0,1,2,\" 0", "remove [0-2]"),
            ("pkcluster removeslots 0-1023", "remove [0-1023]"),
            ("pkcluster slotsslaveof 10.0.0.1 9221 0-1", "follow 10.0.0.1:9221 [0-1] No"),
            ("pkcluster slotslaveof host 1 1 force", "follow host:1 [1] Yes"),
            ("pkcluster slotslave host 1 ALL force 0", "follow host:1 all Yes"),
            ("PKCLUSTER SLOTSYNC ::1 65535 all DB0 FORCE", "follow [::1]:65535 all Yes"),
            ("pkcluster slotsslaveof no 80 1", "follow no:80 [1] No"),
            ("pkcluster slotsslaveof NO ONE 1-2 0", "no one [1-2] No"),
            ("pkcluster slotsslaveof no one all force", "no one all Yes"),
            ("pkcluster handover 10.0.0.1 9221 3", "hand [3] to 10.0.0.1:9221 None false Stay"),
            ("PKCLUSTER HANDOVER h 1 all THEN DROP TIMEOUT 50 DRYRUN", "hand all to h:1 Some(50) true Drop"),
            ("pkcluster handover h 1 1-2 then follow", "hand [1-2] to h:1 None false Follow"),
            ("pkcluster digest 1-3", "digest [1-3] None"),
            ("pkcluster digest all at 17", "digest all Some(17)"),
            ("pkcluster checkpoint /a/b", "checkpoint /a/b all"),
            ("PKCLUSTER CHECKPOINT 5 1-2,4 db0", "checkpoint 5 [1-2,4]"),
            ("pkcluster info slot", "info all"),
            ("pkcluster INFO SLOT ALL", "info all"),
            ("pkcluster info slot db0:1", "info [1]"),
            ("pkcluster info slot db0:1-3,5", "info [1-3,5]"),
            ("pkcluster info slot 0:all", "info all"),
            ("pkcluster info slot db7:1", "nothing"),
            ("pkcluster info table", "table Shown"),
            ("pkcluster info table 0", "table Left"),
            ("pkcluster info table 9", "nothing"),
            ("pkcluster info node", "nothing"),
            ("pkcluster help", "help"),
        ];
        for (line, expected) in table {
            assert_eq!(parsed(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_in_words_that_contain_pikas() {
        let table = [
            ("pkcluster", "unknown or unsupported command 'pkcluster'", "HELP"),
            ("pkcluster Foo", "unknown or unsupported command 'pkclusterfoo'", "HELP"),
            ("pkcluster addslots", "ERR syntax error", "<group>"),
            ("pkcluster addslots x", "ERR Corruption: syntax error", "'x'"),
            ("pkcluster addslots 1-", "ERR Corruption: syntax error", "'1-'"),
            ("pkcluster addslots -1", "ERR Corruption: syntax error", "'-1'"),
            ("pkcluster addslots 1-2-3", "ERR Corruption: syntax error", "'1-2-3'"),
            ("pkcluster addslots +1", "ERR Corruption: syntax error", "'+1'"),
            ("pkcluster addslots \" 1\"", "ERR Corruption: syntax error", "' 1'"),
            ("pkcluster addslots 3-1", "ERR Corruption: syntax error", "backwards"),
            ("pkcluster addslots all", "ERR Corruption: syntax error", "'all'"),
            ("pkcluster addslots 1024", "ERR Corruption: partition index out of range", "1024"),
            ("pkcluster addslots 4294967296", "ERR Corruption: partition index out of range", "4294967296"),
            ("pkcluster addslots 0-4294967295", "ERR Corruption: partition index out of range", "4294967295"),
            ("pkcluster addslots 1 x", "ERR syntax error", "'x'"),
            ("pkcluster addslots 1 force", "ERR syntax error", "<group>"),
            ("pkcluster addslots 1 0 0", "ERR syntax error", "'0'"),
            ("pkcluster addslots 1 1", "ERR Internal error: table not found!", "db1"),
            ("pkcluster addtable 1 16", "not supported", "one table"),
            ("pkcluster deltable 1", "not supported", "one table"),
            (
                "pkcluster slotsslaveof no one",
                "wrong number of arguments for 'pkclusterslotsslaveof'",
                "NO ONE",
            ),
            ("pkcluster slotsslaveof no one \"\"", "ERR Slots set empty", "all"),
            ("pkcluster slotsslaveof h 1 \",\"", "ERR Slots set empty", "all"),
            ("pkcluster slotsslaveof h 0 1", "ERR value is not an integer or out of range", "'0'"),
            ("pkcluster slotsslaveof h 65536 1", "ERR value is not an integer or out of range", "'65536'"),
            ("pkcluster slotsslaveof h x 1", "ERR value is not an integer or out of range", "'x'"),
            ("pkcluster slotsslaveof \"a b\" 1 1", "ERR Invalid Argument", "'a b'"),
            ("pkcluster slotsslaveof \"\" 1 1", "ERR Invalid Argument", "''"),
            ("pkcluster slotsslaveof h 1 1 force force", "ERR syntax error", "'force'"),
            ("pkcluster slotsslaveof h 1 1 db3", "ERR invalid Table for 'db3'", "db0"),
            ("pkcluster checkpoint", "ERR syntax error", "<dir>"),
            ("pkcluster checkpoint \"\" 1", "ERR Invalid Argument", "folder"),
            ("pkcluster checkpoint /a x", "ERR Corruption: syntax error", "'x'"),
            ("pkcluster checkpoint /a 1 force", "ERR syntax error", "<dir>"),
            ("pkcluster checkpoint /a 1 db2", "ERR invalid Table for 'db2'", "db0"),
            ("pkcluster checkpoint /a \",\"", "ERR Slots set empty", "all"),
            ("pkcluster info", "wrong number of arguments for 'pkclusterinfo' command", ""),
            ("pkcluster info slot 1 2", "wrong number of arguments for 'pkclusterinfo' command", ""),
            ("pkcluster info slot x", "ERR Invalid Argument", "'x'"),
            ("pkcluster info slot 2000", "ERR Invalid Argument", "2000"),
            ("pkcluster info slot foo:1", "ERR Invalid Argument", "'foo'"),
            ("pkcluster info table x", "ERR Invalid Argument", "'x'"),
        ];
        for (line, pika, ours) in table {
            let text = parsed(line);
            assert!(text.starts_with("ERR ") && text.contains(pika) && text.contains(ours), "{line}: {text}");
        }
    }

    #[test]
    fn an_error_repeats_little_of_a_long_word() {
        for word in ["x".repeat(100_000), "9".repeat(100_000), "é".repeat(90)] {
            assert!(parsed(&format!("pkcluster addslots {word}")).len() < 300);
        }
        assert!(!parsed("pkcluster addslots \"a\\r\\nb\"").contains('\n'));
    }
}
