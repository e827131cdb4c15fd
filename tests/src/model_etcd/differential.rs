//! The same random operations on the model and on a real etcd: every answer, every change that a watch tells and the
//! keys at the end are the same.

use super::drawn::{Awaited, Drawn, LEASES};
use super::followed::{Created, Followed};
use super::operation::{Answer, Operation};
use super::served::ModelEtcd;
use crate::etcd::Etcd;
use crate::random::Random;
use etcd_client::{Client, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Half as much again as the election timeout of [`Etcd`].
const SHORTEST_LEASE: i64 = 3;

/// Streams of watches that there are at most.
const STREAMS_MAX: usize = 4;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many operations are asked.
    pub operations: u64,
    /// How many leases are left to end by themselves, which takes some seconds each.
    pub lapses: u64,
    /// What all choices follow from.
    pub random: Random,
}

/// What was done without a difference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says how many there were")]
pub struct Done {
    pub operations: u64,
    pub changes_told: u64,
    pub watches: u64,
    pub compactions: u64,
    pub lapses: u64,
    /// By what etcd said.
    pub refusals: BTreeMap<String, u64>,
}

impl Done {
    /// For programs, with the first difference.
    pub fn json(&self, seed: u64, difference: Option<&str>) -> Value {
        json!({
            "operations": self.operations,
            "told": self.changes_told,
            "watches": self.watches,
            "compactions": self.compactions,
            "lapses": self.lapses,
            "refusals": self.refusals,
            "seed": seed,
            "difference": difference,
        })
    }
}

/// One of the two.
struct Side {
    client: Client,
    streams: BTreeMap<u64, Followed>,
}

impl Side {
    async fn of(endpoint: &str) -> Self {
        let client = crate::time::soon("a client of etcd", Client::connect([endpoint], None));
        Self {
            client: client.await.unwrap(),
            streams: BTreeMap::new(),
        }
    }

    async fn watch(&mut self, stream: u64, key: &[u8], options: WatchOptions) -> Result<Created, String> {
        if let Some(followed) = self.streams.get_mut(&stream) {
            return followed.add(key, options).await;
        }
        let (followed, created) = Followed::open(&self.client, key, options).await?;
        self.streams.insert(stream, followed);
        Ok(created)
    }

    fn stream(&mut self, stream: u64) -> &mut Followed {
        self.streams.get_mut(&stream).expect("the stream is there")
    }
}

/// A watch that both have begun.
#[derive(Debug)]
struct Watching {
    stream: u64,
    id: i64,
    awaited: Awaited,
}

struct Run {
    drawn: Drawn,
    real: Side,
    model: Side,
    model_etcd: ModelEtcd,
    watching: Vec<Watching>,
    next_stream: u64,
    done: Done,
}

/// Does all of it, up to the first difference. The etcd must be new.
pub async fn run(etcd: &Etcd, plan: Plan) -> (Done, Result<(), String>) {
    let model_etcd = ModelEtcd::start(SHORTEST_LEASE).await;
    let mut run = Run {
        drawn: Drawn {
            random: plan.random,
            revision: 1,
            compacted: -1,
        },
        real: Side::of(&etcd.endpoint()).await,
        model: Side::of(&model_etcd.endpoint()).await,
        model_etcd,
        watching: Vec::new(),
        next_stream: 0,
        done: Done::default(),
    };
    let all = Box::pin(run.all(plan.operations, plan.lapses)).await;
    (run.done, all)
}

impl Run {
    async fn all(&mut self, operations: u64, lapses: u64) -> Result<(), String> {
        let between_lapses = operations / (lapses + 1) + 1;
        while self.done.operations < operations {
            Box::pin(self.step()).await?;
            let is_due = self.done.operations / between_lapses > self.done.lapses;
            if is_due && self.done.lapses < lapses {
                Box::pin(self.lapse()).await?;
            }
        }
        Box::pin(self.finish()).await
    }

    async fn step(&mut self) -> Result<(), String> {
        match self.drawn.random.below(100) {
            0 => self.compact().await,
            1..=3 => self.watch().await,
            4 => self.end_watch().await,
            _ => {
                let operation = self.drawn.operation();
                self.ask(operation).await.map(drop)
            }
        }
    }

