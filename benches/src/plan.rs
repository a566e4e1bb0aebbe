//! A run's settings, all resolved: what the report says was run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::load::choose::{Distribution, THETA};
use crate::load::values::Sizes;
use crate::load::workload::{Amount, Needs, Workload};

/// When a write is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// Once the operating system has it, which writes it when it likes.
    None,
    /// Once the operating system has it; it is on the device about a second later.
    Everysec,
    /// Once it is on the device.
    Always,
}

impl FromStr for Sync {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Sync, String> {
        match text {
            "none" => Ok(Sync::None),
            "everysec" => Ok(Sync::Everysec),
            "always" => Ok(Sync::Always),
            _ => Err(format!("'{text}': none, everysec or always")),
        }
    }
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sync::None => "none",
            Sync::Everysec => "everysec",
            Sync::Always => "always",
        })
    }
}

/// What is waited for after the last operation, inside the measured time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Settle {
    /// Nothing: work that was put off is not counted.
    None,
    /// Until no compaction is due or under way.
    Debt,
    /// First all that is in memory is brought into files, then as `Debt`.
    Flush,
}

impl FromStr for Settle {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Settle, String> {
        match text {
            "none" => Ok(Settle::None),
            "debt" => Ok(Settle::Debt),
            "flush" => Ok(Settle::Flush),
            _ => Err(format!("'{text}': none, debt or flush")),
        }
    }
}

/// How operations spread over slots.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum SlotSpread {
    /// As the keys do.
    Uniform,
    /// Zipfian with this skew, between 0 and 1; within a slot as the keys do.
    Zipfian(f64),
}

impl FromStr for SlotSpread {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<SlotSpread, String> {
        match text.parse() {
            Ok(Distribution::Uniform) => Ok(SlotSpread::Uniform),
            Ok(Distribution::Zipfian(theta)) => Ok(SlotSpread::Zipfian(theta)),
            _ => Err(format!("'{text}': uniform or zipfian[:THETA]")),
        }
    }
}

impl From<SlotSpread> for String {
    fn from(spread: SlotSpread) -> String {
        match spread {
            SlotSpread::Uniform => Distribution::Uniform.to_string(),
            SlotSpread::Zipfian(theta) => Distribution::Zipfian(theta).to_string(),
        }
    }
}

impl TryFrom<String> for SlotSpread {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<SlotSpread, String> {
        text.parse()
    }
}

/// What the command line asks for; what it leaves open is up to the workload.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How many keys there are.
    pub keys: u64,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of values.
    pub value: Option<Sizes>,
    /// To which share values compress.
    pub ratio: f64,
    /// The popularity of keys.
    pub distribution: Option<Distribution>,
    /// How many slots the keys fall in.
    pub slots: Option<u16>,
    /// How operations spread over them.
    pub slot_spread: SlotSpread,
    /// Lanes, a thread each.
    pub threads: usize,
    /// How many operations.
    pub operations: Option<u64>,
    /// For how many seconds.
    pub seconds: Option<f64>,
    /// For how many seconds before it counts.
    pub warm_up_seconds: f64,
    /// Operations a second, all lanes together; `None`: as fast as they are answered.
    pub rate: Option<f64>,
    /// Keys of a batch.
    pub batch: Option<usize>,
    /// Entries of a scan.
    pub scan: Option<usize>,
    /// Lists or sorted sets.
    pub collections: u64,
    /// Connections of all threads together, for a server.
    pub connections: usize,
    /// Requests under way on a connection, for a server.
    pub pipeline: usize,
    /// All choices follow from it.
    pub seed: u64,
    /// When a write is answered.
    pub sync: Sync,
    /// What is waited for at the end.
    pub settle: Settle,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked {
            keys: 1_000_000,
            key_bytes: 16,
            value: None,
            ratio: 0.5,
            distribution: None,
            slots: None,
            slot_spread: SlotSpread::Uniform,
            threads: 1,
            operations: None,
            seconds: None,
            warm_up_seconds: 0.0,
            rate: None,
            batch: None,
            scan: None,
            collections: 1,
            connections: 50,
            pipeline: 16,
            seed: 1,
            sync: Sync::None,
            settle: Settle::Debt,
        }
    }
}

