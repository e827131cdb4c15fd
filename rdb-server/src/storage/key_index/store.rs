//! The index on sled: when it is written, and when it is believed.
//!
//! **Written**: by a thread of each seat, a whole overlay at a time, keys ascending, then what was applied, last.
//! Sled recovers a prefix of what was written, so what is there is at least as new as it says it is, and applying
//! entries again from there changes nothing that is right. No `apply_batch`: it would keep every reader of the node
//! out while it runs.
//!
//! **Believed**: sled 0.34.7's `flush` is a `sync_file_range` only, so after a power cut its newest pages may be
//! gone or torn. At a clean stop everything is synced by us and `index.json` says so. After any other stop the
//! index is believed only when the machine was not booted since (nothing that was written can be lost then), sled
//! opens it without complaint, and the last entry it says it applied is an entry of the log. Otherwise it is thrown
//! away: rebuilding it costs seconds.
//!
//! ```text
//! start: read index.json ─► write "in use" ─► open sled ─► compare with the log
//! stop:  write overlays ─► flush ─► drop sled ─► fsync its files ─► write "clean"
//! ```
//!
//! On a disk too full for sled (whose writes must not fail: it would be of no use any more) overlays stay in
//! memory. They are bounded then by what the log still has room for.

use super::apply::{self, Target};
use super::cursors::{self, Cursors};
use super::overlay::{AppliedEntry, Overlay, Touched};
use super::runs::{
    CURSOR_PREFIX, Head, META_KEY, Run, Wanted, at_or_before, chunk_key, cursor_key, decode_runs,
    encode_runs, head_key, name_bytes, name_of, standing,
};
use super::window::{KeyHash, Window};
use super::{Direction, IndexSettings, KeyIndex, KnownAt, ListedKey, Located, Standing};
use crate::limits::{
    INDEX_CHUNK_RUNS, INDEX_KEEP_FREE_BYTES, INDEX_LIST_PAGE, INDEX_OVERLAY_BYTES, INDEX_OVERLAYS_MAX,
};
use crate::sabotage::{self, Sabotage};
use crate::storage::files::{as_u64, free_bytes, lock, replace_file, sync_directory};
use crate::storage::{DataDir, Frame, LogReader, StorageError};
use bytes::{Buf as _, BufMut as _};
use rdb_proto::cursor::Cursor;
use rdb_proto::entry::Entry;
use rdb_proto::types::{Collection, Epoch, EventId, KeyName, LogIndex, NodeId, SeatId, Seq, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// Version of what stands in sled. An index of another version is rebuilt.
const INDEX_FORMAT_VERSION: u32 = 1;

/// What `index.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    format_version: u32,
    /// Everything was synced, and nothing was written since.
    is_clean: bool,
    /// The machine's boot in which it was last opened.
    boot_id: String,
}

impl State {
    fn path(data_dir: &DataDir) -> PathBuf {
        data_dir.path().join("index.json")
    }

    /// Reads the state; `None` when there is none, or none that can be read.
    fn read(data_dir: &DataDir) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(data_dir)).ok()?).ok()
    }

    fn write(&self, data_dir: &Path) -> Result<(), StorageError> {
        let path = data_dir.join("index.json");
        let text = serde_json::to_vec(self).map_err(io::Error::from);
        replace_file(&path, &text.map_err(StorageError::io("write", &path))?)
    }

    /// Whether an index in this state may be whole.
    fn may_be_believed(&self, boot_id: &str) -> bool {
        let same_boot = !boot_id.is_empty() && self.boot_id == boot_id;
        self.format_version == INDEX_FORMAT_VERSION && (self.is_clean || same_boot)
    }
}

/// Names the machine's current boot; empty when it cannot be told.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The node's index: one sled database, one tree per seat.
#[derive(Debug)]
pub struct IndexStore {
    data_dir: PathBuf,
    path: PathBuf,
    settings: IndexSettings,
    db: sled::Db,
    seats: Mutex<Vec<Arc<SledIndex>>>,
}

