//! `admin`: members looked at and moved, and an etcd that was restored. What is verified stands in `verify/`.

use crate::args::{AdminCommand, DrainArgs, EtcdRestoredArgs, MoveSeatArgs, NodeArgs, ReplaceArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::look::Look;
use crate::output::notice;
use crate::status::{has_members, table};
use crate::verify;
use rdb_client::clock;
use rdb_client::{EtcdRestored, GroupStatus, MemberMove, Status};
use serde::Serialize;
use std::time::Duration;

/// Between two looks at how far a change is.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// For one look.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// One member, or what is to become one or was one.
#[derive(Debug, Serialize)]
pub(crate) struct MemberLine {
    group: u32,
    pub(crate) node: String,
    id: u64,
    pub(crate) live: bool,
    /// member, learner or leaving.
    pub(crate) role: &'static str,
    /// Seats that it leads.
    leads: Vec<u32>,
    /// Entries of both seats that it has not yet, as their leaders know it.
    lag: u64,
    draining: bool,
}

#[derive(Debug, Serialize)]
struct DoneLine<'a> {
    dry_run: bool,
    node: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    moves: Vec<MoveLine>,
}

#[derive(Debug, Serialize)]
struct MoveLine {
    group: u32,
    leaves: String,
    joins: String,
}

pub(crate) async fn admin(context: &mut Context, command: AdminCommand) -> Result<(), Failure> {
    match command {
        AdminCommand::Members => members(context).await,
        AdminCommand::MoveSeat(args) => move_seat(context, args).await,
        AdminCommand::Drain(args) => drain(context, args).await,
        AdminCommand::Replace(ReplaceArgs {
            node,
            with,
            wait,
            dry_run,
        }) => {
            let before = status(context).await?;
            let moves = context.client().drain(&node, with.as_deref(), dry_run).await;
            let moves = moves.map_err(failed(format!("replace node {node}")))?;
            moved(context, &node, (&before, &moves), dry_run, wait).await
        }
        AdminCommand::Remove(NodeArgs { node, dry_run }) => {
            let removed = context.client().remove_node(&node, dry_run).await;
            removed.map_err(failed(format!("remove node {node}")))?;
            let done = if dry_run {
                "would be forgotten"
            } else {
                "is forgotten"
            };
            say_done(context, &node, dry_run, done)
        }
        AdminCommand::EtcdRestored(args) => etcd_restored(context, args).await,
        AdminCommand::Verify(args) => Box::pin(verify::verify(context, args)).await,
    }
}

fn failed(what: String) -> impl FnOnce(rdb_client::Error) -> Failure {
    move |error| Failure::call(error, what, true, None)
}

async fn status(context: &Context) -> Result<Status, Failure> {
    context.client().status().await.map_err(Failure::read("status"))
}

async fn members(context: &mut Context) -> Result<(), Failure> {
    let status = status(context).await?;
    let lines: Vec<MemberLine> = status
        .groups
        .iter()
        .flat_map(|group| members_of(&status, group))
        .collect();
    if context.output.is_json() {
        for line in &lines {
            context.output.json(line)?;
        }
        return Ok(());
    }
    let heads = ["GROUP", "NODE", "ROLE", "LEADS", "LAG", ""];
    let row = |line: &MemberLine| {
        let seats: Vec<String> = line
            .leads
            .iter()
            .map(|seat| format!("{}.{seat}", line.group))
            .collect();
        let note = match (line.live, line.draining) {
            (false, true) => "not live, is being drained",
            (false, false) => "not live",
            (true, true) => "is being drained",
            (true, false) => "",
        };
        vec![
            line.group.to_string(),
            line.node.clone(),
            line.role.to_owned(),
            seats.join(" "),
            line.lag.to_string(),
            note.to_owned(),
        ]
    };
    table(&heads, lines.iter().map(row).collect(), &mut context.output)?;
    Ok(())
}

pub(crate) fn members_of(status: &Status, group: &GroupStatus) -> Vec<MemberLine> {
    let leaving = group
        .previous_members
        .iter()
        .filter(|node| !group.members.contains(node));
    let all = group
        .members
        .iter()
        .map(|node| (*node, "member"))
        .chain(group.learners.iter().map(|node| (*node, "learner")))
        .chain(leaving.map(|node| (*node, "leaving")));
    let mut lines: Vec<MemberLine> = all
        .map(|(id, role)| {
            let node = status.nodes.iter().find(|node| node.id == id);
            let behind = group.seats.iter().map(|seat| {
                let progress = seat.progress.iter().find(|progress| progress.node == id);
                progress.map_or(0, |progress| seat.last_index.saturating_sub(progress.matched))
            });
            MemberLine {
                group: group.group,
                node: name_of(status, id),
                id,
                live: node.is_some_and(|node| node.live),
                role,
                leads: group
                    .seats
                    .iter()
                    .filter(|seat| seat.leader == id)
                    .map(|seat| seat.seat)
                    .collect(),
                lag: behind.sum(),
                draining: node.is_some_and(|node| node.draining),
            }
        })
        .collect();
    lines.sort_by(|a, b| a.node.cmp(&b.node));
    lines
}

fn name_of(status: &Status, id: u64) -> String {
    let node = status.nodes.iter().find(|node| node.id == id);
    node.map_or_else(|| format!("{id:x}"), |node| node.name.clone())
}

