//! What operators should know of etcd itself: its release, its quota, and whether it compacts. The controller looks every
//! few minutes, by two requests, and what it finds is in its `status` until a later look finds it mended.

use super::{Shared, call};
use crate::clock;
use crate::coordination::CoordinationError;
use crate::limits::{ETCD_HISTORY_AGE_MAX, ETCD_HISTORY_REVISIONS_MIN};
use etcd_client::GetOptions;
use std::sync::Arc;
use std::time::Instant;

/// Releases of etcd before which a revoked or lapsed lease can be lost by a new leader of etcd.
const FIRST_SOUND: [(u64, u64, u64); 2] = [(3, 4, 31), (3, 5, 13)];

/// Share of the quota, in percent, from which on the operator is warned.
const QUOTA_WARN_PERCENT: i64 = 80;

/// Quota of an etcd that says nothing of it: its default.
const QUOTA_DEFAULT: i64 = 2 << 30;

/// What etcd says of a revision that it cannot show any more.
const COMPACTED: &str = "has been compacted";

/// Looks for as long as this node is the controller.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut view = shared.view.subscribe();
    let me = Some(shared.node);
    while view.wait_for(|view| view.controller == me).await.is_ok() {
        let mut history = History::default();
        loop {
            match look(&shared, &mut history).await {
                Ok(warnings) => tell(&shared, warnings),
                Err(error) => tracing::debug!(%error, "how etcd is cannot be seen"),
            }
            let lost = view.wait_for(|view| view.controller != me);
            if clock::within(shared.settings.look_every, lost).await.is_some() {
                break;
            }
        }
        // Another one looks now.
        tell(&shared, Vec::new());
    }
}

fn tell(shared: &Shared, warnings: Vec<String>) {
    let before = shared.known().warnings.clone();
    if before == warnings {
        return;
    }
    for warning in warnings.iter().filter(|warning| !before.contains(warning)) {
        tracing::warn!("{warning}");
    }
    shared.learn(|known| known.warnings = warnings);
}

async fn look(shared: &Shared, history: &mut History) -> Result<Vec<String>, CoordinationError> {
    let status = call("etcd's status", shared.client.maintenance_client().status()).await?;
    let revision = status.header().map_or(0, etcd_client::ResponseHeader::revision);
    let mut warnings = Vec::new();
    if is_unsound(status.version()) {
        warnings.push(format!(
            "etcd is {}, which can keep a lapsed lease alive after a change of its leader: use 3.4.31, 3.5.13 or later",
            status.version()
        ));
    }
    // Its alarms, such as NOSPACE: releases before 3.6 do not tell their quota, only that it is used up.
    let alarms = status.errors().iter();
    warnings.extend(alarms.map(|alarm| format!("etcd says: {alarm}")));
    let quota = match status.db_size_quota() {
        0 => QUOTA_DEFAULT,
        quota => quota,
    };
    if status.db_size().saturating_mul(100) / quota.max(1) >= QUOTA_WARN_PERCENT {
        warnings.push(format!(
            "etcd's database has more than {QUOTA_WARN_PERCENT} % of the {quota} bytes that it may have: compact and \
             defragment it, and let it compact by itself"
        ));
    }
    let is_compacted = match history.mark {
        Some((_, mark)) if mark <= revision => is_compacted(shared, mark).await?,
        // Of another etcd, or of none.
        Some(_) | None => true,
    };
    warnings.extend(history.look(clock::monotonic(), revision, is_compacted));
    Ok(warnings)
}

/// Whether etcd cannot show any more how things stood at a revision.
async fn is_compacted(shared: &Shared, revision: i64) -> Result<bool, CoordinationError> {
    let options = GetOptions::new().with_revision(revision).with_count_only();
    let mut kv = shared.client.kv_client();
    let reading = async {
        match kv.get(shared.keys.config(), Some(options)).await {
            Ok(_) => Ok(false),
            Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains(COMPACTED) => Ok(true),
            Err(error) => Err(error),
        }
    };
    call("etcd's history", reading).await
}

/// Whether etcd compacts by itself, which it does not tell: what was written long ago must be gone after a while.
#[derive(Debug, Default)]
struct History {
    /// A revision that was the last one then, and was not compacted when it was last looked at.
    mark: Option<(Instant, i64)>,
}

impl History {
    fn look(&mut self, now: Instant, revision: i64, is_compacted: bool) -> Option<String> {
        let kept = self.mark.filter(|_| !is_compacted);
        let Some((since, mark)) = kept else {
            self.mark = Some((now, revision));
            return None;
        };
        let is_old = now.saturating_duration_since(since) >= ETCD_HISTORY_AGE_MAX;
        let is_much = revision.saturating_sub(mark) >= ETCD_HISTORY_REVISIONS_MIN;
        (is_old && is_much).then(|| {
            let hours = ETCD_HISTORY_AGE_MAX.as_secs() / 3_600;
            format!(
                "etcd still keeps what was written more than {hours} hours ago: let it compact by itself \
                 (--auto-compaction-mode periodic --auto-compaction-retention 10m), or it fills up"
            )
        })
    }
}

fn is_unsound(version: &str) -> bool {
    let mut numbers = version
        .split(['.', '-'])
        .map_while(|part| part.parse::<u64>().ok());
    let (Some(major), Some(minor), Some(patch)) = (numbers.next(), numbers.next(), numbers.next()) else {
        return false;
    };
    FIRST_SOUND
        .into_iter()
        .any(|sound| (major, minor) == (sound.0, sound.1) && patch < sound.2)
        || (major, minor) < (3, 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn releases_that_can_keep_a_lapsed_lease_are_known() {
        for unsound in ["3.4.23", "3.4.30", "3.5.0", "3.5.12", "3.3.27"] {
            assert!(is_unsound(unsound), "{unsound}");
        }
        for sound in ["3.4.31", "3.5.13", "3.5.13-rc.1", "3.6.0", "4.0.0", "unknown"] {
            assert!(!is_unsound(sound), "{sound}");
        }
    }

    #[test]
    fn an_etcd_that_keeps_much_for_long_does_not_compact_by_itself() {
        let start = clock::monotonic();
        let at = |minutes: u64| start + Duration::from_mins(minutes);
        let mut history = History::default();
        assert_eq!(history.look(at(0), 7, true), None, "the first look");
        assert_eq!(history.look(at(170), 1_000_000, false), None, "not for long");
        assert!(history.look(at(181), 1_000_000, false).is_some());
        assert!(history.look(at(190), 1_000_001, false).is_some(), "it lasts");
        assert_eq!(history.look(at(200), 1_000_002, true), None, "mended");
        assert_eq!(history.look(at(500), 1_000_009, false), None, "long, and little");
    }
}
