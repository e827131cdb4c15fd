//! `import`: a file of JSON lines into events, pipelined, with the order of each key kept.
//!
//! Lines leave in the order of the file, but for a few that wait for another line of their key. Consecutive lines
//! of one key form one append, except with `--id-field`, where each line stays an append of its own: a rerun must
//! find it by its event id, however the lines fall.
//!
//! **Order of a key under refusals.** Many appends are under way at once, and one of them may be refused for a
//! moment and sent again behind others. So only the first append of a key goes out without a demand; those behind
//! it demand the exact version that the one before makes. If one is refused, all behind it conflict, and they go
//! out again in order. (Appends without demands would let line 8 overtake line 7.)

use crate::args::ImportArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::follow::Follow;
use crate::lines::Lines;
use crate::output::Output;
use crate::status::bytes_text;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rdb_client::clock::{self, Deadline};
use rdb_client::json_lines::{ImportFields, ImportLine};
use rdb_client::{
    Appender, AppenderOptions, Collection, Error, EventId, Expectation, Filter, Key, KeyName, Message,
    NewEvent, Reason, Receipt, Seq, Start, Stored, Version,
};
use serde::Serialize;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

/// How long one append may wait for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Lines of one key that are appended together.
const PIECE_EVENTS_MAX: usize = 100;
/// The same in bytes; far below the limit of an append.
const PIECE_BYTES_MAX: usize = 256 << 10;
/// Pieces sent and not answered, or waiting. Bounds memory together with the next one.
const PIECES_MAX: usize = 4_096;
/// Pieces that wait for another one of their key. Seqs follow the file but for so many pieces.
const WAITING_MAX: usize = 64;
/// Keys whose version is kept in mind; more are learned anew when they come again.
const LANES_MAX: usize = 65_536;
/// Bytes read and not answered.
const BYTES_MAX: usize = 64 << 20;
/// Appends under way on the stream.
const WINDOW: usize = 1_024;

pub(crate) async fn import(context: &mut Context, args: ImportArgs) -> Result<(), Failure> {
    let collection = context.collection()?;
    let mut lines = Lines::open(&args.file)?;
    let seen = match args.id_field {
        Some(_) => stored_ids(context, &collection).await?,
        None => HashSet::new(),
    };
    let fields = ImportFields {
        key: args.key_field,
        event_type: args.event_type,
        event_type_field: args.type_field,
        id: args.id_field,
    };
    let plan = Plan {
        collection,
        fields,
        seen,
    };
    let client = context.client_with(ANSWER_TIMEOUT);
    let options = AppenderOptions {
        window: WINDOW,
        retries_refused: true,
    };
    let mut sender = Sender::new(client.append_stream(options), context.explicit_deadline());
    let progress = Progress::new(lines.bytes_total());
    let ended = run(&mut lines, plan, &mut sender, &progress).await;
    if matches!(ended, Err(Failure::Call(_))) {
        sender.count_the_rest().await;
    }
    progress.clear();
    sender.summary.write(&mut context.output)?;
    ended
}

/// Event ids of the collection that were derived from data. A server remembers event ids for a while only
/// (`EVENT_ID_WINDOW`, which a client does not know); the stream has them all, at a million a second.
async fn stored_ids(context: &Context, collection: &Collection) -> Result<HashSet<EventId>, Failure> {
    let status = context.client().status().await.map_err(Failure::read("import"))?;
    if status.counter == 0 {
        return Ok(HashSet::new());
    }
    let filter = Filter {
        collections: vec![collection.as_str().to_owned()],
        ..Filter::default()
    };
    let subscription = context.client().subscribe(Start::After(Seq::ZERO), filter);
    let mut follow = Follow::new(subscription, "import", context.deadline(), true);
    let mut ids = HashSet::new();
    loop {
        match follow.next().await? {
            Message::Events(batch) => {
                for event in batch.split().map_err(Failure::read("import"))? {
                    let id = event_id_of(event).map_err(Failure::Input)?;
                    ids.extend(id);
                }
            }
            Message::CaughtUp { .. } => return Ok(ids),
            Message::Opened { .. }
            | Message::Resolved { .. }
            | Message::FellBehind { .. }
            | Message::Interrupted(_) => {}
        }
    }
}

/// The one field that is needed of each stored event.
#[derive(Clone, PartialEq, prost::Message)]
struct IdOnly {
    #[prost(bytes = "bytes", tag = "10")]
    event_id: bytes::Bytes,
}

/// `None` for an id that was not derived from data: no line can have it.
fn event_id_of(event: bytes::Bytes) -> Result<Option<EventId>, String> {
    let event: IdOnly = prost::Message::decode(event).map_err(|error| error.to_string())?;
    let id = EventId::from_bytes(&event.event_id).map_err(|error| error.to_string())?;
    Ok(Some(id).filter(|id| id.0.get_version_num() == 5))
}