/// A run's settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// How many keys there are.
    pub keys: u64,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Bytes of values.
    pub value: Sizes,
    /// To which share values compress.
    pub ratio: f64,
    /// The popularity of keys.
    pub distribution: Distribution,
    /// How many slots the keys fall in.
    pub slots: u16,
    /// How operations spread over them.
    pub slot_spread: SlotSpread,
    /// Whether keys begin with a tag, so that their order is that of their slots.
    pub tagged: bool,
    /// Whether something in the chain walks keys in order: the target has to lay them out for that.
    pub ordered: bool,
    /// Lanes, a thread each; a writer beside comes on top.
    pub threads: usize,
    /// How many operations of all lanes together.
    pub operations: Option<u64>,
    /// For how many seconds at most.
    pub seconds: Option<f64>,
    /// For how many seconds before it counts.
    pub warm_up_seconds: f64,
    /// Operations a second, all lanes together; `None`: as fast as they are answered.
    pub rate: Option<f64>,
    /// Keys of a batch.
    pub batch: usize,
    /// Entries of a scan.
    pub scan: usize,
    /// Lists or sorted sets.
    pub collections: u64,
    /// Connections of all threads together, for a server.
    pub connections: usize,
    /// Requests under way on a connection, for a server.
    pub pipeline: usize,
    /// Whether requests are sent as replies come, as a proxy does; else a whole pipeline is answered before the next.
    pub sliding: bool,
    /// All choices follow from it.
    pub seed: u64,
    /// When a write is answered.
    pub sync: Sync,
    /// What is waited for at the end.
    pub settle: Settle,
}

impl Plan {
    /// The settings of each workload of a chain, which all work on the same keys.
    ///
    /// # Errors
    /// If they make no sense.
    pub fn resolve(asked: &Asked, chain: &[&'static Workload]) -> Result<Vec<Plan>> {
        let limit = |what: &str, value: u64, max: u64| match value {
            value if value >= 1 && value <= max => Ok(()),
            value => Err(Error::Usage(format!("{what}: 1 to {max}, not {value}"))),
        };
        limit("keys", asked.keys, 1 << 40)?;
        limit("threads", asked.threads as u64, 1024)?;
        limit("batch", asked.batch.unwrap_or(1) as u64, 1 << 16)?;
        limit("scan", asked.scan.unwrap_or(1) as u64, 1 << 16)?;
        limit("collections", asked.collections, asked.keys)?;
        limit("connections", asked.connections as u64, 1 << 16)?;
        limit("pipeline", asked.pipeline as u64, 1 << 16)?;
        if asked.rate.is_some_and(|rate| rate <= 0.0 || !rate.is_finite()) {
            return Err(Error::Usage("rate: above 0".into()));
        }
        if !(0.0..=1.0).contains(&asked.ratio) {
            return Err(Error::Usage(format!("ratio: 0 to 1, not {}", asked.ratio)));
        }
        let ordered = chain.iter().any(|workload| workload.needs == Needs::Order);
        // All of a chain have the largest of their own sizes, as it is the same data.
        let value_bytes = chain.iter().map(|workload| workload.value_bytes).max().unwrap_or(100);
        let zipfian_slots = chain.iter().any(|workload| workload.slots_zipfian);
        let slots = asked.slots.unwrap_or(if ordered { 1 } else { haypile_engine::types::SLOT_COUNT });
        let tagged = ordered || zipfian_slots || asked.slot_spread != SlotSpread::Uniform;
        let plan = |(place, workload): (usize, &&'static Workload)| {
            // A fill that others follow only makes their data.
            let prepares = workload.is_fill() && place + 1 < chain.len();
            let operations = match (workload.amount, asked.operations, asked.seconds) {
                (Amount::EachKeyOnce, _, _) => Some(asked.keys),
                (_, Some(operations), _) => Some(operations),
                (_, None, Some(_)) => None,
                (_, None, None) => Some(asked.keys),
            };
            let slot_spread = match asked.slot_spread {
                SlotSpread::Uniform if workload.slots_zipfian => SlotSpread::Zipfian(THETA),
                spread => spread,
            };
            Plan {
                keys: asked.keys,
                key_bytes: asked.key_bytes,
                value: asked.value.unwrap_or(Sizes::Fixed(value_bytes)),
                ratio: asked.ratio,
                distribution: asked.distribution.unwrap_or(workload.distribution),
                slots,
                slot_spread,
                tagged: tagged || slots < haypile_engine::types::SLOT_COUNT,
                ordered,
                threads: if workload.proxy_depth.is_some() { 1 } else { asked.threads },
                operations,
                seconds: if workload.is_fill() { None } else { asked.seconds },
                warm_up_seconds: if workload.is_fill() { 0.0 } else { asked.warm_up_seconds },
                rate: asked.rate.filter(|_| !prepares),
                batch: asked.batch.unwrap_or(if workload.name == "fillbatch" { 100 } else { 10 }),
                scan: asked.scan.unwrap_or(if workload.name == "ycsb-e" { 100 } else { 10 }),
                collections: asked.collections,
                connections: if workload.proxy_depth.is_some() { 1 } else { asked.connections },
                pipeline: workload.proxy_depth.unwrap_or(asked.pipeline),
                sliding: workload.proxy_depth.is_some(),
                seed: asked.seed,
                sync: if workload.synced { Sync::Always } else { asked.sync },
                settle: asked.settle,
            }
        };
        Ok(chain.iter().enumerate().map(plan).collect())
    }
}
