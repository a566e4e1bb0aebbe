//! Places on Earth as 52-bit numbers that are near each other where the places are: what a sorted set of places has as
//! scores. The arithmetic is Redis' to the last bit, so that scores, distances and areas are the same.

/// The greatest latitude that a place may have, north and south: where the map of Mercator is a square.
pub const LATITUDE_MAX: f64 = 85.051_128_78;
/// The greatest longitude, east and west.
pub const LONGITUDE_MAX: f64 = 180.0;

/// Halvings of each axis in a score.
const STEPS_MAX: u32 = 26;
const EARTH_RADIUS_M: f64 = 6_372_797.560_856;
/// Half the width of Mercator's map, in metres.
const MERCATOR_MAX_M: f64 = 20_037_726.37;
const EVEN: u64 = 0x5555_5555_5555_5555;
const ODD: u64 = !EVEN;

/// A place, in degrees.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Place {
    /// East of Greenwich.
    pub longitude: f64,
    /// North of the equator.
    pub latitude: f64,
}

/// The shape around a centre in which places are looked for; lengths in metres.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Shape {
    /// Within a distance.
    Circle {
        /// The distance.
        radius: f64,
    },
    /// Within half of the width to east and west, and half of the height to north and south.
    Box {
        /// From west to east.
        width: f64,
        /// From south to north.
        height: f64,
    },
}

/// A rectangle of the map that has so many halvings, as the bits of its places, latitude in the even ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cell {
    bits: u64,
    steps: u32,
}

/// What a cell covers, in degrees.
#[derive(Clone, Copy, Debug)]
struct Area {
    longitude: (f64, f64),
    latitude: (f64, f64),
}

/// Spreads the bits of a number over the even places.
fn spread(number: u32) -> u64 {
    let mut bits = u64::from(number);
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, EVEN),
    ] {
        bits = (bits | bits << shift) & mask;
    }
    bits
}

/// The number in the even places.
fn gather(bits: u64) -> u32 {
    let mut number = bits & EVEN;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        number = (number | number >> shift) & mask;
    }
    u32::try_from(number).expect("32 bits were gathered")
}

/// Where a value lies in a range that is cut into `2^steps` parts.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it is in the range, and so not below 0
fn part(value: f64, max: f64, steps: u32) -> u32 {
    let offset = (value + max) / (2.0 * max);
    (offset * (1u64 << steps) as f64) as u32
}

impl Cell {
    fn of(place: Place, latitude_max: f64, steps: u32) -> Cell {
        let latitude = spread(part(place.latitude, latitude_max, steps));
        let longitude = spread(part(place.longitude, LONGITUDE_MAX, steps));
        Cell { bits: latitude | longitude << 1, steps }
    }

    fn area(self) -> Area {
        let parts = (1u64 << self.steps) as f64;
        let side = |number: u32, max: f64| {
            let edge = |number: f64| -max + number / parts * (2.0 * max);
            (edge(f64::from(number)), edge(f64::from(number) + 1.0))
        };
        Area {
            longitude: side(gather(self.bits >> 1), LONGITUDE_MAX),
            latitude: side(gather(self.bits), LATITUDE_MAX),
        }
    }

    /// The cell beside it: to the north or east (`Ordering::Greater`), to the south or west, over the map's edge.
    fn beside(self, east: i8, north: i8) -> Cell {
        let all = u64::MAX >> (64 - self.steps * 2);
        let moved = |bits: u64, others: u64, by: i8| {
            let one = (others & all) + 1;
            match by {
                0 => bits,
                1 => bits.wrapping_add(one),
                _ => (bits | others & all).wrapping_sub(one),
            }
        };
        let (x, y) = (self.bits & ODD, self.bits & EVEN);
        let x = if east == 0 { x } else { moved(x, EVEN, east) & ODD & all };
        let y = if north == 0 { y } else { moved(y, ODD, north) & EVEN & all };
        Cell { bits: x | y, ..self }
    }

    /// The scores of all places in it, from the first to before the second.
    fn scores(self) -> (f64, f64) {
        let shift = 2 * (STEPS_MAX - self.steps);
        ((self.bits << shift) as f64, ((self.bits + 1) << shift) as f64)
    }
}

impl Place {
    /// The place, if it lies on the map.
    #[must_use]
    pub fn new(longitude: f64, latitude: f64) -> Option<Place> {
        let on_map = longitude.abs() <= LONGITUDE_MAX && latitude.abs() <= LATITUDE_MAX;
        on_map.then_some(Place { longitude, latitude })
    }

    /// The score that stands for it.
    #[must_use]
    pub fn score(self) -> f64 {
        Cell::of(self, LATITUDE_MAX, STEPS_MAX).bits as f64
    }

