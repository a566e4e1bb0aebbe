//! All commands, a file for each family.

pub mod connection;
pub mod counters;
pub mod expire;
pub mod hashes;
pub mod keys;
pub mod random;
pub mod scan;
pub mod set;
pub mod sets;
pub mod strings;
pub mod walk;

use crate::table::Command;

/// The commands of every family.
pub const ALL: &[&[Command]] = &[
    connection::COMMANDS,
    counters::COMMANDS,
    expire::COMMANDS,
    hashes::COMMANDS,
    keys::COMMANDS,
    set::COMMANDS,
    sets::COMMANDS,
    strings::COMMANDS,
    walk::COMMANDS,
];