/// How a line becomes an event.
struct Plan {
    collection: Collection,
    fields: ImportFields,
    /// Ids of events that are stored already, or were met in this file.
    seen: HashSet<EventId>,
}

impl Plan {
    /// `None` when the event is known to be stored.
    fn event(&mut self, line: &str) -> Result<Option<(Key, NewEvent)>, String> {
        let line = ImportLine::parse(line, &self.fields, &self.collection)?;
        let is_new = line.derived_id.is_none_or(|id| self.seen.insert(id));
        Ok(is_new.then_some((line.key, line.event)))
    }
}

async fn run(
    lines: &mut Lines,
    mut plan: Plan,
    sender: &mut Sender,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut open: Option<(KeyName, Piece)> = None;
    let one_each = plan.fields.id.is_some();
    let problem = loop {
        let next = match lines.next() {
            Ok(Some(line)) => plan.event(line.text),
            Ok(None) => break None,
            Err(failure) => break Some(failure),
        };
        let (key, event) = match next {
            Ok(Some(next)) => next,
            Ok(None) => {
                sender.summary.duplicates = sender.summary.duplicates.saturating_add(1);
                continue;
            }
            Err(problem) => break Some(lines.problem(&problem)),
        };
        match &mut open {
            Some((name, piece)) if !one_each && name.key == key && piece.has_room(&event) => {
                piece.push(event);
            }
            _ => {
                let name = KeyName {
                    collection: plan.collection.clone(),
                    key,
                };
                let piece = Piece::new(lines.number(), event);
                if let Some((name, piece)) = open.replace((name, piece)) {
                    sender.hand_over(name, piece).await?;
                }
            }
        }
        progress.tell(lines, &sender.summary);
    };
    // What stood before a bad line is stored; nothing after it is.
    if let Some((name, piece)) = open {
        sender.hand_over(name, piece).await?;
    }
    sender.finish().await?;
    problem.map_or(Ok(()), Err)
}

/// Consecutive lines of one key.
#[derive(Debug, Clone)]
struct Piece {
    /// Number of the first line: also the order within the key.
    line: u64,
    events: Vec<NewEvent>,
    bytes: usize,
}

impl Piece {
    fn new(line: u64, event: NewEvent) -> Self {
        Self {
            line,
            bytes: event.payload.len(),
            events: vec![event],
        }
    }

    const fn has_room(&self, event: &NewEvent) -> bool {
        self.events.len() < PIECE_EVENTS_MAX
            && self.bytes.saturating_add(event.payload.len()) <= PIECE_BYTES_MAX
    }

    fn push(&mut self, event: NewEvent) {
        self.bytes = self.bytes.saturating_add(event.payload.len());
        self.events.push(event);
    }

    fn count(&self) -> u64 {
        u64::try_from(self.events.len()).unwrap_or(u64::MAX)
    }
}

/// What is to be sent, and under way, of one key.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Piece>,
    under_way: usize,
    /// Version of the key once everything under way is stored; `None` while that is not known.
    next_base: Option<Version>,
    /// Conflicted, because a piece before them was refused; sent again in order when nothing is under way.
    conflicted: Vec<Piece>,
}

impl Lane {
    /// The next piece that may leave now, and what it demands.
    fn next(&mut self) -> Option<(Piece, Expectation)> {
        if !self.conflicted.is_empty() || (self.next_base.is_none() && self.under_way > 0) {
            return None;
        }
        let piece = self.waiting.pop_front()?;
        let expect = self.next_base.map_or(Expectation::Any, Expectation::Exact);
        self.next_base = self.next_base.map(|base| base.plus(piece.count()));
        self.under_way = self.under_way.saturating_add(1);
        Some((piece, expect))
    }

    fn stored(&mut self, last: Option<Version>) {
        self.under_way = self.under_way.saturating_sub(1);
        self.next_base = self.next_base.or(last);
        self.settle();
    }

    fn conflicted(&mut self, piece: Piece) {
        self.under_way = self.under_way.saturating_sub(1);
        self.conflicted.push(piece);
        self.settle();
    }

    /// With nothing under way, conflicted pieces stand first in line again, and the base is learned anew.
    fn settle(&mut self) {
        if self.under_way == 0 && !self.conflicted.is_empty() {
            self.conflicted.sort_by_key(|piece| piece.line);
            for piece in self.conflicted.drain(..).rev() {
                self.waiting.push_front(piece);
            }
            self.next_base = None;
        }
    }

    fn is_idle(&self) -> bool {
        self.under_way == 0 && self.waiting.is_empty()
    }
}

type Answer = (KeyName, Piece, Result<Receipt<Vec<Stored>>, Error>);

