//! The table of servers: Haypile and redis-server (and any that somebody runs) under the same loads, in turn, one after the
//! other, so that a machine that slows down slows all of them; then what a replica costs, starts, slots and memory. What is
//! said at the end are medians, and whether goals are met.

mod collections;
mod copies;
mod families;
mod figures;
mod instance;
mod rows;
mod single;

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use self::figures::Figures;
use self::instance::{Instance, Product, STANDALONE, Start};
use self::rows::{Measure, REPLICATED, ROWS, Row, goals};
use crate::error::{Error, Result};
use crate::files;
use crate::load::values::Sizes;
use crate::load::workload::Workload;
use crate::plan::{Asked, Plan, Settle, Sync};
use crate::process;
use crate::record::Run;
use crate::report::{self, Results};
use crate::run::{self, Order, Unwatched};
use crate::target::Target as _;
use crate::targets::resp::RespTarget;

/// The subcommand.
pub const NAME: &str = "servers";

/// Connections of every load.
const CONNECTIONS: usize = 50;
/// Bytes of a value.
const VALUE_BYTES: usize = 64;
/// Haypile's budget where nothing else is said: what is compared is in memory, as Redis' data is. Memtables keep
/// three eighths of a budget: with 1 GiB part of the data was in files from the fifth load on.
const MEMORY: &str = "4gb";
/// How long a replica may take to come up.
const REPLICA_LOOKS: usize = 3000;
/// How often it is looked at.
const REPLICA_LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// Parts of the table.
const GROUPS: [&str; 10] = [
    "load",
    "families",
    "replica",
    "copies",
    "restart",
    "recovery",
    "slots",
    "memory",
    "large",
    "collections",
];

/// Those that are measured only where they are asked for by name.
const ASKED_FOR: [&str; 2] = ["families", "collections"];

/// The command line.
pub fn command() -> Command {
    let text = |name: &'static str, value: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).default_value(default).help(help)
    };
    let path = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("PATH").value_parser(value_parser!(PathBuf)).help(help)
    };
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("N")
            .value_parser(value_parser!(u64))
            .default_value(default)
            .help(help)
    };
    Command::new(NAME)
        .about("The table of servers: this program and redis-server in turn, with what replicas, starts and slots cost")
        .arg(path("haypile", "another build of haypile [this program]"))
        .arg(text("redis", "PATH", "redis-server", "the program; none leaves it out"))
        .arg(
            Arg::new("also").long("also").value_name("HOST:PORT").action(ArgAction::Append).help(
                "a server that runs already, such as Kvrocks or Pika with its own settings: it is emptied, and takes part \
                 in the loads",
            ),
        )
        .arg(
            text("groups", "A,B,C", "all", "parts of the table")
                .help(format!("parts of the table: of {}; all but {}", GROUPS.join(","), ASKED_FOR.join(" and "))),
        )
        .arg(text("rows", "TEXT", "", "of the loads only those with this in their names"))
        .arg(number("repeat", "5", "repetitions, of which medians are shown [--quick: 1]"))
        .arg(number("keys", "1000000", "keys; as many operations at pipeline 16 [--quick: 200000]"))
        .arg(Arg::new("quick").long("quick").action(ArgAction::SetTrue).help("fewer keys, once: two minutes"))
        .arg(path("dir", "make the servers' folders in this one [the system's temporary folder]"))
        .arg(path("json", "append each load's run as a line to this file: for haypile bench report and compare"))
        .arg(path("summary", "write all figures and goals to this file, as JSON"))
        .arg(path("markdown", "write the table to this file too"))
        .arg(path("html", "make a page with plots of the loads"))
}

/// What has been measured so far, and how.
pub struct Table {
    keys: u64,
    parent: PathBuf,
    json: Option<PathBuf>,
    runs: Vec<Run>,
    figures: Figures,
}

