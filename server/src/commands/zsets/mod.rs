//! ZADD, ZRANGE, ZUNION and what else works on sorted sets, but for what waits for a member.

mod add;
mod combine;
mod pop;
mod range;
mod read;

use haypile_engine::key::Key;
use haypile_engine::read::Direction;

use crate::cx::{Cx, Fail};
use crate::kind::Kind;
use crate::resp::{Proto, ReplyWriter};
use crate::table::{Command, Flags, Group, Keys, numbered_keys};
use crate::types::Look;
use crate::types::small::Broken;
use crate::types::zset::{Pairs, Part, Scored, Zset};

pub use add::{Options, add_scored};

use combine::Operation;
use range::By;

const READ: Flags = Flags::READONLY;
const WRITE: Flags = Flags::WRITE;
const FAST: Flags = Flags::FAST;
const ALL_BUT_LAST: Keys = Keys::Range { first: 1, last: -2, step: 1 };
const NUMBERED_SECOND: Keys = Keys::Custom(|args, positions| numbered_keys(args, 2, positions));
const NUMBERED: Keys = Keys::Custom(|args, positions| numbered_keys(args, 1, positions));
const TARGET_AND_NUMBERED: Keys = Keys::Custom(|args, positions| {
    numbered_keys(args, 2, positions);
    if !positions.is_empty() {
        positions.insert(0, 1);
    }
});

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    GROUP.data("zadd", -4, WRITE.with(FAST), Keys::FIRST, "1.2.0", "Adds members, or changes their scores.", add::zadd),
    GROUP.data("zcard", 2, READ.with(FAST), Keys::FIRST, "1.2.0", "Gives the number of members.", read::zcard),
    GROUP.data("zcount", 4, READ.with(FAST), Keys::FIRST, "2.0.0", "Counts the members in a range of scores.", |cx| range::count(cx, By::Score)),
    GROUP.data("bzmpop", -5, WRITE, NUMBERED_SECOND, "7.0.0", "Takes members off the first that has any; waits for one.", pop::bzmpop),
    GROUP.data("bzpopmax", -3, WRITE.with(FAST), ALL_BUT_LAST, "5.0.0", "Takes the member with the highest score off the first that has any; waits for one.", |cx| pop::bzpop(cx, Direction::Backward)),
    GROUP.data("bzpopmin", -3, WRITE.with(FAST), ALL_BUT_LAST, "5.0.0", "Takes the member with the lowest score off the first that has any; waits for one.", |cx| pop::bzpop(cx, Direction::Forward)),
    GROUP.data("zdiff", -3, READ, NUMBERED, "6.2.0", "Gives the members of the first that no other has.", |cx| combine::give(cx, Operation::Diff)),
    GROUP.data("zdiffstore", -4, WRITE, TARGET_AND_NUMBERED, "6.2.0", "Stores the members of the first that no other has.", |cx| combine::store(cx, Operation::Diff)),
    GROUP.data("zincrby", 4, WRITE.with(FAST), Keys::FIRST, "1.2.0", "Adds to a member's score.", add::zincrby),
    GROUP.data("zinter", -3, READ, NUMBERED, "6.2.0", "Gives the members that all have.", |cx| combine::give(cx, Operation::Inter)),
    GROUP.data("zintercard", -3, READ, NUMBERED, "7.0.0", "Counts the members that all have.", combine::zintercard),
    GROUP.data("zinterstore", -4, WRITE, TARGET_AND_NUMBERED, "2.0.0", "Stores the members that all have.", |cx| combine::store(cx, Operation::Inter)),
    GROUP.data("zlexcount", 4, READ.with(FAST), Keys::FIRST, "2.8.9", "Counts the members in a range of members.", |cx| range::count(cx, By::Member)),
    GROUP.data("zmpop", -4, WRITE, NUMBERED, "7.0.0", "Takes members off the first that has any.", pop::zmpop),
    GROUP.data("zmscore", -3, READ.with(FAST), Keys::FIRST, "6.2.0", "Gives the scores of members.", read::zmscore),
    GROUP.data("zpopmax", -2, WRITE.with(FAST), Keys::FIRST, "5.0.0", "Takes the members with the highest scores.", |cx| pop::zpop(cx, Direction::Backward)),
    GROUP.data("zpopmin", -2, WRITE.with(FAST), Keys::FIRST, "5.0.0", "Takes the members with the lowest scores.", |cx| pop::zpop(cx, Direction::Forward)),
    GROUP.data("zrandmember", -2, READ, Keys::FIRST, "6.2.0", "Gives members chosen at random.", read::zrandmember),
    GROUP.data("zrange", -4, READ, Keys::FIRST, "1.2.0", "Gives the members in a range of ranks, scores or members.", |cx| range::give(cx, None, None)),
    GROUP.data("zrangebylex", -4, READ, Keys::FIRST, "2.8.9", "Gives the members in a range of members.", |cx| range::give(cx, Some(By::Member), Some(Direction::Forward))),
    GROUP.data("zrangebyscore", -4, READ, Keys::FIRST, "1.0.5", "Gives the members in a range of scores.", |cx| range::give(cx, Some(By::Score), Some(Direction::Forward))),
    GROUP.data("zrangestore", -5, WRITE, Keys::FIRST_TWO, "6.2.0", "Stores the members in a range.", range::zrangestore),
    GROUP.data("zrank", 3, READ.with(FAST), Keys::FIRST, "2.0.0", "Gives a member's rank from the lowest score.", |cx| read::rank(cx, Direction::Forward)),
    GROUP.data("zrem", -3, WRITE.with(FAST), Keys::FIRST, "1.2.0", "Removes members.", add::zrem),
    GROUP.data("zremrangebylex", 4, WRITE, Keys::FIRST, "2.8.9", "Removes the members in a range of members.", |cx| range::remove(cx, By::Member)),
    GROUP.data("zremrangebyrank", 4, WRITE, Keys::FIRST, "2.0.0", "Removes the members in a range of ranks.", |cx| range::remove(cx, By::Rank)),
    GROUP.data("zremrangebyscore", 4, WRITE, Keys::FIRST, "1.2.0", "Removes the members in a range of scores.", |cx| range::remove(cx, By::Score)),
    GROUP.data("zrevrange", -4, READ, Keys::FIRST, "1.2.0", "Gives the members in a range of ranks, highest first.", |cx| range::give(cx, Some(By::Rank), Some(Direction::Backward))),
    GROUP.data("zrevrangebylex", -4, READ, Keys::FIRST, "2.8.9", "Gives the members in a range of members, highest first.", |cx| range::give(cx, Some(By::Member), Some(Direction::Backward))),
    GROUP.data("zrevrangebyscore", -4, READ, Keys::FIRST, "2.2.0", "Gives the members in a range of scores, highest first.", |cx| range::give(cx, Some(By::Score), Some(Direction::Backward))),
    GROUP.data("zrevrank", 3, READ.with(FAST), Keys::FIRST, "2.0.0", "Gives a member's rank from the highest score.", |cx| read::rank(cx, Direction::Backward)),
    GROUP.data("zscan", -3, READ, Keys::FIRST, "2.8.0", "Walks over the members, a few at a time.", read::zscan),
    GROUP.data("zscore", 3, READ.with(FAST), Keys::FIRST, "1.2.0", "Gives a member's score.", read::zscore),
    GROUP.data("zunion", -3, READ, NUMBERED, "6.2.0", "Gives the members that any has.", |cx| combine::give(cx, Operation::Union)),
    GROUP.data("zunionstore", -4, WRITE, TARGET_AND_NUMBERED, "2.0.0", "Stores the members that any has.", |cx| combine::store(cx, Operation::Union)),
];

