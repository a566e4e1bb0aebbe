//! Makes a history that broke a promise smaller, by running smaller ones as long as time allows.
//!
//! First parts of it that are likely enough are tried: the keys that the violation is about, the last kill. Then pieces are
//! left out, large ones first, as delta debugging does (Zeller, Hildebrandt 2002). What counts is that the same kind of
//! violation happens again, on whatever key. Where it can, the result waits for every answer before it kills the server.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::timeout;

use crate::screen::Watch;

use super::judge::{EVERYSEC, Promise};
use super::operation::Operation;
use super::plan::{Plan, is_shared, tag};
use super::script::{Cycle, Line, Script, Waits};
use super::session::{Facts, Session, Stop, Work};
use super::violation::{Breach, Violation};

/// More operations than these are not tried again all together.
const OPERATIONS_MAX: usize = 300_000;
/// Into how many pieces a history is cut at first.
const COARSE: usize = 4;
/// How often a history is run that does not show the violation at once, before it counts as one that doesn't.
const TRIES: usize = 2;
/// How often the result is run again, to tell how surely it repeats.
const REPEATS: usize = 3;
/// How many larger histories are kept, for when the smallest one showed the violation by luck.
const FORMER: usize = 8;

/// What is to be repeated.
pub struct Case<'a> {
    /// The server's command.
    pub command: &'a str,
    /// What is promised.
    pub promise: Promise,
    /// The kind of violation.
    pub breach: Breach,
    /// How long it may take.
    pub budget: Duration,
}

impl Case<'_> {
    /// What `everysec` may lose must be long enough ago at each kill.
    fn timed(&self, mut script: Script) -> Script {
        if self.promise == Promise::Everysec && self.breach == Breach::Lost {
            let marks = script.cycles.iter_mut().map(|cycle| &mut cycle.mark);
            marks.for_each(|mark| mark.after = mark.after.max(EVERYSEC + Duration::from_millis(100)));
        }
        script
    }
}

/// What came of it.
pub struct Shrunk {
    /// The history.
    pub script: Script,
    /// The violation that it showed last; `None` if none did.
    pub violation: Option<Violation>,
    /// In how many further runs it showed one.
    pub repeats: usize,
    /// How many those were.
    pub again: usize,
    /// How many histories were run.
    pub runs: usize,
}

/// The whole history of these cycles.
#[must_use]
pub fn whole(plan: &Plan, promise: Promise, facts: &[Facts]) -> Script {
    Script { promise, cycles: facts.iter().map(|facts| cycle(plan, facts, |_| true)).collect() }
}

/// The part of these cycles that touches keys with these tags, and shared keys with these names.
#[must_use]
pub fn around(plan: &Plan, promise: Promise, facts: &[Facts], keys: &[String]) -> Script {
    let names: BTreeSet<&str> =
        keys.iter().map(|key| if is_shared(key) { key.as_str() } else { tag(key) }).collect();
    let near = |operation: &Operation| {
        let mut touches = operation.touches();
        touches.any(|touch| names.contains(touch.key.as_str()) || names.contains(tag(&touch.key)))
    };
    Script { promise, cycles: facts.iter().map(|facts| cycle(plan, facts, near)).collect() }
}

/// One cycle, as lines of those operations that are wanted; clients take turns.
fn cycle(plan: &Plan, facts: &Facts, wanted: impl Fn(&Operation) -> bool) -> Cycle {
    let mut lines = Vec::new();
    for (client, &(first, answered, end)) in facts.lanes.iter().enumerate() {
        let mut step = first;
        while step < end {
            let mut operations = plan.batch(client, step);
            let turn = step - first;
            step += operations.len() as u64;
            let waits = if step <= answered { Waits::Yes } else { Waits::No };
            operations.retain(&wanted);
            if !operations.is_empty() {
                lines.push((turn, Line { client, operations, waits }));
            }
        }
    }
    lines.sort_by_key(|(turn, line)| (*turn, line.client));
    Cycle { lines: lines.into_iter().map(|(_, line)| line).collect(), mark: facts.mark.clone() }
}

/// Runs a history once on a fresh server.
///
/// # Errors
/// If that can't be run.
pub async fn replay(command: &str, script: &Script) -> Result<Vec<Violation>, String> {
    let mut session = match Session::open(command, script.clients(), script.promise).await {
        Ok(session) => session,
        Err(Stop::CouldNotRun(why)) => return Err(why),
        Err(Stop::Violated(violations)) => return Ok(violations),
    };
    let mut result = Ok(Vec::new());
    for cycle in &script.cycles {
        match session.cycle(Work::Script(cycle), &cycle.mark).await {
            Ok(()) => {}
            Err(Stop::Violated(violations)) => result = Ok(violations),
            Err(Stop::CouldNotRun(why)) => result = Err(why),
        }
        if !matches!(&result, Ok(violations) if violations.is_empty()) {
            break;
        }
    }
    session.close().await;
    result
}

