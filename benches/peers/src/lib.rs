//! Other storage engines under exactly the load, clock and counters of `haypile bench`, and a table of all of them.
//!
//! | module | what it is |
//! |---|---|
//! | [`kinds`] | the targets, Haypile's engine among them |
//! | [`leveled`], [`fjall`], [`redb`], [`sled`], [`bare`] | one each; RocksDB and LevelDB share [`leveled`] |
//! | [`ffi`] | C's interfaces: the one file with `unsafe` |
//! | [`common`] | how budgets are split, walks go around, and settling is seen |
//! | [`table`] | the engine table: every row's workload, interleaved over targets |

pub mod bare;
pub mod common;
pub mod ffi;
pub mod fjall;
pub mod kinds;
pub mod leveled;
pub mod redb;
pub mod sled;
pub mod table;
