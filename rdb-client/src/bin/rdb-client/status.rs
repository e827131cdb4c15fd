//! `status`: one screen that says whether the database is healthy, and why not.

use crate::args::StatusArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::look::Look;
use crate::output::{Output, notice};
use rdb_client::{SeatStatus, Status, clock};
use std::io;
use std::time::Duration;

/// Longest time for one look.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// Time between two looks when nothing is shown in between.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

pub(crate) async fn status(context: &mut Context, args: StatusArgs) -> Result<(), Failure> {
    if args.watch.is_none() && !args.until_healthy {
        let status = context.client().status().await.map_err(Failure::read("status"))?;
        return Ok(show(&status, &mut context.output)?);
    }
    let deadline = if args.until_healthy {
        context.deadline()
    } else {
        context.explicit_deadline()
    };
    let interval = args.watch.unwrap_or(LOOK_INTERVAL);
    loop {
        // One look may not take all the time there is: what a node says a moment later may be better.
        let left = deadline.remaining().map_or(LOOK_MAX, |left| left.min(LOOK_MAX));
        let looked = context.client_with(left).status().await;
        let problem = match looked {
            Ok(status) => {
                let is_reached = args.until_healthy && status.healthy;
                if args.watch.is_some() || is_reached {
                    clear(&mut context.output)?;
                    show(&status, &mut context.output)?;
                    context.output.flush()?;
                }
                if is_reached {
                    return Ok(());
                }
                status.summary
            }
            Err(error) if error.is_transient() => {
                if args.watch.is_some() {
                    notice(format_args!("no status: {error}"));
                }
                error.to_string()
            }
            Err(error) => return Err(Failure::read("status")(error)),
        };
        if deadline.remaining().is_some_and(|left| left <= interval) {
            return if args.until_healthy {
                Err(Failure::Late(format!(
                    "the database is not healthy yet: {problem}"
                )))
            } else {
                Ok(())
            };
        }
        clock::sleep(interval).await;
    }
}

fn show(status: &Status, output: &mut Output) -> io::Result<()> {
    if output.is_json() {
        output.json(status)
    } else {
        screen(status, output)
    }
}

/// On a terminal, the next screen stands where the last one stood.
fn clear(output: &mut Output) -> io::Result<()> {
    if output.is_terminal() && !output.is_json() {
        output.bytes(b"\x1b[H\x1b[2J")?;
    }
    Ok(())
}

fn screen(status: &Status, output: &mut Output) -> io::Result<()> {
    let look = if status.healthy { Look::Green } else { Look::Red };
    let summary = output.paint(look, &status.summary);
    output.text(format_args!("{summary}"))?;
    let database = output.paint(Look::Bold, &status.database);
    output.text(format_args!(
        "database {database} ({})  counter {}  resolved {}",
        status.database_id, status.counter, status.resolved
    ))?;
    for warning in &status.warnings {
        let warning = output.paint(Look::Yellow, format!("warning: {warning}"));
        output.text(format_args!("{warning}"))?;
    }
    output.text(format_args!(""))?;

    let heads = ["NODE", "ADDRESS", "RELEASE", "LIVE", "UP", "DISK FREE", ""];
    let rows = status.nodes.iter().map(|node| {
        let live = if node.live { "yes" } else { "no" };
        let problem = match node.refuses_writes.as_str() {
            "" if node.draining && has_members(status, node.id) => "is being drained".to_owned(),
            "" if node.draining => "drained".to_owned(),
            "" => String::new(),
            why => format!("refuses writes: {why}"),
        };
        vec![
            node.name.clone(),
            node.address.clone(),
            node.release.clone(),
            live.to_owned(),
            humantime::format_duration(Duration::from_secs(node.uptime_seconds)).to_string(),
            bytes_text(node.disk_free_bytes),
            problem,
        ]
    });
    table(&heads, rows.collect(), output)?;
    output.text(format_args!(""))?;

    let heads = [
        "GROUP", "SEAT", "STATE", "LEADER", "EPOCH", "COMMIT", "INDEXED", "LAST SEQ", "RESOLVED", "LAG",
    ];
    let mut rows = Vec::new();
    for group in &status.groups {
        rows.extend(group.seats.iter().map(|seat| seat_row(status, group.group, seat)));
    }
    table(&heads, rows, output)
}

/// Whether the node has a member of any group, or is to get one.
pub(crate) fn has_members(status: &Status, node: u64) -> bool {
    status.groups.iter().any(|group| {
        let mut all = group
            .members
            .iter()
            .chain(&group.previous_members)
            .chain(&group.learners);
        all.any(|member| *member == node)
    })
}

fn seat_row(status: &Status, group: u32, seat: &SeatStatus) -> Vec<String> {
    let leader = status.nodes.iter().find(|node| node.id == seat.leader);
    let leader = match leader {
        Some(node) => node.name.clone(),
        None if seat.leader == 0 => "nobody".to_owned(),
        None => format!("{:x}", seat.leader),
    };
    vec![
        group.to_string(),
        seat.seat.to_string(),
        seat.state.clone(),
        leader,
        seat.epoch.to_string(),
        seat.commit.to_string(),
        seat.indexed.to_string(),
        seat.last_seq.to_string(),
        seat.resolved.to_string(),
        seat.lag.to_string(),
    ]
}

pub(crate) fn table(heads: &[&str], rows: Vec<Vec<String>>, output: &mut Output) -> io::Result<()> {
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(column, head)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max();
            widest.unwrap_or(0).max(head.len())
        })
        .collect();
    let line = |cells: &[String]| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let heads = output.paint(Look::Dim, line(&heads));
    output.text(format_args!("{heads}"))?;
    for row in rows {
        output.text(format_args!("{}", line(&row)))?;
    }
    Ok(())
}

/// In the largest unit that leaves a whole number above nothing.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fitting = units.iter().find(|(bits, _)| bytes >> bits > 0);
    match fitting {
        Some((bits, unit)) => {
            let whole = bytes >> bits;
            let tenths = ((bytes - (whole << bits)) * 10) >> bits;
            format!("{whole}.{tenths} {unit}")
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_largest_unit() {
        assert_eq!(bytes_text(0), "0 B");
        assert_eq!(bytes_text(1_536), "1.5 KiB");
        assert_eq!(bytes_text(5 << 30), "5.0 GiB");
        assert_eq!(bytes_text(u64::MAX), "16777215.9 TiB");
    }
}
