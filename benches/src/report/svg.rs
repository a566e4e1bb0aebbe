//! Charts as SVG text: lines over an axis, and bars in groups. Colours are the page's (`--c0` and on).

use std::fmt::Write;

/// A chart's outer size.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
/// What its axes take.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 38.0;
const BOTTOM: f64 = 42.0;

/// How many colours the page has; more series begin again.
pub const COLOURS: usize = 8;

/// Text as it may stand between tags and in attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// How numbers lie along an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// From 0, evenly.
    Linear,
    /// By powers of ten.
    Log,
}

/// An axis.
pub struct Axis {
    /// What it shows.
    pub label: &'static str,
    /// How numbers lie.
    pub scale: Scale,
    /// Where its lines are; empty: where it is round.
    pub ticks: Vec<(f64, String)>,
    /// A number as text.
    pub show: fn(f64) -> String,
}

/// A line.
pub struct Line {
    /// Which colour.
    pub colour: usize,
    /// Shown when it is pointed at.
    pub name: String,
    /// Left to right.
    pub points: Vec<(f64, f64)>,
}

struct Placed {
    scale: Scale,
    min: f64,
    max: f64,
}

impl Placed {
    fn new(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Placed {
        let max = values.clone().fold(0.0, f64::max);
        let least = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        match scale {
            Scale::Linear => Placed { scale, min: 0.0, max: if max > 0.0 { max * 1.06 } else { 1.0 } },
            Scale::Log if max > 0.0 => {
                let (min, max) = (10f64.powf(least.log10().floor()), 10f64.powf(max.log10().ceil()));
                Placed { scale, min, max: if max > min { max } else { min * 10.0 } }
            }
            Scale::Log => Placed { scale, min: 1.0, max: 10.0 },
        }
    }

    /// Where a value lies, from 0 to 1.
    fn at(&self, value: f64) -> f64 {
        let at = match self.scale {
            Scale::Linear => (value - self.min) / (self.max - self.min),
            Scale::Log => {
                let (min, max) = (self.min.log10(), self.max.log10());
                (value.max(self.min).log10() - min) / (max - min)
            }
        };
        at.clamp(0.0, 1.0)
    }

    /// Round values.
    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Log => {
                let mut value = self.min;
                let mut ticks = Vec::new();
                while value <= self.max * 1.001 {
                    ticks.push(value);
                    value *= 10.0;
                }
                ticks
            }
            Scale::Linear => {
                let rough = self.max / 5.0;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
                let step = step.into_iter().find(|step| *step >= rough).unwrap_or(power);
                let mut value = 0.0;
                let mut ticks = Vec::new();
                while value <= self.max {
                    ticks.push(value);
                    value += step;
                }
                ticks
            }
        }
    }
}

/// Writes into a string, which takes everything.
macro_rules! put {
    ($out:expr, $($text:tt)*) => {
        write!($out, $($text)*).expect("a string takes everything")
    };
}