/// Shrinks the history of these cycles, the last of which broke the promise on these keys.
pub async fn shrink(case: &Case<'_>, plan: &Plan, facts: &[Facts], keys: &[String]) -> Shrunk {
    let mut shrinker = Shrinker { case, began: Watch::start(), runs: 0, seen: None, former: VecDeque::new() };
    let last = &facts[facts.len().saturating_sub(1)..];
    let operations: u64 =
        facts.iter().flat_map(|facts| &facts.lanes).map(|(first, _, end)| end - first).sum();
    let small = operations <= OPERATIONS_MAX as u64;
    let mut best = None;
    for candidate in 0..4 {
        let script = match candidate {
            0 if !keys.is_empty() => around(plan, case.promise, last, keys),
            1 => whole(plan, case.promise, last),
            2 if !keys.is_empty() => around(plan, case.promise, facts, keys),
            3 if small => whole(plan, case.promise, facts),
            _ => continue,
        };
        let script = case.timed(script);
        if script.operations() <= OPERATIONS_MAX && shrinker.repeats(&script).await {
            best = Some(script);
            break;
        }
    }
    let Some(mut best) = best else {
        let script = around(plan, case.promise, facts, keys);
        let script = if keys.is_empty() || script.operations() == 0 {
            whole(plan, case.promise, last)
        } else {
            script
        };
        return Shrunk { script, violation: None, repeats: 0, again: 0, runs: shrinker.runs };
    };
    // For whoever reads it. It rarely is the length of a value that breaks a promise.
    shrinker.short_values(&mut best).await;
    // What is acknowledged before the kill hangs on no race, on slower machines neither.
    shrinker.all_waited_for(&mut best).await;
    // Large steps first: each run of a long history takes its time.
    shrinker.fewer_lines(&mut best, COARSE).await;
    shrinker.fewer_kills(&mut best).await;
    shrinker.fewer_clients(&mut best).await;
    shrinker.fewer_keys(&mut best).await;
    shrinker.fewer_lines(&mut best, usize::MAX).await;
    shrinker.single_operations(&mut best).await;
    shrinker.fewer_lines(&mut best, usize::MAX).await;
    shrinker.fewer_kills(&mut best).await;
    shrinker.all_waited_for(&mut best).await;
    shrinker.more_waited_for(&mut best).await;
    let (mut repeats, mut again) = shrinker.again(&best).await;
    while repeats == 0 && shrinker.began.elapsed() < 2 * case.budget {
        let Some(former) = shrinker.former.pop_back() else { break };
        best = former;
        (repeats, again) = shrinker.again(&best).await;
    }
    Shrunk { script: best, violation: shrinker.seen, repeats, again, runs: shrinker.runs }
}

struct Shrinker<'a> {
    case: &'a Case<'a>,
    began: Watch,
    runs: usize,
    seen: Option<Violation>,
    /// The last few that were made smaller still.
    former: VecDeque<Script>,
}