const GROUP: Group = Group("sorted-set");

/// The sorted set at a key.
fn open<'a>(cx: &mut Cx<'_>, key: &'a Key) -> Result<Option<Zset<'a>>, Fail> {
    cx.open(key, Kind::SortedSet, |value| Zset::decode(key, value))
}

/// Whether a reply has the scores too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scores {
    With,
    Without,
}

/// Gives the members of the sorted set at the command's first key to `show`, if it is small.
fn show<'a>(
    cx: &mut Cx<'a>,
    show: impl FnOnce(&mut ReplyWriter, Pairs<'_>) -> Result<(), Broken>,
) -> Result<Option<Look<Zset<'a>, ()>>, Fail> {
    let key = cx.key(0);
    cx.show(key, Kind::SortedSet, |value, reply| Zset::look(key, value, |pairs| show(reply, pairs)))
}

/// Replies with members: pairs in RESP3, one after another in RESP2.
fn reply_members(reply: &mut ReplyWriter, members: &[Scored], scores: Scores) {
    reply_head(reply, members.len(), scores);
    reply_more(reply, members, scores);
}

/// The head of a reply with so many members, which [`reply_more`] appends.
fn reply_head(reply: &mut ReplyWriter, members: usize, scores: Scores) {
    let doubled = scores == Scores::With && reply.proto() == Proto::Resp2;
    reply.array(if doubled { members * 2 } else { members });
}

/// Members behind a head.
fn reply_more(reply: &mut ReplyWriter, members: &[Scored], scores: Scores) {
    members.iter().for_each(|(member, score)| reply_member(reply, member, *score, scores));
}

/// The same, with members where they lie.
fn reply_part(reply: &mut ReplyWriter, members: &Part<'_>, scores: Scores) {
    reply_head(reply, members.len(), scores);
    members.iter().for_each(|(member, score)| reply_member(reply, member, *score, scores));
}

fn reply_member(reply: &mut ReplyWriter, member: &[u8], score: f64, scores: Scores) {
    if scores == Scores::With && reply.proto() == Proto::Resp3 {
        reply.array(2);
    }
    reply.bulk(member);
    if scores == Scores::With {
        reply.double(score);
    }
}

/// Replies with an array of pairs in both versions of the protocol.
fn reply_pairs(reply: &mut ReplyWriter, members: &[Scored]) {
    reply.array(members.len());
    for (member, score) in members {
        reply.array(2);
        reply.bulk(member);
        reply.double(*score);
    }
}

#[cfg(test)]
mod tests;