struct Sender {
    appender: Appender,
    lanes: HashMap<Key, Lane>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Pieces and bytes that have no answer yet.
    pieces: usize,
    bytes: usize,
    deadline: Deadline,
    summary: Summary,
}

impl Sender {
    fn new(appender: Appender, deadline: Deadline) -> Self {
        Self {
            appender,
            lanes: HashMap::new(),
            answers: FuturesUnordered::new(),
            pieces: 0,
            bytes: 0,
            deadline,
            summary: Summary::new(),
        }
    }

    async fn hand_over(&mut self, name: KeyName, piece: Piece) -> Result<(), Failure> {
        self.pieces = self.pieces.saturating_add(1);
        self.bytes = self.bytes.saturating_add(piece.bytes);
        let lane = self.lanes.entry(name.key.clone()).or_default();
        lane.waiting.push_back(piece);
        self.pump(&name).await?;
        while let Some(Some(answer)) = self.answers.next().now_or_never() {
            self.answered(answer).await?;
        }
        while self.is_full() && !self.answers.is_empty() {
            self.wait_for_answer().await?;
        }
        if self.lanes.len() > LANES_MAX {
            self.lanes.retain(|_, lane| !lane.is_idle());
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let waiting = self.pieces.saturating_sub(self.answers.len());
        self.pieces > PIECES_MAX || self.bytes > BYTES_MAX || waiting > WAITING_MAX
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        while !self.answers.is_empty() {
            self.wait_for_answer().await?;
        }
        Ok(())
    }

    /// After a failure nothing more is sent, but what is under way may still be stored.
    async fn count_the_rest(&mut self) {
        while let Ok(Some((_, piece, answer))) = self.deadline.run(self.answers.next()).await {
            if let Ok(receipt) = answer {
                self.summary.stored(&receipt, piece.bytes);
            }
        }
    }

    async fn wait_for_answer(&mut self) -> Result<(), Failure> {
        match self.deadline.run(self.answers.next()).await {
            Ok(Some(answer)) => self.answered(answer).await,
            Ok(None) => Ok(()),
            Err(_passed) => Err(Failure::Late(
                "import failed: the timeout passed; what is counted above is stored, the rest may be"
                    .to_owned(),
            )),
        }
    }

    /// Sends what may leave of one key.
    async fn pump(&mut self, name: &KeyName) -> Result<(), Failure> {
        while let Some((piece, expect)) = self.lanes.get_mut(&name.key).and_then(Lane::next) {
            let pending = self.appender.append(name, piece.events.clone(), expect).await;
            let pending = pending.map_err(|error| failed(error, piece.line))?;
            let name = name.clone();
            self.answers
                .push(Box::pin(async move { (name, piece, pending.await) }));
        }
        Ok(())
    }

    async fn answered(&mut self, (name, piece, answer): Answer) -> Result<(), Failure> {
        let lane = self.lanes.entry(name.key.clone()).or_default();
        match answer {
            Ok(receipt) => {
                lane.stored(receipt.stored.last().map(|stored| stored.version));
                self.pieces = self.pieces.saturating_sub(1);
                self.bytes = self.bytes.saturating_sub(piece.bytes);
                self.summary.stored(&receipt, piece.bytes);
            }
            // Also after an attempt whose outcome is not known: its ids keep the piece from being stored twice.
            Err(error) if error.current_version().is_some() => lane.conflicted(piece),
            // Stored before, together with others. Only ids derived from data can be met again.
            Err(error) if error.reason() == Some(Reason::EventIdReused) => {
                lane.stored(None);
                self.pieces = self.pieces.saturating_sub(1);
                self.bytes = self.bytes.saturating_sub(piece.bytes);
                self.summary.duplicates = self.summary.duplicates.saturating_add(piece.count());
            }
            Err(error) => return Err(failed(error, piece.line)),
        }
        self.pump(&name).await
    }
}

fn failed(error: Error, line: u64) -> Failure {
    let advice = "import the file again: with --id-field, nothing is added twice".to_owned();
    Failure::call(error, format!("import of line {line}"), true, Some(advice))
}

/// What `import` says in the end. `first_seq` and `last_seq` are null when nothing was added.
#[derive(Debug, Serialize)]
struct Summary {
    events: u64,
    seconds: f64,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    duplicates: u64,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u64,
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    began: Instant,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Summary {
    fn new() -> Self {
        Self {
            events: 0,
            seconds: 0.0,
            first_seq: None,
            last_seq: None,
            duplicates: 0,
            bytes: 0,
            retries: 0,
            began: clock::now(),
        }
    }

    fn stored(&mut self, receipt: &Receipt<Vec<Stored>>, bytes: usize) {
        for stored in &receipt.stored {
            // After a lost answer, a duplicate is what this import itself had stored.
            if stored.is_duplicate && receipt.attempts == 1 {
                self.duplicates = self.duplicates.saturating_add(1);
                continue;
            }
            let seq = stored.seq.get();
            self.events = self.events.saturating_add(1);
            self.first_seq = Some(self.first_seq.map_or(seq, |first| first.min(seq)));
            self.last_seq = self.last_seq.max(Some(seq));
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.retries = self
            .retries
            .saturating_add(u64::from(receipt.attempts.saturating_sub(1)));
    }

    fn write(&mut self, output: &mut Output) -> io::Result<()> {
        let took = clock::now().saturating_duration_since(self.began);
        self.seconds = (took.as_secs_f64() * 1e6).round() / 1e6;
        if output.is_json() {
            return output.json(self);
        }
        let seqs = match (self.first_seq, self.last_seq) {
            (Some(first), Some(last)) => format!(", seq {first} to {last}"),
            _ => String::new(),
        };
        let bytes = bytes_text(u64::try_from(self.bytes).unwrap_or(u64::MAX));
        let mut line = format!(
            "imported {} events ({bytes}) in {:.2} s{seqs}",
            self.events, self.seconds
        );
        if self.duplicates > 0 {
            line = format!("{line}; {} were there already", self.duplicates);
        }
        if self.retries > 0 {
            line = format!("{line}; {} retries", self.retries);
        }
        output.text(format_args!("{line}"))
    }
}

/// A bar on a terminal, once the import takes more than a second.
struct Progress {
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    fn new(bytes: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::hidden());
        let style = "{bar:30} {bytes}/{total_bytes}  {msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            began: clock::now(),
        }
    }

