//! A server under test from its first start to its end: load, kill, restart, read back, judge, and again on the same data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::remote::{Client, Reply};
use crate::screen::Watch;

use super::child::{Launch, Process};
use super::judge::{Kill, Promise, Rule};
use super::lane::{ANSWER_MAX, Common, End, Lane};
use super::model::Fate;
use super::plan::{Plan, is_shared, shared_age};
use super::script::{Cycle, Line, Mark, Waits};
use super::value::{Data, Expires, Found, Kind, Span};
use super::verbs::{Verb, Verbs};
use super::violation::{Breach, Violation};

/// Keys that are read back at once.
const READ_AT_ONCE: usize = 64;
/// How long a server that closed a connection may take to be seen dead.
const DEATH_MAX: Duration = Duration::from_millis(1500);
/// Timers are that coarse.
const TIMER_MIN: Duration = Duration::from_millis(10);
/// Generations of shared keys that are kept, and read back each time.
const SHARED_KEPT: u64 = 2;

/// Why a session can't go on.
#[derive(Debug)]
pub enum Stop {
    /// It says nothing about the promise.
    CouldNotRun(String),
    /// The promise was broken.
    Violated(Vec<Violation>),
}

/// What clients are to do.
pub enum Work<'a> {
    /// Follow the plan for so long.
    Plan(&'a Arc<Plan>, Duration),
    /// Play a cycle of a script.
    Script(&'a Cycle),
}

/// What was counted.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Cycles that ended with everything read back.
    pub cycles: u64,
    /// Kills of a server that served.
    pub kills: u64,
    /// Kills of a server that was starting.
    pub kills_of_starts: u64,
    /// Operations that were sent and not answered.
    pub unanswered: u64,
    /// Keys read back.
    pub keys_read: u64,
    /// Connections that the server closed while it lived.
    pub hang_ups: u64,
    /// From start to the first answer, for each start after a kill.
    pub recoveries: Vec<Duration>,
}

/// What a cycle did, as far as it takes to do it again.
#[derive(Clone, Debug)]
pub struct Facts {
    /// For each client its steps: from, answered to, sent to.
    pub lanes: Vec<(u64, u64, u64)>,
    /// How it ended.
    pub mark: Mark,
}

/// A server and its clients.
pub struct Session {
    process: Process,
    /// Removed after the process is gone.
    folder: TempDir,
    launch: Launch,
    lanes: Vec<Lane>,
    promise: Promise,
    /// What the server can do.
    pub verbs: Verbs,
    /// What the clients share.
    pub common: Arc<Common>,
    /// What was counted.
    pub tally: Tally,
    /// Every cycle, the one that failed too.
    pub facts: Vec<Facts>,
}

