//! Workloads on the engine itself, in this process, without sockets and commands.

use std::path::Path;
use std::sync::Arc;

use haypile_engine::background::Background;
use haypile_engine::clock::Clock;
use haypile_engine::engine::{Engine, Fetched, Gate, Options};
use haypile_engine::error::Result;
use haypile_engine::fs::Fs;
use haypile_engine::key::Key;
use haypile_engine::tx::Stop;
use haypile_engine::types::Slot;
use haypile_engine::value::Value;

use crate::measure::Report;
use crate::plan::{Operation, Plan};

/// A store that runs, background work included.
pub struct Store {
    engine: Arc<Engine>,
    background: Option<Background>,
    clock: Arc<dyn Clock>,
}

impl Store {
    /// Opens or makes a store with all slots in a folder.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, clock: Arc<dyn Clock>, options: Options) -> Result<Store> {
        let (engine, _) = Engine::open(fs, dir, Arc::clone(&clock), options)?;
        engine.add_slots(&Slot::all().collect::<Vec<_>>())?;
        let engine = Arc::new(engine);
        let background = Background::start(&engine)
            .map_err(|error| haypile_engine::error::Error::io(dir, "start threads", &error))?;
        Ok(Store { engine, background: Some(background), clock })
    }

    /// Does what the plan says: each batch is one write, answered when its bound is reached.
    ///
    /// # Errors
    /// What the engine meets.
    pub async fn run(&self, plan: &Plan) -> Result<Report> {
        let mut report = Report::default();
        let begin = self.clock.monotonic();
        let mut operations = plan.operations().peekable();
        while operations.peek().is_some() {
            let batch_begin = self.clock.monotonic();
            self.engine.room().await?;
            let mut gate = Gate::default();
            let mut done = 0;
            for operation in operations.by_ref().take(plan.batch.max(1)) {
                report.found += u64::from(self.apply(&operation, &mut gate)?);
                done += 1;
            }
            self.engine.write()?;
            self.engine.reached(gate).await?;
            report.add(done, self.clock.monotonic().saturating_sub(batch_begin));
        }
        report.took = self.clock.monotonic().saturating_sub(begin);
        Ok(report)
    }

    /// Does one operation; whether a read found something.
    fn apply(&self, operation: &Operation, gate: &mut Gate) -> Result<bool> {
        let key = match operation {
            Operation::Set(key, _) | Operation::Get(key) => Key::new(key),
        };
        let mut fetched = Fetched::default();
        loop {
            let wanted = {
                let mut tx = self.engine.begin(&[key.slot()], &fetched);
                let done = match operation {
                    Operation::Set(_, value) => {
                        tx.put(&key, &Value::whole(0, 0, value.clone())).map(|()| false)
                    }
                    Operation::Get(_) => tx.get(&key).map(|value| value.is_some()),
                };
                match done {
                    Ok(found) => {
                        gate.join(tx.commit()?);
                        return Ok(found);
                    }
                    Err(Stop::Failed(error)) => return Err(error),
                    Err(Stop::Miss) => tx.abandon(),
                }
            };
            self.engine.fetch(wanted, &mut fetched)?;
        }
    }

    /// Stops cleanly.
    ///
    /// # Errors
    /// As [`Engine::close`].
    pub fn close(mut self) -> Result<()> {
        drop(self.background.take());
        self.engine.close()
    }
}