    fn tell(&self, lines: &Lines, summary: &Summary) {
        // Reading the clock for every line would cost more than the line.
        if !lines.number().is_multiple_of(1_024) {
            return;
        }
        let took = clock::now().saturating_duration_since(self.began);
        if took < Duration::from_secs(1) {
            return;
        }
        if self.bar.is_hidden() {
            // Draws nothing when standard error is not a terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(lines.bytes_read());
        self.bar.set_message(format!("{} events", summary.events));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdb_client::derived_event_id;

    fn piece(line: u64) -> Piece {
        Piece::new(line, NewEvent::new("x"))
    }

    fn lines_of(lane: &mut Lane) -> Vec<(u64, Expectation)> {
        std::iter::from_fn(|| lane.next())
            .map(|(piece, expect)| (piece.line, expect))
            .collect()
    }

    #[test]
    fn only_the_first_piece_of_a_key_leaves_without_a_demand() {
        let mut lane = Lane::default();
        lane.waiting.extend((1..=3).map(piece));
        assert_eq!(lines_of(&mut lane), [(1, Expectation::Any)]);
        lane.stored(Some(Version(8)));
        let exact = |n| Expectation::Exact(Version(n));
        assert_eq!(lines_of(&mut lane), [(2, exact(8)), (3, exact(9))]);
    }

    /// The promise: whatever is refused in between, the lines of a key are stored in order.
    #[test]
    fn conflicted_pieces_wait_for_what_is_under_way_and_leave_again_in_order() {
        let mut lane = Lane::default();
        lane.waiting.extend((1..=4).map(piece));
        assert_eq!(lines_of(&mut lane).len(), 1);
        lane.stored(Some(Version(1)));
        assert_eq!(lines_of(&mut lane).len(), 3);
        // Line 2 was refused and is sent again by the stream; 4 and 3 conflict meanwhile.
        lane.conflicted(piece(4));
        lane.conflicted(piece(3));
        lane.waiting.push_back(piece(5));
        assert_eq!(lines_of(&mut lane), []);
        lane.stored(Some(Version(2)));
        assert_eq!(lines_of(&mut lane), [(3, Expectation::Any)]);
        lane.stored(Some(Version(3)));
        assert_eq!(
            lines_of(&mut lane)
                .iter()
                .map(|(line, _)| *line)
                .collect::<Vec<_>>(),
            [4, 5]
        );
        lane.stored(Some(Version(4)));
        lane.stored(Some(Version(5)));
        assert!(lane.is_idle());
    }

    #[test]
    fn only_ids_that_were_derived_from_data_are_kept() {
        let encoded = |id: uuid::Uuid| {
            let event = IdOnly {
                event_id: id.as_bytes().to_vec().into(),
            };
            bytes::Bytes::from(prost::Message::encode_to_vec(&event))
        };
        let derived = derived_event_id(&KeyName::new("", "us").unwrap(), "1");
        assert_eq!(event_id_of(encoded(derived.0)), Ok(Some(derived)));
        assert_eq!(event_id_of(encoded(uuid::Uuid::now_v7())), Ok(None));
    }
}
