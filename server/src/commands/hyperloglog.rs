//! PFADD, PFCOUNT, PFMERGE.

use haypile_engine::clock::TimeMs;
use haypile_engine::key::Key;
use haypile_engine::slot::Role;
use haypile_engine::value::Value;

use crate::commands::strings::string;
use crate::cx::{Cx, Fail};
use crate::kind::Kind;
use crate::table::{Command, Flags, Group, Keys};
use crate::types::hll::{self, Corrupt, HyperLogLog, REGISTERS};

const READ: Flags = Flags::READONLY;
const WRITE: Flags = Flags::WRITE;
const FAST: Flags = Flags::FAST;

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    GROUP.data("pfadd", -2, WRITE.with(FAST), Keys::FIRST, "2.8.9", "Adds elements to a HyperLogLog.", pfadd),
    GROUP.data("pfcount", -2, READ, Keys::ALL, "2.8.9", "Estimates how many different elements there are.", pfcount),
    GROUP.data("pfmerge", -2, WRITE, Keys::ALL, "2.8.9", "Joins HyperLogLogs into one.", pfmerge),
];

const GROUP: Group = Group("hyperloglog");

impl From<Corrupt> for Fail {
    fn from(Corrupt: Corrupt) -> Fail {
        Fail::error("INVALIDOBJ Corrupted HLL object detected")
    }
}

/// The HyperLogLog at a key, with when that expires.
fn open(cx: &mut Cx<'_>, key: &Key) -> Result<Option<(Option<TimeMs>, HyperLogLog)>, Fail> {
    cx.open(key, Kind::String, |value| {
        let hll = HyperLogLog::read(value.payload).ok_or_else(no_hll)?;
        Ok::<_, Fail>((value.expiry, hll))
    })
}

fn no_hll() -> Fail {
    Fail::error("WRONGTYPE Key is not a valid HyperLogLog string value.")
}

/// Puts one at a key with its expiry.
fn put(cx: &mut Cx<'_>, key: &Key, expiry: Option<TimeMs>, hll: &HyperLogLog) -> Result<(), Fail> {
    Ok(cx.tx.put(key, &Value { expiry, ..string(hll.as_bytes()) })?)
}

fn pfadd(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let key = cx.key(0);
    let old = open(cx, key)?;
    let mut changed = old.is_none();
    let (expiry, mut hll) = old.unwrap_or_else(|| (None, HyperLogLog::new()));
    for element in &cx.args[2..] {
        changed |= hll.add(element)?;
    }
    if changed {
        hll.forget_count();
        put(cx, key, expiry, &hll)?;
    }
    cx.reply.integer(i64::from(changed));
    Ok(())
}

fn pfcount(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let count = match cx.keys {
        [key] => count_one(cx, key)?,
        keys => {
            let mut registers = [0; REGISTERS];
            for key in keys {
                if let Some((_, hll)) = open(cx, key)? {
                    hll.join_into(&mut registers)?;
                }
            }
            hll::count(&registers)
        }
    };
    cx.reply.integer(i64::try_from(count).unwrap_or(i64::MAX));
    Ok(())
}

fn count_one(cx: &mut Cx<'_>, key: &Key) -> Result<u64, Fail> {
    let kept = cx.open(key, Kind::String, |value| {
        if HyperLogLog::is(value.payload) { Ok(hll::kept_count(value.payload)) } else { Err(no_hll()) }
    })?;
    match kept {
        None => return Ok(0),
        Some(Some(count)) => return Ok(count),
        Some(None) => {}
    }
    let Some((expiry, mut hll)) = open(cx, key)? else { return Ok(0) };
    let count = hll.count()?;
    // As Redis does: the next one need not count. A replica writes nothing of its own.
    if matches!(cx.tx.role(key.slot()), Role::Master) {
        hll.keep_count(count);
        put(cx, key, expiry, &hll)?;
    }
    Ok(count)
}

fn pfmerge(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let mut registers = [0; REGISTERS];
    let (mut target, mut dense) = (None, false);
    for (index, key) in cx.keys.iter().enumerate() {
        if let Some((expiry, hll)) = open(cx, key)? {
            hll.join_into(&mut registers)?;
            dense |= hll.is_dense();
            if index == 0 {
                target = Some((expiry, hll));
            }
        }
    }
    let (expiry, mut hll) = target.unwrap_or_else(|| (None, HyperLogLog::new()));
    if dense {
        hll.make_dense()?;
    }
    for (register, value) in registers.into_iter().enumerate().filter(|(_, value)| *value > 0) {
        hll.raise(register, value)?;
    }
    hll.forget_count();
    put(cx, cx.key(0), expiry, &hll)?;
    cx.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn elements_are_counted_merged_and_refused_as_redis_does() {
        Bench::new().check(
            "pfadd h              -> :1
             pfadd h              -> :0
             pfcount h            -> :0
             pfadd h a b c d      -> :1
             pfadd h a            -> :0
             pfcount h            -> :4
             pfcount h            -> :4
             pfadd g c d e        -> :1
             pfcount h g none     -> :5
             pfmerge m h g none   -> +OK
             pfcount m            -> :5
             pfmerge m            -> +OK
             pfcount none         -> :0
             expire h 100         -> :1
             pfadd h z            -> :1
             ttl h                -> :100
             set s hello          -> +OK
             pfadd s a            -> -WRONGTYPE Key is not a valid HyperLogLog string value.
             pfcount h s          -> -WRONGTYPE Key is not a valid HyperLogLog string value.
             rpush l a            -> :1
             pfcount l            -> -WRONGTYPE Operation against a key holding the wrong kind of value
             setrange h 100 x     -> :101
             pfcount h g          -> -INVALIDOBJ Corrupted HLL object detected",
        );
    }
}