    /// Asks both, and returns what both answer.
    async fn ask(&mut self, operation: Operation) -> Result<Answer, String> {
        let (real, model) = tokio::join!(
            operation.clone().ask(&self.real.client),
            operation.clone().ask(&self.model.client)
        );
        self.done.operations += 1;
        let what = format!("{operation:?}");
        let answer = self.same(&what, real, &model)?;
        match (&answer, answer.revision()) {
            (Answer::Refused(_, why), _) => *self.done.refusals.entry(why.clone()).or_default() += 1,
            (_, Some(revision)) => self.drawn.revision = revision,
            (_, None) => {}
        }
        Ok(answer)
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, real: T, model: &T) -> Result<T, String> {
        if real == *model {
            return Ok(real);
        }
        let n = self.done.operations;
        let [real, model] = first_difference(&format!("{real:?}"), &format!("{model:?}"));
        Err(format!("operation {n}: {what}\netcd:  {real}\nmodel: {model}"))
    }

    async fn compact(&mut self) -> Result<(), String> {
        // What a watch has not told by then it may never tell.
        self.settle().await?;
        let revision = self.drawn.compaction();
        if matches!(
            self.ask(Operation::Compact(revision)).await?,
            Answer::Compacted(_)
        ) {
            self.drawn.compacted = revision;
            self.done.compactions += 1;
        }
        Ok(())
    }

    async fn watch(&mut self) -> Result<(), String> {
        let (key, options, mut awaited) = self.drawn.watch();
        let streams: BTreeSet<u64> = self.real.streams.keys().copied().collect();
        let position = self.drawn.random.position(STREAMS_MAX);
        let stream = streams.iter().nth(position).copied().unwrap_or_else(|| {
            self.next_stream += 1;
            self.next_stream
        });
        let (real, model) = tokio::join!(
            self.real.watch(stream, &key, options.clone()),
            self.model.watch(stream, &key, options.clone())
        );
        let created = self.same(&format!("{options:?}"), real?, &model?)?;
        if created.refused.is_some() {
            return Ok(());
        }
        self.done.watches += 1;
        if awaited.from == 0 {
            awaited.from = created.revision + 1;
        }
        let id = created.id;
        if awaited.from <= created.revision && awaited.from < self.drawn.compacted {
            let (real, model) = tokio::join!(
                self.real.stream(stream).until_ended(id),
                self.model.stream(stream).until_ended(id)
            );
            real.map_err(of("etcd"))?;
            return model.map_err(of("the model"));
        }
        self.watching.push(Watching { stream, id, awaited });
        Ok(())
    }

    /// Ends a watch, or closes a stream of them.
    async fn end_watch(&mut self) -> Result<(), String> {
        self.settle().await?;
        if self.watching.is_empty() {
            return Ok(());
        }
        let position = self.drawn.random.position(self.watching.len());
        let Watching { stream, id, .. } = self.watching.swap_remove(position);
        if self.drawn.random.one_in(3) {
            self.real.streams.remove(&stream);
            self.model.streams.remove(&stream);
            self.watching.retain(|watching| watching.stream != stream);
            return Ok(());
        }
        let (real, model) = tokio::join!(
            self.real.stream(stream).cancel(id),
            self.model.stream(stream).cancel(id)
        );
        real.map_err(of("etcd"))?;
        model.map_err(of("the model"))?;
        self.compare_told()
    }

    /// Waits until both have told all changes so far, and compares them.
    ///
    /// A key of each watch is put and deleted: what is told after that, nobody waits for.
    async fn settle(&mut self) -> Result<(), String> {
        let keys: BTreeSet<Vec<u8>> = self
            .watching
            .iter()
            .map(|watching| watching.awaited.key.clone())
            .collect();
        let [put, delete]: [Vec<TxnOp>; 2] = [
            keys.iter().map(|key| TxnOp::put(key.clone(), "", None)).collect(),
            keys.iter().map(|key| TxnOp::delete(key.clone(), None)).collect(),
        ];
        self.ask(Operation::Txn(Txn::new().and_then(put))).await?;
        let put = self.drawn.revision;
        self.ask(Operation::Txn(Txn::new().and_then(delete))).await?;
        let deleted = self.drawn.revision;
        for Watching { stream, id, awaited } in &self.watching {
            let last = match (awaited.puts, awaited.deletes) {
                (_, true) => deleted,
                (true, false) => put,
                (false, false) => continue,
            };
            if awaited.from > last {
                continue;
            }
            for (who, side) in [("etcd", &mut self.real), ("the model", &mut self.model)] {
                let until = side.stream(*stream).until(*id, last);
                until.await.map_err(|why| {
                    format!("{who}: {why}: watch {id} of stream {stream} up to {last}, {awaited:?}")
                })?;
            }
        }
        self.compare_told()
    }

