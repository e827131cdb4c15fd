//! Mistakes that a run makes on purpose in what the simulator models, so that it is seen that its checks notice. Those of
//! the production code are in [`rdb_server::sabotage`].

use rdb_proto::cursor::{Cursor, CursorAct, CursorChange};
use rdb_proto::types::LogIndex;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// A consumer acknowledges what it was shown before it has done it.
    CursorBeforeEffect,
    /// An acknowledgement sets the position, also when that is further already.
    CursorGoesBack,
    /// A fenced consumer's acknowledgement moves the position.
    CursorUnfenced,
    /// The model index starts without cursors, as the named mistake of the real one.
    CursorsNotRecovered,
}

impl Mistake {
    /// Every mistake.
    pub const ALL: &'static [Self] = &[
        Self::CursorBeforeEffect,
        Self::CursorGoesBack,
        Self::CursorUnfenced,
        Self::CursorsNotRecovered,
    ];

    /// Its name, for `--mistake`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CursorBeforeEffect => "cursor_before_effect",
            Self::CursorGoesBack => "cursor_goes_back",
            Self::CursorUnfenced => "cursor_unfenced",
            Self::CursorsNotRecovered => "cursors_not_recovered",
        }
    }

    /// The mistake of a name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().copied().find(|mistake| mistake.as_str() == name);
        known.ok_or_else(|| format!("there is no mistake {name}"))
    }
}

/// What a change makes of a cursor: what the production code says, unless that is the mistake.
pub(super) fn applied(
    mistake: Option<Mistake>,
    change: &CursorChange,
    index: LogIndex,
    known: Option<Cursor>,
) -> Option<Cursor> {
    let after = change.apply(index, known);
    let CursorAct::Acknowledge { position, .. } = change.act else {
        return after;
    };
    let is_made = match mistake {
        Some(Mistake::CursorGoesBack) => after != known,
        Some(Mistake::CursorUnfenced) => after == known && known.is_some_and(|cursor| cursor.at < index),
        Some(Mistake::CursorBeforeEffect | Mistake::CursorsNotRecovered) | None => false,
    };
    if !is_made {
        return after;
    }
    after.map(|cursor| Cursor {
        at: index,
        position,
        ..cursor
    })
}
