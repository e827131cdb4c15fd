//! What this node knows of etcd: a listing, then a watch from there on; when that breaks, the same again.

use super::mirror::Mirror;
use super::{Known, Shared, call};
use crate::clock::{self, BackOff};
use crate::coordination::CoordinationError;
use crate::limits::{ETCD_RETRY_MAX, ETCD_RETRY_MIN};
use etcd_client::{EventType, GetOptions, WatchOptions, WatchResponse};
use std::convert::Infallible;
use std::sync::Arc;

/// Follows etcd for ever. Every break ends in a new listing: what was compacted away meanwhile is in it.
#[expect(clippy::infinite_loop, reason = "it ends with its task")]
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut back_off = BackOff::new(ETCD_RETRY_MIN, ETCD_RETRY_MAX);
    loop {
        let began = clock::monotonic();
        let error = match watch(&shared).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        shared.learn(|known| known.problem = Some(error.to_string()));
        tracing::warn!(%error, "etcd is not followed; trying again");
        if clock::monotonic().saturating_duration_since(began) > ETCD_RETRY_MAX {
            back_off.reset();
        }
        loop {
            back_off.wait().await;
            match list(&shared).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(%error, "etcd cannot be listed; trying again");
                    shared.learn(|known| known.problem = Some(error.to_string()));
                }
            }
        }
        tracing::info!("etcd is followed again");
    }
}

/// Reads every key of the database, at one revision.
pub(super) async fn list(shared: &Shared) -> Result<(), CoordinationError> {
    let before = shared.progress();
    let mut kv = shared.client.kv_client();
    let prefix = GetOptions::new().with_prefix();
    let listed = call(
        "the database's keys",
        kv.get(shared.keys.prefix.clone(), Some(prefix)),
    )
    .await?;
    let revision = listed.header().map_or(0, etcd_client::ResponseHeader::revision);
    // It only grows, so a value that is newer than the rest does no harm.
    let counter = call("the counter", kv.get(shared.keys.counter.clone(), None)).await?;
    let fill = |mirror: &mut Mirror| {
        for kv in listed.kvs().iter().chain(counter.kvs()) {
            let key = String::from_utf8_lossy(kv.key());
            mirror.put(&shared.keys, &key, kv.value(), kv.mod_revision());
        }
        // The counter was read later, and its change is newer than others that are not in the listing.
        mirror.revision = revision;
    };
    // An etcd that went back is not followed, also when its revision has caught up, before somebody put it right.
    if before.revision > 0 {
        let mut mirror = Mirror::default();
        fill(&mut mirror);
        mirror.check(shared)?;
        mirror.progress().is_after(&before)?;
    }
    shared.learn(|known| {
        known.problem = None;
        known.mirror.restart(revision);
        fill(&mut known.mirror);
    });
    Ok(())
}

fn went_back(seen: i64, found: i64) -> CoordinationError {
    CoordinationError::RolledBack {
        what: "its revision",
        seen: u64::try_from(seen).unwrap_or_default(),
        found: u64::try_from(found).unwrap_or_default(),
    }
}

/// Watches from what is known on, until that breaks.
async fn watch(shared: &Shared) -> Result<Infallible, CoordinationError> {
    let from = shared.known().mirror.revision.saturating_add(1);
    let mut moves = shared.moves.clone();
    moves.mark_unchanged();
    let options = || {
        WatchOptions::new()
            .with_start_revision(from)
            .with_progress_notify()
    };
    let mut client = shared.client.watch_client();
    let watching = client.watch(shared.keys.prefix.clone(), Some(options().with_prefix()));
    let mut stream = call("a watch", watching).await?;
    if !shared.keys.counter.starts_with(&shared.keys.prefix) {
        call(
            "a watch",
            stream.watch(shared.keys.counter.clone(), Some(options())),
        )
        .await?;
    }
    let broken = |why: String| CoordinationError::Unavailable {
        what: "the watch",
        why,
    };
    loop {
        let message = tokio::select! {
            message = stream.message() => message.map_err(|error| broken(super::why(&error)))?,
            // The endpoint that answered no more may hold this stream open and say nothing on it.
            Ok(()) = moves.changed() => return Err(broken("another endpoint is used now".to_owned())),
        };
        let response = message.ok_or_else(|| broken("etcd ended the stream".to_owned()))?;
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        // A watch that is refused is created and cancelled by one answer.
        if response.canceled() || response.compact_revision() > 0 {
            return Err(broken(format!("etcd cancelled it: {}", response.cancel_reason())));
        }
        if response.created() {
            // A watch that begins in the future would stay silent for ever.
            if revision.saturating_add(1) < from {
                return Err(went_back(from.saturating_sub(1), revision));
            }
            continue;
        }
        take_in(shared, &response);
    }
}

fn take_in(shared: &Shared, response: &WatchResponse) {
    let is_counter = |key: &[u8]| key == shared.keys.counter.as_bytes();
    let only_counter = response
        .events()
        .iter()
        .all(|event| event.kv().is_some_and(|kv| is_counter(kv.key())));
    let change = |known: &mut Known| {
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let key = String::from_utf8_lossy(kv.key());
            match event.event_type() {
                EventType::Put => known
                    .mirror
                    .put(&shared.keys, &key, kv.value(), kv.mod_revision()),
                EventType::Delete => known.mirror.delete(&shared.keys, &key, kv.mod_revision()),
            }
        }
    };
    // The counter moves with every batch; nothing else is shown anew for it.
    if only_counter {
        let last_seq = {
            let mut known = shared.known();
            change(&mut known);
            known.mirror.last_seq()
        };
        shared.saw_counter(last_seq);
    } else {
        shared.learn(change);
    }
}
