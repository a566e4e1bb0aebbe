//! `haypile demo`: a cluster of six nodes, load on it, and a slot that moves from one group to another meanwhile.
//!
//! The nodes are processes of this program on free loopback ports. Everything that an operator would type is typed, and
//! shown. At the end everything that was acknowledged is read back from every node that must have it; the exit
//! status is 0 only if nothing was lost and no node died. Nothing stays behind: no process, and no folder unless asked.

mod load;
mod nodes;
mod slot_text;
mod verify;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use load::{MOVING, Part, SECOND_GROUP, Shared, WRITERS, Writer, Written};
use nodes::NodeProcess;

use verify::Findings;

use crate::remote::Reply;
use crate::screen::{Screen, Watch, bytes, milliseconds, number};

/// How long any single step may take.
const STEP_MAX: Duration = Duration::from_secs(30);
/// How often a step that waits looks again.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often it says how far it is.
const TELL_EVERY: Duration = Duration::from_millis(400);
/// Records that node 5 may lack when requests begin to be held.
const SMALL_LAG: u64 = 1000;
/// The nodes of each group, by index.
const GROUPS: [[usize; 2]; 3] = [[0, 1], [2, 3], [4, 5]];

/// What can be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the load runs before and after the move, together.
    pub load: Duration,
    /// Whether the folder stays.
    pub folder: Folder,
}

/// What becomes of the nodes' folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Folder {
    /// It goes with the demo.
    Removed,
    /// It stays, to be looked at.
    Kept,
}

/// Runs the demo; the process's exit status.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("can't start: {error}")),
    };
    let folder = match tempfile::Builder::new().prefix("haypile-demo-").tempdir() {
        Ok(mut folder) => {
            folder.disable_cleanup(options.folder == Folder::Kept);
            folder
        }
        Err(error) => return failed(&format!("can't make a temporary folder: {error}")),
    };
    let result = runtime.block_on(async {
        let mut story = Story { screen: Screen::new(), nodes: Vec::new() };
        let told = tokio::select! {
            told = story.tell(options.load, folder.path()) => told,
            signal = interrupted() => Err(signal),
        };
        // Whatever happened, no node outlives the demo.
        let ended = story.end(told.is_ok()).await;
        let told = told.and_then(|verdict| ended.map(|()| verdict));
        told.inspect(|verdict| story.screen.chapter(verdict))
    });
    if options.folder == Folder::Kept {
        println!("the nodes' folders stay in {}", folder.path().display());
    }
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(why) => failed(&why),
    }
}

fn failed(why: &str) -> ExitCode {
    println!("\nFAILED: {why}");
    ExitCode::FAILURE
}

/// Waits until somebody wants this process to end; by which signal.
pub async fn interrupted() -> String {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "interrupted".to_owned(),
        _ = terminate.recv() => "terminated".to_owned(),
    }
}

/// What a look at the nodes found.
enum Look {
    /// What was waited for is so.
    Done(String),
    /// It is not; how far it is.
    Waiting(String),
}

struct Story {
    screen: Screen,
    nodes: Vec<NodeProcess>,
}

/// The load while it runs.
struct Load {
    shared: Arc<Shared>,
    first: Vec<Written>,
    writers: Vec<JoinHandle<Vec<Written>>>,
}

impl Story {
    /// The whole story; the verdict.
    async fn tell(&mut self, load: Duration, folder: &Path) -> Result<String, String> {
        println!(
            "haypile demo: six nodes, load on them, and slot {MOVING} moves from group 1 to group 3 meanwhile"
        );
        self.start(folder).await?;
        self.form_groups().await?;
        let load_running = self.start_load(load / 2).await?;
        self.attach_third_group(&load_running).await?;
        let held = self.switch(&load_running).await?;
        self.clean_up(&load_running).await?;
        self.run_load("clients go on at node 5", load - load / 2, &load_running).await?;
        self.verdict(load_running, held).await
    }

