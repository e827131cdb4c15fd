//! `bench read`: linearizable reads of keys that are there.

use super::load::{self, Worker};
use super::report::{Report, Shape, Tally};
use crate::args::BenchReadArgs;
use crate::context::Context;
use crate::failure::Failure;
use rdb_client::{KeyName, ReadOptions, clock};
use rdb_proto::limits::LIST_KEYS_PAGE_MAX;
use std::sync::Arc;

/// A prime far above any number of keys that is read: steps of this length meet all keys, in no order that a
/// cache or a disk would like.
const STEP: usize = 2_147_483_647;

pub(crate) async fn run(context: &Context, args: BenchReadArgs) -> Result<Report, Failure> {
    let keys = keys(context, args.keys).await?;
    let body = |worker: Worker| reads(worker, Arc::clone(&keys));
    let (tally, took) = load::run(context, &args.load, body).await?;
    let shape = Shape {
        bench: "read",
        clients: args.load.clients,
        batch: 1,
        size: 0,
        rate: args.load.rate,
    };
    Ok(Report::new(shape, tally, took))
}

async fn keys(context: &Context, most: u32) -> Result<Arc<[KeyName]>, Failure> {
    let collection = super::collection(context)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut keys = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = u32::try_from(LIST_KEYS_PAGE_MAX).unwrap_or(u32::MAX);
        let client = context.client();
        let listed = client.list_keys(&collection, "", after.as_deref(), page).await;
        let listed = listed.map_err(Failure::read("bench read"))?;
        for key in listed.keys.iter().filter(|key| !key.is_deleted) {
            let name = KeyName::new(collection.as_str(), &key.key);
            keys.push(name.map_err(|error| Failure::Input(error.to_string()))?);
        }
        after = listed.next_after;
        if after.is_none() || keys.len() >= most {
            break;
        }
    }
    keys.truncate(most);
    if keys.is_empty() {
        return Err(Failure::Input(format!(
            "bench read: collection `{collection}` has no keys; make some with: rdb-client bench append --keys 1000 \
             --events 1000"
        )));
    }
    Ok(keys.into())
}

async fn reads(mut worker: Worker, keys: Arc<[KeyName]>) -> Tally {
    let mut position = usize::try_from(worker.number).unwrap_or(0);
    while let Some(count) = worker.work.take(1) {
        let begin = worker.pace.next().await;
        let Some(name) = keys.get(position % keys.len()) else {
            break;
        };
        position = position.wrapping_add(STEP);
        match worker.client.read(name, ReadOptions::default()).await {
            Ok(answer) => {
                let took = clock::now().saturating_duration_since(begin);
                worker.tally.done(count, 1, took);
                worker
                    .tally
                    .bytes(u64::try_from(answer.event.payload.len()).unwrap_or(u64::MAX));
            }
            Err(error) => worker.tally.failed(error),
        }
    }
    worker.tally
}
