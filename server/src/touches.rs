//! Which elements of a large collection a command will touch, as far as its arguments tell: what is to be near before it runs.
//! Nothing depends on it but time.

use haypile_engine::near::Look;

use crate::number;
use crate::table::{Command, Flags};
use crate::types::{dict, zset};

/// So many elements of a command are looked for; the others are found when it runs.
const ELEMENTS_MAX: usize = 2;

/// Appends the elements that a command will touch of the collection at its key, which has this number, as has the command.
pub fn find(command: &Command, args: &[&[u8]], by: usize, key: usize, looks: &mut Vec<Look>) {
    // The others walk over many, or choose.
    if !command.flags.has(Flags::FAST) || args.len() < 3 {
        return;
    }
    let mut look = |sub, next| looks.push(Look { by, key, sub, next });
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
