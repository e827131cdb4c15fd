//! The rows: which tool tries which promise, how often, and what must not be seen.

use super::tools::{self, Failover, Modelled, Swept, Torture, fuzzed, sabotaged, swept};
use super::{Count, Form, Row, damage, failing, retries};
use crate::mutations::MUTATIONS;
use crate::random::new_seed;
use crate::say;
use crate::time::Stopwatch;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;

/// What a promise is called, and what is asked of it besides how often.
type Promise = (&'static str, &'static str);

const KILLS: Promise = (
    "what was acknowledged survives `kill -9` of a minority, of both leaders, of all",
    "0 lost or doubled",
);
const POWER: Promise = (
    "what was acknowledged survives a loss of power of all nodes at once",
    "0 lost",
);
const SIMULATED: Promise = (
    "the core keeps its rules under every fault that is simulated",
    "0 violations",
);
const WHOLE: Promise = (
    "server and client library keep every promise under every fault that is simulated, and are well again within seconds",
    "0 violations",
);
const PAUSED: Promise = (
    "a leader that stood still beyond its lease harms nobody",
    "0 forks, 0 stale linearizable reads",
);
const RETRIED: Promise = (
    "a retry with an event id never doubles, applied or not",
    "0 double",
);
const STREAMED: Promise = (
    "change streams on every node over restarts and switches",
    "0 missing, doubled or out of order",
);
const DAMAGED: Promise = (
    "flipped bits and cut files are never served",
    "0 wrong answers, 0 panics",
);
const FAILED: Promise = (
    "what was acknowledged survives a disk of which a write or sync fails",
    "0 lost, 0 strange, every node starts again",
);
const FUZZED: Promise = ("bad input is refused", "0 crashes");
const SABOTAGED: Promise = ("every mistake made on purpose is noticed", "all noticed");
const MODEL_ETCD: Promise = (
    "the model etcd does what etcd does",
    "0 differences of 50,000 operations",
);

/// The other seat counts as undisturbed when none of its writes takes longer: far below any timeout of the product.
const UNDISTURBED_MS: u64 = 200;

/// What can be tried by itself, in the order of the rows.
pub const NAMES: [&str; 10] = [
    "torture",
    "retries",
    "failover",
    "sim",
    "whole",
    "damage",
    "disk",
    "fuzz",
    "sabotage",
    "model-etcd",
];

/// The rows of what is wanted.
pub async fn all(form: Form, wanted: &[&str]) -> Vec<Row> {
    let mut rows = Vec::new();
    for name in NAMES.into_iter().filter(|name| wanted.contains(name)) {
        rows.extend(timed(name, some(name, form)).await);
    }
    rows
}

async fn some(name: &str, form: Form) -> Vec<Row> {
    match name {
        "torture" => {
            let mut streamed = Torture::default();
            let mut rows = torture_rows(form, &mut streamed).await;
            rows.push(streamed_row(form, &streamed));
            rows
        }
        "retries" => vec![retried(form).await],
        "failover" => failovers(form).await,
        "sim" => vec![simulated(form).await],
        "whole" => vec![whole(form).await],
        "damage" => vec![damaged(form)],
        "disk" => vec![failing_disk(form).await],
        "fuzz" => vec![fuzz(form).await],
        "sabotage" => vec![sabotage(form).await],
        _ => vec![model_etcd(form).await],
    }
}

/// Says what is under way, and how long it took.
async fn timed<T>(what: &str, rows: impl Future<Output = T>) -> T {
    let watch = Stopwatch::start();
    let rows = Box::pin(rows).await;
    say(&format!("{what}: {} s", watch.elapsed().as_secs()));
    rows
}

const fn minutes(quick_seconds: u64, full_minutes: u64, form: Form) -> Duration {
    match form {
        Form::Quick => Duration::from_secs(quick_seconds),
        Form::Full => Duration::from_mins(full_minutes),
    }
}

