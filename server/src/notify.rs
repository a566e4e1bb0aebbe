//! Keyspace notifications: what is told, and to which channels. What each command tells is in `commands/events.rs`.

use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use haypile_engine::key::Key;

use crate::pubsub::{Kind, Message};

/// The classes of events, as a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Classes(u16);

impl Classes {
    /// None.
    pub const NONE: Classes = Classes(0);
    /// Told to `__keyspace@0__:key`.
    pub const KEYSPACE: Classes = Classes(1);
    /// Told to `__keyevent@0__:event`.
    pub const KEYEVENT: Classes = Classes(1 << 1);
    /// What commands on keys of any type do: DEL, EXPIRE, RENAME ...
    pub const GENERIC: Classes = Classes(1 << 2);
    /// Strings.
    pub const STRING: Classes = Classes(1 << 3);
    /// Lists.
    pub const LIST: Classes = Classes(1 << 4);
    /// Sets.
    pub const SET: Classes = Classes(1 << 5);
    /// Hashes.
    pub const HASH: Classes = Classes(1 << 6);
    /// Sorted sets.
    pub const SORTED_SET: Classes = Classes(1 << 7);
    /// Keys that are removed because they have expired.
    pub const EXPIRED: Classes = Classes(1 << 8);
    /// Keys that are evicted: none ever is.
    pub const EVICTED: Classes = Classes(1 << 9);
    /// Streams.
    pub const STREAM: Classes = Classes(1 << 10);
    /// Reads that find no key.
    pub const MISS: Classes = Classes(1 << 11);
    /// Modules: there are none.
    pub const MODULE: Classes = Classes(1 << 12);
    /// Keys that were not there before.
    pub const NEW: Classes = Classes(1 << 13);

    const LETTERS: [(char, Classes); 13] = [
        ('g', Classes::GENERIC),
        ('$', Classes::STRING),
        ('l', Classes::LIST),
        ('s', Classes::SET),
        ('h', Classes::HASH),
        ('z', Classes::SORTED_SET),
        ('x', Classes::EXPIRED),
        ('e', Classes::EVICTED),
        ('t', Classes::STREAM),
        ('d', Classes::MODULE),
        ('K', Classes::KEYSPACE),
        ('E', Classes::KEYEVENT),
        ('m', Classes::MISS),
    ];

    /// What `A` stands for: all but misses and new keys.
    const ALL: &'static str = "g$lshzxetd";

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Classes) -> Classes {
        Classes(self.0 | other.0)
    }

    /// Whether all of `other` is in the set.
    #[must_use]
    pub const fn has(self, other: Classes) -> bool {
        self.0 & other.0 == other.0
    }

    fn letter(letter: char) -> Option<Classes> {
        match letter {
            'A' => Classes::parse(Classes::ALL),
            'n' => Some(Classes::NEW),
            _ => Classes::LETTERS.iter().find(|(known, _)| *known == letter).map(|(_, classes)| *classes),
        }
    }

    /// Reads the setting `notify-keyspace-events`; `None` if a letter means nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Classes> {
        text.chars().try_fold(Classes::NONE, |classes, letter| Some(classes.with(Classes::letter(letter)?)))
    }

    /// The setting as Redis shows it.
    #[must_use]
    pub fn show(self) -> String {
        let all = Classes::parse(Classes::ALL).unwrap_or_default();
        let mut out = String::new();
        if self.has(all) {
            out.push('A');
        }
        for (letter, class) in Classes::LETTERS {
            if self.has(class) && !(self.has(all) && all.has(class)) {
                out.push(letter);
            }
        }
        if self.has(Classes::NEW) {
            out.push('n');
        }
        out
    }
}

/// What a node tells of.
#[derive(Debug, Default)]
pub struct Notify(AtomicU16);

impl Notify {
    /// Tells of these from here on.
    pub fn set(&self, classes: Classes) {
        self.0.store(classes.0, Ordering::Relaxed);
    }

    /// What is told; nothing unless some channel gets it.
    #[must_use]
    pub fn classes(&self) -> Classes {
        let classes = Classes(self.0.load(Ordering::Relaxed));
        if classes.has(Classes::KEYSPACE) || classes.has(Classes::KEYEVENT) { classes } else { Classes::NONE }
    }
}

/// What a command tells others of, once it is committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// An event of this class and name that happened to a key.
    Key(Classes, &'static str, Bytes),
    /// What a script has published.
    Published(Message),
}

impl Event {
    /// What happened to a key.
    #[must_use]
    pub fn new(class: Classes, name: &'static str, key: &Key) -> Event {
        Event::Key(class, name, Bytes::copy_from_slice(key.user()))
    }

    /// Whether it is of this class and happened to this key.
    #[must_use]
    pub fn is(&self, class: Classes, key: &[u8]) -> bool {
        matches!(self, Event::Key(its, _, happened_to) if *its == class && happened_to == key)
    }

    /// The messages that tell of it.
    pub fn messages(self, classes: Classes, out: &mut Vec<Message>) {
        let (class, name, key) = match self {
            Event::Key(class, name, key) => (class, name, key),
            Event::Published(message) => return out.push(message),
        };
        if !classes.has(class) {
            return;
        }
        let mut put = |channel: Vec<u8>, text: Bytes| {
            out.push(Message { kind: Kind::Channel, channel: channel.into(), text });
        };
        if classes.has(Classes::KEYSPACE) {
            put([b"__keyspace@0__:", &key[..]].concat(), Bytes::from_static(name.as_bytes()));
        }
        if classes.has(Classes::KEYEVENT) {
            put([b"__keyevent@0__:", name.as_bytes()].concat(), key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_read_and_shown_as_redis_does() {
        for (text, shown) in
            [("", ""), ("KEA", "AKE"), ("Ex", "xE"), ("g$lshzxetdK", "AK"), ("nmKE", "KEmn"), ("Elg", "glE")]
        {
            assert_eq!(Classes::parse(text).expect("letters").show(), shown, "{text}");
        }
        assert_eq!(Classes::parse("KQ"), None);
    }

    #[test]
    fn an_event_goes_to_the_channels_that_are_asked_for() {
        let event = Event::new(Classes::STRING, "set", &Key::new(b"k"));
        let told = |text: &str| {
            let mut out = Vec::new();
            event.clone().messages(Classes::parse(text).expect("letters"), &mut out);
            out.iter()
                .map(|message| String::from_utf8_lossy(&message.channel).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(told("KEA"), ["__keyspace@0__:k", "__keyevent@0__:set"]);
        assert_eq!(told("E$"), ["__keyevent@0__:set"]);
        assert!(told("Kl").is_empty());
    }
}
