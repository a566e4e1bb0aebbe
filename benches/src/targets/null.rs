//! Nothing: what generating and timing operations costs by itself.

use std::path::PathBuf;

use crate::error::Result;
use crate::load::operation::{KeyList, PairList};
use crate::plan::{Plan, Settle, Sync};
use crate::target::{Counter, Driver, Found, Target, Worker};

/// A target that does nothing and finds everything.
#[derive(Debug, Default)]
pub struct Null;

impl Target for Null {
    fn name(&self) -> String {
        "null".to_owned()
    }

    fn configuration(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn driver(&self, _: &Plan, _: usize) -> Result<Box<dyn Driver + '_>> {
        Ok(Box::new(NullWorker))
    }

    fn set_sync(&self, _: Sync) -> Result<()> {
        Ok(())
    }

    fn settle(&self, _: Settle) -> Result<()> {
        Ok(())
    }

    fn counters(&self) -> Vec<Counter> {
        Vec::new()
    }

    fn folder(&self) -> Option<PathBuf> {
        None
    }

    fn process(&self) -> Option<u32> {
        Some(std::process::id())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// The worker of [`Null`].
#[derive(Debug, Default)]
pub struct NullWorker;

impl Worker for NullWorker {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        std::hint::black_box((key, value));
        Ok(())
    }

    fn get(&mut self, key: &[u8]) -> Result<Found> {
        std::hint::black_box(key);
        Ok(Found::one(0))
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        std::hint::black_box(key);
        Ok(())
    }

    fn batch(&mut self, pairs: PairList<'_>) -> Result<()> {
        std::hint::black_box(pairs);
        Ok(())
    }

    fn scan(&mut self, from: &[u8], entries: usize) -> Result<Found> {
        std::hint::black_box(from);
        Ok(Found { entries: entries as u64, bytes: 0 })
    }

    fn walk(&mut self, entries: usize) -> Result<Found> {
        Ok(Found { entries: entries as u64, bytes: 0 })
    }

    fn multi_get(&mut self, keys: KeyList<'_>) -> Result<Found> {
        std::hint::black_box(keys);
        Ok(Found { entries: keys.len() as u64, bytes: 0 })
    }
}