async fn torture_rows(form: Form, streamed: &mut Torture) -> Vec<Row> {
    let count = |what, done, full| Count {
        what,
        done,
        asked: form.part(full),
    };
    let mut rows = Vec::new();
    let killed = torture(
        "kill",
        (form.part(300), form.part(1_000_000)),
        minutes(30, 180, form),
    )
    .await;
    rows.push(judged(KILLS, "kill", killed, streamed, &|of| {
        vec![
            count("kills", of.times, 300),
            count("acknowledged events", of.acknowledged, 1_000_000),
        ]
    }));
    let lost_power = torture("power", (form.part(200), 0), minutes(45, 60, form)).await;
    rows.push(judged(POWER, "power", lost_power, streamed, &|of| {
        vec![count("cycles", of.times, 200)]
    }));
    let paused = torture("pause", (form.part(100), 0), minutes(45, 60, form)).await;
    rows.push(judged(PAUSED, "pause", paused, streamed, &|of| {
        vec![count("pauses", of.times, 100)]
    }));
    rows
}

/// Has a fault strike until it struck often enough and enough events were acknowledged, or the limit is reached.
async fn torture(fault: &str, (times, events): (u64, u64), limit: Duration) -> Result<Torture, String> {
    /// A run judges all of what it recorded after every fault: a shorter run has less to judge.
    const ROUNDS: u64 = 50;
    /// What a fault that was begun in time may take, with everything after it.
    const GRACE: Duration = Duration::from_mins(5);

    let watch = Stopwatch::start();
    let mut all = Torture::default();
    while all.times < times || all.acknowledged < events {
        let left = limit.saturating_sub(watch.elapsed());
        if left < Duration::from_secs(5) || !all.violations.is_empty() || all.not_run.is_some() {
            break;
        }
        let missing = times.saturating_sub(all.times);
        let rounds = if missing == 0 { ROUNDS } else { missing.min(ROUNDS) }.to_string();
        let duration = format!("{}s", left.as_secs());
        let arguments = [
            "--only",
            fault,
            "--rounds",
            &rounds,
            "--duration",
            &duration,
            "-o",
            "json",
        ];
        let printed = tools::run("torture", &arguments, left + GRACE).await?;
        let run = Torture::read(&printed, fault)?;
        let is_idle = run.times == 0 && run.violations.is_empty();
        all.add(run);
        if is_idle {
            break;
        }
    }
    Ok(all)
}

fn judged(
    promise: Promise,
    fault: &str,
    run: Result<Torture, String>,
    streamed: &mut Torture,
    counts: &dyn Fn(&Torture) -> Vec<Count>,
) -> Row {
    let how = format!("`torture --only {fault}`: real nodes around a real etcd");
    let run = match run {
        Ok(run) => run,
        Err(why) => return Row::not_run(promise, how, why),
    };
    if let Some(why) = &run.not_run {
        return Row::not_run(promise, how, why.clone());
    }
    let mut seen = format!(
        "{} lost, {} doubled, {} out of order, {} stale reads",
        run.lost, run.doubled, run.out_of_order, run.stale_reads
    );
    for violation in &run.violations {
        seen = format!("{seen}; {violation}");
    }
    let row = Row::tried(promise, how, counts(&run), (!run.violations.is_empty(), seen));
    streamed.add(run);
    row
}

fn streamed_row(form: Form, streamed: &Torture) -> Row {
    let how = "two followers at every node, one of which goes on at the next, in the runs of `torture` above";
    if streamed.times == 0 {
        return Row::not_run(STREAMED, how, "no fault was run");
    }
    let counts = vec![Count {
        what: "deliveries",
        done: streamed.deliveries,
        asked: form.part(10_000_000),
    }];
    let seen = match streamed.violations.first() {
        None => "0 missing, doubled or out of order".to_owned(),
        Some(first) => first.clone(),
    };
    Row::tried(STREAMED, how, counts, (!streamed.violations.is_empty(), seen))
}

