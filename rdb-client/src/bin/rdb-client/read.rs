//! `read`, `history` and `keys`.

use crate::args::{HistoryArgs, KeysArgs, Level, ReadArgs, SnapshotArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::look::Look;
use crate::output::{EventJson, KeyJson, notice};
use crate::table::Columns;
use crate::write::shell_word;
use rdb_client::{Consistency, Error, HistoryOptions, KeyName, ReadOptions, Reason, Version};
use rdb_proto::limits::LIST_KEYS_PAGE_MAX;

pub(crate) async fn read(context: &mut Context, args: ReadArgs) -> Result<(), Failure> {
    let name = context.name()?;
    let options = ReadOptions {
        at: args.at,
        consistency: match args.consistency {
            Level::Linearizable => Consistency::Linearizable,
            Level::Local => Consistency::Local,
        },
    };
    let answer = context.client().read(&name, options).await;
    let answer = answer.map_err(|error| failed("read", &name, error))?;
    if context.output.is_json() {
        context.output.json(&EventJson::new(&answer.event))?;
    } else {
        context.output.whole_event(&answer.event)?;
    }
    Ok(())
}

pub(crate) async fn snapshot(context: &mut Context, args: SnapshotArgs) -> Result<(), Failure> {
    let names = context.names(&args.keys)?;
    let snapshot = context.client().snapshot(&names, args.at).await;
    let snapshot = snapshot.map_err(Failure::read("the snapshot"))?;
    for key in &snapshot.keys {
        match &key.event {
            Some(event) => context.output.event(event, Columns::OfManyKeys)?,
            None => context.output.absent(key)?,
        }
    }
    if !context.output.is_json() {
        notice(format_args!("as of seq {}", snapshot.as_of));
    }
    Ok(())
}

pub(crate) async fn history(context: &mut Context, args: HistoryArgs) -> Result<(), Failure> {
    let name = context.name()?;
    let options = HistoryOptions {
        from: args.from.unwrap_or_default(),
        backwards: args.backwards,
        limit: args.limit,
        consistency: Consistency::Linearizable,
    };
    let mut history = context.client().history(&name, options);
    let mut is_empty = true;
    loop {
        let next = history
            .next()
            .await
            .map_err(|error| failed("history", &name, error))?;
        let Some(event) = next else { break };
        is_empty = false;
        context.output.event(&event, Columns::OfOneKey)?;
    }
    let is_whole = options.from == Version::ZERO && options.limit != Some(0);
    if is_empty && is_whole {
        return Err(Failure::NoEvents(name.key.as_str().to_owned()));
    }
    Ok(())
}

fn failed(verb: &str, name: &KeyName, error: Error) -> Failure {
    let what = format!("{verb} of `{}`", name.key);
    let advice = (error.reason() == Some(Reason::KeyNotFound)).then(|| where_to_look(name, &error));
    Failure::call(error, what, false, advice)
}

/// A deleted key still has its events; a key that never was may be another one misspelt.
pub(crate) fn where_to_look(name: &KeyName, error: &Error) -> String {
    let collection = if name.collection.is_default() {
        String::new()
    } else {
        format!(" --collection {}", name.collection)
    };
    if error.current_version() == Some(Version::ZERO) {
        format!("see which keys there are:  rdb-client keys{collection}")
    } else {
        let key = shell_word(name.key.as_str());
        format!("if it was deleted, its events are still there:  rdb-client history{collection} -k {key}")
    }
}

pub(crate) async fn keys(context: &mut Context, args: KeysArgs) -> Result<(), Failure> {
    let collection = context.collection()?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut after: Option<String> = None;
    let page = u64::try_from(LIST_KEYS_PAGE_MAX).unwrap_or(u64::MAX);
    while left > 0 {
        let limit = u32::try_from(left.min(page)).unwrap_or(u32::MAX);
        let client = context.client();
        let listed = client
            .list_keys(&collection, &args.prefix, after.as_deref(), limit)
            .await;
        let listed = listed.map_err(Failure::read("the list of keys"))?;
        let width = listed
            .keys
            .iter()
            .map(|key| key.key.chars().count())
            .max()
            .unwrap_or(0);
        for key in &listed.keys {
            if context.output.is_json() {
                context.output.json(&KeyJson::new(key))?;
                continue;
            }
            let deleted = if key.is_deleted {
                context.output.paint(Look::Red, "  (deleted)")
            } else {
                String::new()
            };
            let name = context
                .output
                .paint(Look::Bold, format_args!("{:<width$}", key.key));
            context.output.text(format_args!(
                "{name}  version {}  seq {}{deleted}",
                key.version, key.seq
            ))?;
        }
        left = left.saturating_sub(u64::try_from(listed.keys.len()).unwrap_or(u64::MAX));
        after = listed.next_after;
        if after.is_none() {
            break;
        }
    }
    Ok(())
}
