//! A read model: what a service keeps of the change stream so that it can be asked fast. Here: the balance of each
//! account, in SQLite, from events whose payload is an amount.
//!
//! Each event takes effect exactly once, however often this program is killed: the rows and the position in the
//! stream are written in one transaction, so that neither is ever there without the other. A power cut may take the
//! last transactions, whole; they are done again then.
//!
//!     cargo run -p rdb-client --example read_model -- 127.0.0.1:2048 balances.sqlite

use rdb_client::{Client, Event, EventKind, Filter, Message, Seq, Start};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use std::error::Error;

const TABLES: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS balance (account TEXT PRIMARY KEY, amount INTEGER NOT NULL, entries INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS entry (seq INTEGER NOT NULL, account TEXT NOT NULL, amount INTEGER);
    CREATE TABLE IF NOT EXISTS position (row INTEGER PRIMARY KEY CHECK (row = 1), database TEXT, seq INTEGER);
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(server), Some(file)) = (words.next(), words.next()) else {
        return Err("usage: read_model HOST:PORT FILE".into());
    };
    let mut model = Connection::open(file)?;
    model.execute_batch(TABLES)?;
    let position = model.query_row("SELECT database, seq FROM position", [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
    });

    let client = Client::connect([server])?;
    let (mut database, mut changes) = match position.optional()? {
        None => (
            String::new(),
            client.subscribe(Start::After(Seq::ZERO), Filter::default()),
        ),
        Some((database, seq)) => {
            let changes = client.subscribe(Start::After(Seq(seq.try_into()?)), Filter::default());
            // The position of another database is an error, and no start from somewhere.
            (database.clone(), changes.of_database(database))
        }
    };
    loop {
        // Over a lost connection it goes on by itself, without loss and without repetition.
        match changes.next().await? {
            Message::Opened { database_id, .. } => database = database_id,
            Message::Events(batch) => {
                let transaction = model.transaction()?;
                for event in batch.decode()? {
                    apply(&transaction, &event)?;
                }
                transaction.execute(
                    "INSERT OR REPLACE INTO position VALUES (1, ?1, ?2)",
                    params![database, i64::try_from(batch.last_seq().get())?],
                )?;
                transaction.commit()?;
            }
            Message::Resolved { .. }
            | Message::CaughtUp { .. }
            | Message::FellBehind { .. }
            | Message::Interrupted(_) => {}
        }
    }
}

/// Done twice, it would count twice: that it is done once is what the position in the same transaction is for.
fn apply(model: &Transaction<'_>, event: &Event) -> Result<(), Box<dyn Error>> {
    let seq = i64::try_from(event.seq.get())?;
    let account = event.name.key.as_str();
    let amount: Option<i64> = match event.kind {
        EventKind::Write => Some(std::str::from_utf8(&event.payload)?.parse()?),
        EventKind::Delete => None,
    };
    model.execute(
        "INSERT INTO entry VALUES (?1, ?2, ?3)",
        params![seq, account, amount],
    )?;
    match amount {
        Some(amount) => model.execute(
            "INSERT INTO balance VALUES (?1, ?2, 1)
             ON CONFLICT DO UPDATE SET amount = amount + ?2, entries = entries + 1",
            params![account, amount],
        )?,
        None => model.execute("DELETE FROM balance WHERE account = ?1", params![account])?,
    };
    Ok(())
}