async fn move_seat(context: &mut Context, args: MoveSeatArgs) -> Result<(), Failure> {
    let MoveSeatArgs { seat, to, dry_run } = args;
    let (group, side) = seat;
    let moved = context.client().move_seat(group, side, &to, dry_run).await;
    moved.map_err(failed(format!("move seat {group}.{side} to node {to}")))?;
    let done = if dry_run {
        format!("would get seat {group}.{side}")
    } else {
        format!("gets seat {group}.{side}")
    };
    say_done(context, &to, dry_run, &done)
}

async fn drain(context: &mut Context, args: DrainArgs) -> Result<(), Failure> {
    let DrainArgs {
        node,
        undo,
        wait,
        dry_run,
    } = args;
    if undo {
        let undone = context.client().undrain(&node, dry_run).await;
        undone.map_err(failed(format!("undo the drain of node {node}")))?;
        let done = if dry_run {
            "would stay"
        } else {
            "stays; what was moved stays moved"
        };
        return say_done(context, &node, dry_run, done);
    }
    let before = status(context).await?;
    let moves = context.client().drain(&node, None, dry_run).await;
    let moves = moves.map_err(failed(format!("drain node {node}")))?;
    moved(context, &node, (&before, &moves), dry_run, wait).await
}

/// Tells what is to be moved, and waits for it when asked to.
async fn moved(
    context: &mut Context,
    node: &str,
    (before, moves): (&Status, &[MemberMove]),
    is_dry_run: bool,
    wait: bool,
) -> Result<(), Failure> {
    if wait && !is_dry_run {
        wait_until_drained(context, node).await?;
    }
    let line = |one: &MemberMove| MoveLine {
        group: one.group,
        leaves: name_of(before, one.leaves),
        joins: name_of(before, one.joins),
    };
    let moves: Vec<MoveLine> = moves.iter().map(line).collect();
    if context.output.is_json() {
        let dry_run = is_dry_run;
        context.output.json(&DoneLine { dry_run, node, moves })?;
        return Ok(());
    }
    let verb = match (is_dry_run, wait) {
        (true, _) => "would move",
        (false, true) => "moved",
        (false, false) => "moves",
    };
    if moves.is_empty() {
        context.output.text(format_args!("node {node} has no members"))?;
    }
    for MoveLine { group, leaves, joins } in &moves {
        context.output.text(format_args!(
            "group {group}: the member on {leaves} {verb} to {joins}"
        ))?;
    }
    if !is_dry_run && !wait && !moves.is_empty() {
        notice(format_args!("follow it with: rdb-client admin members"));
    }
    Ok(())
}

/// Waits until the node has no members. A look that fails is not the end: nodes may be changing just now.
async fn wait_until_drained(context: &Context, node: &str) -> Result<(), Failure> {
    let deadline = context.explicit_deadline();
    let client = context.client_with(LOOK_MAX);
    loop {
        let looked = client.status().await;
        if let Ok(status) = &looked {
            let id = status
                .nodes
                .iter()
                .find(|known| known.name == node)
                .map(|node| node.id);
            if !id.is_some_and(|id| has_members(status, id)) {
                return Ok(());
            }
        }
        if let Err(error) = looked
            && !error.is_transient()
        {
            return Err(Failure::read("status")(error));
        }
        if deadline.remaining().is_some_and(|left| left <= LOOK_AGAIN_AFTER) {
            return Err(Failure::Late(format!(
                "node {node} still has members; the move goes on, follow it with: rdb-client admin members"
            )));
        }
        clock::sleep(LOOK_AGAIN_AFTER).await;
    }
}

#[derive(Debug, Serialize)]
struct RestoredLine {
    dry_run: bool,
    #[serde(flatten)]
    done: EtcdRestored,
}

async fn etcd_restored(context: &mut Context, args: EtcdRestoredArgs) -> Result<(), Failure> {
    let EtcdRestoredArgs { anyway, dry_run } = args;
    let done = context.client().etcd_restored(anyway, dry_run).await;
    let done = done.map_err(failed("put etcd right".to_owned()))?;
    if context.output.is_json() {
        context.output.json(&RestoredLine { dry_run, done })?;
        return Ok(());
    }
    let EtcdRestored {
        generation,
        counter,
        behind,
        told,
        silent,
        groups_unheard,
    } = done;
    let output = &mut context.output;
    let verb = if dry_run { "would get" } else { "has" };
    output.text(format_args!(
        "etcd {verb} generation {generation}; seqs {} on above {counter}",
        if dry_run { "would go" } else { "go" }
    ))?;
    output.text(format_args!(
        "it was {} what nodes have seen of it",
        if behind { "behind" } else { "not behind" }
    ))?;
    output.text(format_args!("told: {}", told.join(", ")))?;
    if !silent.is_empty() {
        output.text(format_args!("silent: {}", silent.join(", ")))?;
    }
    for group in groups_unheard {
        let but = if dry_run && !anyway {
            ": refused without --anyway"
        } else {
            ""
        };
        output.text(format_args!("group {group}: too few of its members told{but}"))?;
    }
    Ok(())
}

fn say_done(context: &mut Context, node: &str, dry_run: bool, done: &str) -> Result<(), Failure> {
    if context.output.is_json() {
        let moves = Vec::new();
        context.output.json(&DoneLine { dry_run, node, moves })?;
    } else {
        let node = context.output.paint(Look::Bold, node);
        context.output.text(format_args!("node {node} {done}"))?;
    }
    Ok(())
}
