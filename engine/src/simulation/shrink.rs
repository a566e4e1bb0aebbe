//! Making a story shorter: steps are taken away as long as some cut still breaks a promise.

use super::case::Cut;
use super::explore::{Found, Tally, Workload};

/// Takes steps away from a workload that breaks a promise, in ever smaller pieces, as long as `go_on` says so; gives the
/// shortest one found and how it fails. It may fail at another operation, or break another promise.
pub fn shrink(
    workload: &Workload,
    found: Box<Found>,
    go_on: &mut dyn FnMut() -> bool,
) -> (Workload, Box<Found>) {
    let (mut best, mut why) = (workload.clone(), found);
    let mut piece = best.steps.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < best.steps.len() {
            if !go_on() {
                return (best, why);
            }
            let mut fewer = best.clone();
            fewer.steps.drain(at..(at + piece).min(best.steps.len()));
            match fails(&fewer, &why) {
                Some(found) => (best, why, shorter) = (fewer, found, true),
                None => at += piece,
            }
        }
        if piece == 1 && !shorter {
            break;
        }
        piece = if piece == 1 { 1 } else { piece.div_ceil(2) };
    }
    (best, why)
}

/// Looks for a failure of the same sort.
fn fails(workload: &Workload, found: &Found) -> Option<Box<Found>> {
    let tally = &mut Tally::default();
    let always = &mut |_: &Tally| true;
    let outcome = match found.case.cuts.first() {
        None => workload.replay(&[]),
        Some(Cut::Fail(_, failure)) => workload.fail_all(&[*failure], tally, always),
        Some(_) => workload.cut_all(tally, always),
    };
    outcome.err()
}
