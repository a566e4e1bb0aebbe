//! GEOSEARCH, GEOSEARCHSTORE, and the older GEORADIUS and GEORADIUSBYMEMBER: places around a place.

use std::ops::Bound;

use bytes::Bytes;
use haypile_engine::key::Key;
use haypile_engine::read::Direction;

use super::{open, place_at, reply_place};
use crate::cx::{Cx, Fail, integer, is};
use crate::number;
use crate::types::geohash::{Place, Shape};
use crate::types::zset::{self, Range, Scored, Zset};

/// How a search is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// GEORADIUS key longitude latitude radius unit.
    Radius,
    /// GEORADIUSBYMEMBER key member radius unit.
    RadiusByMember,
    /// GEOSEARCH key.
    Search,
    /// GEOSEARCHSTORE target key.
    SearchStore,
}

/// Whether the older forms may store what they find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storing {
    /// They may.
    Allowed,
    /// They are the ones that only read.
    Refused,
}

/// An order of what is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    NearFirst,
    FarFirst,
}

/// What a search asks for.
#[derive(Default, Debug)]
struct Query {
    centre: Option<Place>,
    shape: Option<Shape>,
    /// Metres in the unit that is asked in.
    unit_m: f64,
    with_distance: bool,
    with_score: bool,
    with_place: bool,
    order: Option<Order>,
    /// 0: all.
    count: usize,
    /// Any places up to the count, and not the nearest.
    any: bool,
    /// Whether the scores that are stored are distances.
    store_distances: bool,
}

/// A place that was found.
struct Found {
    member: Bytes,
    score: f64,
    place: Place,
    distance: f64,
}

/// The positions of GEORADIUS' keys: the sorted set, and the one to store in.
pub fn radius_keys(options_at: usize, args: &[&[u8]], positions: &mut Vec<usize>) {
    positions.push(1);
    positions.extend(target_position(options_at, args));
}

/// Where the last STORE or STOREDIST names its key.
fn target_position(options_at: usize, args: &[&[u8]]) -> Option<usize> {
    let mut target = None;
    let mut at = options_at;
    while at + 1 < args.len() {
        if is(args[at], "store") || is(args[at], "storedist") {
            target = Some(at + 1);
            at += 1;
        } else if is(args[at], "count") {
            at += 1;
        }
        at += 1;
    }
    target
}

fn unit(text: &[u8]) -> Result<f64, Fail> {
    super::unit(text)
}

fn numeric(text: &[u8], error: &'static str) -> Result<f64, Fail> {
    number::double(text).ok_or_else(|| Fail::error(error))
}

impl Query {
    /// Reads a radius and its unit.
    fn circle(&mut self, args: &[&[u8]]) -> Result<(), Fail> {
        let radius = numeric(args[0], "ERR need numeric radius")?;
        if radius < 0.0 {
            return Err(Fail::error("ERR radius cannot be negative"));
        }
        self.unit_m = unit(args[1])?;
        self.shape = Some(Shape::Circle { radius: radius * self.unit_m });
        Ok(())
    }

    /// Reads width, height and their unit.
    fn rectangle(&mut self, args: &[&[u8]]) -> Result<(), Fail> {
        let width = numeric(args[0], "ERR need numeric width")?;
        let height = numeric(args[1], "ERR need numeric height")?;
        if width < 0.0 || height < 0.0 {
            return Err(Fail::error("ERR height or width cannot be negative"));
        }
        self.unit_m = unit(args[2])?;
        self.shape = Some(Shape::Box { width: width * self.unit_m, height: height * self.unit_m });
        Ok(())
    }
}

/// Where a member of the sorted set lies.
fn member_place(cx: &mut Cx<'_>, zset: &Zset<'_>, member: &[u8]) -> Result<Place, Fail> {
    let score = zset.score(&mut cx.tx, member)?;
    score.map(Place::of_score).ok_or_else(|| Fail::error("ERR could not decode requested zset member"))
}

