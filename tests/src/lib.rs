//! What the tests over all crates share: the sources of the workspace, a cluster in one thread, and a small store.
//!
//! The tests themselves are in `tests/tests/` (Rust) and `tests/interop/` (Python, against real processes).

pub mod fixture;
pub mod seeds;
pub mod sim;
pub mod sources;
pub mod store;