impl IndexStore {
    /// Opens `DATA_DIR/index`. One that is missing, damaged, or not provably whole after an unclean stop is
    /// replaced by an empty one; [`catch_up`](super::catch_up) fills it.
    ///
    /// # Errors
    /// [`StorageError::Io`], [`StorageError::Index`] when not even an empty one can be made.
    pub fn open(data_dir: &DataDir, settings: IndexSettings) -> Result<Self, StorageError> {
        let path = data_dir.path().join("index");
        let boot_id = boot_id();
        let found = State::read(data_dir);
        if !found.is_some_and(|state| state.may_be_believed(&boot_id)) {
            discard(&path)?;
        }
        let in_use = State {
            format_version: INDEX_FORMAT_VERSION,
            is_clean: false,
            boot_id,
        };
        in_use.write(data_dir.path())?;
        let opened = open_sled(&path, &settings).or_else(|_damaged| {
            discard(&path)?;
            open_sled(&path, &settings)
        });
        Ok(Self {
            data_dir: data_dir.path().to_owned(),
            db: opened?,
            path,
            settings,
            seats: Mutex::new(Vec::new()),
        })
    }

    /// The index of one seat, compared with its log, with the window of event ids read back from the log.
    ///
    /// `last_index` is the log's last entry: an index that knows more, or another entry, starts empty.
    ///
    /// **Blocking**: reads the end of the log.
    ///
    /// # Errors
    /// Any [`StorageError`] of reading the log; [`StorageError::Index`].
    pub fn seat(
        &self,
        seat: SeatId,
        reader: &LogReader,
        last_index: LogIndex,
    ) -> Result<Arc<SledIndex>, StorageError> {
        let name = seat.to_string();
        let mut tree = self.tree(&name)?;
        let mut applied = applied_in(&tree, &self.path).unwrap_or_default();
        if let Some(known) = applied {
            let is_there =
                known.index <= last_index && AppliedEntry::of(&reader.entry(known.index)?) == known;
            applied = applied.filter(|_| is_there);
        }
        // Also a tree that says nothing may hold something: it was written for the first time and not finished.
        if applied.is_none() && guarded(&self.path, || Ok(tree.len()))? > 0 {
            drop(tree);
            guarded(&self.path, || self.db.drop_tree(&name))?;
            tree = self.tree(&name)?;
        }
        let applied = applied.map_or(LogIndex::ZERO, |entry| entry.index);
        let window = recover_window(self.settings.event_id_window, reader, applied)?;
        let cursors = stored_cursors(&tree, &self.path, applied)?;
        let shared = Shared {
            path: self.path.clone(),
            overlay_runs: self.settings.overlay_runs,
            tree: Mutex::new(Some(tree)),
            applied: AtomicU64::new(applied.get()),
            layers: Mutex::new(Layers::default()),
            changed: Condvar::new(),
            window: Mutex::new(window),
            cursors: Mutex::new(cursors),
        };
        let index = SledIndex::start(&name, shared)?;
        lock(&self.seats).push(Arc::clone(&index));
        Ok(index)
    }

    fn tree(&self, name: &str) -> Result<sled::Tree, StorageError> {
        guarded(&self.path, || self.db.open_tree(name))
    }

    /// Writes everything, syncs it, and marks the index as cleanly stopped. Call after the last apply; reads fail
    /// from now on.
    ///
    /// # Errors
    /// [`StorageError::Index`], [`StorageError::Io`]: the next start checks or rebuilds the index.
    pub fn close(self) -> Result<(), StorageError> {
        for seat in self.seats.into_inner().unwrap_or_else(PoisonError::into_inner) {
            seat.close()?;
        }
        let (path, db) = (self.path, self.db);
        guarded(&path, || db.flush())?;
        guarded(&path, || {
            drop(db);
            Ok(())
        })?;
        await_end_of_sled(&path)?;
        sync_all_in(&path)?;
        let clean = State {
            format_version: INDEX_FORMAT_VERSION,
            is_clean: true,
            boot_id: boot_id(),
        };
        clean.write(&self.data_dir)
    }
}