/// Measures, prints and writes the table. Says whether all operations were answered well.
///
/// # Errors
/// If a server can't be started, does not answer, or lost something.
pub fn run(matches: &ArgMatches) -> Result<bool> {
    let text = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
    let file = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let quick = matches.get_flag("quick");
    let whole = |name: &str, quickly: u64| match matches.value_source(name) {
        Some(clap::parser::ValueSource::DefaultValue) if quick => quickly,
        _ => matches.get_one::<u64>(name).copied().unwrap_or(quickly),
    };
    let groups: Vec<&str> = match text("groups") {
        "all" => GROUPS.into_iter().filter(|group| !ASKED_FOR.contains(group)).collect(),
        list => list.split(',').map(str::trim).collect(),
    };
    if let Some(unknown) = groups.iter().find(|group| !GROUPS.contains(group)) {
        return Err(Error::Usage(format!("--groups {unknown}: of {}", GROUPS.join(","))));
    }
    let products = products(matches)?;
    let ours: Vec<Product> = products.iter().filter(|product| product.is_ours()).cloned().collect();
    let haypile = &ours[0];
    let repeats = u32::try_from(whole("repeat", 1)).unwrap_or(u32::MAX);
    let mut table = Table {
        keys: whole("keys", 200_000).max(1000),
        parent: file("dir").unwrap_or_else(std::env::temp_dir),
        json: file("json"),
        runs: Vec::new(),
        figures: Figures::default(),
    };
    for repeat in 1..=repeats {
        table.say(&format!("repetition {repeat} of {repeats}"));
        if groups.contains(&"load") {
            table.loads(&products, repeat, text("rows"))?;
        }
        if groups.contains(&"families") {
            families::measure(&mut table, &products, repeat, text("rows"))?;
        }
        if groups.contains(&"replica") {
            // Another server is first each time.
            for turn in 0..ours.len() {
                table.replica(&ours[(turn + repeat as usize) % ours.len()], repeat)?;
            }
        }
        if groups.contains(&"copies") {
            copies::measure(&mut table, &ours, repeat)?;
        }
        for product in ours.iter().filter(|_| groups.contains(&"recovery")) {
            single::recovery(&mut table, product, repeat)?;
        }
        if groups.contains(&"slots") {
            single::slots(&mut table, haypile)?;
        }
    }
    if groups.contains(&"restart") {
        ours.iter().try_for_each(|product| single::restart(&mut table, product))?;
    }
    if groups.contains(&"memory") {
        single::memory(&mut table, haypile)?;
    }
    if groups.contains(&"large") {
        ours.iter().try_for_each(|product| single::large(&mut table, product))?;
    }
    if groups.contains(&"collections") {
        collections::measure(&mut table, haypile, text("rows"))?;
    }
    table.finish(matches, &products)
}

fn products(matches: &ArgMatches) -> Result<Vec<Product>> {
    let haypile = match matches.get_one::<PathBuf>("haypile") {
        Some(path) => path.clone(),
        None => std::env::current_exe().map_err(|error| Error::file(Path::new("this program"), error))?,
    };
    let mut products = vec![Product::Haypile(haypile)];
    match matches.get_one::<String>("redis").map_or("none", String::as_str) {
        "none" => {}
        path if single::find_program(Path::new(path)) => products.push(Product::Redis(path.into())),
        path => return Err(Error::Usage(format!("there is no {path}: --redis PATH, or --redis none"))),
    }
    let given = matches.get_many::<String>("also").into_iter().flatten();
    products.extend(given.cloned().map(Product::Given));
    Ok(products)
}

impl Table {
    fn say(&self, line: &str) {
        eprintln!("{line}");
    }

    /// A load on a server, not kept.
    fn load(&self, instance: &Instance, row: &Row, keys: u64, repeat: u32) -> Result<Run> {
        let operations = self.keys * row.operations_per_thousand / 1000;
        self.load_of(instance, row, keys, operations, repeat, VALUE_BYTES)
    }

    fn load_of(
        &self,
        instance: &Instance,
        row: &Row,
        keys: u64,
        operations: u64,
        repeat: u32,
        value_bytes: usize,
    ) -> Result<Run> {
        let asked = Asked {
            keys,
            operations: Some(operations),
            value: Some(Sizes::Fixed(value_bytes)),
            connections: CONNECTIONS,
            pipeline: row.pipeline,
            seed: u64::from(repeat),
            sync: row.sync,
            settle: Settle::Debt,
            ..Asked::default()
        };
        self.load_as(instance, row.workload, row.name, repeat, &asked)
    }