/// Lines over two axes.
#[must_use]
pub fn line_chart(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    let xs = lines.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x));
    let ys = lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
    let (across, up) = (Placed::new(x.scale, xs), Placed::new(y.scale, ys));
    let place_x = |value: f64| LEFT + across.at(value) * (WIDTH - LEFT - RIGHT);
    let place_y = |value: f64| HEIGHT - BOTTOM - up.at(value) * (HEIGHT - TOP - BOTTOM);
    let mut out = open(title, HEIGHT);
    let ticks = |axis: &Axis, placed: &Placed| match axis.ticks.is_empty() {
        true => placed.ticks().into_iter().map(|value| (value, (axis.show)(value))).collect(),
        false => axis.ticks.clone(),
    };
    for (value, text) in ticks(y, &up) {
        let at = place_y(value);
        put!(out, r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/>"#, WIDTH - RIGHT);
        put!(
            out,
            r#"<text class="tick" x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
            LEFT - 6.0,
            at + 4.0,
            escape(&text)
        );
    }
    for (value, text) in ticks(x, &across) {
        let at = place_x(value);
        put!(out, r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.1}"/>"#, HEIGHT - BOTTOM);
        put!(
            out,
            r#"<text class="tick" x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            HEIGHT - BOTTOM + 15.0,
            escape(&text)
        );
    }
    put!(
        out,
        r#"<text class="axis" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0,
        escape(x.label)
    );
    put!(out, r#"<text class="axis" x="{LEFT}" y="{:.1}">{}</text>"#, TOP - 7.0, escape(y.label));
    for line in lines {
        let points = line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", place_x(*x), place_y(*y)));
        let colour = line.colour % COLOURS;
        put!(
            out,
            r#"<polyline class="line" style="stroke:var(--c{colour})" points="{}"><title>{}</title></polyline>"#,
            points.collect::<Vec<_>>().join(" "),
            escape(&line.name)
        );
        if line.points.len() <= 12 {
            for (px, py) in &line.points {
                put!(
                    out,
                    r#"<circle class="dot" style="fill:var(--c{colour})" cx="{:.1}" cy="{:.1}" r="3"><title>{}: {}</title></circle>"#,
                    place_x(*px),
                    place_y(*py),
                    escape(&line.name),
                    escape(&(y.show)(*py))
                );
            }
        }
    }
    out + "</svg>"
}

/// One bar.
pub struct Bar {
    /// Which colour.
    pub colour: usize,
    /// Shown when it is pointed at.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// The least and the greatest that were measured.
    pub range: (f64, f64),
}

/// Bars lying, in groups that have a name each.
#[must_use]
pub fn bar_chart(title: &str, show: fn(f64) -> String, groups: &[(String, Vec<Bar>)]) -> String {
    const BAR: f64 = 14.0;
    const GAP: f64 = 12.0;
    const NAMES: f64 = 178.0;
    const VALUES: f64 = 70.0;
    const BARS_TOP: f64 = 26.0;
    let bars: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let height = BARS_TOP + bars as f64 * BAR + groups.len() as f64 * GAP + 6.0;
    let longest = groups.iter().flat_map(|(_, bars)| bars.iter().map(|bar| bar.range.1.max(bar.value)));
    let longest = longest.fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let place = |value: f64| NAMES + (value / longest).clamp(0.0, 1.0) * (WIDTH - NAMES - VALUES);
    let mut out = open(title, height);
    let mut top = BARS_TOP;
    for (name, bars) in groups {
        let middle = top + bars.len() as f64 * BAR / 2.0 + 4.0;
        put!(
            out,
            r#"<text class="tick" x="{}" y="{middle:.1}" text-anchor="end">{}</text>"#,
            NAMES - 8.0,
            escape(&shortened(name))
        );
        for bar in bars {
            let (end, y) = (place(bar.value), top + BAR / 2.0 - 1.0);
            put!(
                out,
                r#"<rect style="fill:var(--c{})" x="{NAMES}" y="{top:.1}" width="{:.1}" height="{}"><title>{}: {}</title></rect>"#,
                bar.colour % COLOURS,
                (end - NAMES).max(0.5),
                BAR - 2.0,
                escape(&bar.name),
                escape(&show(bar.value))
            );
            let (least, greatest) = (place(bar.range.0), place(bar.range.1));
            if greatest - least > 1.0 {
                put!(
                    out,
                    r#"<line class="spread" x1="{least:.1}" x2="{greatest:.1}" y1="{y:.1}" y2="{y:.1}"/>"#
                );
            }
            put!(
                out,
                r#"<text class="tick" x="{:.1}" y="{:.1}">{}</text>"#,
                end.max(greatest) + 5.0,
                y + 4.0,
                escape(&show(bar.value))
            );
            top += BAR;
        }
        top += GAP;
    }
    out + "</svg>"
}

/// A name that fits beside bars.
fn shortened(name: &str) -> String {
    const MAX: usize = 25;
    match name.char_indices().nth(MAX) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}…", &name[..end]),
    }
}

fn open(title: &str, height: f64) -> String {
    format!(
        r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{0}"><text class="title" x="0" y="13">{0}</text>"#,
        escape(title)
    )
}