impl Session {
    /// Starts a server in a fresh folder, and asks it what it can do.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn open(command: &str, clients: usize, promise: Promise) -> Result<Session, Stop> {
        let folder = tempfile::Builder::new().prefix("haypile-torture-").tempdir();
        let folder = folder.map_err(|error| Stop::CouldNotRun(format!("no temporary folder: {error}")))?;
        let mut launch = Launch::new(command, folder.path()).map_err(Stop::CouldNotRun)?;
        let with_words = |why: String, words: Vec<String>| {
            Stop::CouldNotRun(format!("{why}\n{}", words.join("\n")).trim_end().to_owned())
        };
        let (process, _) = launch.ready().await.map_err(|(why, words)| with_words(why, words))?;
        let verbs = async {
            let mut client = Client::connect(launch.address).await.map_err(|error| error.to_string())?;
            Verbs::probe(&mut client).await
        };
        let verbs = match timeout(ANSWER_MAX, verbs).await {
            Ok(Ok(verbs)) => verbs,
            Ok(Err(why)) => return Err(with_words(why, process.last_words())),
            Err(_) => return Err(with_words("the server does not answer".to_owned(), process.last_words())),
        };
        let common = Common::new(launch.address);
        let lanes = (0..clients).map(|number| Lane::new(number, &common)).collect();
        let (tally, facts) = (Tally::default(), Vec::new());
        Ok(Session { process, folder, launch, lanes, promise, verbs, common, tally, facts })
    }

    /// Lets the server's folder stay when the session ends; where it is.
    pub fn keep_folder(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// Ends the server.
    pub async fn close(mut self) {
        let _ = self.process.kill().await;
    }

    /// Load, kill, restart, judgement.
    ///
    /// # Errors
    /// If the promise was broken, or nothing can be said.
    pub async fn cycle(&mut self, work: Work<'_>, mark: &Mark) -> Result<(), Stop> {
        let firsts: Vec<u64> = self.lanes.iter().map(|lane| lane.next).collect();
        let worked = self.work(&work, mark).await;
        let in_doubt = self.lanes.iter().filter(|lane| lane.in_doubt());
        let mark = match work {
            Work::Plan(..) => {
                let killed_at = worked.as_ref().map_or(Duration::ZERO, |rule| rule.killed_at);
                let delay = in_doubt.map(|lane| killed_at.saturating_sub(lane.last_sent)).max();
                Mark { after: delay.unwrap_or(Duration::ZERO), ..mark.clone() }
            }
            Work::Script(_) => mark.clone(),
        };
        let lanes = firsts.iter().zip(&self.lanes).map(|(&first, lane)| (first, lane.answered_to, lane.next));
        self.facts.push(Facts { lanes: lanes.collect(), mark: mark.clone() });
        let rule = worked?;
        let unanswered =
            |lane: &Lane| lane.log.records.iter().filter(|record| record.fate == Fate::Unanswered).count();
        self.tally.unanswered += self.lanes.iter().map(unanswered).sum::<usize>() as u64;
        self.lanes.iter_mut().for_each(Lane::hang_up);
        if rule.kill != Kill::None {
            self.restart(&mark.starts).await?;
        }
        self.judge(rule).await?;
        self.tally.cycles += 1;
        if matches!(work, Work::Plan(..)) {
            self.retire_shared().await?;
        }
        Ok(())
    }

    /// Runs the clients and ends the server.
    async fn work(&mut self, work: &Work<'_>, mark: &Mark) -> Result<Rule, Stop> {
        self.common.stop.store(false, Ordering::Relaxed);
        let mut running = JoinSet::new();
        let mut ends = Vec::new();
        match work {
            Work::Plan(plan, time) => {
                for mut lane in self.lanes.drain(..) {
                    let plan = Arc::clone(plan);
                    running.spawn(async move { (lane.follow(&plan).await, lane) });
                }
                // Nobody ends before he is told to, unless something is wrong.
                tokio::select! {
                    () = sleep(*time) => {}
                    Some(joined) = running.join_next() => self.back(joined, &mut ends),
                }
            }
            Work::Script(cycle) => {
                for mut lane in self.lanes.drain(..) {
                    let lines = of_client(cycle, lane.number, Waits::Yes);
                    running.spawn(async move { (lane.play(lines).await, lane) });
                }
                while let Some(joined) = running.join_next().await {
                    self.back(joined, &mut ends);
                }
                if ends.iter().all(|end| *end == End::Done) {
                    ends.clear();
                    for lane in &mut self.lanes {
                        let lines = of_client(cycle, lane.number, Waits::No);
                        let batch = lines.into_iter().flat_map(|line| line.operations).collect();
                        if let Err(end) = lane.dispatch(batch).await {
                            ends.push(end);
                        }
                    }
                    for mut lane in self.lanes.drain(..) {
                        running.spawn(async move {
                            let end = lane.collect().await.err().unwrap_or(End::Done);
                            (end, lane)
                        });
                    }
                    spin(mark.after).await;
                }
            }
        }
        let early = ends.iter().any(|end| *end != End::Done);
        let kill = if early { Kill::None } else { mark.kill };
        let killed_at = self.common.now();
        match kill {
            Kill::Sigkill => self.process.strike(),
            Kill::Sigterm => self.process.ask_to_end(),
            Kill::None => self.common.stop.store(true, Ordering::Relaxed),
        }
        while let Some(joined) = running.join_next().await {
            self.back(joined, &mut ends);
        }
        self.lanes.sort_by_key(|lane| lane.number);
        // What the kill did not cause.
        for end in &ends {
            if let End::Wrong(violation) = end {
                let mut violation = (**violation).clone();
                if violation.key.is_empty() {
                    violation.more.extend(self.process.last_words());
                }
                return Err(Stop::Violated(vec![violation]));
            }
        }
        if kill == Kill::None {
            self.look_for_death(&ends).await?;
        } else {
            self.tally.kills += 1;
            self.end_process(kill).await?;
        }
        Ok(Rule { promise: self.promise, kill, killed_at })
    }

    fn back(&mut self, joined: Result<(End, Lane), tokio::task::JoinError>, ends: &mut Vec<End>) {
        let (end, lane) = joined.expect("no client's task panics or is cancelled");
        ends.push(end);
        self.lanes.push(lane);
    }

    /// A connection that broke though nobody killed the server: whether the server died.
    async fn look_for_death(&mut self, ends: &[End]) -> Result<(), Stop> {
        let broken = ends.iter().find_map(|end| if let End::Broken(why) = end { Some(why) } else { None });
        let began = Watch::start();
        loop {
            if let Some(status) = self.process.status() {
                sleep(Duration::from_millis(20)).await;
                let text = format!("{status}; nobody killed it");
                let violation = Violation::of_server(Breach::Died, text, self.process.last_words());
                return Err(Stop::Violated(vec![violation]));
            }
            if broken.is_none() {
                return Ok(());
            }
            if began.elapsed() > DEATH_MAX {
                self.tally.hang_ups += 1;
                return Ok(());
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn end_process(&mut self, kill: Kill) -> Result<(), Stop> {
        if kill == Kill::Sigterm {
            let words = |process: &Process| process.last_words();
            if let Err(why) = self.process.ended().await {
                let violation = Violation::of_server(Breach::Stuck, why, words(&self.process));
                return Err(Stop::Violated(vec![violation]));
            }
            return Ok(());
        }
        self.process.kill().await.map_err(Stop::CouldNotRun)
    }

    /// Starts the server again, after starts that are killed.
    async fn restart(&mut self, starts: &[Duration]) -> Result<(), Stop> {
        for &after in starts {
            self.process = self.launch.start().await.map_err(Stop::CouldNotRun)?;
            sleep(after).await;
            self.process.kill().await.map_err(Stop::CouldNotRun)?;
            self.tally.kills_of_starts += 1;
        }
        match self.launch.ready().await {
            Ok((process, took)) => {
                self.process = process;
                self.common.moved(self.launch.address);
                self.tally.recoveries.push(took);
                Ok(())
            }
            Err((why, words)) => Err(Stop::Violated(vec![Violation::of_server(Breach::NotBack, why, words)])),
        }
    }

    /// Reads everything back and judges it.
    async fn judge(&mut self, rule: Rule) -> Result<(), Stop> {
        let mut violations = Vec::new();
        let mut client = match Client::connect(self.launch.address).await {
            Ok(client) => client,
            Err(error) => return Err(self.unreadable(&error.to_string()).await),
        };
        for lane in 0..self.lanes.len() {
            let keys: Vec<(String, Kind, bool)> = {
                let keys = self.lanes[lane].log.keys.iter();
                keys.map(|(key, log)| (key.clone(), log.kind, log.timed)).collect()
            };
            let found = self.read(&mut client, &keys, &mut violations).await?;
            violations.extend(self.lanes[lane].log.settle(found, rule));
        }
        let shared: Vec<(String, Kind, bool)> =
            self.common.shared().kinds().map(|(key, kind)| (key.to_owned(), kind, false)).collect();
        let found = self.read(&mut client, &shared, &mut violations).await?;
        violations.extend(self.common.shared().settle(&found, rule));
        if self.verbs.has(Verb::Scan) {
            violations.extend(self.strangers(&mut client).await?);
        }
        if violations.is_empty() { Ok(()) } else { Err(Stop::Violated(violations)) }
    }

    async fn read(
        &mut self,
        client: &mut Client,
        keys: &[(String, Kind, bool)],
        violations: &mut Vec<Violation>,
    ) -> Result<BTreeMap<String, Found>, Stop> {
        let mut found = BTreeMap::new();
        for some in keys.chunks(READ_AT_ONCE) {
            let from = self.common.now();
            let replies = match timeout(ANSWER_MAX, ask(client, some)).await {
                Ok(Ok(replies)) => replies,
                Ok(Err(error)) => return Err(self.unreadable(&error.to_string()).await),
                Err(_) => return Err(self.unreadable("no answer").await),
            };
            let at = Span { from, to: self.common.now() };
            self.tally.keys_read += some.len() as u64;
            for ((key, kind, _), (reply, left)) in some.iter().zip(replies) {
                match Data::of(*kind, &reply) {
                    Ok(data) => {
                        let expires_in = match left {
                            Some(Reply::Integer(-1)) => Expires::Never,
                            Some(Reply::Integer(left)) if data != Data::Nothing => u64::try_from(left)
                                .map_or(Expires::Unknown, |left| Expires::In(Duration::from_millis(left))),
                            _ => Expires::Unknown,
                        };
                        found.insert(key.clone(), Found { data, expires_in, at });
                    }
                    Err(text) => violations.push(Violation {
                        breach: Breach::WrongAnswer,
                        key: key.clone(),
                        expected: format!("`{}` reads it", kind.read(key).join(" ")),
                        found: text,
                        more: self.process.last_words(),
                    }),
                }
            }
        }
        Ok(found)
    }

    /// Keys that are there and that nobody ever wrote to.
    async fn strangers(&mut self, client: &mut Client) -> Result<Option<Violation>, Stop> {
        let mut names = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let page = timeout(ANSWER_MAX, client.call(&format!("SCAN {cursor} COUNT 1000"))).await;
            let Ok(Ok(Reply::Array(page))) = page else {
                return Err(self.unreadable("SCAN is not answered").await);
            };
            let [next, Reply::Array(some)] = page.as_slice() else { return Ok(None) };
            names.extend(some.iter().map(Reply::text));
            cursor = next.text();
            if cursor == "0" {
                break;
            }
        }
        let known = |name: &String| {
            let own = self.lanes.iter().any(|lane| lane.log.keys.contains_key(name));
            own || is_shared(name) || name.contains("{probe}")
        };
        Ok(names.iter().find(|name| !known(name)).map(|name| Violation {
            breach: Breach::Invented,
            key: name.clone(),
            expected: "only keys that were written to".to_owned(),
            found: "SCAN shows this key, and nobody ever wrote to it".to_owned(),
            more: Vec::new(),
        }))
    }

    /// The server can't be read from: it died, or it is silent.
    async fn unreadable(&mut self, why: &str) -> Stop {
        let broken = End::Broken(why.to_owned());
        if let Err(stop) = self.look_for_death(&[broken]).await {
            return stop;
        }
        let text = format!("reading back: {why}");
        Stop::Violated(vec![Violation::of_server(Breach::Silent, text, self.process.last_words())])
    }

    /// Removes shared keys that no client writes to any more.
    async fn retire_shared(&mut self) -> Result<(), Stop> {
        let ages = self.lanes.iter().map(|lane| Plan::shared_age_at(lane.next));
        let keep = ages.min().unwrap_or(0).saturating_sub(SHARED_KEPT);
        let old = self.common.shared().retire(|name| shared_age(name).is_some_and(|age| age < keep));
        if old.is_empty() {
            return Ok(());
        }
        let remove = async {
            let mut client = Client::connect(self.launch.address).await?;
            for name in &old {
                client.call(&format!("DEL {name}")).await?;
            }
            std::io::Result::Ok(())
        };
        match timeout(ANSWER_MAX, remove).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.unreadable(&error.to_string()).await),
            Err(_) => Err(self.unreadable("no answer").await),
        }
    }
}

