//! Results as pictures: bars for those settings that survive a loss of power, and curves for what grows.

use crate::report::{Compared, Report, count, shown};
use crate::work::Work;
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
/// Where bars begin; names stand before.
const LEFT: f64 = 150.0;
/// What the longest bar leaves for its number.
const RIGHT: f64 = 110.0;
const ROW: f64 = 20.0;
const BAR: f64 = 14.0;
/// Height of a curve.
const CURVE: f64 = 120.0;
const OURS: &str = "#1a6fd4";
const OTHERS: &str = "#9aa4b0";

/// All works, one below the other.
pub fn svg(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 0.0;
    for (nodes, title, works) in [
        (1, "one node", &Work::ONE_NODE[..]),
        (3, "several nodes on one machine", &Work::THREE_NODES[..]),
    ] {
        let is_shown = |entry: &&Compared| entry.nodes == nodes && entry.survives_power_loss;
        let entries: Vec<&Compared> = report.compared.iter().filter(is_shown).collect();
        for work in works {
            group(&mut body, &mut y, &format!("{work}: {title}"), *work, &entries);
        }
    }
    picture(&body, y + ROW)
}

fn picture(body: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

/// How something changes from point to point, one picture each, all from zero on: its title, and at which point it is how
/// much.
pub fn curves(curves: &[(&str, Vec<(u64, f64)>)]) -> String {
    let mut body = String::new();
    let mut y = 0.0;
    for (title, points) in curves {
        curve(&mut body, &mut y, title, points);
    }
    picture(&body, y + ROW)
}

/// Points stand one beside the other, whatever is between them.
fn curve(body: &mut String, y: &mut f64, title: &str, points: &[(u64, f64)]) {
    let highest = points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if highest <= 0.0 {
        return;
    }
    heading(body, y, &format!("appends/s; {title}"));
    let bottom = *y + 1.5 * ROW + CURVE;
    let step = (WIDTH - LEFT - RIGHT) / (points.len().max(2) - 1) as f64;
    let mut line = String::new();
    for (number, (at, value)) in points.iter().enumerate() {
        let (x, up) = (LEFT + step * number as f64, bottom - CURVE * value / highest);
        _ = write!(line, "{x:.1},{up:.1} ");
        _ = writeln!(
            body,
            "<circle cx=\"{x:.1}\" cy=\"{up:.1}\" r=\"3\" fill=\"{OURS}\"/>"
        );
        text(body, x, up - 8.0, "text-anchor=\"middle\"", &count(*value));
        text(
            body,
            x,
            bottom + ROW,
            "text-anchor=\"middle\"",
            &count(*at as f64),
        );
    }
    _ = writeln!(
        body,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{OURS}\" stroke-width=\"2\"/>\n\
         <line x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{}\" y2=\"{bottom}\" stroke=\"{OTHERS}\"/>",
        line.trim_end(),
        WIDTH - RIGHT
    );
    *y = bottom + ROW;
}

fn group(body: &mut String, y: &mut f64, title: &str, work: Work, entries: &[&Compared]) {
    let bars = entries
        .iter()
        .filter_map(|entry| Some((*entry, entry.middle(work)?)));
    let bars: Vec<(&Compared, f64)> = bars.collect();
    let Some(longest) = bars
        .iter()
        .map(|(_, value)| *value)
        .reduce(f64::max)
        .filter(|value| *value > 0.0)
    else {
        return;
    };
    let unit = match work {
        Work::Restart => "ms, shorter is better",
        _ if work.is_latency() => "p50 ms, shorter is better",
        _ => "events/s",
    };
    heading(body, y, &format!("{title}; {unit}"));
    for (entry, value) in bars {
        *y += ROW;
        let width = (WIDTH - LEFT - RIGHT) * value / longest;
        let (top, fill) = (*y - BAR + 3.0, if entry.peer == "rdb" { OURS } else { OTHERS });
        text(body, LEFT - 8.0, *y, "text-anchor=\"end\"", entry.title);
        _ = writeln!(
            body,
            "<rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>"
        );
        text(body, LEFT + width + 6.0, *y, "", &shown(work, value));
    }
}

fn heading(body: &mut String, y: &mut f64, title: &str) {
    *y += 1.7 * ROW;
    text(body, 10.0, *y, "font-weight=\"bold\"", title);
}

/// No text here has a character that XML would take for its own.
fn text(body: &mut String, x: f64, y: f64, attributes: &str, text: &str) {
    _ = writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>");
}
