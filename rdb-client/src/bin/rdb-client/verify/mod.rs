//! `admin verify`: every node reads its logs and checks them, and what the members of a seat have is compared.

mod compare;

use crate::admin::{MemberLine, members_of};
use crate::args::VerifyArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::look::Look;
use crate::output::Output;
use crate::status::{bytes_text, table};
use compare::Comparison;
use futures::stream::{self, BoxStream, StreamExt as _};
use rdb_client::clock::{self, Deadline};
use rdb_client::{Client, Error, Finding, FindingKind, Status, VerifyEnd, VerifySeat};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

/// For a node to begin.
const BEGIN_MAX: Duration = Duration::from_secs(10);

/// Between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// What is known of one member of a seat.
#[derive(Debug, Serialize)]
struct MemberReport {
    node: String,
    /// member, learner or leaving.
    role: &'static str,
    /// verified, damaged, behind, repairing, absent or silent.
    state: &'static str,
    /// The last entry that passed every check.
    last: u64,
    bytes: u64,
    /// The first entry that did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<u64>,
    /// What is wrong, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip)]
    has_ended: bool,
    /// Whether a start of the node repairs the damage.
    #[serde(skip)]
    is_found_at_start: bool,
}

#[derive(Debug, Serialize)]
struct DifferenceReport {
    first: u64,
    last: u64,
    /// Nodes that have the same, the most of them first.
    alike: Vec<Vec<String>>,
}

/// What is known of a seat.
#[derive(Debug, Serialize)]
struct SeatReport {
    group: u32,
    seat: u32,
    up_to: u64,
    /// Nothing is damaged or different.
    whole: bool,
    /// Every member was read up to there, or to its damage.
    complete: bool,
    /// Entries that were compared between members.
    compared: u64,
    members: Vec<MemberReport>,
    differences: Vec<DifferenceReport>,
    /// Whether a member that is started again gets what it lost from others.
    #[serde(skip)]
    is_replicated: bool,
    /// Why `up_to` may not be all that is committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    doubt: Option<&'static str>,
    #[serde(skip)]
    comparison: Comparison,
}

#[derive(Debug, Serialize)]
struct Summary {
    whole: bool,
    complete: bool,
    summary: String,
    seats: usize,
    nodes: usize,
    /// Entries that passed, those of each member by themselves.
    entries: u64,
    bytes: u64,
    seconds: f64,
}

pub(crate) async fn verify(context: &mut Context, args: VerifyArgs) -> Result<(), Failure> {
    let began = clock::now();
    let status = context.client().status().await;
    let status = status.map_err(Failure::read("status"))?;
    let mut seats = plan(&status, &args)?;
    let findings = begin(
        &context.client_with(BEGIN_MAX),
        &seats,
        args.rate.saturating_mul(1 << 20),
    );
    gather(
        findings,
        &mut seats,
        context.explicit_deadline(),
        &mut context.output,
    )
    .await?;
    for seat in &mut seats {
        seat.conclude();
    }
    let is_of_all = args.nodes.is_empty() && args.seats.is_empty();
    tell(&seats, is_of_all, began, &mut context.output)
}

/// Which members are to be asked for what: all that the leaders know to be committed now.
fn plan(status: &Status, args: &VerifyArgs) -> Result<Vec<SeatReport>, Failure> {
    if let Some(unknown) = args
        .nodes
        .iter()
        .find(|name| !status.nodes.iter().any(|node| node.name == **name))
    {
        return Err(Failure::Usage(format!("no node is named {unknown}")));
    }
    let is_meant = |line: &MemberLine| args.nodes.is_empty() || args.nodes.contains(&line.node);
    let mut seats = Vec::new();
    for group in &status.groups {
        let members: Vec<MemberLine> = members_of(status, group).into_iter().filter(is_meant).collect();
        for seat in &group.seats {
            let is_meant = args.seats.is_empty() || args.seats.contains(&(group.group, seat.seat));
            if !is_meant || members.is_empty() {
                continue;
            }
            seats.push(SeatReport {
                group: group.group,
                seat: seat.seat,
                up_to: seat.commit,
                whole: true,
                complete: true,
                compared: 0,
                members: members.iter().map(MemberReport::of).collect(),
                differences: Vec::new(),
                is_replicated: group.writes > 1,
                doubt: (seat.state != "leading").then_some("its leader did not tell how far it is committed"),
                comparison: Comparison::of(
                    (0..)
                        .zip(&members)
                        .filter(|(_, line)| line.live)
                        .map(|(at, _)| at),
                ),
            });
        }
    }
    if seats.is_empty() {
        return Err(Failure::Usage(
            "there is no such seat with a member there".to_owned(),
        ));
    }
    Ok(seats)
}