fn discard(path: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StorageError::io("remove", path)(error)),
    }
}

fn open_sled(path: &Path, settings: &IndexSettings) -> Result<sled::Db, StorageError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(settings.cache_bytes)
        .mode(sled::Mode::HighThroughput)
        // We flush after each overlay, where a failure is noticed.
        .flush_every_ms(None);
    guarded(path, || config.open())
}

/// Waits until nothing writes any more. Threads of sled may outlive its handle for a moment; its lock on its file
/// goes with the last of them.
pub(super) fn await_end_of_sled(path: &Path) -> Result<(), StorageError> {
    let path = path.join("db");
    let file = File::open(&path).map_err(StorageError::io("open", &path))?;
    file.lock().map_err(StorageError::io("lock", &path))
}

/// Makes all files under a directory durable, and their names.
fn sync_all_in(path: &Path) -> Result<(), StorageError> {
    let list = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for found in list.map_err(StorageError::io("list", path))? {
        let found = found.path();
        if found.is_dir() {
            sync_all_in(&found)?;
        } else {
            let synced = File::open(&found).and_then(|file| file.sync_all());
            synced.map_err(StorageError::io("sync", &found))?;
        }
    }
    sync_directory(path)
}

/// Calls sled, which panics where its files are not what it expects.
fn guarded<T>(path: &Path, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StorageError> {
    let failed = |problem: String| StorageError::Index {
        path: path.to_owned(),
        problem,
    };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|error| failed(error.to_string())),
        Err(_panic) => Err(failed("sled panicked".to_owned())),
    }
}

/// What a tree says it applied; `None` when it says nothing that can be read.
fn applied_in(tree: &sled::Tree, path: &Path) -> Result<Option<AppliedEntry>, StorageError> {
    let meta = guarded(path, || tree.get(META_KEY))?;
    Ok(meta.and_then(|meta| decode_meta(&meta)))
}

pub(super) fn encode_meta(applied: &AppliedEntry) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u64_le(applied.index.get());
    bytes.put_u64_le(applied.epoch.number);
    bytes.put_u64_le(applied.epoch.node.0);
    bytes.put_u32_le(applied.body_crc);
    bytes
}

pub(super) fn decode_meta(mut bytes: &[u8]) -> Option<AppliedEntry> {
    let applied = AppliedEntry {
        index: LogIndex(bytes.try_get_u64_le().ok()?),
        epoch: Epoch {
            number: bytes.try_get_u64_le().ok()?,
            node: NodeId(bytes.try_get_u64_le().ok()?),
        },
        body_crc: bytes.try_get_u32_le().ok()?,
    };
    bytes.is_empty().then_some(applied)
}