    async fn start(&mut self, folder: &Path) -> Result<(), String> {
        self.screen.chapter("Six nodes");
        let (one, two, three, four, five, six) = tokio::try_join!(
            NodeProcess::start(1, folder),
            NodeProcess::start(2, folder),
            NodeProcess::start(3, folder),
            NodeProcess::start(4, folder),
            NodeProcess::start(5, folder),
            NodeProcess::start(6, folder),
        )?;
        self.nodes = vec![one, two, three, four, five, six];
        for (group, [one, two]) in GROUPS.into_iter().enumerate() {
            let (one, two) = (self.nodes[one].address, self.nodes[two].address);
            let numbers = (2 * group + 1, 2 * group + 2);
            let text =
                format!("group {}: node {} at {one}, node {} at {two}", group + 1, numbers.0, numbers.1);
            self.screen.line(&text);
        }
        Ok(())
    }

    async fn form_groups(&mut self) -> Result<(), String> {
        let (first, second) = (format!("0-{}", SECOND_GROUP - 1), format!("{SECOND_GROUP}-1023"));
        self.screen.chapter("Groups 1 and 2 share all slots; the second node of each follows the first");
        for (node, slots) in [(0, &first), (1, &first), (2, &second), (3, &second)] {
            self.typed(node, &format!("pkcluster addslots {slots}")).await?;
        }
        for (replica, master, slots) in [(1, 0, &first), (3, 2, &second)] {
            self.follow(replica, master, slots).await?;
        }
        for replica in [1, 3] {
            self.until(None, async |nodes| {
                let slots = nodes[replica].slots("all").await?;
                let connected = slots.iter().filter(|slot| slot.is_connected()).count();
                let text = format!("node {}: {connected} of {} slots kConnected", replica + 1, slots.len());
                Ok(if connected == slots.len() { Look::Done(text) } else { Look::Waiting(text) })
            })
            .await?;
        }
        Ok(())
    }

    async fn start_load(&mut self, time: Duration) -> Result<Load, String> {
        self.screen.chapter("Load");
        let shared = Shared::new(self.nodes.iter().map(|node| node.address).collect());
        let first = Writer::fill(&shared).await?;
        let keys = number(shared.acknowledged.load(Ordering::Relaxed));
        self.screen.line(&format!("{keys} keys in slot {MOVING} to begin with"));
        let writers = (1..=WRITERS).map(|number| tokio::spawn(Writer::new(&shared, number).run())).collect();
        let load = Load { shared, first, writers };
        self.run_load(&format!("{WRITERS} clients, a third of their writes in slot {MOVING}"), time, &load)
            .await?;
        Ok(load)
    }

    /// Lets the load run for a while.
    async fn run_load(&mut self, what: &str, time: Duration, load: &Load) -> Result<(), String> {
        self.screen.line(what);
        let acknowledged = || load.shared.acknowledged.load(Ordering::Relaxed);
        let (began, before) = (Watch::start(), acknowledged());
        let mut told = (Watch::start(), before);
        while began.elapsed() < time {
            sleep(LOOK_EVERY.min(time)).await;
            self.check(Some(load))?;
            if told.0.elapsed() >= Duration::from_secs(1) || began.elapsed() >= time {
                let now = acknowledged();
                let rate = per_second(now - told.1, told.0.elapsed());
                let total = number(now);
                self.screen.line(&format!("{total} writes acknowledged, {} a second", number(rate)));
                told = (Watch::start(), now);
            }
        }
        if acknowledged() == before && !time.is_zero() {
            return Err(format!("no write was acknowledged for {time:?}"));
        }
        Ok(())
    }

    async fn attach_third_group(&mut self, load: &Load) -> Result<(), String> {
        self.screen
            .chapter(&format!("Group 3 gets slot {MOVING}: node 5 follows node 1, node 6 follows node 5"));
        let slot = MOVING.to_string();
        self.typed(4, &format!("pkcluster addslots {slot}")).await?;
        self.typed(5, &format!("pkcluster addslots {slot}")).await?;
        for (replica, master) in [(4, 0), (5, 4)] {
            self.follow(replica, master, &slot).await?;
            self.until(Some(load), async |nodes| {
                let told = nodes[replica].slot(MOVING).await?;
                let status = told.slave_status.clone().unwrap_or_default();
                let why = told.last_error.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                let records = number(told.seq);
                let text = format!("node {}: {status}{why}, has {records} records", replica + 1);
                Ok(if told.is_connected() { Look::Done(text) } else { Look::Waiting(text) })
            })
            .await?;
        }
        let replica = self.nodes[4].address.to_string();
        self.until(Some(load), async |nodes| {
            let told = nodes[0].slot(MOVING).await?;
            let lag = told.lag_of(&replica);
            let text = match lag {
                Some(lag) => {
                    format!("node 1: node 5 lags by {} of {} records", number(lag), number(told.seq))
                }
                None => "node 1: node 5 does not stream yet".to_owned(),
            };
            Ok(if lag.is_some_and(|lag| lag <= SMALL_LAG) { Look::Done(text) } else { Look::Waiting(text) })
        })
        .await?;
        for (from, to) in [(0, 4), (4, 5)] {
            let peer = self.nodes[to].address.to_string();
            let shipped = bytes(self.nodes[from].shipped_bytes(&peer).await?);
            self.screen.line(&format!("node {} has shipped {shipped} to node {}", from + 1, to + 1));
        }
        Ok(())
    }