    /// The middle of the cell that a score stands for. Any score gives a place, as in Redis.
    #[must_use]
    pub fn of_score(score: f64) -> Place {
        let area = Cell { bits: bits_of(score), steps: STEPS_MAX }.area();
        let middle = |(low, high): (f64, f64), max: f64| ((low + high) / 2.0).clamp(-max, max);
        Place {
            longitude: middle(area.longitude, LONGITUDE_MAX),
            latitude: middle(area.latitude, LATITUDE_MAX),
        }
    }

    /// The name of its cell as other systems write it: 11 letters, of which the last one tells nothing.
    #[must_use]
    pub fn geohash(self) -> String {
        const LETTERS: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = Cell::of(self, 90.0, STEPS_MAX).bits;
        let letter = |index: u32| {
            let five = if index == 10 { 0 } else { bits >> (52 - (index + 1) * 5) & 0x1f };
            char::from(LETTERS[usize::try_from(five).expect("5 bits")])
        };
        (0..11).map(letter).collect()
    }

    /// Metres to another place along the surface.
    #[must_use]
    pub fn distance(self, other: Place) -> f64 {
        let (latitude, other_latitude) = (radians(self.latitude), radians(other.latitude));
        let v = ((radians(other.longitude) - radians(self.longitude)) / 2.0).sin();
        // To the digit as Redis.
        if v == 0.0 {
            return EARTH_RADIUS_M * (other_latitude - latitude).abs();
        }
        let u = ((other_latitude - latitude) / 2.0).sin();
        let a = u * u + latitude.cos() * other_latitude.cos() * v * v;
        2.0 * EARTH_RADIUS_M * a.sqrt().asin()
    }
}

/// A score as the whole number that C's conversion makes of it on x86-64, whatever it is.
#[allow(clippy::cast_possible_truncation)] // saturates, as meant here
fn bits_of(score: f64) -> u64 {
    const TOP: f64 = 9_223_372_036_854_775_808.0;
    if score < TOP {
        (score as i64).cast_unsigned()
    } else if score - TOP < TOP {
        ((score - TOP) as i64).cast_unsigned() ^ 1 << 63
    } else {
        0
    }
}

fn radians(degrees: f64) -> f64 {
    degrees * (std::f64::consts::PI / 180.0)
}

fn degrees(radians: f64) -> f64 {
    radians / (std::f64::consts::PI / 180.0)
}

impl Shape {
    /// How far a place lies from the centre, if it lies in the shape.
    #[must_use]
    pub fn reach(self, centre: Place, place: Place) -> Option<f64> {
        let inside = match self {
            Shape::Circle { radius } => centre.distance(place) <= radius,
            Shape::Box { width, height } => {
                let beside = Place { longitude: centre.longitude, ..place };
                let above = Place { latitude: centre.latitude, ..place };
                place.distance(beside) <= width / 2.0 && place.distance(above) <= height / 2.0
            }
        };
        inside.then(|| centre.distance(place))
    }

    /// The distance from the centre within which all of it lies.
    fn radius(self) -> f64 {
        match self {
            Shape::Circle { radius } => radius,
            Shape::Box { width, height } => {
                ((width / 2.0) * (width / 2.0) + (height / 2.0) * (height / 2.0)).sqrt()
            }
        }
    }

    /// The least area along the axes that covers it.
    fn bounds(self, centre: Place) -> Area {
        let (width, height) = match self {
            Shape::Circle { radius } => (radius, radius),
            Shape::Box { width, height } => (width / 2.0, height / 2.0),
        };
        let up = degrees(height / EARTH_RADIUS_M);
        // Towards the pole a degree is shorter.
        let edge = if centre.latitude < 0.0 { centre.latitude - up } else { centre.latitude + up };
        let across = degrees(width / EARTH_RADIUS_M / radians(edge).cos());
        Area {
            longitude: (centre.longitude - across, centre.longitude + across),
            latitude: (centre.latitude - up, centre.latitude + up),
        }
    }

