//! All commands, a file for each family.

pub mod connection;
pub mod scan;
pub mod strings;

use crate::table::Command;

/// The commands of every family.
pub const ALL: &[&[Command]] = &[connection::COMMANDS, strings::COMMANDS];