    /// The switch itself; how long requests were held.
    async fn switch(&mut self, load: &Load) -> Result<Duration, String> {
        self.screen.chapter(&format!("The switch: requests for slot {MOVING} are held, as the proxy does"));
        let shared = load.shared.clone();
        let mut route = shared.hold().await;
        let began = Watch::start();
        self.screen.line("held; those under way were answered");
        let replica = self.nodes[4].address.to_string();
        self.until(Some(load), async |nodes| {
            let told = nodes[0].slot(MOVING).await?;
            let text = |lag: u64| format!("node 1: lag of node 5 is {lag}, at record {}", number(told.seq));
            Ok(match told.lag_of(&replica) {
                Some(0) => Look::Done(text(0)),
                Some(lag) => Look::Waiting(text(lag)),
                None => Look::Waiting("node 1: node 5 does not stream".to_owned()),
            })
        })
        .await?;
        self.typed(4, &format!("pkcluster slotsslaveof no one {MOVING}")).await?;
        let told = self.nodes[4].slot(MOVING).await?;
        if told.state != "master" {
            return Err(format!("node 5 should own slot {MOVING} now, it says: {}", told.state));
        }
        *route = 4;
        let held = began.elapsed();
        drop(route);
        self.screen.line(&format!("requests go to node 5; they were held for {}", milliseconds(held)));
        Ok(held)
    }

    async fn clean_up(&mut self, load: &Load) -> Result<(), String> {
        self.screen.chapter(&format!("Slot {MOVING} leaves group 1; the load goes on"));
        for node in [1, 0] {
            self.typed(node, &format!("pkcluster slotsslaveof no one {MOVING}")).await?;
        }
        for node in [1, 0] {
            self.typed(node, &format!("pkcluster removeslots {MOVING}")).await?;
        }
        self.check(Some(load))?;
        let told = self.nodes[5].slot(MOVING).await?;
        let master = self.nodes[4].address.to_string();
        if told.master.as_ref() != Some(&master) || !told.is_connected() {
            return Err(format!("node 6 should still follow node 5, it says: {told:?}"));
        }
        self.screen.line("node 6 still follows node 5: kConnected");
        Ok(())
    }

    async fn verdict(&mut self, load: Load, held: Duration) -> Result<String, String> {
        self.screen.chapter("Everything is read back");
        let Load { shared, first, writers } = load;
        shared.stop();
        let mut written = first;
        for writer in writers {
            written.extend(writer.await.map_err(|error| format!("a client failed: {error}"))?);
        }
        if let Some(why) = shared.trouble() {
            return Err(why);
        }
        let total = shared.acknowledged.load(Ordering::Relaxed);
        let moving = shared.acknowledged_moving.load(Ordering::Relaxed);
        self.screen.line(&format!("clients stopped: {} writes were acknowledged", number(total)));
        for master in [0, 2, 4] {
            self.until(None, async |nodes| {
                let slots = nodes[master].slots("all").await?;
                let lags =
                    || slots.iter().flat_map(|slot| &slot.slaves).map(|(_, status, lag)| (status, *lag));
                let behind: u64 = lags().map(|(_, lag)| lag).fold(0, u64::saturating_add);
                let all = lags().all(|(status, lag)| status == "SlaveBinlogSync" && lag == 0);
                let text = format!("node {}: replicas lag by {behind} records", master + 1);
                Ok(if all && lags().count() == slots.len() { Look::Done(text) } else { Look::Waiting(text) })
            })
            .await?;
        }
        let mut findings = Findings::default();
        for (index, part) in Part::ALL.into_iter().enumerate() {
            let nodes = match part {
                Part::Moving => GROUPS[2],
                Part::First => GROUPS[0],
                Part::Second => GROUPS[1],
            };
            for node in nodes {
                let keys = written.iter().filter(|written| written.part == part);
                let found = verify::compare(self.nodes[node].address, keys, &shared.counters[index]).await?;
                let text =
                    format!("node {}: {} values right, {} lost", node + 1, number(found.right), found.lost);
                self.screen.line(&text);
                findings.add(found);
            }
        }
        self.refused_by_former_owners(&written).await?;
        self.check(None)?;
        if findings.lost > 0 {
            return Err(format!("{} values were lost:\n{}", findings.lost, findings.told.join("\n")));
        }
        let refused = shared.refused.load(Ordering::Relaxed);
        let longest = Duration::from_micros(shared.held_us_max.load(Ordering::Relaxed));
        Ok(format!(
            "VERDICT: nothing was lost\n  \
             {} writes acknowledged, {} of them in slot {MOVING}, which moved under them\n  \
             {} values read back from the nodes that must have them, all right\n  \
             slot {MOVING} was held for {}; the longest that a client waited was {}; {refused} requests had to be sent again\n  \
             took {:.1} s",
            number(total),
            number(moving),
            number(findings.right),
            milliseconds(held),
            milliseconds(longest),
            self.screen.elapsed().as_secs_f64(),
        ))
    }