impl Shrinker<'_> {
    fn is_over(&self) -> bool {
        self.began.elapsed() >= self.case.budget
    }

    /// Whether a history shows the violation, now.
    async fn run(&mut self, script: &Script) -> bool {
        // One that was begun in time may take as long again; then it counts as clean.
        let Ok(Ok(violations)) = timeout(self.case.budget, replay(self.case.command, script)).await else {
            return false;
        };
        self.runs += 1;
        let same = violations.into_iter().find(|violation| violation.breach == self.case.breach);
        let found = same.is_some();
        self.seen = same.or(self.seen.take());
        found
    }

    /// Whether it does within a few tries.
    async fn repeats(&mut self, script: &Script) -> bool {
        for _ in 0..TRIES {
            if self.is_over() {
                return false;
            }
            if self.run(script).await {
                return true;
            }
        }
        false
    }

    async fn take(&mut self, best: &mut Script, smaller: Script) -> bool {
        let better = smaller.operations() > 0 && self.repeats(&smaller).await;
        if better {
            self.former.push_back(std::mem::replace(best, smaller));
            if self.former.len() > FORMER {
                self.former.pop_front();
            }
        }
        better
    }

    /// In how many of how many further runs it does.
    async fn again(&mut self, script: &Script) -> (usize, usize) {
        let (mut repeats, mut again) = (0, 0);
        while again < REPEATS && (again == 0 || self.began.elapsed() < 2 * self.case.budget) {
            repeats += usize::from(self.run(script).await);
            again += 1;
        }
        (repeats, again)
    }

    /// Waits for every answer before the kill.
    async fn all_waited_for(&mut self, best: &mut Script) {
        let mut waited = best.clone();
        waited.cycles.iter_mut().flat_map(|cycle| &mut cycle.lines).for_each(|line| line.waits = Waits::Yes);
        if waited != *best {
            self.take(best, waited).await;
        }
    }

    /// Waits for every answer that need not be under way at the kill.
    async fn more_waited_for(&mut self, best: &mut Script) {
        let under_way = |(index, line): (usize, &Line)| (line.waits == Waits::No).then_some(index);
        let under_way: Vec<usize> = best.lines().enumerate().filter_map(under_way).collect();
        for index in under_way {
            if self.is_over() {
                return;
            }
            let mut waited = best.clone();
            let mut lines = waited.cycles.iter_mut().flat_map(|cycle| &mut cycle.lines);
            lines.nth(index).into_iter().for_each(|line| line.waits = Waits::Yes);
            self.take(best, waited).await;
        }
    }

    /// Leaves out whole cycles, kills of starts, and kills between cycles.
    async fn fewer_kills(&mut self, best: &mut Script) {
        let mut index = 0;
        while index < best.cycles.len() && best.cycles.len() > 1 && !self.is_over() {
            let mut without = best.clone();
            without.cycles.remove(index);
            if self.take(best, without).await {
                continue;
            }
            // The operations stay, the kill goes: they are the beginning of the next cycle.
            let mut joined = best.clone();
            if index + 1 < joined.cycles.len() {
                let mut lines = joined.cycles.remove(index).lines;
                lines.iter_mut().for_each(|line| line.waits = Waits::Yes);
                let next = &mut joined.cycles[index].lines;
                lines.append(next);
                *next = lines;
                if self.take(best, joined).await {
                    continue;
                }
            }
            index += 1;
        }
        for index in 0..best.cycles.len() {
            if !best.cycles[index].mark.starts.is_empty() {
                let mut without = best.clone();
                without.cycles[index].mark.starts.clear();
                self.take(best, without).await;
            }
        }
    }

    async fn fewer_clients(&mut self, best: &mut Script) {
        for client in (0..best.clients()).rev() {
            if self.is_over() {
                return;
            }
            let without = best.filtered(|line| line.client != client);
            if without.operations() < best.operations() {
                self.take(best, without).await;
            }
        }
    }

    async fn fewer_keys(&mut self, best: &mut Script) {
        let operations = best.lines().flat_map(|line| &line.operations);
        let keys: BTreeSet<String> = operations.flat_map(Operation::keys).map(str::to_owned).collect();
        for key in keys {
            if self.is_over() {
                return;
            }
            let mut without = best.clone();
            for line in without.cycles.iter_mut().flat_map(|cycle| &mut cycle.lines) {
                line.operations.retain(|operation| !operation.keys().contains(&key.as_str()));
            }
            let without = without.filtered(|line| !line.operations.is_empty());
            if without.operations() < best.operations() {
                self.take(best, without).await;
            }
        }
    }

    /// Leaves out pieces: halves, quarters, and so on until there are so many, or to single lines.
    async fn fewer_lines(&mut self, best: &mut Script, pieces_max: usize) {
        let mut piece = best.lines().count().div_ceil(2);
        while piece > 0 && best.lines().count() / piece <= pieces_max && !self.is_over() {
            let mut from = 0;
            let mut any = false;
            while from < best.lines().count() && !self.is_over() {
                let mut index = 0;
                let without = best.filtered(|_| {
                    index += 1;
                    !(from..from + piece).contains(&(index - 1))
                });
                if self.take(best, without).await {
                    any = true;
                    // Half of what is left, if that was half.
                    piece = piece.min(best.lines().count().div_ceil(2)).max(1);
                } else {
                    from += piece;
                }
            }
            // Single lines are tried until none can go.
            piece = match piece {
                1 => usize::from(any),
                _ => piece.div_ceil(2),
            };
        }
    }

    /// One operation a line, instead of pipelines.
    async fn single_operations(&mut self, best: &mut Script) {
        let mut single = best.clone();
        for cycle in &mut single.cycles {
            let one = |line: Line| {
                let (client, waits) = (line.client, line.waits);
                line.operations.into_iter().map(move |operation| Line {
                    client,
                    operations: vec![operation],
                    waits,
                })
            };
            cycle.lines = std::mem::take(&mut cycle.lines).into_iter().flat_map(one).collect();
        }
        if single != *best {
            self.take(best, single).await;
        }
    }

    /// Values without what makes them long.
    async fn short_values(&mut self, best: &mut Script) {
        let mut short = best.clone();
        for operation in
            short.cycles.iter_mut().flat_map(|cycle| &mut cycle.lines).flat_map(|line| &mut line.operations)
        {
            *operation = operation.mapped(|word| word.trim_end_matches('x').trim_end_matches('-'));
        }
        if short != *best {
            self.take(best, short).await;
        }
    }
}

impl Script {
    /// With these lines only.
    fn filtered(&self, mut keep: impl FnMut(&Line) -> bool) -> Script {
        let mut script = self.clone();
        script.cycles.iter_mut().for_each(|cycle| cycle.lines.retain(&mut keep));
        script
    }
}