pub fn search(cx: &mut Cx<'_>, form: Form, storing: Storing) -> Result<(), Fail> {
    let (options_at, source) = match form {
        Form::Radius => (6, 0),
        Form::RadiusByMember => (5, 0),
        Form::Search => (2, 0),
        Form::SearchStore => (3, 1),
    };
    let zset = open(cx, cx.key(source))?;
    let query = read(cx, form, storing, options_at, zset.as_ref())?;
    let target = match form {
        Form::Radius | Form::RadiusByMember => {
            let given = storing == Storing::Allowed && target_position(options_at, cx.args).is_some();
            given.then(|| cx.key(1))
        }
        Form::Search => None,
        Form::SearchStore => Some(cx.key(0)),
    };
    if target.is_some() && (query.with_distance || query.with_score || query.with_place) {
        let what = if form == Form::SearchStore { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
        return Err(Fail::error(format!(
            "ERR {what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
        )));
    }
    if matches!(form, Form::Search | Form::SearchStore) {
        let name = String::from_utf8_lossy(cx.arg(0));
        if query.centre.is_none() {
            return Err(Fail::error(format!(
                "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for {name}"
            )));
        }
        if query.shape.is_none() {
            return Err(Fail::error(format!(
                "ERR exactly one of BYRADIUS and BYBOX can be specified for {name}"
            )));
        }
    }
    if query.any && query.count == 0 {
        return Err(Fail::error("ERR the ANY argument requires COUNT argument"));
    }
    let mut found = match (&zset, query.centre, query.shape) {
        (Some(zset), Some(centre), Some(shape)) => find(cx, zset, centre, shape, &query)?,
        _ => Vec::new(),
    };
    // The nearest are meant where only some are wanted.
    let order = query.order.or((query.count > 0 && !query.any).then_some(Order::NearFirst));
    match order {
        Some(Order::NearFirst) => found.sort_by(|a, b| a.distance.total_cmp(&b.distance)),
        Some(Order::FarFirst) => found.sort_by(|a, b| b.distance.total_cmp(&a.distance)),
        None => {}
    }
    if query.count > 0 {
        found.truncate(query.count);
    }
    match target {
        Some(target) => store(cx, target, &found, &query),
        None => {
            reply(cx, &found, &query);
            Ok(())
        }
    }
}

/// Reads what is asked for.
fn read(
    cx: &mut Cx<'_>,
    form: Form,
    storing: Storing,
    options_at: usize,
    zset: Option<&Zset<'_>>,
) -> Result<Query, Fail> {
    let mut query = Query { unit_m: 1.0, ..Query::default() };
    let args = cx.args;
    match form {
        Form::Radius => {
            query.centre = Some(place_at(&args[2..4])?);
            query.circle(&args[4..6])?;
        }
        // Without a sorted set Redis does not look at the radius.
        Form::RadiusByMember => {
            if let Some(zset) = zset {
                query.centre = Some(member_place(cx, zset, args[2])?);
                query.circle(&args[3..5])?;
            }
        }
        Form::Search | Form::SearchStore => {}
    }
    let searches = matches!(form, Form::Search | Form::SearchStore);
    let (mut by_member, mut by_place) = (false, false);
    let mut rest = &args[options_at.min(args.len())..];
    while let Some((option, more)) = rest.split_first() {
        rest = more;
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at(count);
            rest = left;
            taken
        };
        let has = more.len();
        if is(option, "withdist") {
            query.with_distance = true;
        } else if is(option, "withhash") {
            query.with_score = true;
        } else if is(option, "withcoord") {
            query.with_place = true;
        } else if is(option, "any") {
            query.any = true;
        } else if is(option, "asc") {
            query.order = Some(Order::NearFirst);
        } else if is(option, "desc") {
            query.order = Some(Order::FarFirst);
        } else if is(option, "count") && has >= 1 {
            let count = integer(take(1)[0])?;
            query.count = usize::try_from(count)
                .ok()
                .filter(|count| *count > 0)
                .ok_or_else(|| Fail::error("ERR COUNT must be > 0"))?;
        } else if !searches && storing == Storing::Allowed && is(option, "store") && has >= 1 {
            take(1);
            query.store_distances = false;
        } else if !searches && storing == Storing::Allowed && is(option, "storedist") && has >= 1 {
            take(1);
            query.store_distances = true;
        } else if searches && is(option, "frommember") && has >= 1 && !by_place {
            by_member = true;
            let member = take(1)[0];
            query.centre = Some(match zset {
                Some(zset) => member_place(cx, zset, member)?,
                None => Place { longitude: 0.0, latitude: 0.0 },
            });
        } else if searches && is(option, "fromlonlat") && has >= 2 && !by_member {
            by_place = true;
            query.centre = Some(place_at(take(2))?);
        } else if searches
            && is(option, "byradius")
            && has >= 2
            && !matches!(query.shape, Some(Shape::Box { .. }))
        {
            query.circle(take(2))?;
        } else if searches
            && is(option, "bybox")
            && has >= 3
            && !matches!(query.shape, Some(Shape::Circle { .. }))
        {
            query.rectangle(take(3))?;
        } else if form == Form::SearchStore && is(option, "storedist") {
            query.store_distances = true;
        } else {
            return Err(Fail::syntax());
        }
    }
    Ok(query)
}

/// The places in a shape, in the order of Redis' search.
fn find(
    cx: &mut Cx<'_>,
    zset: &Zset<'_>,
    centre: Place,
    shape: Shape,
    query: &Query,
) -> Result<Vec<Found>, Fail> {
    let most = if query.any { query.count } else { usize::MAX };
    let mut found = Vec::new();
    for (from, to) in shape.scores(centre) {
        let range = Range::Scores(Bound::Included(from), Bound::Excluded(to));
        for (member, score) in zset.by_range(&mut cx.tx, &range, Direction::Forward, 0, usize::MAX)? {
            let place = Place::of_score(score);
            if let Some(distance) = shape.reach(centre, place) {
                found.push(Found { member, score, place, distance });
                if found.len() >= most {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

fn reply(cx: &mut Cx<'_>, found: &[Found], query: &Query) {
    let parts = [query.with_distance, query.with_score, query.with_place];
    let parts = parts.into_iter().filter(|with| *with).count();
    cx.reply.array(found.len());
    for one in found {
        if parts > 0 {
            cx.reply.array(parts + 1);
        }
        cx.reply.bulk(&one.member);
        if query.with_distance {
            cx.reply.bulk(format!("{:.4}", one.distance / query.unit_m).as_bytes());
        }
        if query.with_score {
            #[allow(clippy::cast_possible_truncation)] // as Redis casts it
            cx.reply.integer(one.score as i64);
        }
        if query.with_place {
            reply_place(cx.reply, one.place);
        }
    }
}

fn store(cx: &mut Cx<'_>, target: &Key, found: &[Found], query: &Query) -> Result<(), Fail> {
    let scored = |one: &Found| {
        let score = if query.store_distances { one.distance / query.unit_m } else { one.score };
        (one.member.clone(), score)
    };
    let mut members: Vec<Scored> = found.iter().map(scored).collect();
    zset::sort(&mut members);
    cx.tx.delete(target)?;
    if !members.is_empty() {
        Zset::of(&mut cx.tx, target, &members)?.save(&mut cx.tx)?;
    }
    cx.reply.count(members.len());
    Ok(())
}
