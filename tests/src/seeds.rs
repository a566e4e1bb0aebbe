//! Which seeds a test tries: the same ones each time, so that it fails for what was changed; or those from a drawn one on,
//! to look for what nobody has found yet. `tests/run` says which.

/// `HAYPILE_SEED` alone, if it names one. Else the first `few`, or with `HAYPILE_LONG=1` `many`, from
/// `HAYPILE_SEEDS_FROM` (0) on.
pub fn seeds(few: u64, many: u64) -> impl Iterator<Item = u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let long = std::env::var("HAYPILE_LONG").is_ok_and(|value| value == "1");
    let from = number("HAYPILE_SEEDS_FROM").unwrap_or(0);
    let several = from..from.saturating_add(if long { many } else { few });
    let range = number("HAYPILE_SEED").map_or(several, |seed| seed..seed.saturating_add(1));
    range.inspect(|seed| println!("HAYPILE_SEED={seed}"))
}
