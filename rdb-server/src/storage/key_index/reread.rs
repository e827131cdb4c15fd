//! Keys and values of the tree, read and written again: how fuzzing gets at what reads them.

use super::runs::{
    CURSOR_PREFIX, Head, META_KEY, Run, Wanted, at_or_before, decode_runs, encode_runs, name_of, standing,
};
use super::{Direction, cursors, store};
use rdb_proto::types::{Seq, Version};

/// Reads a key and the value under it as any start would, looks for versions in it as reads would, and writes the value
/// again. `None` when it cannot be read.
#[doc(hidden)]
pub fn reread_index_value(key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let (kind, name) = key.split_first()?;
    match kind {
        b'k' => {
            // A listing reads the name back, too.
            drop(name_of(name));
            let head = Head::decode(value)?;
            look_into(&head.runs, head.is_deleted);
            Some(head.encode())
        }
        b'v' => {
            let runs = decode_runs(value)?;
            look_into(&runs, false);
            let mut bytes = Vec::new();
            encode_runs(&runs, &mut bytes);
            Some(bytes)
        }
        _ if key == META_KEY => store::decode_meta(value).as_ref().map(store::encode_meta),
        _ if key.starts_with(CURSOR_PREFIX) => cursors::decode(value).as_ref().map(cursors::encode),
        _ => None,
    }
}

/// What comes of runs must stand within them.
fn look_into(runs: &[Run], is_deleted: bool) {
    const LIMIT: usize = 8;
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
        return;
    };
    let end = standing(last, is_deleted);
    assert!(
        end.version >= first.version && end.seq >= first.seq,
        "runs ascend"
    );
    for seq in [Seq::ZERO, first.seq, end.seq, Seq(u64::MAX)] {
        let found = at_or_before(runs, seq);
        assert!(
            found.is_none_or(|found| found.seq <= seq),
            "nothing later is found"
        );
    }
    let wants = [
        (Version::ZERO, Direction::Forward),
        (end.version, Direction::Forward),
        (first.version, Direction::Backward),
        (Version(u64::MAX), Direction::Backward),
    ];
    for (from, direction) in wants {
        let mut wanted = Wanted::new(from, direction, LIMIT);
        wanted.take(runs);
        assert!(wanted.into_found().len() <= LIMIT, "a limit is kept");
    }
}
