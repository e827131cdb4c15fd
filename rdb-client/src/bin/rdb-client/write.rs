//! `write`, `delete` and `append`.

use crate::args::{AppendArgs, DeleteArgs, WriteArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::lines::Lines;
use crate::output::StoredJson;
use crate::read::where_to_look;
use rdb_client::json_lines::NewEventLine;
use rdb_client::{Error, EventId, Happened, KeyName, NewEvent, Reason};

pub(crate) async fn write(context: &mut Context, args: WriteArgs) -> Result<(), Failure> {
    let name = context.name()?;
    let mut event = NewEvent::new(context.payload(args.file.as_deref())?);
    event.event_type = args.event_type;
    event.tags = args.tags;
    event.meta = args.meta.into_iter().collect();
    event.event_id = args.event_id.unwrap_or(event.event_id);
    let event_id = event.event_id;
    let receipt = context.client().write(&name, event, args.expect).await;
    let receipt = receipt.map_err(|error| failed("write", "to", &name, Some(event_id), error))?;
    context.output.stored("wrote", name.key.as_str(), &receipt)?;
    Ok(())
}

pub(crate) async fn delete(context: &mut Context, args: DeleteArgs) -> Result<(), Failure> {
    if context.globals.payload.is_some() {
        return Err(Failure::Usage("a delete has no payload: leave -p out".to_owned()));
    }
    let name = context.name()?;
    let mut event = NewEvent::new("");
    event.event_id = args.event_id.unwrap_or(event.event_id);
    let event_id = event.event_id;
    let receipt = context.client().delete(&name, event, args.expect).await;
    let receipt = receipt.map_err(|error| failed("delete", "of", &name, Some(event_id), error))?;
    context.output.stored("deleted", name.key.as_str(), &receipt)?;
    Ok(())
}

pub(crate) async fn append(context: &mut Context, args: AppendArgs) -> Result<(), Failure> {
    let name = context.name()?;
    let mut lines = Lines::open(&args.file)?;
    let mut events = Vec::new();
    while let Some(line) = lines.next()? {
        let event = NewEventLine::parse(line.text).map_err(|problem| lines.problem(&problem))?;
        events.push(event);
    }
    if events.is_empty() {
        return Err(Failure::Input(format!("{} holds no events", args.file.display())));
    }
    let receipt = context.client().append(&name, events, args.expect).await;
    let receipt = receipt.map_err(|error| failed("append", "to", &name, None, error))?;
    if context.output.is_json() {
        for stored in &receipt.stored {
            context.output.json(&StoredJson::new(name.key.as_str(), stored))?;
        }
        return Ok(());
    }
    for stored in receipt.stored {
        let receipt = rdb_client::Receipt {
            stored,
            attempts: receipt.attempts,
        };
        context
            .output
            .stored("appended to", name.key.as_str(), &receipt)?;
    }
    Ok(())
}

/// Says what a person would ask next, with the words to type.
fn failed(verb: &str, preposition: &str, name: &KeyName, event_id: Option<EventId>, error: Error) -> Failure {
    let what = format!("{verb} {preposition} `{}`", name.key);
    let collection = if name.collection.is_default() {
        String::new()
    } else {
        format!(" --collection {}", name.collection)
    };
    let key = shell_word(name.key.as_str());
    let conflict = (error.reason() == Some(Reason::VersionConflict))
        .then(|| error.current_version())
        .flatten();
    let advice = match (conflict, event_id) {
        (Some(version), _) => Some(format!(
            "see the newer events:  rdb-client history{collection} -k {key} --from {version}"
        )),
        (None, Some(id)) if error.happened() == Happened::Maybe => Some(format!(
            "the same {verb} again with --event-id {id} is safe: it never doubles"
        )),
        (None, None) if error.happened() == Happened::Maybe => Some(format!(
            "look before you append again:  rdb-client history{collection} -k {key} --backwards --limit 10"
        )),
        (None, _) if error.reason() == Some(Reason::KeyNotFound) => Some(where_to_look(name, &error)),
        (None, _) => None,
    };
    Failure::call(error, what, true, advice)
}

/// Quotes a word for a shell where it needs that.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_only_when_a_shell_needs_it() {
        assert_eq!(shell_word("orders/17"), "orders/17");
        assert_eq!(shell_word("it's a key"), r"'it'\''s a key'");
    }
}
