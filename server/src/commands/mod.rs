//! All commands, a file for each family.

pub mod connection;
pub mod counters;
pub mod expire;
pub mod keys;
pub mod scan;
pub mod set;
pub mod strings;
pub mod walk;

use crate::table::Command;

/// The commands of every family.
pub const ALL: &[&[Command]] = &[
    connection::COMMANDS,
    counters::COMMANDS,
    expire::COMMANDS,
    keys::COMMANDS,
    set::COMMANDS,
    strings::COMMANDS,
    walk::COMMANDS,
];