fn of_client(cycle: &Cycle, client: usize, waits: Waits) -> Vec<Line> {
    cycle.lines.iter().filter(|line| line.client == client && line.waits == waits).cloned().collect()
}

/// Waits, also for a time that is too short for a timer, letting clients work meanwhile.
async fn spin(time: Duration) {
    if time > TIMER_MIN {
        return sleep(time).await;
    }
    let began = Watch::start();
    while began.elapsed() < time {
        tokio::task::yield_now().await;
    }
}

async fn ask(
    client: &mut Client,
    keys: &[(String, Kind, bool)],
) -> std::io::Result<Vec<(Reply, Option<Reply>)>> {
    for (key, kind, timed) in keys {
        let words = kind.read(key);
        client.push(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        if *timed {
            client.push(&[b"PTTL", key.as_bytes()]);
        }
    }
    client.send().await?;
    let mut replies = Vec::with_capacity(keys.len());
    for (_, _, timed) in keys {
        let reply = client.receive().await?;
        let left = if *timed { Some(client.receive().await?) } else { None };
        replies.push((reply, left));
    }
    Ok(replies)
}

/// The folder of a session that is kept, for people.
#[must_use]
pub fn shown(folder: &Path) -> String {
    format!("the server's folder stays: {}", folder.display())
}
