//! The result as a picture: bars for those settings that survive a loss of power.

use crate::report::{Compared, Report, shown};
use crate::work::Work;
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
/// Where bars begin; names stand before.
const LEFT: f64 = 150.0;
/// What the longest bar leaves for its number.
const RIGHT: f64 = 110.0;
const ROW: f64 = 20.0;
const BAR: f64 = 14.0;
const OURS: &str = "#1a6fd4";
const OTHERS: &str = "#9aa4b0";

/// All works, one below the other.
pub fn svg(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 0.0;
    for (nodes, title, works) in [
        (1, "one node", &Work::ONE_NODE[..]),
        (3, "three nodes on one machine", &Work::THREE_NODES[..]),
    ] {
        let is_shown = |entry: &&Compared| entry.nodes == nodes && entry.survives_power_loss;
        let entries: Vec<&Compared> = report.compared.iter().filter(is_shown).collect();
        for work in works {
            group(&mut body, &mut y, &format!("{work}: {title}"), *work, &entries);
        }
    }
    let height = y + ROW;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
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
    *y += 1.7 * ROW;
    let unit = if work.is_latency() {
        "p50 ms, shorter is better"
    } else {
        "events/s"
    };
    text(
        body,
        10.0,
        *y,
        "font-weight=\"bold\"",
        &format!("{title}; {unit}"),
    );
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

/// No text here has a character that XML would take for its own.
fn text(body: &mut String, x: f64, y: f64, attributes: &str, text: &str) {
    _ = writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>");
}