/// What all nodes find, each with its name.
type AllFindings = stream::SelectAll<BoxStream<'static, (String, Result<Finding, Error>)>>;

fn begin(client: &Client, seats: &[SeatReport], bytes_per_second: u64) -> AllFindings {
    let members = seats.iter().flat_map(|seat| &seat.members);
    let live = members.filter(|member| !member.has_ended);
    let names: BTreeSet<String> = live.map(|member| member.node.clone()).collect();
    let one = |name: String| {
        let has_member = |seat: &&SeatReport| seat.members.iter().any(|member| member.node == name);
        let wanted = seats.iter().filter(has_member).map(|seat| VerifySeat {
            group: seat.group,
            seat: seat.seat,
            up_to: seat.up_to,
        });
        let wanted: Vec<VerifySeat> = wanted.collect();
        let (client, node) = (client.clone(), name.clone());
        let opened = stream::once(async move { client.verify(&node, &wanted, bytes_per_second).await });
        let findings = opened.flat_map(|opened| match opened {
            Ok(findings) => findings.into_stream().boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        findings.map(move |found| (name.clone(), found)).boxed()
    };
    stream::select_all(names.into_iter().map(one))
}

async fn gather(
    mut findings: AllFindings,
    seats: &mut [SeatReport],
    deadline: Deadline,
    output: &mut Output,
) -> io::Result<()> {
    let has_footer = output.can_have_footer();
    let mut told = clock::now();
    loop {
        let Ok(next) = deadline.run(findings.next()).await else {
            let late = "it was not verified in time: give it more --timeout, or a higher --rate";
            for seat in &mut *seats {
                seat.late(late);
            }
            break;
        };
        let Some((node, found)) = next else {
            break;
        };
        match found {
            Ok(finding) => {
                let mut all = seats.iter_mut();
                let seat = all.find(|seat| (seat.group, seat.seat) == (finding.group, finding.seat));
                if let Some(seat) = seat {
                    seat.take(&node, finding.found);
                }
            }
            Err(error) => {
                for seat in &mut *seats {
                    seat.broken(&node, &error);
                }
            }
        }
        if has_footer && clock::now().saturating_duration_since(told) >= PROGRESS_INTERVAL {
            told = clock::now();
            output.footer(&progress(seats))?;
        }
    }
    output.clear_footer();
    Ok(())
}

fn progress(seats: &[SeatReport]) -> String {
    let members = || {
        seats
            .iter()
            .flat_map(|seat| seat.members.iter().map(move |one| (seat, one)))
    };
    let done: u64 = members().map(|(_, member)| member.last).sum();
    let all: u64 = members().map(|(seat, _)| seat.up_to).sum();
    let bytes: u64 = members().map(|(_, member)| member.bytes).sum();
    format!("{done} of {all} entries verified, {}", bytes_text(bytes))
}

impl MemberReport {
    /// Before anything was heard.
    fn of(line: &MemberLine) -> Self {
        let why = (!line.live).then(|| "the node is not live".to_owned());
        Self {
            node: line.node.clone(),
            role: line.role,
            state: "silent",
            last: 0,
            bytes: 0,
            damaged: None,
            has_ended: why.is_some(),
            is_found_at_start: false,
            why,
        }
    }

    /// Whether the seat is not complete without it.
    fn is_needed(&self) -> bool {
        self.role == "member"
    }
}

impl SeatReport {
    fn name(&self) -> String {
        format!("{}.{}", self.group, self.seat)
    }

    fn take(&mut self, node: &str, found: FindingKind) {
        let Some(position) = self.members.iter().position(|member| member.node == node) else {
            return;
        };
        let Some(member) = self.members.get_mut(position) else {
            return;
        };
        match found {
            FindingKind::Block(block) => {
                member.last = block.last;
                member.bytes = member.bytes.saturating_add(block.bytes);
                self.comparison.add(position, block);
            }
            FindingKind::Damage {
                index,
                what,
                is_found_at_start,
            } => {
                member.state = "damaged";
                member.damaged = Some(index);
                member.is_found_at_start = is_found_at_start;
                member.why = Some(what);
            }
            FindingKind::End { last, reason } => {
                member.has_ended = true;
                member.last = last;
                if member.damaged.is_none() {
                    let (state, why) = ended(reason);
                    member.state = state;
                    member.why = why.map(str::to_owned);
                }
                self.comparison.without(position);
            }
        }
    }

    /// The node says no more.
    fn broken(&mut self, node: &str, error: &Error) {
        self.cut_off(error.message(), |member| member.node == node);
    }

    /// No node is heard any more.
    fn late(&mut self, why: &str) {
        self.cut_off(why, |_| true);
    }

    /// Nothing more is heard of some members.
    fn cut_off(&mut self, why: &str, of: impl Fn(&MemberReport) -> bool) {
        for (position, member) in self.members.iter_mut().enumerate() {
            if member.has_ended || !of(member) {
                continue;
            }
            member.has_ended = true;
            self.comparison.without(position);
            if member.damaged.is_none() {
                member.why = Some(why.to_owned());
            }
        }
    }

    fn conclude(&mut self) {
        self.comparison.finish();
        for member in self.members.iter_mut().filter(|member| !member.has_ended) {
            member
                .why
                .get_or_insert_with(|| "the node said nothing more".to_owned());
        }
        self.compared = self.comparison.compared;
        let names = |members: &Vec<usize>| {
            let names = members.iter().filter_map(|n| self.members.get(*n));
            names.map(|member| member.node.clone()).collect()
        };
        let differences = self.comparison.differences.iter();
        self.differences = differences
            .map(|difference| DifferenceReport {
                first: difference.first,
                last: difference.last,
                alike: difference.alike.iter().map(names).collect(),
            })
            .collect();
        let mut needed = self.members.iter().filter(|member| member.is_needed());
        self.complete =
            self.doubt.is_none() && needed.all(|member| ["verified", "damaged"].contains(&member.state));
        let is_damaged = self.members.iter().any(|member| member.damaged.is_some());
        self.whole = !is_damaged && self.differences.is_empty();
    }

    /// What an operator has to know and to do, a sentence each; `advice` is about the damage on a node.
    fn problems(&self, advice: impl Fn(&str) -> String) -> Vec<String> {
        let name = self.name();
        let mut problems = Vec::new();
        if let Some(doubt) = self.doubt {
            problems.push(format!("seat {name}: {doubt}; verify it again"));
        }
        for member in &self.members {
            let MemberReport {
                node, damaged, why, ..
            } = member;
            let Some(why) = why else { continue };
            match damaged {
                Some(index) => {
                    problems.push(format!("seat {name}, entry {index} on node {node}: {why}"));
                    problems.push(format!("  {}", advice(node)));
                }
                None => problems.push(format!("seat {name} on node {node} is not verified: {why}")),
            }
        }
        for DifferenceReport { first, last, alike } in &self.differences {
            let alike: Vec<String> = alike.iter().map(|nodes| nodes.join(", ")).collect();
            problems.push(format!(
                "seat {name}, entries {first} to {last} are not the same on all nodes: {}",
                alike.join(" | ")
            ));
            problems.push(
                "  copy their DATA_DIR, find out which is right, and replace the other: rdb-client admin replace NODE"
                    .to_owned(),
            );
        }
        problems
    }
}

/// What to do about a damaged member of a seat.
///
/// A start of its node, or an emptied `DATA_DIR`, is felt by every seat that the node has a member of. A member that comes
/// back without a part of its log abstains until a leader has given it that part, and a leader that meets damage of its own
/// ends: so it is said only when everything else is known to be whole.
fn advice(seats: &[SeatReport], is_of_all: bool, seat: &SeatReport, node: &str) -> String {
    if !seat.is_replicated {
        return "no other member is sure to have it: export what can be read, and restore a backup"
            .to_owned();
    }
    if !is_of_all {
        return "verify all nodes and seats before anything is done about it: rdb-client admin verify"
            .to_owned();
    }
    let of_node = |seat: &&SeatReport| seat.members.iter().any(|member| member.node == node);
    let others_are_whole = seats.iter().filter(of_node).all(|seat| {
        let mut others = seat.members.iter().filter(|member| member.node != node);
        let are_verified = others.all(|member| !member.is_needed() || member.state == "verified");
        are_verified && seat.differences.is_empty() && seat.doubt.is_none()
    });
    if !others_are_whole {
        return format!(
            "start, stop and empty no node yet: other members of the seats of node {node} are not known to be whole; \
             README says what to do then (Look at the disks)"
        );
    }
    let of_its_own = seats.iter().flat_map(|seat| &seat.members);
    let mut damage = of_its_own.filter(|member| member.node == node && member.damaged.is_some());
    if damage.all(|member| member.is_found_at_start) {
        format!("look at the disk, then start node {node} again: it gets what is lost from the others")
    } else {
        format!(
            "look at the disk, then empty the DATA_DIR of node {node}, on another disk if this one fails, and start it: it \
             gets everything from the others"
        )
    }
}

/// A word and a sentence for why a log was not read any further.
const fn ended(reason: VerifyEnd) -> (&'static str, Option<&'static str>) {
    match reason {
        VerifyEnd::Done => ("verified", None),
        VerifyEnd::Behind => ("behind", Some("it does not have the rest yet")),
        VerifyEnd::Repairing => (
            "repairing",
            Some("it lost a part of its log, and gets it from the others"),
        ),
        VerifyEnd::NotHere => ("absent", Some("it does not have the log yet, or any more")),
        VerifyEnd::Unknown => ("silent", Some("it answers as a later release does")),
    }
}

fn tell(seats: &[SeatReport], is_of_all: bool, began: Instant, output: &mut Output) -> Result<(), Failure> {
    let members = || seats.iter().flat_map(|seat| &seat.members);
    let nodes: BTreeSet<&str> = members().map(|member| member.node.as_str()).collect();
    let mut summary = Summary {
        whole: seats.iter().all(|seat| seat.whole),
        complete: seats.iter().all(|seat| seat.complete),
        summary: String::new(),
        seats: seats.len(),
        nodes: nodes.len(),
        entries: members().map(|member| member.last).sum(),
        bytes: members().map(|member| member.bytes).sum(),
        seconds: clock::now().saturating_duration_since(began).as_secs_f64(),
    };
    summary.summary = sentence(seats, &summary);
    if output.is_json() {
        for seat in seats {
            output.json(seat)?;
        }
        output.json(&summary)?;
    } else {
        screen(seats, is_of_all, &summary, output)?;
    }
    match (summary.whole, summary.complete) {
        (true, true) => Ok(()),
        (true, false) => Err(Failure::Unverified(summary.summary)),
        (false, _) => Err(Failure::Damaged(summary.summary)),
    }
}

fn sentence(seats: &[SeatReport], summary: &Summary) -> String {
    let Summary { entries, nodes, .. } = summary;
    let compared: u64 = seats.iter().map(|seat| seat.compared).sum();
    if summary.whole && summary.complete {
        let same = if compared > 0 {
            format!("{compared} of them compared between members, and the same")
        } else {
            "with nobody to be compared with".to_owned()
        };
        return format!("whole: {entries} entries read from the disks of {nodes} nodes, {same}");
    }
    let of = |is_so: &dyn Fn(&SeatReport) -> bool| -> Vec<String> {
        seats
            .iter()
            .filter(|seat| is_so(seat))
            .map(SeatReport::name)
            .collect()
    };
    let damaged = of(&|seat| seat.members.iter().any(|member| member.damaged.is_some()));
    let differing = of(&|seat| !seat.differences.is_empty());
    let open = of(&|seat| !seat.complete);
    let mut parts = Vec::new();
    for (what, of) in [
        ("damaged", damaged),
        ("not the same on all nodes", differing),
        ("not verified everywhere", open),
    ] {
        if !of.is_empty() {
            parts.push(format!("{what}: seat {}", of.join(", ")));
        }
    }
    parts.join("; ")
}

fn screen(seats: &[SeatReport], is_of_all: bool, summary: &Summary, output: &mut Output) -> io::Result<()> {
    let heads = ["GROUP", "SEAT", "NODE", "ROLE", "ENTRIES", "BYTES", "STATE"];
    let row = |seat: &SeatReport, member: &MemberReport| {
        vec![
            seat.group.to_string(),
            seat.seat.to_string(),
            member.node.clone(),
            member.role.to_owned(),
            member.last.to_string(),
            bytes_text(member.bytes),
            member.state.to_owned(),
        ]
    };
    let rows = seats
        .iter()
        .flat_map(|seat| seat.members.iter().map(move |member| row(seat, member)));
    table(&heads, rows.collect(), output)?;
    for seat in seats {
        for problem in seat.problems(|node| advice(seats, is_of_all, seat, node)) {
            output.text(format_args!("{problem}"))?;
        }
    }
    if summary.whole && summary.complete {
        let sentence = output.paint(Look::Green, &summary.summary);
        output.text(format_args!("{sentence}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members n1, n2, … that are in these states; damage is found at a start, but where the word is `unread`.
    fn seat(states: &[&'static str]) -> SeatReport {
        let member = |(n, state): (usize, &&'static str)| MemberReport {
            node: format!("n{}", n + 1),
            role: "member",
            state: if *state == "unread" { "damaged" } else { state },
            last: 0,
            bytes: 0,
            damaged: ["damaged", "unread"].contains(state).then_some(1),
            why: None,
            has_ended: true,
            is_found_at_start: *state != "unread",
        };
        SeatReport {
            group: 0,
            seat: 1,
            up_to: 9,
            whole: false,
            complete: true,
            compared: 0,
            members: states.iter().enumerate().map(member).collect(),
            differences: Vec::new(),
            is_replicated: true,
            doubt: None,
            comparison: Comparison::default(),
        }
    }

    /// A member that comes back without a part of its log abstains: with two of those nobody leads who could repair them.
    /// And what is done to a node is done to all its seats.
    #[test]
    fn nobody_is_told_to_start_a_node_unless_all_else_is_whole() {
        let told = |states: &[&[&'static str]], is_of_all| {
            let seats: Vec<SeatReport> = states.iter().map(|states| seat(states)).collect();
            advice(&seats, is_of_all, &seats[0], "n1")
        };
        let alone = told(&[&["damaged", "verified", "verified"]], true);
        assert!(alone.contains("then start node n1 again"), "{alone}");
        let unread = told(
            &[
                &["damaged", "verified", "verified"],
                &["unread", "verified", "verified"],
            ],
            true,
        );
        assert!(unread.contains("empty the DATA_DIR of node n1"), "{unread}");
        for other in ["damaged", "behind", "silent", "repairing", "absent"] {
            let here = told(&[&["damaged", other, "verified"]], true);
            let elsewhere = told(
                &[
                    &["damaged", "verified", "verified"],
                    &["verified", other, "verified"],
                ],
                true,
            );
            assert!(here.contains("empty no node yet"), "{other}: {here}");
            assert!(elsewhere.contains("empty no node yet"), "{other}: {elsewhere}");
        }
        let partly = told(&[&["damaged", "verified"]], false);
        assert!(partly.contains("verify all nodes"), "{partly}");
    }
}