    /// A load as it is asked for.
    fn load_as(
        &self,
        instance: &Instance,
        workload: &str,
        label: &str,
        repeat: u32,
        asked: &Asked,
    ) -> Result<Run> {
        let workload = Workload::named(workload)
            .ok_or_else(|| Error::Usage(format!("there is no workload '{workload}'")))?;
        let plan = Plan::resolve(asked, &[workload])?.remove(0);
        let target = RespTarget::open(instance.access.clone(), asked.sync == Sync::Always)?;
        let chain = vec![workload.name.to_owned()];
        let order = Order { workload, plan, chain, repeat, inserted: asked.keys };
        let (mut run, _) = run::run(&target, &order, &mut Unwatched)?;
        Box::new(target).close()?;
        run.label = Some(label.to_owned());
        match &run.first_error {
            Some(error) => Err(Error::target("load a server", format!("{}: {error}", run.target))),
            None => Ok(run),
        }
    }

    /// Keeps a run, and takes down its figures.
    fn keep(&mut self, run: Run) -> Result<()> {
        if let Some(path) = &self.json {
            files::append_line(path, &serde_json::to_string(&run).map_err(|why| Error::file(path, why))?)?;
        }
        self.runs.push(run);
        Ok(())
    }

    fn take_down(&mut self, run: &Run) {
        let server = run.target.split(' ').next().unwrap_or_default();
        let row = run.label.as_deref().unwrap_or(&run.workload);
        self.figures.put(row, Measure::Rate, server, run.operations_per_second);
        self.figures.put(row, Measure::P99Ms, server, run.latency.percentile_ns(99.0) as f64 / 1e6);
        if let Some(cpu) = run.cpu_us_per_operation() {
            self.figures.put(row, Measure::Cpu, server, cpu);
        }
        if run.workload == "set" {
            let each = |bytes: f64| bytes / run.operations.max(1) as f64;
            if let Some(bytes) = run.counters.get("log_write_bytes") {
                self.figures.put(row, Measure::LogBytes, server, each(*bytes));
            }
            if let Some(outside) = &run.outside {
                self.figures.put(row, Measure::DeviceBytes, server, each(outside.write_bytes as f64));
            }
        }
    }

    /// All loads on all servers, each on new data.
    fn loads(&mut self, products: &[Product], repeat: u32, filter: &str) -> Result<()> {
        let start = Start { memory: MEMORY, words: STANDALONE };
        let instances: Vec<Instance> = products
            .iter()
            .map(|product| Instance::start(product, start, &self.parent))
            .collect::<Result<_>>()?;
        let fill = Row { workload: "fillrandom", ..ROWS[0] };
        for instance in &instances {
            self.load(instance, &fill, self.keys, repeat)?;
        }
        for row in ROWS.iter().filter(|row| row.name.contains(filter)) {
            for turn in 0..instances.len() {
                // Another server is first each time.
                let instance = &instances[(turn + repeat as usize) % instances.len()];
                let others = process::OtherCpu::begin();
                let run = self.load(instance, row, self.keys, repeat)?;
                self.say(&format!("{}: {}, {}", row.name, line(&run), others.end(&run)));
                self.take_down(&run);
                self.keep(run)?;
            }
        }
        Ok(())
    }

    /// What a replica costs its master: the same loads without and with one.
    fn replica(&mut self, product: &Product, repeat: u32) -> Result<()> {
        let start = Start { memory: MEMORY, words: STANDALONE };
        let master = Instance::start(product, start, &self.parent)?;
        let fill = Row { workload: "fillrandom", ..ROWS[0] };
        self.load(&master, &fill, self.keys, repeat)?;
        let mut without = Vec::new();
        for row in REPLICATED {
            // Once unmeasured: what is measured finds its keys in memory.
            self.load(&master, row, self.keys, repeat)?;
            without.push(self.load(&master, row, self.keys, repeat)?);
        }
        let replica = Instance::start(product, start, &self.parent)?;
        attach(&replica, &master)?;
        // What the copy left to do is no part of what following costs.
        for instance in [&replica, &master] {
            RespTarget::open(instance.access.clone(), false)?.settle(Settle::Debt)?;
        }
        for (row, without) in REPLICATED.iter().zip(without) {
            // Once unmeasured too: a copy leaves a master's data in files, which has nothing to do with being followed.
            self.load(&master, row, self.keys, repeat)?;
            let with = self.load(&master, row, self.keys, repeat)?;
            let name = product.name();
            let cpu = |run: &Run| run.cpu_us_per_operation();
            self.say(&format!("{}: {}; without: {}", row.name, line(&with), line(&without)));
            if let (Some(with), Some(without)) = (cpu(&with), cpu(&without)) {
                self.figures.put(row.name, Measure::CpuRatio, name, with / without);
            }
            if let (Some(with), Some(without)) = (written(&with), written(&without)) {
                self.figures.put(row.name, Measure::BytesRatio, name, with / without);
            }
            self.take_down(&with);
            self.keep(with)?;
        }
        Ok(())
    }

