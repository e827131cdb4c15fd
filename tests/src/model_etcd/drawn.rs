//! Random operations: of few keys, values and leases, so that they meet.

use super::operation::Operation;
use crate::random::Random;
use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, WatchFilterType, WatchOptions,
};

const KEYS: [&[u8]; 9] = [b"j", b"k", b"k0", b"k1", b"k1/a", b"k1/b", b"k2", b"k\xff", b"l"];
const VALUES: [&[u8]; 4] = [b"", b"a", b"ab", b"b"];

/// Ids of leases.
pub const LEASES: i64 = 5;

/// Seconds that they last: for longer than the test.
const LASTING: i64 = 100_000;

/// Draws operations.
#[derive(Debug)]
pub struct Drawn {
    /// Where choices come from.
    pub random: Random,
    /// Last revision that is known.
    pub revision: i64,
    /// The last compaction that is known.
    pub compacted: i64,
}

/// Which keys something is about.
#[derive(Debug, Clone)]
enum Reach {
    One,
    Prefix,
    Onward,
    All,
    Below(Vec<u8>),
}

impl Drawn {
    fn small(&mut self, end: i64) -> i64 {
        i64::try_from(self.random.below(u64::try_from(end).unwrap())).unwrap()
    }

    /// A key; almost always one that is allowed.
    fn key(&mut self) -> Vec<u8> {
        if self.random.one_in(200) {
            return Vec::new();
        }
        KEYS[self.random.position(KEYS.len())].to_vec()
    }

    fn value(&mut self) -> Vec<u8> {
        VALUES[self.random.position(VALUES.len())].to_vec()
    }

    /// A revision that can be read, as a rule, and otherwise one just beside those.
    fn some_revision(&mut self) -> i64 {
        match self.random.below(12) {
            0 => 0,
            1 => self.compacted - 1,
            2 => self.compacted,
            3 => self.compacted + 1,
            4 => self.revision,
            5 => self.revision + 1,
            6 => self.revision + 2,
            _ => self.revision - self.small(20),
        }
        .max(0)
    }

    fn reach(&mut self) -> Reach {
        match self.random.below(10) {
            0..=4 => Reach::One,
            5 | 6 => Reach::Prefix,
            7 => Reach::Onward,
            8 => Reach::All,
            _ => Reach::Below(self.key()),
        }
    }

    fn get(&mut self) -> (Vec<u8>, GetOptions) {
        let mut options = GetOptions::new();
        options = match self.reach() {
            Reach::One => options,
            Reach::Prefix => options.with_prefix(),
            Reach::Onward => options.with_from_key(),
            Reach::All => options.with_all_keys(),
            Reach::Below(end) => options.with_range(end),
        };
        if self.random.one_in(3) {
            options = options.with_revision(self.some_revision());
        }
        if self.random.one_in(4) {
            options = options.with_limit(self.small(5));
        }
        if self.random.one_in(6) {
            options = options.with_keys_only();
        }
        if self.random.one_in(6) {
            options = options.with_count_only();
        }
        if self.random.one_in(6) {
            options = options.with_serializable();
        }
        (self.key(), options)
    }

    fn put(&mut self) -> (Vec<u8>, Vec<u8>, PutOptions) {
        let mut options = PutOptions::new();
        if self.random.one_in(3) {
            options = options.with_lease(self.lease());
        }
        if self.random.one_in(3) {
            options = options.with_prev_key();
        }
        (self.key(), self.value(), options)
    }

    fn delete(&mut self, is_in_txn: bool) -> (Vec<u8>, DeleteOptions) {
        let mut options = DeleteOptions::new();
        let key = self.key();
        options = match self.reach() {
            // The prefix of no key is all keys: an open end, which is not modelled in a transaction.
            Reach::Prefix if !is_in_txn || !key.is_empty() => options.with_prefix(),
            Reach::Below(end) if !is_in_txn => options.with_range(end),
            Reach::Onward if !is_in_txn && self.random.one_in(3) => options.with_from_key(),
            Reach::All if !is_in_txn && self.random.one_in(3) => options.with_all_keys(),
            Reach::One | Reach::Prefix | Reach::Onward | Reach::All | Reach::Below(_) => options,
        };
        if self.random.one_in(3) {
            options = options.with_prev_key();
        }
        (key, options)
    }

    fn compare(&mut self) -> Compare {
        let key = self.key();
        let operator = [
            CompareOp::Equal,
            CompareOp::NotEqual,
            CompareOp::Less,
            CompareOp::Greater,
        ][self.random.position(4)];
        let compare = match self.random.below(5) {
            0 => Compare::version(key, operator, self.small(4)),
            1 => Compare::create_revision(key, operator, self.some_revision()),
            2 => Compare::mod_revision(key, operator, self.some_revision()),
            3 => Compare::lease(key, operator, self.small(LEASES + 1)),
            _ => Compare::value(key, operator, self.value()),
        };
        match self.random.below(8) {
            0 => compare.with_prefix(),
            1 => compare.with_range(self.key()),
            _ => compare,
        }
    }

