//! Haypile's server: the Redis protocol in front of the engine.
//!
//! Layers, lower ones first: `number`, `glob`, `slot_group`; `resp`; `config`, `clients`; `node`, `topology`, `codis`, `blocked`, `measured`, `pubsub`, `notify`, `monitors`, `pause`, `multi`, `session`, `kept`, `cx`, `kind`;
//! `rdb`; `scripting`, `commands` and `types`; `table`; `execute`; `unacked`, `connection`; `workers`; `tools`; `serve`; `remote`, `screen`, `last_lines`;
//! `demo`, `torture`; `cli`.

pub mod blocked;
pub mod cli;
pub mod clients;
pub mod codis;
pub mod commands;
pub mod config;
pub mod connection;
pub mod cx;
pub mod demo;
pub mod execute;
pub mod expiry;
pub mod extended;
pub mod files;
pub mod glob;
pub mod kept;
pub mod kind;
pub mod last_lines;
pub mod measured;
pub mod monitors;
pub mod multi;
pub mod node;
pub mod notify;
pub mod number;
pub mod operator;
pub mod pause;
pub mod pubsub;
pub mod rdb;
pub mod remote;
pub mod resp;
pub mod saves;
pub mod screen;
pub mod scripting;
pub mod serve;
pub mod session;
pub mod slot_group;
pub mod table;
pub mod testing;
pub mod tools;
pub mod topology;
pub mod torture;
pub mod types;
pub mod unacked;
mod workers;
