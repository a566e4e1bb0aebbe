//! Which elements of a large collection a command will touch, as far as its arguments tell: what is to be near before it runs.
//! Nothing depends on it but time.

use haypile_engine::near::{Look, Place, Which};

use crate::number;
use crate::table::{Command, Flags};
use crate::types::{dict, list, stream, zset};

/// So many elements of a command are looked for; the others are found when it runs.
const ELEMENTS_MAX: usize = 2;

/// So many elements of a range come near before it is read.
const RANGE_MAX: usize = 16;

/// Appends the elements that a command will touch of the collection at its key, which has this number, as has the command.
pub fn find(command: &Command, args: &[&[u8]], by: usize, key: usize, looks: &mut Vec<Look>) {
    if let Some((place, number, more)) = range(command, args) {
        looks.push(Look { by, key, which: Which::At(place, number), more, next: None });
        return;
    }
    // The others walk over many, or choose.
    if !command.flags.has(Flags::FAST) || args.len() < 3 {
        return;
    }
    let mut look = |sub, next| looks.push(Look { by, key, which: Which::Sub(sub), more: 0, next });
    match command.group {
        "hash" | "set" => {
            let step = if matches!(command.name, "hset" | "hmset" | "hincrby" | "hsetnx") { 2 } else { 1 };
            args[2..]
                .iter()
                .step_by(step)
                .take(ELEMENTS_MAX)
                .for_each(|name| look(dict::sub_key(name), None));
        }
        "sorted-set" => match (command.name, args) {
            ("zadd", [_, _, score, member]) => {
                look(zset::member_key(member), Some(zset::key_of_score));
                if let Some(score) = number::double(score) {
                    look(zset::score_key(score, member), None);
                }
            }
            ("zincrby", [_, _, _, member]) => look(zset::member_key(member), Some(zset::key_of_score)),
            ("zadd" | "zincrby", _) => {}
            _ => args[2..].iter().take(ELEMENTS_MAX).for_each(|member| look(zset::member_key(member), None)),
        },
        _ => {}
    }
}

/// Where the elements begin that a command reads one after another: by a number and what stands at its key; and how many follow.
fn range(command: &Command, args: &[&[u8]]) -> Option<(Place, i64, usize)> {
    let at: Place = list::place_at;
    match (command.name, args) {
        ("lrange", [_, _, start, stop]) => {
            let (start, stop) = (number::integer(start)?, number::integer(stop)?);
            let more = if stop < 0 { RANGE_MAX } else { usize::try_from(stop.checked_sub(start)?).ok()? };
            Some((at, start, more.min(RANGE_MAX)))
        }
        ("lindex", [_, _, index]) => Some((at, number::integer(index)?, 0)),
        ("lpop", [_, _]) => Some((at, 0, 0)),
        ("rpop", [_, _]) => Some((at, -1, 0)),
        ("xrange", [_, _, [b'-'], _, .., count]) => {
            let count = number::integer(count).and_then(|count| usize::try_from(count).ok());
            Some((stream::first_place, 0, count.unwrap_or(RANGE_MAX).min(RANGE_MAX)))
        }
        _ => None,
    }
}
