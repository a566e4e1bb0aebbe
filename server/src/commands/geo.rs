//! GEOADD, GEOSEARCH and what else works on places: members of a sorted set whose scores say where they lie.

mod search;

use haypile_engine::key::Key;

use crate::commands::zsets::{self, Options};
use crate::cx::{Cx, Fail, double, is};
use crate::kind::Kind;
use crate::resp::{Proto, ReplyWriter};
use crate::table::{Command, Flags, Group, Keys};
use crate::types::geohash::Place;
use crate::types::zset::Zset;

use search::{Form, Storing};

const READ: Flags = Flags::READONLY;
const WRITE: Flags = Flags::WRITE;
const RADIUS_KEYS: Keys = Keys::Custom(|args, positions| search::radius_keys(6, args, positions));
const BY_MEMBER_KEYS: Keys = Keys::Custom(|args, positions| search::radius_keys(5, args, positions));

/// See the file's head.
#[rustfmt::skip]
pub const COMMANDS: &[Command] = &[
    GROUP.data("geoadd", -5, WRITE, Keys::FIRST, "3.2.0", "Adds places, or moves them.", geoadd),
    GROUP.data("geodist", -4, READ, Keys::FIRST, "3.2.0", "Gives the distance of two places.", geodist),
    GROUP.data("geohash", -2, READ, Keys::FIRST, "3.2.0", "Gives places as geohashes.", geohash),
    GROUP.data("geopos", -2, READ, Keys::FIRST, "3.2.0", "Gives places as longitude and latitude.", geopos),
    GROUP.data("georadius", -6, WRITE, RADIUS_KEYS, "3.2.0", "Gives or stores the places around a point.", |cx| search::search(cx, Form::Radius, Storing::Allowed)),
    GROUP.data("georadius_ro", -6, READ, Keys::FIRST, "3.2.10", "Gives the places around a point.", |cx| search::search(cx, Form::Radius, Storing::Refused)),
    GROUP.data("georadiusbymember", -5, WRITE, BY_MEMBER_KEYS, "3.2.0", "Gives or stores the places around another.", |cx| search::search(cx, Form::RadiusByMember, Storing::Allowed)),
    GROUP.data("georadiusbymember_ro", -5, READ, Keys::FIRST, "3.2.10", "Gives the places around another.", |cx| search::search(cx, Form::RadiusByMember, Storing::Refused)),
    GROUP.data("geosearch", -7, READ, Keys::FIRST, "6.2.0", "Gives the places within a circle or a box.", |cx| search::search(cx, Form::Search, Storing::Refused)),
    GROUP.data("geosearchstore", -8, WRITE, Keys::FIRST_TWO, "6.2.0", "Stores the places within a circle or a box.", |cx| search::search(cx, Form::SearchStore, Storing::Allowed)),
];

const GROUP: Group = Group("geo");

fn open<'a>(cx: &mut Cx<'_>, key: &'a Key) -> Result<Option<Zset<'a>>, Fail> {
    cx.open(key, Kind::SortedSet, |value| Zset::decode(key, value))
}

/// Reads longitude and latitude.
fn place_at(args: &[&[u8]]) -> Result<Place, Fail> {
    let (longitude, latitude) = (double(args[0])?, double(args[1])?);
    Place::new(longitude, latitude).ok_or_else(|| {
        Fail::error(format!("ERR invalid longitude,latitude pair {longitude:.6},{latitude:.6}"))
    })
}

/// Metres in a unit.
fn unit(text: &[u8]) -> Result<f64, Fail> {
    let units = [("m", 1.0), ("km", 1000.0), ("ft", 0.3048), ("mi", 1609.34)];
    let known = units.into_iter().find(|(name, _)| is(text, name));
    known
        .map(|(_, metres)| metres)
        .ok_or_else(|| Fail::error("ERR unsupported unit provided. please use M, KM, FT, MI"))
}

