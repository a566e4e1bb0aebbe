//! Workloads to measure with, and what they measured. No figures are claimed here: run them on the machine in question.
//!
//! [`embedded`] drives the engine itself, [`resp`] any server that speaks the Redis protocol. The same [`Plan`] gives the
//! same keys and values everywhere.

pub mod embedded;
pub mod measure;
pub mod plan;
pub mod resp;
