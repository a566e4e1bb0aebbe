//! The Redis protocol on the wire: requests come in through [`Parser`], replies go out through [`ReplyWriter`].
//!
//! Knows bytes and limits; knows no command and no socket.

mod parse;
mod reply;

pub use parse::{Args, Limits, Parsed, Parser, ProtocolError, split_words};
pub use reply::{Proto, ReplyWriter};
