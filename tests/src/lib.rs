//! What the tests over all crates share: the sources of the workspace, and an engine under a seeded workload.
//!
//! The tests themselves are in `tests/tests/` (Rust) and `tests/interop/` (Python, against real processes).

pub mod fixture;
pub mod model;
pub mod sim;
pub mod sources;
pub mod store;
