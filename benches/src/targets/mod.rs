//! What is measured, as far as it is here: other engines are in a crate of their own.

pub mod engine;
pub mod null;
pub mod resp;