    /// The nodes that had the slot must serve nothing of it.
    async fn refused_by_former_owners(&mut self, written: &[Written]) -> Result<(), String> {
        let of_slot = written.iter().find(|written| written.part == Part::Moving);
        let (key, _) = of_slot.and_then(|written| written.keys.first()).ok_or("the slot has no keys")?;
        for node in [0, 1] {
            for command in [format!("get {key}"), format!("set {key} x")] {
                match self.nodes[node].ask(&command).await? {
                    Reply::Error(text) if text.contains("Partition not found") => {}
                    reply => return Err(format!("node {}: {command}: {}", node + 1, reply.text())),
                }
            }
        }
        self.screen.line(&format!("nodes 1 and 2 refuse keys of slot {MOVING}: Partition not found"));
        Ok(())
    }

    /// Types a command that must succeed.
    async fn typed(&mut self, node: usize, command: &str) -> Result<(), String> {
        let began = Watch::start();
        self.nodes[node].order(command).await?;
        self.screen.typed(node + 1, &format!("{command}    OK, {}", milliseconds(began.elapsed())));
        Ok(())
    }

    async fn follow(&mut self, replica: usize, master: usize, slots: &str) -> Result<(), String> {
        let address = self.nodes[master].address;
        self.typed(replica, &format!("pkcluster slotsslaveof {} {} {slots}", address.ip(), address.port()))
            .await
    }

    /// Looks again and again until it is done; tells now and then how far it is.
    async fn until(
        &mut self,
        load: Option<&Load>,
        mut look: impl AsyncFnMut(&mut [NodeProcess]) -> Result<Look, String>,
    ) -> Result<(), String> {
        let (began, mut told) = (Watch::start(), Watch::start());
        loop {
            match look(&mut self.nodes).await? {
                Look::Done(text) => {
                    self.screen.line(&text);
                    return Ok(());
                }
                Look::Waiting(text) if began.elapsed() > STEP_MAX => {
                    return Err(format!("it took longer than {STEP_MAX:?}: {text}"));
                }
                Look::Waiting(text) if told.elapsed() > TELL_EVERY => {
                    self.screen.line(&text);
                    told = Watch::start();
                }
                Look::Waiting(_) => {}
            }
            self.check(load)?;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether everybody is alive and well.
    fn check(&mut self, load: Option<&Load>) -> Result<(), String> {
        if let Some(obituary) = self.nodes.iter_mut().find_map(NodeProcess::obituary) {
            return Err(obituary);
        }
        load.and_then(|load| load.shared.trouble()).map_or(Ok(()), Err)
    }

    /// Ends all nodes: cleanly, and checked, after a good story; else at once.
    async fn end(&mut self, good: bool) -> Result<(), String> {
        let mut result = Ok(());
        for node in std::mem::take(&mut self.nodes) {
            let ended = if good { node.stop().await } else { node.kill().await };
            result = result.and(ended);
        }
        result
    }
}

fn per_second(count: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(count) * 1000 / time.as_millis().max(1)).unwrap_or(u64::MAX)
}