    fn compare_told(&mut self) -> Result<(), String> {
        let streams: Vec<u64> = self.real.streams.keys().copied().collect();
        for stream in streams {
            let real = self.real.stream(stream).told();
            let model = self.model.stream(stream).told();
            let told = self.same(&format!("the watches of stream {stream}"), real, &model)?;
            for told in told.values() {
                self.done.changes_told += u64::try_from(told.events.len()).unwrap();
                if told.is_torn {
                    return Err("etcd and the model tell a revision in parts".to_owned());
                }
            }
        }
        Ok(())
    }

    /// Lets a lease end by itself.
    async fn lapse(&mut self) -> Result<(), String> {
        const KEYS: [&str; 3] = ["lapse/2", "lapse/1", "lapse/3"];
        let lease = LEASES + 1;
        self.settle().await?;
        self.ask(Operation::Grant(lease, 1)).await?;
        for key in KEYS {
            let leased = PutOptions::new().with_lease(lease);
            self.ask(Operation::Put(key.into(), "".into(), leased)).await?;
        }
        // It is not the lease's any more.
        self.ask(Operation::Put(KEYS[2].into(), "".into(), PutOptions::new()))
            .await?;
        self.ask(Operation::KeysOf(lease)).await?;
        let stream = self.next_stream + 1;
        self.next_stream = stream;
        let options = WatchOptions::new().with_prefix().with_prev_key();
        let lapsing = b"lapse/";
        let (real, model) = tokio::join!(
            self.real.watch(stream, lapsing, options.clone()),
            self.model.watch(stream, lapsing, options)
        );
        let created = self.same("a watch of a lease's keys", real?, &model?)?;
        let lapsed = created.revision + 1;
        self.ask(Operation::KeepAlive(lease)).await?;
        let told = self.real.stream(stream).until(created.id, lapsed).await;
        told.map_err(of("etcd"))?;
        let seconds = u64::try_from(SHORTEST_LEASE).unwrap();
        self.model_etcd
            .with(|model| model.pass(Duration::from_secs(seconds)));
        let told = self.model.stream(stream).until(created.id, lapsed).await;
        told.map_err(of("the model"))?;
        self.compare_told()?;
        self.ask(Operation::KeysOf(lease)).await?;
        self.ask(Operation::KeepAlive(lease)).await?;
        let all = DeleteOptions::new().with_prefix().with_prev_key();
        self.ask(Operation::Delete(lapsing.to_vec(), all)).await?;
        self.real.streams.remove(&stream);
        self.model.streams.remove(&stream);
        self.done.lapses += 1;
        self.settle().await
    }

    /// Compares what there is at the end.
    async fn finish(&mut self) -> Result<(), String> {
        self.settle().await?;
        let all = GetOptions::new().with_all_keys();
        self.ask(Operation::Get(vec![0], all.clone())).await?;
        for revision in self.drawn.compacted.max(1)..self.drawn.revision {
            let then = all.clone().with_revision(revision);
            self.ask(Operation::Get(vec![0], then)).await?;
        }
        for lease in 1..=LEASES {
            self.ask(Operation::KeysOf(lease)).await?;
        }
        Ok(())
    }
}

fn of(who: &'static str) -> impl Fn(String) -> String {
    move |why| format!("{who}: {why}")
}

/// Two texts from a little before the place where they begin to differ, and not far beyond it.
fn first_difference(one: &str, other: &str) -> [String; 2] {
    const BEFORE: usize = 300;
    const AFTER: usize = 1_000;
    let same = one
        .chars()
        .zip(other.chars())
        .take_while(|(one, other)| one == other);
    let from = same.count().saturating_sub(BEFORE);
    [one, other].map(|text| text.chars().skip(from).take(BEFORE + AFTER).collect())
}