async fn retried(form: Form) -> Row {
    let asked = form.part(retries::ASKED);
    let how = "500 writes at a time through a relay that loses the answers, then again with their ids";
    let mut task = JoinSet::new();
    task.spawn(retries::run(asked, minutes(30, 30, form)));
    let found = match task.join_next().await {
        Some(Ok(found)) => found,
        Some(Err(panic)) => return Row::not_run(RETRIED, how, panic.to_string()),
        None => return Row::not_run(RETRIED, how, "its task is gone"),
    };
    let retries::Found {
        retried,
        doubled,
        lost,
        untold,
    } = found;
    let counts = vec![Count {
        what: "writes that were applied and seen as failed",
        done: retried,
        asked,
    }];
    let seen = format!("{doubled} doubled, {lost} lost, {untold} not told so");
    Row::tried(RETRIED, how, counts, (doubled + lost + untold > 0, seen))
}

async fn failing_disk(form: Form) -> Row {
    let how = "a write or sync of a node at work fails, with EIO or ENOSPC, each of 200 in the full form, and it starts again";
    let mut task = JoinSet::new();
    task.spawn(failing::run(form.part(failing::ASKED)));
    let found = match task.join_next().await {
        Some(Ok(Ok(found))) => found,
        Some(Ok(Err(why))) => return Row::not_run(FAILED, how, why.to_string()),
        Some(Err(panic)) => return Row::tried(FAILED, how, Vec::new(), (true, panic.to_string())),
        None => return Row::not_run(FAILED, how, "its task is gone"),
    };
    let failing::Found {
        tried,
        ended,
        lost,
        strange,
        refused,
    } = found;
    let counts = vec![Count {
        what: "failed calls",
        done: tried,
        asked: form.part(failing::ASKED),
    }];
    let seen = format!(
        "{lost} lost, {strange} strange, {refused} did not start again; {ended} ended by themselves, the others went on"
    );
    Row::tried(FAILED, how, counts, (lost + strange + refused > 0, seen))
}

async fn failovers(form: Form) -> Vec<Row> {
    /// Name, promise, and what 99 of 100 may take.
    const WAYS: [(&str, Promise, u64); 3] = [
        (
            "kill",
            (
                "failover after `kill -9`, default settings",
                "p99 below 400 ms, the other seat undisturbed",
            ),
            400,
        ),
        (
            "pause",
            (
                "failover after SIGSTOP",
                "p99 below 1.2 s, the other seat undisturbed",
            ),
            1_200,
        ),
        (
            "members",
            (
                "failover after a cut",
                "p99 below 1.2 s, the other seat undisturbed",
            ),
            1_200,
        ),
    ];
    let times = form.part(100);
    let mut rows = Vec::new();
    for (way, promise, longest) in WAYS {
        let how = format!("`failover --ways {way}`");
        let arguments = ["--ways", way, "--times", &times.to_string()];
        let printed = tools::run("failover", &arguments, minutes(180, 60, form)).await;
        let measured = printed.and_then(|printed| Failover::read(&printed, way));
        rows.push(match measured {
            Err(why) => Row::not_run(promise, how, why),
            Ok(Failover {
                times: done,
                p99,
                max,
                other,
            }) => {
                let is_broken = p99 >= longest || other >= UNDISTURBED_MS;
                let seen =
                    format!("p99 {p99} ms, at most {max} ms; slowest write of the other seat {other} ms");
                let counts = vec![Count {
                    what: "leaders lost",
                    done,
                    asked: times,
                }];
                Row::tried(promise, how, counts, (is_broken, seen))
            }
        });
    }
    rows
}