    fn finish(&self, matches: &ArgMatches, products: &[Product]) -> Result<bool> {
        let file = |name: &str| matches.get_one::<PathBuf>(name);
        let goals = goals();
        let mut markdown = self.figures.markdown(&goals);
        markdown += &format!("\n{}\n\n", self.conditions(products));
        println!("{markdown}");
        if let Some(path) = file("markdown") {
            files::write_text(path, &markdown)?;
        }
        if let Some(path) = file("summary") {
            let all = serde_json::json!({
                "machine": process::machine().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
                "figures": self.figures.shown(),
                "goals": self.figures.judge(&goals),
            });
            let text = serde_json::to_string_pretty(&all).map_err(|why| Error::file(path, why))?;
            files::write_text(path, &(text + "\n"))?;
        }
        if let Some(path) = file("html") {
            let results = Results::sort(&[("servers".to_owned(), self.runs.clone())]);
            files::write_text(path, &report::html::page(&results))?;
        }
        Ok(self.runs.iter().all(|run| run.errors == 0))
    }

    /// Under which conditions this was measured.
    fn conditions(&self, products: &[Product]) -> String {
        let machine: Vec<String> =
            process::machine().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
        let mut settings: Vec<String> = Vec::new();
        for product in products {
            let of = |run: &&Run| run.target.split(' ').next() == Some(product.name());
            if let Some(run) = self.runs.iter().find(of) {
                let hidden = ["address", "process"];
                let shown = run.configuration.iter().filter(|(name, _)| !hidden.contains(&name.as_str()));
                let shown: Vec<String> = shown.map(|(name, value)| format!("{name}={value}")).collect();
                settings.push(format!("- {}: {}", run.target, shown.join(" ")));
            }
        }
        format!(
            "{} keys of 16 B, values of {VALUE_BYTES} B, {CONNECTIONS} connections from one thread; {}.\n\n{}",
            self.keys,
            machine.join(", "),
            settings.join("\n")
        )
    }
}

/// Bytes that a server wrote to its log, and by background work, for an operation.
fn written(run: &Run) -> Option<f64> {
    let log = run.counters.get("log_write_bytes")?;
    let more =
        ["flush_write_bytes", "compaction_write_bytes"].iter().filter_map(|name| run.counters.get(*name));
    Some((log + more.sum::<f64>()) / run.operations.max(1) as f64).filter(|bytes| *bytes > 0.0)
}

fn line(run: &Run) -> String {
    let name = run.target.split(' ').next().unwrap_or_default();
    let cpu = run.cpu_us_per_operation().unwrap_or_default();
    format!("{name} {:.0} k/s, CPU {cpu:.2} us", run.operations_per_second / 1e3)
}

/// Waits until a replica has everything and follows.
/// Makes a node the replica of another, as Redis calls it, and waits until it is one.
fn attach(replica: &Instance, master: &Instance) -> Result<()> {
    let (host, port) = master.access.address.split_once(':').unwrap_or_default();
    replica.ask(&["REPLICAOF", host, port])?;
    for _ in 0..REPLICA_LOOKS {
        let up = replica.info("master_link_status")?.as_deref() == Some("up");
        let copying = replica.info("master_sync_in_progress")?.as_deref() == Some("1");
        if up && !copying {
            return Ok(());
        }
        std::thread::sleep(REPLICA_LOOK);
    }
    Err(Error::target("attach a replica", "it did not come up in a minute"))
}