    /// The ranges of scores, each from the first to before the second, that have all places of the shape; in the order
    /// in which Redis looks at them.
    #[must_use]
    pub fn scores(self, centre: Place) -> Vec<(f64, f64)> {
        let (radius, bounds) = (self.radius(), self.bounds(centre));
        let mut steps = steps_for(radius, centre.latitude);
        let mut cell = Cell::of(centre, LATITUDE_MAX, steps);
        let too_near = |east: i8, north: i8| {
            let area = cell.beside(east, north).area();
            match (east, north) {
                (0, 1) => area.latitude.1 < bounds.latitude.1,
                (0, _) => area.latitude.0 > bounds.latitude.0,
                (1, _) => area.longitude.1 < bounds.longitude.1,
                _ => area.longitude.0 > bounds.longitude.0,
            }
        };
        if steps > 1
            && [(0, 1), (0, -1), (1, 0), (-1, 0)].into_iter().any(|(east, north)| too_near(east, north))
        {
            steps -= 1;
            cell = Cell::of(centre, LATITUDE_MAX, steps);
        }
        let area = cell.area();
        let useless = |east: i8, north: i8| {
            steps >= 2
                && (north < 0 && area.latitude.0 < bounds.latitude.0
                    || north > 0 && area.latitude.1 > bounds.latitude.1
                    || east < 0 && area.longitude.0 < bounds.longitude.0
                    || east > 0 && area.longitude.1 > bounds.longitude.1)
        };
        let around = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)];
        let mut cells: Vec<Cell> = Vec::with_capacity(around.len());
        for (east, north) in around.into_iter().filter(|(east, north)| !useless(*east, *north)) {
            let cell = cell.beside(east, north);
            // Few large cells: a neighbour is met from both sides.
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
        cells.into_iter().map(Cell::scores).collect()
    }
}

/// Halvings at which a cell and those around it cover a circle.
fn steps_for(mut radius: f64, latitude: f64) -> u32 {
    if radius == 0.0 {
        return STEPS_MAX;
    }
    let mut steps = 1i32;
    while radius < MERCATOR_MAX_M {
        radius *= 2.0;
        steps += 1;
    }
    steps -= 2;
    if latitude.abs() > 66.0 {
        steps -= 1;
    }
    if latitude.abs() > 80.0 {
        steps -= 1;
    }
    steps.clamp(1, 26).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PALERMO: Place = Place { longitude: 13.361389, latitude: 38.115556 };
    const CATANIA: Place = Place { longitude: 15.087269, latitude: 37.502669 };

    #[test]
    fn known_places_have_the_scores_names_and_distances_that_redis_documents() {
        assert_eq!((PALERMO.score(), CATANIA.score()), (3_479_099_956_230_698.0, 3_479_447_370_796_909.0));
        let (palermo, catania) = (Place::of_score(PALERMO.score()), Place::of_score(CATANIA.score()));
        assert_eq!(palermo.geohash(), "sqc8b49rny0");
        assert_eq!(catania.geohash(), "sqdtr74hyu0");
        assert_eq!(format!("{:.4}", palermo.distance(catania)), "166274.1516");
        assert_eq!((palermo.longitude, palermo.latitude), (13.361_389_338_970_184, 38.115_556_395_496_3));
        assert_eq!(Place::new(181.0, 0.0), None);
        assert_eq!(Place::new(0.0, 86.0), None);
    }

    #[test]
    fn every_place_of_a_shape_has_its_score_in_the_ranges() {
        // A lattice of places and centres, also at the edges of the map.
        let lattice = |step: usize| {
            (-180..=180).step_by(step).flat_map(move |longitude| {
                (-85..=85).step_by(step / 2).map(move |latitude| Place {
                    longitude: f64::from(longitude),
                    latitude: f64::from(latitude),
                })
            })
        };
        let inside = |place: Place| place.longitude.abs() < 120.0 && place.latitude.abs() < 60.0;
        let mut met = 0;
        for centre in lattice(40).filter(|centre| inside(*centre)) {
            for shape in [
                Shape::Circle { radius: 400_000.0 },
                Shape::Circle { radius: 2_000_000.0 },
                Shape::Box { width: 900_000.0, height: 3_000_000.0 },
            ] {
                let ranges = shape.scores(centre);
                for place in lattice(6).filter(|place| shape.reach(centre, *place).is_some()) {
                    met += 1;
                    let score = place.score();
                    let covering = ranges.iter().filter(|(from, to)| (*from..*to).contains(&score)).count();
                    assert_eq!(covering, 1, "{place:?} around {centre:?} in {shape:?}");
                }
            }
        }
        assert!(met > 1000, "{met}");
    }

    #[test]
    fn scores_that_are_no_places_give_some_place_all_the_same() {
        for score in [-1.0, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300, 2f64.powi(63), 0.5] {
            let place = Place::of_score(score);
            assert!(Place::new(place.longitude, place.latitude).is_some(), "{score}");
        }
        assert_eq!((bits_of(-1.0), bits_of(f64::INFINITY), bits_of(2f64.powi(63))), (u64::MAX, 0, 1 << 63));
        assert_eq!(bits_of(f64::NEG_INFINITY), 1 << 63);
    }
}
