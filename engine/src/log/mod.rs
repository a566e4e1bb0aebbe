//! The log: records in frames in segments. The write-ahead log and the replication log are this one structure.

pub mod record;
