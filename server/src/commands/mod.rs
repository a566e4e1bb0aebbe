//! All commands, a file for each family.

pub mod acl;
pub mod admin;
pub mod bitfield;
pub mod bits;
pub mod client;
pub mod config;
pub mod connection;
pub mod counters;
pub mod debug;
pub mod document;
pub mod dump;
pub mod elements;
pub mod events;
pub mod expire;
pub mod functions;
pub mod geo;
pub mod hashes;
pub mod hyperloglog;
pub mod info;
pub mod introspect;
pub mod keys;
pub mod latency;
pub mod lcs;
pub mod lists;
pub mod memory;
pub mod monitor;
pub mod multi;
pub mod object;
pub mod pkcluster;
pub mod pubsub;
pub mod random;
pub mod ranges;
pub mod refused;
pub mod replication;
pub mod save;
pub mod scan;
pub mod scripting;
pub mod set;
pub mod sets;
pub mod slots;
pub mod slotsmgrt;
pub mod slotsrestore;
pub mod slowlog;
pub mod sort;
pub mod stats;
pub mod streams;
pub mod strings;
pub mod sub;
pub mod syntax;
pub mod wait;
pub mod walk;
pub mod zsets;

use crate::table::Command;

/// The commands of every family.
pub const ALL: &[&[Command]] = &[
    acl::COMMANDS,
    admin::COMMANDS,
    bitfield::COMMANDS,
    bits::COMMANDS,
    client::COMMANDS,
    config::COMMANDS,
    connection::COMMANDS,
    counters::COMMANDS,
    debug::COMMANDS,
    dump::COMMANDS,
    expire::COMMANDS,
    functions::COMMANDS,
    geo::COMMANDS,
    hashes::COMMANDS,
    hyperloglog::COMMANDS,
    info::COMMANDS,
    introspect::COMMANDS,
    keys::COMMANDS,
    lcs::COMMANDS,
    lists::COMMANDS,
    latency::COMMANDS,
    memory::COMMANDS,
    monitor::COMMANDS,
    multi::COMMANDS,
    object::COMMANDS,
    pkcluster::COMMANDS,
    pubsub::COMMANDS,
    refused::COMMANDS,
    replication::COMMANDS,
    save::COMMANDS,
    scripting::COMMANDS,
    set::COMMANDS,
    sets::COMMANDS,
    slots::COMMANDS,
    slowlog::COMMANDS,
    sort::COMMANDS,
    streams::COMMANDS,
    slotsmgrt::COMMANDS,
    slotsrestore::COMMANDS,
    strings::COMMANDS,
    wait::COMMANDS,
    walk::COMMANDS,
    zsets::COMMANDS,
];