async fn simulated(form: Form) -> Row {
    let how = "`sim sweep`: clusters of the core in one thread, from seeds";
    // A seed takes 49 simulated seconds on average: these are 60 hours, and some.
    let seeds = form.part(5_000);
    let first = new_seed(1_000_000_000);
    let (range, limit) = (format!("{first}..{}", first + seeds), minutes(30, 60, form));
    let seconds = limit.as_secs().to_string();
    let printed = tools::run(
        "sim",
        &["sweep", "--seeds", &range, "--seconds", &seconds],
        limit * 2,
    )
    .await;
    let read = |printed: String| {
        let number = |name| swept(&printed, name);
        let (violations, acknowledged) = (number("violations")?, number("events acknowledged")?);
        let counts = vec![
            Count {
                what: "seeds",
                done: number("seeds")?,
                asked: seeds,
            },
            Count {
                what: "simulated hours",
                done: number("simulated hours")?,
                asked: form.part(60),
            },
        ];
        let seen = format!("{violations} violations, {acknowledged} events acknowledged, seeds {range}");
        Ok(Row::tried(SIMULATED, how, counts, (violations > 0, seen)))
    };
    let row: Result<Row, String> = printed.and_then(read);
    row.unwrap_or_else(|why| Row::not_run(SIMULATED, how, why))
}

async fn whole(form: Form) -> Row {
    let how = "`whole sweep`: clusters of server and client as they are in one thread, from seeds";
    let seeds = form.part(3_000);
    let first = new_seed(1_000_000_000);
    let (range, limit) = (format!("{first}..{}", first + seeds), minutes(30, 180, form));
    let seconds = limit.as_secs().to_string();
    let words = ["sweep", "--seeds", &range, "--seconds", &seconds, "-o", "json"];
    let printed = tools::run("whole", &words, limit * 2).await;
    let read = |printed: String| {
        let Swept {
            runs,
            hours,
            acknowledged,
            reads,
            delivered,
            faults,
            violations,
        } = Swept::read(&printed)?;
        let counts = vec![
            Count {
                what: "seeds",
                done: runs,
                asked: seeds,
            },
            Count {
                what: "simulated hours",
                done: hours,
                asked: form.part(60),
            },
        ];
        let mut seen = format!(
            "{} violations; {faults} faults, {acknowledged} acknowledged events, {reads} reads, {delivered} deliveries, \
             seeds {range}",
            violations.len()
        );
        if let Some(first) = violations.first() {
            seen = format!("{seen}; {first}");
        }
        Ok(Row::tried(WHOLE, how, counts, (!violations.is_empty(), seen)))
    };
    let row: Result<Row, String> = printed.and_then(read);
    row.unwrap_or_else(|why| Row::not_run(WHOLE, how, why))
}

fn damaged(form: Form) -> Row {
    let damage::Found {
        tried,
        refused,
        shortened,
        harmless,
        wrong,
    } = damage::run(form);
    let counts = vec![Count {
        what: "flips and cuts",
        done: tried,
        asked: form.part(damage::ASKED),
    }];
    let mut seen = format!(
        "{} wrong; {refused} refused, {shortened} told as lost to other members, {harmless} harmless",
        wrong.len()
    );
    if let Some(first) = wrong.first() {
        seen = format!("{seen}; {first}");
    }
    let how = "every bit and every length of a small log, opened and read as at a start, alone and with other members";
    Row::tried(DAMAGED, how, counts, (!wrong.is_empty(), seen))
}

async fn fuzz(form: Form) -> Row {
    let targets = u64::try_from(crate::fuzz::TARGETS.len()).unwrap();
    let each = minutes(3, 2, form);
    let seconds = each.as_secs().to_string();
    let how = format!("`fuzz run`: {targets} targets, kept inputs and changes of them, {seconds} s each");
    let limit = each * u32::try_from(targets).unwrap() + Duration::from_mins(2);
    let printed = tools::run("fuzz", &["run", "--seconds", &seconds, "-o", "json"], limit).await;
    match printed.and_then(|printed| fuzzed(&printed)) {
        Err(why) => Row::not_run(FUZZED, how, why),
        Ok((executions, faults)) => {
            let counts = vec![Count {
                what: "executions",
                done: executions,
                asked: form.part(100_000_000),
            }];
            let mut seen = format!("{} crashes", faults.len());
            for fault in &faults {
                seen = format!("{seen}; {fault}");
            }
            Row::tried(FUZZED, how, counts, (!faults.is_empty(), seen))
        }
    }
}