/// Replies with longitude and latitude, to 17 decimals as far as they tell anything.
fn reply_place(reply: &mut ReplyWriter, place: Place) {
    reply.array(2);
    for degrees in [place.longitude, place.latitude] {
        let text = format!("{degrees:.17}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        // As Redis 7.0: a zero has no sign.
        let text = if text == "-0" { "0" } else { text };
        match reply.proto() {
            Proto::Resp2 => reply.bulk(text.as_bytes()),
            Proto::Resp3 => reply.raw(format!(",{text}\r\n").as_bytes()),
        }
    }
}

fn geoadd(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let mut options = Options::default();
    let named = cx.args[2..].iter();
    let named =
        named.take_while(|name| ["nx", "xx", "ch"].iter().any(|known| is(name, known)) && options.set(name));
    let places = &cx.args[2 + named.count()..];
    if !places.len().is_multiple_of(3) || places.is_empty() || options.excludes_all() {
        return Err(Fail::syntax());
    }
    let scored = places.chunks(3).map(|part| Ok((part[2], place_at(part)?.score())));
    let scored = scored.collect::<Result<Vec<_>, Fail>>()?;
    zsets::add_scored(cx, options, &scored)
}

fn geodist(cx: &mut Cx<'_>) -> Result<(), Fail> {
    let unit_m = match &cx.args[4..] {
        [] => 1.0,
        [name] => unit(name)?,
        _ => return Err(Fail::syntax()),
    };
    let (mut from, mut to) = (None, None);
    if let Some(zset) = open(cx, cx.key(0))? {
        from = zset.score(&mut cx.tx, cx.args[2])?;
        to = zset.score(&mut cx.tx, cx.args[3])?;
    }
    match (from.map(Place::of_score), to.map(Place::of_score)) {
        (Some(from), Some(to)) => {
            cx.reply.bulk(format!("{:.4}", from.distance(to) / unit_m).as_bytes());
        }
        _ => cx.reply.null(),
    }
    Ok(())
}

/// Gives the place of each member to `write`.
fn each_place(cx: &mut Cx<'_>, mut write: impl FnMut(&mut ReplyWriter, Option<Place>)) -> Result<(), Fail> {
    let zset = open(cx, cx.key(0))?;
    let members = &cx.args[2..];
    if let Some(zset) = &zset {
        zset.gather(&mut cx.tx, members.iter())?;
    }
    cx.reply.array(members.len());
    for member in members {
        let score = match &zset {
            Some(zset) => zset.score(&mut cx.tx, member)?,
            None => None,
        };
        write(cx.reply, score.map(Place::of_score));
    }
    Ok(())
}

fn geohash(cx: &mut Cx<'_>) -> Result<(), Fail> {
    each_place(cx, |reply, place| match place {
        Some(place) => reply.bulk(place.geohash().as_bytes()),
        None => reply.null(),
    })
}

fn geopos(cx: &mut Cx<'_>) -> Result<(), Fail> {
    each_place(cx, |reply, place| match place {
        Some(place) => reply_place(reply, place),
        None => reply.null_array(),
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    const SICILY: &str = "geoadd s 13.361389 38.115556 Palermo 15.087269 37.502669 Catania -> :2";

    #[test]
    fn places_are_added_measured_and_named_as_redis_documents() {
        let mut bench = Bench::new();
        bench.check(SICILY);
        bench.check(
            "geoadd s nx 1 1 Palermo             -> :0
             geoadd s xx ch 13.5 38 Palermo      -> :1
             geoadd s 13.361389 38.115556 Palermo -> :0
             geodist s Palermo Catania           -> $11 166274.1516
             geodist s Palermo Catania km        -> $8 166.2742
             geodist s Palermo nobody            -> $-1
             geodist none a b                    -> $-1
             geodist s Palermo Catania parsec    -> -ERR unsupported unit provided. please use M, KM, FT, MI
             geohash s Palermo nobody            -> *2 $11 sqc8b49rny0 $-1
             geopos s Palermo nobody             -> *2 *2 $20 13.36138933897018433 $20 38.11555639549629859 *-1
             geopos none a                       -> *1 *-1
             geoadd s 200 100 x                  -> -ERR invalid longitude,latitude pair 200.000000,100.000000
             geoadd s nx xx 1 1 x                -> -ERR syntax error
             geoadd s 1 1 x y                    -> -ERR syntax error",
        );
    }

    #[test]
    fn places_around_are_found_ordered_limited_and_stored() {
        let mut bench = Bench::new();
        bench.check(SICILY);
        bench.check(
            "geosearch s fromlonlat 15 37 byradius 200 km asc      -> *2 $7 Catania $7 Palermo
             geosearch s fromlonlat 15 37 bybox 400 400 km desc    -> *2 $7 Palermo $7 Catania
             geosearch s frommember Palermo byradius 1 m withhash  -> *1 *2 $7 Palermo :3479099956230698
             geosearch s frommember nobody byradius 1 m            -> -ERR could not decode requested zset member
             geosearch s byradius 1 m asc withdist                 -> -ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for geosearch
             geosearch s fromlonlat 1 1 asc withdist               -> -ERR exactly one of BYRADIUS and BYBOX can be specified for geosearch
             geosearch s fromlonlat 15 37 byradius 200 km any      -> -ERR the ANY argument requires COUNT argument
             geosearch s fromlonlat 15 37 byradius 200 km count 0  -> -ERR COUNT must be > 0
             geosearch s fromlonlat 15 37 byradius 200 km count 1  -> *1 $7 Catania
             georadius s 15 37 200 km withdist count 1             -> *1 *2 $7 Catania $7 56.4413
             georadius s 15 37 200 km store t                      -> :2
             zscore t Palermo                                      -> $16 3479099956230698
             georadius s 15 37 200 km storedist t withdist         -> -ERR STORE option in GEORADIUS is not compatible with WITHDIST, WITHHASH and WITHCOORD options
             georadiusbymember s Palermo 200 km storedist t        -> :2
             zrange t 0 0                                          -> *1 $7 Palermo
             geosearchstore t s fromlonlat 0 0 byradius 1 m        -> :0
             exists t                                              -> :0
             georadius none 15 37 200 km                           -> *0
             georadius_ro s 15 37 200 km store t                   -> -ERR syntax error",
        );
    }
}
