//! What every command needs: a client with the time that is left, the key, and where output goes.

use crate::args::{Format, Globals};
use crate::failure::Failure;
use crate::output::Output;
use rdb_client::clock::Deadline;
use rdb_client::limits::{CALL_TIMEOUT_DEFAULT, PORT_DEFAULT};
use rdb_client::{Client, Collection, Error, KeyName};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

/// One run of one command.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) globals: Globals,
    pub(crate) output: Output,
    client: Client,
    deadline: Deadline,
}

impl Context {
    /// Must be called within the runtime.
    pub(crate) fn new(globals: Globals, output: Output) -> Result<Self, (Failure, Output)> {
        match connect(&globals) {
            Ok(client) => Ok(Self {
                client,
                deadline: Deadline::after(Some(globals.timeout.unwrap_or(CALL_TIMEOUT_DEFAULT))),
                globals,
                output,
            }),
            Err(failure) => Err((failure, output)),
        }
    }

    /// A client that gives up when the time of the command is over.
    pub(crate) fn client(&self) -> Client {
        self.client.with_timeout(self.deadline.remaining())
    }

    /// A client for work without an end: each call may take `timeout`.
    pub(crate) fn client_with(&self, timeout: Duration) -> Client {
        self.client.with_timeout(Some(timeout))
    }

    /// When the command must end: only if the user said so.
    pub(crate) fn explicit_deadline(&self) -> Deadline {
        match self.globals.timeout {
            Some(_) => self.deadline,
            None => Deadline::NEVER,
        }
    }

    /// When a command without an end must have reached the server for the first time.
    pub(crate) const fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// A client of its own, with connections of its own.
    pub(crate) fn another_client(&self) -> Result<Client, Failure> {
        let timeout = self.globals.timeout.unwrap_or(CALL_TIMEOUT_DEFAULT);
        connect(&self.globals).map(|client| client.with_timeout(Some(timeout)))
    }

    /// The key that the command is about.
    pub(crate) fn name(&self) -> Result<KeyName, Failure> {
        let key = self.globals.key.as_deref();
        let key = key.ok_or_else(|| Failure::Usage("which key? give it with -k KEY".to_owned()))?;
        let collection = self.globals.collection.as_deref().unwrap_or_default();
        KeyName::new(collection, key).map_err(|error| not_valid(error.into()))
    }

    /// The collection that the command is about.
    pub(crate) fn collection(&self) -> Result<Collection, Failure> {
        Collection::new(self.globals.collection.as_deref().unwrap_or_default())
            .map_err(|error| not_valid(error.into()))
    }

    /// The payload, from the command line, standard input or a file.
    pub(crate) fn payload(&self, file: Option<&Path>) -> Result<Vec<u8>, Failure> {
        match (self.globals.payload.as_deref(), file) {
            (Some("-"), None) => read_stdin(),
            (None, Some(path)) if path == Path::new("-") => read_stdin(),
            (Some(text), None) => Ok(text.as_bytes().to_vec()),
            (None, Some(path)) => std::fs::read(path)
                .map_err(|error| Failure::Input(format!("cannot read {}: {error}", path.display()))),
            (None, None) => Err(Failure::Usage(
                "what payload? give it with -p TEXT, -p - for standard input, or --file FILE".to_owned(),
            )),
            (Some(_), Some(_)) => Err(Failure::Usage("give -p or --file, not both".to_owned())),
        }
    }
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut payload = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut payload)
        .map_err(|error| Failure::Input(format!("cannot read standard input: {error}")))?;
    Ok(payload)
}

fn not_valid(error: Error) -> Failure {
    Failure::call(error, "the request".to_owned(), false, None)
}

fn connect(globals: &Globals) -> Result<Client, Failure> {
    Client::connect(addresses(globals)?).map_err(|error| Failure::Usage(error.to_string()))
}

fn addresses(globals: &Globals) -> Result<Vec<String>, Failure> {
    let given = |value: &Option<String>| value.clone().filter(|value| !value.trim().is_empty());
    if let Some(list) = given(&globals.server) {
        return Ok(list
            .split(',')
            .map(str::to_owned)
            .filter(|one| !one.trim().is_empty())
            .collect());
    }
    if let (None, None, Some(_)) = (
        given(&globals.server_ip),
        given(&globals.server_port),
        given(&globals.etcd),
    ) {
        return Err(Failure::Usage(
            "finding the nodes through etcd (--etcd, ETCD) is not available in this release of the client \
             (standalone server): name the server with --server HOST:PORT"
                .to_owned(),
        ));
    }
    let ip = given(&globals.server_ip).unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = given(&globals.server_port).unwrap_or_else(|| PORT_DEFAULT.to_string());
    let ip = if ip.contains(':') && !ip.starts_with('[') {
        format!("[{ip}]")
    } else {
        ip
    };
    Ok(vec![format!("{ip}:{port}")])
}

/// Text, unless the user asked for JSON.
pub(crate) fn format(globals: &Globals) -> Format {
    globals.output.unwrap_or(Format::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globals() -> Globals {
        Globals {
            server: None,
            server_ip: None,
            server_port: None,
            etcd: None,
            db: None,
            timeout: None,
            key: None,
            payload: None,
            collection: None,
            output: None,
            trace_level: String::new(),
            no_color: None,
        }
    }

    #[test]
    fn the_server_comes_from_flag_then_parts_then_default() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(addresses(&globals()).unwrap(), ["127.0.0.1:2048"]);
        let parts = Globals {
            server_ip: some("::1"),
            server_port: some("7"),
            ..globals()
        };
        assert_eq!(addresses(&parts).unwrap(), ["[::1]:7"]);
        let both = Globals {
            server: some("a:1,b:2"),
            etcd: some("e:2379"),
            ..parts
        };
        assert_eq!(addresses(&both).unwrap(), ["a:1", "b:2"]);
        let empty = Globals {
            server: some(""),
            ..globals()
        };
        assert_eq!(addresses(&empty).unwrap(), ["127.0.0.1:2048"]);
    }

    #[test]
    fn etcd_is_refused_plainly() {
        let globals = Globals {
            etcd: Some("e:2379".to_owned()),
            ..globals()
        };
        let Err(Failure::Usage(message)) = addresses(&globals) else {
            panic!("not refused")
        };
        assert!(message.contains("not available in this release"), "{message}");
    }
}