async fn model_etcd(form: Form) -> Row {
    let how = "`model-etcd`: the same random operations on the model and on a real etcd";
    let asked = form.part(50_000);
    let operations = asked.to_string();
    let printed = tools::run(
        "model-etcd",
        &["--operations", &operations, "-o", "json"],
        minutes(180, 30, form),
    )
    .await;
    match printed.and_then(|printed| Modelled::read(&printed)) {
        Err(why) => Row::not_run(MODEL_ETCD, how, why),
        Ok(Modelled {
            operations,
            told,
            seed,
            difference,
        }) => {
            let counts = vec![Count {
                what: "operations",
                done: operations,
                asked,
            }];
            let seen = match &difference {
                None => format!("0 differences, also in {told} changes that watches told; seed {seed}"),
                Some(difference) => format!("seed {seed}: {difference}"),
            };
            Row::tried(MODEL_ETCD, how, counts, (difference.is_some(), seen))
        }
    }
}

async fn sabotage(form: Form) -> Row {
    let how = "`scripts/sabotage`: a server that makes one mistake, and the case that must notice";
    let all = u64::try_from(MUTATIONS.len()).unwrap();
    let asked = form.part(all).max(1);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/sabotage/debug/rdb-server");
    if form == Form::Quick && !built.exists() {
        let why = "the server with its mistakes is not compiled, which takes minutes: scripts/sabotage does";
        return Row::not_run(SABOTAGED, how, why);
    }
    let names: Vec<&str> = match form {
        Form::Quick => QUICK_MUTATIONS.to_vec(),
        Form::Full => Vec::new(),
    };
    match tools::script("sabotage", &names, minutes(120, 180, form)).await {
        Err(why) => Row::not_run(SABOTAGED, how, why),
        Ok(printed) => {
            let (noticed, missed, not_run) = sabotaged(&printed);
            let counts = vec![Count {
                what: "mistakes noticed",
                done: noticed,
                asked,
            }];
            let mut seen = format!("{} missed", missed.len());
            for (what, names) in [
                ("missed", missed.join(", ")),
                ("not run here", not_run.join(", ")),
            ] {
                if !names.is_empty() {
                    seen = format!("{seen}; {what}: {names}");
                }
            }
            Row::tried(SABOTAGED, how, counts, (!missed.is_empty(), seen))
        }
    }
}

/// A tenth of them, whose cases take seconds.
const QUICK_MUTATIONS: [&str; 3] = ["duplicate_unchecked", "damage_cut", "expectation_unchecked"];

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn the_mistakes_of_the_quick_form_are_a_tenth_of_all() {
        let all = MUTATIONS.iter().map(|mutation| mutation.name);
        let known = all.filter(|name| QUICK_MUTATIONS.contains(name)).count();
        assert_eq!(known, QUICK_MUTATIONS.len());
        assert!(QUICK_MUTATIONS.len() >= MUTATIONS.len() / 10);
    }

    #[test]
    fn a_fault_that_cannot_be_run_is_not_held() {
        let mut streamed = Torture::default();
        let count = |_: &Torture| Vec::new();
        let not_run = Torture {
            not_run: Some("no loop devices".to_owned()),
            ..Torture::default()
        };
        let row = judged(POWER, "power", Ok(not_run), &mut streamed, &count);
        assert_eq!(row.verdict, Verdict::NotRun("no loop devices".to_owned()));
        let row = judged(POWER, "power", Err("no etcd".to_owned()), &mut streamed, &count);
        assert_eq!(row.verdict, Verdict::NotRun("no etcd".to_owned()));
        let row = streamed_row(Form::Quick, &streamed);
        assert!(matches!(row.verdict, Verdict::NotRun(_)), "{row:?}");
        let broken = Torture {
            times: 30,
            violations: vec!["round 3, kill: lost".to_owned()],
            ..Torture::default()
        };
        let row = judged(KILLS, "kill", Ok(broken), &mut streamed, &count);
        assert_eq!(row.verdict, Verdict::Broken);
        assert_eq!(streamed_row(Form::Quick, &streamed).verdict, Verdict::Broken);
    }
}
