//! LATENCY: what took long when, and how long commands take.

use std::fmt::Write;

use crate::clients::unix_seconds;
use crate::cx::Fail;
use crate::measured::{Event, powers};
use crate::session::SessionCx;
use crate::table::{self, Command, Flags, Group};

const ADMIN: Flags = Flags::ADMIN.with(Flags::DANGEROUS);

const T: Group = Group("server");

/// See the file's head.
pub const COMMANDS: &[Command] = &[T
    .family("latency", Flags::NONE, "2.8.13", "Tells what took long, and how long commands take.", SUBS)
    .differs(
        "the events are command and fast-command: commands that took at least latency-monitor-threshold ms",
    )];

#[rustfmt::skip]
const SUBS: &[Command] = &[
    T.session("latency|doctor", 2, ADMIN, "2.8.13", "Says what the events tell.", doctor)
        .differs("tells of the events in a line each, without advice on the kernel"),
    T.session("latency|graph", 3, ADMIN, "2.8.13", "Draws an event's samples.", graph),
    T.session("latency|histogram", -2, ADMIN, "7.0.0", "Tells how many calls of commands took how long.", histogram),
    T.session("latency|history", 3, ADMIN, "2.8.13", "Gives an event's samples.", history),
    T.session("latency|latest", 2, ADMIN, "2.8.13", "Gives each event's last sample and the longest.", latest),
    T.session("latency|reset", -2, ADMIN, "2.8.13", "Forgets events.", |cx| {
        let forgotten = cx.node.measured.forget_events(&cx.args[2..]);
        cx.reply.count(forgotten);
        Ok(())
    }),
];

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn event(cx: &SessionCx<'_>, name: &[u8]) -> Option<Event> {
    let events = cx.node.measured.events();
    events.into_iter().find(|(known, _)| known.as_bytes() == name).map(|(_, event)| event)
}

fn latest(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let events = cx.node.measured.events();
    cx.reply.array(events.len());
    for (name, event) in events {
        let (at_s, took_ms) = event.samples.back().copied().unwrap_or_default();
        cx.reply.array(4);
        cx.reply.bulk(name.as_bytes());
        cx.reply.integer(number(at_s));
        cx.reply.integer(number(took_ms));
        cx.reply.integer(number(event.longest_ms));
    }
    Ok(())
}

fn history(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let samples = event(cx, cx.arg(2)).unwrap_or_default().samples;
    cx.reply.array(samples.len());
    for (at_s, took_ms) in samples {
        cx.reply.array(2);
        cx.reply.integer(number(at_s));
        cx.reply.integer(number(took_ms));
    }
    Ok(())
}

/// A column for each of the last samples: how long it took, and below how long ago.
fn graph(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    const COLUMNS: usize = 80;
    const ROWS: u64 = 4;
    let name = String::from_utf8_lossy(cx.arg(2)).into_owned();
    let event = event(cx, cx.arg(2))
        .ok_or_else(|| Fail::error(format!("ERR No samples available for event '{name}'")))?;
    let samples: Vec<(u64, u64)> = event.samples.iter().rev().take(COLUMNS).rev().copied().collect();
    let high = samples.iter().map(|(_, ms)| *ms).max().unwrap_or(0);
    let low = samples.iter().map(|(_, ms)| *ms).min().unwrap_or(0);
    let mut text = format!("{name} - high {high} ms, low {low} ms (all time high {} ms)\n", event.longest_ms);
    text.push_str(&"-".repeat(COLUMNS));
    text.push('\n');
    for row in (0..ROWS).rev() {
        for (_, ms) in &samples {
            let height = if high == low { ROWS - 1 } else { (ms - low) * (ROWS - 1) / (high - low) };
            text.push(match height.cmp(&row) {
                std::cmp::Ordering::Less => ' ',
                std::cmp::Ordering::Equal => '_',
                std::cmp::Ordering::Greater => '|',
            });
        }
        text.push('\n');
    }
    let now = unix_seconds(cx.node.wall());
    let ages: Vec<String> = samples.iter().map(|(at, _)| age(now.saturating_sub(*at))).collect();
    text.push('\n');
    for row in 0..ages.iter().map(String::len).max().unwrap_or(0) {
        ages.iter().for_each(|age| text.push(age.as_bytes().get(row).map_or(' ', |byte| char::from(*byte))));
        text.push('\n');
    }
    cx.reply.verbatim("txt", &text);
    Ok(())
}

fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn doctor(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let threshold = cx.node.config.now().latency_event_ms;
    let events = cx.node.measured.events();
    let text = if threshold == 0 && events.is_empty() {
        "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this Haypile instance. You may use \
         \"CONFIG SET latency-monitor-threshold <milliseconds>.\" in order to enable it.\n"
            .to_owned()
    } else if events.is_empty() {
        "Dave, no latency spike was observed during the lifetime of this Haypile instance, not in the slightest bit. I \
         honestly think you ought to sit down calmly, take a stress pill, and think things over.\n"
            .to_owned()
    } else {
        let mut text = String::from("Dave, I have observed latency spikes in this Haypile instance.\n\n");
        for (at, (name, event)) in events.iter().enumerate() {
            let count = event.samples.len() as u64;
            let mean = event.samples.iter().map(|(_, ms)| ms).sum::<u64>() / count.max(1);
            writeln!(
                text,
                "{}. {name}: {count} latency spikes (average {mean}ms, worst {}ms). SLOWLOG GET names the commands.",
                at + 1,
                event.longest_ms
            )
            .expect("a string takes everything");
        }
        text
    };
    cx.reply.verbatim("txt", &text);
    Ok(())
}

fn histogram(cx: &mut SessionCx<'_>) -> Result<(), Fail> {
    let wanted: Vec<&Command> = match &cx.args[2..] {
        [] => table::every().collect(),
        names => names
            .iter()
            .filter_map(|name| table::named(name))
            .flat_map(|command| std::iter::once(command).chain(command.subs))
            .collect(),
    };
    let told: Vec<_> = wanted
        .into_iter()
        .map(|command| (command.name, cx.node.measured.of(command)))
        .filter(|(_, figures)| figures.calls > 0)
        .map(|(name, figures)| (name, figures.calls, powers(&figures.latencies)))
        .collect();
    cx.reply.map(told.len());
    for (name, calls, counts) in told {
        cx.reply.bulk(name.as_bytes());
        cx.reply.map(2);
        cx.reply.bulk(b"calls");
        cx.reply.integer(number(calls));
        cx.reply.bulk(b"histogram_usec");
        cx.reply.map(counts.len());
        for (bound_us, count) in counts {
            cx.reply.integer(number(bound_us));
            cx.reply.integer(number(count));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[test]
    fn events_are_told_drawn_and_forgotten() {
        let mut bench = Bench::new();
        assert!(bench.run("latency doctor").contains("monitoring is disabled"));
        bench.check(
            "latency latest                            -> *0
             latency history command                   -> *0
             latency graph command                     -> -ERR No samples available for event 'command'
             config set latency-monitor-threshold 5    -> +OK
             debug sleep 0.01                          -> +OK",
        );
        assert!(bench.run("latency latest").starts_with("*1 *4 $7 command :"));
        assert!(bench.run("latency history command").starts_with("*1 *2 :"));
        assert!(bench.run("latency graph command").contains("command - high "));
        assert!(bench.run("latency doctor").contains("1. command: 1 latency spikes"));
        bench.check(
            "latency reset nosuch    -> :0
             latency reset command   -> :1
             latency latest          -> *0",
        );
    }

    #[test]
    fn calls_are_counted_by_how_long_they_took() {
        let mut bench = Bench::new();
        bench.run("get k");
        bench.run("client id");
        let told = bench.run("latency histogram get nosuch client");
        assert!(told.starts_with("*4 $3 get *4 $5 calls :1 $14 histogram_usec *2 :"), "{told}");
        assert!(told.contains("$9 client|id *4 $5 calls :1"), "{told}");
    }
}
