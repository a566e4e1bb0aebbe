//! One run of the simulation, as a short text that repeats it: seed, options, what was cut or failed where.

use std::fmt;
use std::io::ErrorKind;
use std::str::FromStr;

use super::setup::Setup;
use crate::fs::memory::Failure;

/// What ends a run, or a recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// The process is killed before an operation.
    Kill(u64),
    /// The process is killed within a write: a prefix of it, by the seed, is there.
    Torn(u64, u64),
    /// Power is lost before an operation; what was not synced lives or dies by the seed.
    Power(u64, u64),
    /// An operation fails; the run goes on as far as it gets, and then the process is killed, or loses power.
    Fail(u64, Failure),
}

impl Cut {
    /// The operation that it is about.
    #[must_use]
    pub fn operation(&self) -> u64 {
        match self {
            Cut::Kill(operation) | Cut::Torn(operation, _) | Cut::Power(operation, _) => *operation,
            Cut::Fail(operation, _) => *operation,
        }
    }
}

/// A run: the workload of a seed under some options, cut, and the recovery cut too where there is a second cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// The seed that everything follows from.
    pub seed: u64,
    /// The options.
    pub setup: Setup,
    /// What is cut; none is the workload alone.
    pub cuts: Vec<Cut>,
}

/// `7/small`, `7/small/power@12:3`, `7/small/power@12:3/kill@4`, `7/always/eio@30`, `7/always/part-full@30:2`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.seed, self.setup.name)?;
        self.cuts.iter().try_for_each(|cut| write!(f, "/{cut}"))
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cut::Kill(at) => write!(f, "kill@{at}"),
            Cut::Torn(at, seed) => write!(f, "torn@{at}:{seed}"),
            Cut::Power(at, seed) => write!(f, "power@{at}:{seed}"),
            Cut::Fail(at, failure) => {
                let kind = if failure.kind == ErrorKind::StorageFull { "full" } else { "eio" };
                match failure.partly {
                    None => write!(f, "{kind}@{at}"),
                    Some(seed) => write!(f, "part-{kind}@{at}:{seed}"),
                }
            }
        }
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let mut parts = text.split('/');
        let seed = parts.next().and_then(|seed| seed.parse().ok());
        let seed = seed.ok_or_else(|| format!("`{text}`: begins with a seed, a number"))?;
        let name = parts.next().unwrap_or_default();
        let setup = Setup::named(name).ok_or_else(|| {
            let names: Vec<_> = Setup::ALL.iter().map(|setup| setup.name).collect();
            format!("`{name}` is not a set of options: {}", names.join(", "))
        })?;
        Ok(Case { seed, setup, cuts: parts.map(str::parse).collect::<Result<_, _>>()? })
    }
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Cut, String> {
        let parsed = || {
            let (what, at) = text.split_once('@')?;
            let (at, seed) = match at.split_once(':') {
                Some((at, seed)) => (at.parse().ok()?, Some(seed.parse().ok()?)),
                None => (at.parse().ok()?, None),
            };
            let failure = |kind| Cut::Fail(at, Failure { kind, partly: seed });
            Some(match (what, seed) {
                ("kill", None) => Cut::Kill(at),
                ("torn", Some(seed)) => Cut::Torn(at, seed),
                ("power", Some(seed)) => Cut::Power(at, seed),
                ("eio", None) | ("part-eio", Some(_)) => failure(ErrorKind::Other),
                ("full", None) | ("part-full", Some(_)) => failure(ErrorKind::StorageFull),
                _ => return None,
            })
        };
        parsed()
            .ok_or_else(|| format!("`{text}` is no cut: kill@N, torn@N:SEED, power@N:SEED, eio@N, full@N"))
    }
}