    /// A transaction, with others in it up to this depth.
    fn txn(&mut self, depth: u32) -> Txn {
        let compares: Vec<Compare> = (0..self.random.below(3)).map(|_| self.compare()).collect();
        let [success, failure] = [4, 3].map(|most| {
            let count = self.random.below(most);
            (0..count).map(|_| self.part(depth)).collect::<Vec<_>>()
        });
        Txn::new().when(compares).and_then(success).or_else(failure)
    }

    fn part(&mut self, depth: u32) -> TxnOp {
        match self.random.below(12) {
            0..=4 => {
                let (key, value, options) = self.put();
                TxnOp::put(key, value, Some(options))
            }
            5..=7 => {
                let (key, options) = self.get();
                TxnOp::get(key, Some(options))
            }
            8 | 9 => {
                let (key, options) = self.delete(true);
                TxnOp::delete(key, Some(options))
            }
            _ if depth > 0 => TxnOp::txn(self.txn(depth - 1)),
            _ => {
                let (key, value, options) = self.put();
                TxnOp::put(key, value, Some(options))
            }
        }
    }

    fn lease(&mut self) -> i64 {
        1 + self.small(LEASES)
    }

    /// Any operation but a compaction.
    pub fn operation(&mut self) -> Operation {
        match self.random.below(100) {
            0..=24 => {
                let (key, value, options) = self.put();
                Operation::Put(key, value, options)
            }
            25..=39 => {
                let (key, options) = self.get();
                Operation::Get(key, options)
            }
            40..=49 => {
                let (key, options) = self.delete(false);
                Operation::Delete(key, options)
            }
            50 if self.random.one_in(4) => {
                let parts = 126 + self.random.position(4);
                Operation::Txn(Txn::new().and_then(vec![TxnOp::get("k", None); parts]))
            }
            50..=85 => Operation::Txn(self.txn(2)),
            86..=90 => {
                let seconds = if self.random.one_in(8) {
                    9_000_000_000 + self.small(2)
                } else {
                    LASTING
                };
                Operation::Grant(self.lease(), seconds)
            }
            91..=93 => Operation::Revoke(self.lease()),
            94..=96 => Operation::KeepAlive(self.lease()),
            _ => Operation::KeysOf(self.lease()),
        }
    }

    /// A revision to compact at, which is refused now and then.
    pub fn compaction(&mut self) -> i64 {
        match self.random.below(8) {
            0 => self.compacted - self.small(2),
            1 => self.compacted + 1,
            2 => self.revision + self.small(3),
            3 => self.revision,
            _ => self.revision - self.small(30),
        }
    }

    /// A watch: its key, what is asked, and what is to be waited for.
    pub fn watch(&mut self) -> (Vec<u8>, WatchOptions, Awaited) {
        let reach = self.reach();
        let mut key = self.key();
        let mut options = WatchOptions::new();
        options = match &reach {
            Reach::One => options,
            Reach::Prefix => options.with_prefix(),
            Reach::Onward => options.with_from_key(),
            Reach::All => options.with_all_keys(),
            Reach::Below(end) => options.with_range(end.clone()),
        };
        if key.is_empty() || matches!(reach, Reach::All) {
            key = vec![0];
        }
        let mut from = match self.random.below(8) {
            0..=3 => 0,
            // Changes come before it begins.
            4 => self.revision + 1 + self.small(8),
            _ => self.some_revision(),
        };
        let [no_put, no_delete] = [5, 5].map(|one_in| self.random.one_in(one_in));
        if no_put && no_delete && (self.compacted..=self.revision).contains(&from) {
            // etcd looks through the past for a watch up to a tenth of a second later, and ends the watch if that was
            // compacted by then. Nothing shows that it has looked when the watch tells of nothing.
            from = 0;
        }
        let mut without = Vec::new();
        without.extend(no_put.then_some(WatchFilterType::NoPut));
        without.extend(no_delete.then_some(WatchFilterType::NoDelete));
        options = options.with_start_revision(from).with_filters(without);
        if self.random.one_in(2) {
            options = options.with_prev_key();
        }
        if self.random.one_in(2) {
            options = options.with_progress_notify();
        }
        if self.random.one_in(10) {
            options = options.with_watch_id(7);
        }
        let awaited = Awaited {
            key: key.clone(),
            from,
            puts: !no_put,
            deletes: !no_delete,
        };
        (key, options, awaited)
    }
}

/// By what it is known that a watch has told everything so far.
#[derive(Debug, Clone)]
pub struct Awaited {
    /// A key that it is about.
    pub key: Vec<u8>,
    /// The first revision that it tells.
    pub from: i64,
    /// It tells of puts.
    pub puts: bool,
    /// It tells of deletions.
    pub deletes: bool,
}