/// The cursors that were written. One that was forgotten by an entry that need not be applied again is removed.
fn stored_cursors(tree: &sled::Tree, path: &Path, applied: LogIndex) -> Result<Cursors, StorageError> {
    let unreadable = |problem: &str| StorageError::Index {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let mut cursors = Cursors::new();
    if sabotage::is(Sabotage::CursorsNotRecovered) {
        return Ok(cursors);
    }
    let mut found = tree.scan_prefix(CURSOR_PREFIX);
    while let Some((key, value)) = guarded(path, || found.next().transpose())? {
        let is_over = |cursor: &Cursor| cursor.is_forgotten && cursor.at <= applied;
        if cursors::decode(&value).as_ref().is_some_and(is_over) {
            guarded(path, || tree.remove(&key))?;
            continue;
        }
        let name = key.get(CURSOR_PREFIX.len()..).map(<[u8]>::to_vec);
        let name = name.and_then(|name| String::from_utf8(name).ok());
        let cursor = name.zip(cursors::decode(&value));
        let (name, cursor) = cursor.ok_or_else(|| unreadable("a cursor cannot be read"))?;
        cursors.insert(name, cursor);
    }
    Ok(cursors)
}

/// Reads the ids of the last events up to `applied` back.
fn recover_window(capacity: usize, reader: &LogReader, applied: LogIndex) -> Result<Window, StorageError> {
    let mut window = Window::new(capacity);
    if sabotage::is(Sabotage::WindowNotRecovered) {
        return Ok(window);
    }
    let mut cursor = reader.cursor_before(applied, as_u64(capacity));
    if cursor.next_index() > LogIndex::ZERO.next() {
        window.begin_late();
    }
    while let Some(block) = cursor.next_block(applied)? {
        apply::recall(&mut window, &block.frames, reader)?;
    }
    Ok(window)
}

/// [`KeyIndex`] on sled.
#[derive(Debug)]
pub struct SledIndex {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What readers, the applying thread and the writing thread share.
struct Shared {
    path: PathBuf,
    overlay_runs: usize,
    /// `None` once closed.
    tree: Mutex<Option<sled::Tree>>,
    applied: AtomicU64,
    layers: Mutex<Layers>,
    changed: Condvar,
    window: Mutex<Window>,
    cursors: Mutex<Cursors>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("path", &self.path)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Layers {
    /// Takes what is applied.
    active: Overlay,
    /// Is being written to sled.
    frozen: Option<Arc<Overlay>>,
    /// The disk is too full to write it.
    is_held_back: bool,
    is_closing: bool,
    /// Why nothing more can be written.
    failure: Option<String>,
}

impl Layers {
    /// The runs that a key has here, older first.
    fn touched(&self, name: &[u8]) -> [Option<&Touched>; 2] {
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.get(name));
        [frozen, self.active.get(name)]
    }

    fn freeze(&mut self) {
        assert!(self.frozen.is_none(), "one overlay is written at a time");
        self.frozen = Some(Arc::new(std::mem::take(&mut self.active)));
    }
}

impl Shared {
    fn failed(&self, problem: &str) -> StorageError {
        StorageError::Index {
            path: self.path.clone(),
            problem: problem.to_owned(),
        }
    }

    fn tree(&self) -> Result<sled::Tree, StorageError> {
        let tree = lock(&self.tree).clone();
        tree.ok_or_else(|| self.failed("it is closed"))
    }

    fn is_large(&self, overlay: &Overlay, times: usize) -> bool {
        overlay.len() >= self.overlay_runs.saturating_mul(times)
            || overlay.bytes() >= INDEX_OVERLAY_BYTES.saturating_mul(times)
    }

    /// Applies through `change`, and lets a full overlay be written.
    fn apply(
        &self,
        change: impl FnOnce(&mut Target<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut layers = lock(&self.layers);
        if let Some(problem) = &layers.failure {
            return Err(self.failed(problem));
        }
        let mut window = lock(&self.window);
        let mut cursors = lock(&self.cursors);
        let mut target = Target {
            overlay: &mut layers.active,
            window: &mut window,
            cursors: &mut cursors,
            applied: LogIndex(self.applied.load(Ordering::Acquire)),
        };
        let outcome = change(&mut target);
        self.applied.store(target.applied.get(), Ordering::Release);
        drop(window);
        drop(cursors);
        if self.is_large(&layers.active, 1) {
            if layers.frozen.is_none() {
                layers.freeze();
            }
            self.changed.notify_all();
        }
        // Applying faster than sled takes must not take all memory. A full disk is another matter: there the log
        // is what ends first.
        while self.is_large(&layers.active, INDEX_OVERLAYS_MAX)
            && !layers.is_held_back
            && layers.failure.is_none()
        {
            layers = self.changed.wait(layers).unwrap_or_else(PoisonError::into_inner);
        }
        outcome
    }

    /// The writing thread.
    fn run_writer(&self) {
        let mut layers = lock(&self.layers);
        loop {
            if layers.is_closing && layers.frozen.is_none() && !layers.active.is_empty() {
                layers.freeze();
            }
            let frozen = layers.frozen.clone().filter(|_| self.may_write());
            let was_held_back = layers.is_held_back;
            layers.is_held_back = layers.frozen.is_some() && frozen.is_none();
            if layers.is_held_back != was_held_back {
                self.changed.notify_all();
            }
            let Some(frozen) = frozen else {
                if layers.is_closing || layers.failure.is_some() {
                    return;
                }
                layers = self.changed.wait(layers).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(layers);
            let outcome = self.write(&frozen);
            layers = lock(&self.layers);
            match outcome {
                Ok(()) => layers.frozen = None,
                Err(error) => {
                    layers.failure = Some(error.to_string());
                    self.changed.notify_all();
                    return;
                }
            }
            self.changed.notify_all();
            // What gathered meanwhile is next at once when it is large, so that nobody waits for nothing.
            if self.is_large(&layers.active, 1) {
                layers.freeze();
            }
        }
    }

    fn may_write(&self) -> bool {
        free_bytes(&self.path).is_ok_and(|free| free >= INDEX_KEEP_FREE_BYTES)
    }

    fn write(&self, overlay: &Overlay) -> Result<(), StorageError> {
        let tree = self.tree()?;
        for (name, touched) in overlay.iter() {
            self.write_key(&tree, name, touched)?;
        }
        for (name, cursor) in overlay.cursors() {
            let key = cursor_key(name);
            guarded(&self.path, || tree.insert(&key, cursors::encode(cursor)))?;
        }
        if let Some(last) = &overlay.last {
            guarded(&self.path, || tree.insert(META_KEY, encode_meta(last)))?;
        }
        guarded(&self.path, || tree.flush())?;
        Ok(())
    }

    fn write_key(&self, tree: &sled::Tree, name: &[u8], touched: &Touched) -> Result<(), StorageError> {
        // A key's first version needs no look at what is there: if anything is, it is from a life of this index
        // that was not finished, and newer.
        let mut runs = if touched.first_version() == Version::ZERO.next() {
            Vec::new()
        } else {
            self.head(tree, name)?.map_or_else(Vec::new, |head| head.runs)
        };
        let known = runs.last().map_or(Version::ZERO, Run::last_version);
        let fresh = touched.runs.iter().filter(|run| run.version > known);
        runs.extend(fresh);
        // Chunks before the head that lets go of them: no version is ever in neither.
        while runs.len() > INDEX_CHUNK_RUNS.saturating_mul(2) {
            let kept = runs.split_off(INDEX_CHUNK_RUNS);
            if let Some(first) = runs.first() {
                let mut chunk = Vec::new();
                encode_runs(&runs, &mut chunk);
                guarded(&self.path, || tree.insert(chunk_key(name, first.version), chunk))?;
            }
            runs = kept;
        }
        let head = Head {
            is_deleted: touched.is_deleted,
            runs,
        };
        guarded(&self.path, || tree.insert(head_key(name), head.encode()))?;
        Ok(())
    }

    fn head(&self, tree: &sled::Tree, name: &[u8]) -> Result<Option<Head>, StorageError> {
        let Some(bytes) = guarded(&self.path, || tree.get(head_key(name)))? else {
            return Ok(None);
        };
        let head = Head::decode(&bytes);
        head.map(Some)
            .ok_or_else(|| self.failed("a key's head cannot be read"))
    }

    fn chunk(&self, bytes: &[u8]) -> Result<Vec<Run>, StorageError> {
        let runs = decode_runs(bytes).filter(|runs| !runs.is_empty());
        runs.ok_or_else(|| self.failed("a chunk of versions cannot be read"))
    }

    /// The chunk that begins at or before `version`, among those before `below`.
    fn chunk_at(
        &self,
        tree: &sled::Tree,
        name: &[u8],
        version: Version,
        below: Version,
    ) -> Result<Option<Vec<Run>>, StorageError> {
        let last = version.min(below.previous());
        let range = chunk_key(name, Version::ZERO)..=chunk_key(name, last);
        let found = guarded(&self.path, || tree.range(range).next_back().transpose())?;
        found.map(|(_, bytes)| self.chunk(&bytes)).transpose()
    }

    /// Takes what is wanted out of sled, of versions before `below` only: later ones were taken already, or will
    /// be.
    fn take_stored(&self, name: &[u8], below: Version, wanted: &mut Wanted) -> Result<(), StorageError> {
        let tree = self.tree()?;
        let Some(head) = self.head(&tree, name)? else {
            return Ok(());
        };
        let head_first = head.runs.first().map_or(Version::ZERO, |run| run.version);
        let keep = head.runs.partition_point(|run| run.version < below);
        let head_runs = head.runs.get(..keep).unwrap_or_default();
        // A chunk at or behind the head is from a life of this index that was not finished.
        let below = below.min(head_first);
        match wanted.direction() {
            Direction::Backward => {
                wanted.take(head_runs);
                while !wanted.is_done() && wanted.from() > Version::ZERO {
                    let Some(chunk) = self.chunk_at(&tree, name, wanted.from(), below)? else {
                        break;
                    };
                    wanted.take(&chunk);
                }
            }
            Direction::Forward => {
                while !wanted.is_done() && wanted.from().max(Version(1)) < below {
                    let from = wanted.from().max(Version(1));
                    let Some(chunk) = self.chunk_at(&tree, name, from, below)? else {
                        break;
                    };
                    wanted.take(&chunk);
                    if wanted.from() <= from && !wanted.is_done() {
                        return Err(self.failed("the versions of a key are not dense"));
                    }
                }
                wanted.take(head_runs);
            }
        }
        Ok(())
    }

    /// The last event at or before `seq` in chunks: found by halving the versions, which ascend with seqs.
    fn at_or_before_in_chunks(
        &self,
        tree: &sled::Tree,
        name: &[u8],
        seq: Seq,
        below: Version,
    ) -> Result<Option<Located>, StorageError> {
        let mut found = None;
        let (mut from, mut to) = (Version::ZERO.next(), below.previous());
        while from <= to {
            let middle = Version(from.get().midpoint(to.get()));
            let Some(chunk) = self.chunk_at(tree, name, middle, below)? else {
                break;
            };
            let (Some(first), Some(last)) = (chunk.first(), chunk.last()) else {
                break;
            };
            if first.seq <= seq {
                found = at_or_before(&chunk, seq);
                from = last.last_version().next();
            } else {
                to = first.version.previous();
            }
        }
        Ok(found)
    }

    /// One page of heads from `start` on: at most a page, and whether there may be more.
    fn heads_from(&self, start: &Bound<Vec<u8>>, prefix: &[u8]) -> Result<Heads, StorageError> {
        let tree = self.tree()?;
        let start = start.as_ref().map(|name| head_key(name));
        let mut page = Vec::new();
        let heads = tree.range::<Vec<u8>, _>((start, Bound::Unbounded));
        for found in heads.take(INDEX_LIST_PAGE) {
            let (key, head) = guarded(&self.path, || found)?;
            let name = key.strip_prefix(b"k").filter(|name| name.starts_with(prefix));
            let Some(name) = name else {
                return Ok(Heads {
                    keys: page,
                    may_have_more: false,
                });
            };
            let head = Head::decode(&head).ok_or_else(|| self.failed("a key's head cannot be read"))?;
            let last = head.runs.last();
            let standing = last.map_or_else(Standing::default, |last| standing(last, head.is_deleted));
            page.push((name.to_vec(), standing));
        }
        Ok(Heads::cut_at_a_page(page))
    }
}

/// One source of a page of a listing.
#[derive(Debug)]
struct Heads {
    keys: Vec<(Vec<u8>, Standing)>,
    may_have_more: bool,
}

impl Heads {
    fn cut_at_a_page(keys: Vec<(Vec<u8>, Standing)>) -> Self {
        let may_have_more = keys.len() >= INDEX_LIST_PAGE;
        Self { keys, may_have_more }
    }
}

/// Sources of one page of a listing, merged: an entry counts up to where every source was read.
#[derive(Debug, Default)]
struct Page {
    keys: BTreeMap<Vec<u8>, Standing>,
    /// No source was read beyond this name; `None` when all were read to their end.
    end: Option<Vec<u8>>,
}

impl Page {
    /// Adds a source, newer than those before it.
    fn add(&mut self, Heads { keys, may_have_more }: Heads) {
        if may_have_more && let Some((last, _)) = keys.last() {
            let is_nearer = self.end.as_ref().is_none_or(|end| last < end);
            if is_nearer {
                self.end = Some(last.clone());
            }
        }
        self.keys.extend(keys);
    }
}

fn heads_of(overlay: &Overlay, start: &Bound<Vec<u8>>, prefix: &[u8]) -> Heads {
    let start = start.as_ref().map(Vec::as_slice);
    let found = overlay.keys_from(start, prefix).take(INDEX_LIST_PAGE);
    Heads::cut_at_a_page(found.map(|(name, standing)| (name.to_vec(), standing)).collect())
}

fn bytes_of(name: &KeyName) -> Vec<u8> {
    name_bytes(name.collection.as_str(), name.key.as_str())
}

impl SledIndex {
    fn start(name: &str, shared: Shared) -> Result<Arc<Self>, StorageError> {
        let shared = Arc::new(shared);
        let writing = Arc::clone(&shared);
        let writer = thread::Builder::new()
            .name(format!("index-writer-{name}"))
            .spawn(move || writing.run_writer())
            .map_err(StorageError::io("start a thread for", &shared.path))?;
        Ok(Arc::new(Self {
            shared,
            writer: Mutex::new(Some(writer)),
        }))
    }

    /// Ends the writing thread, which writes what there is first.
    fn stop(&self) {
        lock(&self.shared.layers).is_closing = true;
        self.shared.changed.notify_all();
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer {
            // Its failure is noted; a panic leaves the overlay unwritten, which is noticed as well.
            drop(writer.join());
        }
    }

    /// Waits until no overlay is being written.
    #[cfg(test)]
    pub(super) fn wait_until_written(&self) {
        let layers = lock(&self.shared.layers);
        let is_writing = |layers: &mut Layers| layers.frozen.is_some();
        drop(self.shared.changed.wait_while(layers, is_writing));
    }

    fn close(&self) -> Result<(), StorageError> {
        self.stop();
        drop(lock(&self.shared.tree).take());
        match &lock(&self.shared.layers).failure {
            Some(problem) => Err(self.shared.failed(problem)),
            None => Ok(()),
        }
    }
}

impl Drop for SledIndex {
    fn drop(&mut self) {
        self.stop();
    }
}

impl KeyIndex for SledIndex {
    fn applied(&self) -> LogIndex {
        LogIndex(self.shared.applied.load(Ordering::Acquire))
    }

    fn apply(&self, entries: &[Arc<Entry>]) -> Result<(), StorageError> {
        self.shared.apply(|target| {
            target.entries(entries.iter().map(|entry| &**entry));
            Ok(())
        })
    }

    fn apply_frames(&self, frames: &[Frame], log: &LogReader) -> Result<(), StorageError> {
        self.shared.apply(|target| target.frames(frames, log))
    }

    fn standing(&self, name: &KeyName) -> Result<Standing, StorageError> {
        let name = bytes_of(name);
        let layers = lock(&self.shared.layers);
        let [frozen, active] = layers.touched(&name);
        if let Some(touched) = active.or(frozen) {
            return Ok(touched.standing());
        }
        drop(layers);
        let head = self.shared.head(&self.shared.tree()?, &name)?;
        let last = head.and_then(|head| Some(standing(head.runs.last()?, head.is_deleted)));
        Ok(last.unwrap_or_default())
    }

    fn latest(&self, name: &KeyName) -> Result<Option<Located>, StorageError> {
        let name = bytes_of(name);
        let layers = lock(&self.shared.layers);
        let [frozen, active] = layers.touched(&name);
        if let Some(touched) = active.or(frozen) {
            return Ok(touched.latest());
        }
        drop(layers);
        let head = self.shared.head(&self.shared.tree()?, &name)?;
        Ok(head.and_then(|head| head.runs.last().map(Run::latest)))
    }

    fn at_or_before(&self, name: &KeyName, seq: Seq) -> Result<Option<Located>, StorageError> {
        let name = bytes_of(name);
        let layers = lock(&self.shared.layers);
        for touched in layers.touched(&name).into_iter().rev().flatten() {
            if let Some(found) = at_or_before(&touched.runs, seq) {
                return Ok(Some(found));
            }
        }
        drop(layers);
        let tree = self.shared.tree()?;
        let Some(head) = self.shared.head(&tree, &name)? else {
            return Ok(None);
        };
        if let Some(found) = at_or_before(&head.runs, seq) {
            return Ok(Some(found));
        }
        let below = head.runs.first().map_or(Version::ZERO, |run| run.version);
        self.shared.at_or_before_in_chunks(&tree, &name, seq, below)
    }

    fn versions(
        &self,
        name: &KeyName,
        from: Version,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Located>, StorageError> {
        let name = bytes_of(name);
        let mut wanted = Wanted::new(from, direction, limit);
        // The overlays first, also where they come last in the answer: what leaves them meanwhile is in sled then.
        let layers = lock(&self.shared.layers);
        let touched = layers.touched(&name);
        let first_here = touched
            .iter()
            .flatten()
            .map(|touched| touched.first_version())
            .min();
        let below = first_here.unwrap_or(Version(u64::MAX));
        match direction {
            Direction::Backward => {
                for touched in touched.into_iter().rev().flatten() {
                    wanted.take(&touched.runs);
                }
                drop(layers);
                self.shared.take_stored(&name, below, &mut wanted)?;
                Ok(wanted.into_found())
            }
            Direction::Forward => {
                let mut here = Wanted::new(from.max(below), direction, limit);
                for touched in touched.into_iter().flatten() {
                    here.take(&touched.runs);
                }
                drop(layers);
                self.shared.take_stored(&name, below, &mut wanted)?;
                let mut found = wanted.into_found();
                found.extend(here.into_found());
                found.truncate(limit);
                Ok(found)
            }
        }
    }

    fn keys(
        &self,
        collection: &Collection,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ListedKey>, StorageError> {
        let prefix = name_bytes(collection.as_str(), prefix);
        let after = after.map(|after| name_bytes(collection.as_str(), after));
        let mut start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix.clone()),
        };
        let mut listed = Vec::new();
        loop {
            // The overlays first: what leaves them meanwhile is in sled then.
            let layers = lock(&self.shared.layers);
            let active = heads_of(&layers.active, &start, &prefix);
            let frozen = layers
                .frozen
                .as_ref()
                .map(|frozen| heads_of(frozen, &start, &prefix));
            drop(layers);
            let stored = self.shared.heads_from(&start, &prefix)?;
            let mut page = Page::default();
            for heads in [stored].into_iter().chain(frozen).chain([active]) {
                page.add(heads);
            }
            for (name, standing) in page.keys {
                let is_past = page.end.as_ref().is_some_and(|end| name > *end);
                if listed.len() >= limit || is_past {
                    break;
                }
                let name = name_of(&name).ok_or_else(|| self.shared.failed("a key's name cannot be read"))?;
                listed.push(ListedKey { name, standing });
            }
            match page.end {
                Some(end) if listed.len() < limit => start = Bound::Excluded(end),
                Some(_) | None => return Ok(listed),
            }
        }
    }

    fn known(&self, event_id: &EventId, name: &KeyName) -> Option<KnownAt> {
        let key = KeyHash::of(&bytes_of(name));
        lock(&self.shared.window).find(event_id, key)
    }

    fn remembered_from(&self) -> Seq {
        lock(&self.shared.window).remembered_from()
    }

    fn cursor(&self, name: &str) -> Option<Cursor> {
        cursors::find(&lock(&self.shared.cursors), name)
    }

    fn cursors(&self, after: &str, limit: usize) -> Vec<(String, Cursor)> {
        cursors::list(&lock(&self.shared.cursors), after, limit)
    }

    fn cursor_count(&self) -> usize {
        cursors::count(&lock(&self.shared.cursors))
    }
}
