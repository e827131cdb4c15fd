//! What every command needs: a client with the time that is left, the key, and where output goes.

use crate::args::{Format, Globals};
use crate::failure::Failure;
use crate::output::Output;
use rdb_client::clock::{self, Deadline};
use rdb_client::limits::{CALL_TIMEOUT_DEFAULT, PORT_DEFAULT};
use rdb_client::{Client, Collection, Error, KeyName};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

/// Time until etcd is asked again for nodes that it does not know yet.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// One run of one command.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) globals: Globals,
    pub(crate) output: Output,
    addresses: Vec<String>,
    client: Client,
    deadline: Deadline,
}

impl Context {
    /// Must be called within the runtime. Asks etcd for the nodes when no server is named; `awaits_nodes` asks it again
    /// while it knows none, for as long as the command may take.
    pub(crate) async fn new(
        globals: Globals,
        awaits_nodes: bool,
        output: Output,
    ) -> Result<Self, (Failure, Output)> {
        let deadline = Deadline::after(Some(globals.timeout.unwrap_or(CALL_TIMEOUT_DEFAULT)));
        let found = loop {
            let found = deadline.run(Box::pin(find(&globals))).await;
            let found =
                found.unwrap_or_else(|_passed| Err(Failure::Late("etcd did not answer in time".to_owned())));
            let may_come = matches!(&found, Err(failure) if awaits_nodes && failure.is_transient());
            if !may_come || deadline.remaining().is_some_and(|left| left <= ASK_INTERVAL) {
                break found;
            }
            clock::sleep(ASK_INTERVAL).await;
        };
        match found.and_then(|addresses| Ok((connect(&addresses)?, addresses))) {
            Ok((client, addresses)) => Ok(Self {
                globals,
                output,
                addresses,
                client,
                deadline,
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
        connect(&self.addresses).map(|client| client.with_timeout(Some(timeout)))
    }

    /// The key that the command is about.
    pub(crate) fn name(&self) -> Result<KeyName, Failure> {
        let key = self.globals.key.as_deref();
        let key = key.ok_or_else(|| Failure::Usage("which key? give it with -k KEY".to_owned()))?;
        let collection = self.globals.collection.as_deref().unwrap_or_default();
        KeyName::new(collection, key).map_err(|error| not_valid(error.into()))
    }

    /// Keys of the collection that the command is about.
    pub(crate) fn names(&self, keys: &[String]) -> Result<Vec<KeyName>, Failure> {
        let collection = self.globals.collection.as_deref().unwrap_or_default();
        let names = keys.iter().map(|key| KeyName::new(collection, key));
        names
            .map(|name| name.map_err(|error| not_valid(error.into())))
            .collect()
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

fn connect(addresses: &[String]) -> Result<Client, Failure> {
    Client::connect(addresses).map_err(|error| Failure::Usage(error.to_string()))
}

/// The server or servers that are named, else those that etcd names, else the default.
async fn find(globals: &Globals) -> Result<Vec<String>, Failure> {
    match addresses(globals) {
        Some(addresses) => Ok(addresses),
        None => through_etcd(globals).await,
    }
}

/// A value that was given, and not as nothing.
fn given(value: Option<&String>) -> Option<String> {
    value.filter(|value| !value.trim().is_empty()).cloned()
}

fn list(value: &str) -> Vec<String> {
    let parts = value.split(',').map(|one| one.trim().to_owned());
    parts.filter(|one| !one.is_empty()).collect()
}

#[cfg(not(feature = "etcd"))]
async fn through_etcd(_: &Globals) -> Result<Vec<String>, Failure> {
    Err(Failure::Usage(
        "this client was built without etcd: name the server with --server HOST:PORT".to_owned(),
    ))
}

#[cfg(feature = "etcd")]
async fn through_etcd(globals: &Globals) -> Result<Vec<String>, Failure> {
    let pem = |path: Option<&String>| {
        let Some(path) = given(path) else { return Ok(None) };
        let pem = std::fs::read(&path);
        pem.map(Some)
            .map_err(|error| Failure::Usage(format!("cannot read {path}: {error}")))
    };
    let options = rdb_client::EtcdOptions {
        endpoints: list(globals.etcd.as_deref().unwrap_or_default()),
        database: given(globals.db.as_ref()).unwrap_or_else(|| "rdb".to_owned()),
        user: given(globals.etcd_user.as_ref())
            .map(|user| (user, globals.etcd_password.clone().unwrap_or_default())),
        ca: pem(globals.etcd_ca.as_ref())?,
        identity: pem(globals.etcd_cert.as_ref())?.zip(pem(globals.etcd_key.as_ref())?),
    };
    let found = rdb_client::node_addresses(&options).await;
    found.map_err(|error| {
        let advice =
            "look whether --etcd and --db are right and a node runs, or name a node with --server HOST:PORT";
        Failure::call(
            error,
            "finding the nodes".to_owned(),
            false,
            Some(advice.to_owned()),
        )
    })
}

/// The servers that are named; `None` when etcd is to be asked.
fn addresses(globals: &Globals) -> Option<Vec<String>> {
    if let Some(servers) = given(globals.server.as_ref()) {
        return Some(list(&servers));
    }
    if let (None, None, Some(_)) = (
        given(globals.server_ip.as_ref()),
        given(globals.server_port.as_ref()),
        given(globals.etcd.as_ref()),
    ) {
        return None;
    }
    let ip = given(globals.server_ip.as_ref()).unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = given(globals.server_port.as_ref()).unwrap_or_else(|| PORT_DEFAULT.to_string());
    let ip = if ip.contains(':') && !ip.starts_with('[') {
        format!("[{ip}]")
    } else {
        ip
    };
    Some(vec![format!("{ip}:{port}")])
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
            etcd_user: None,
            etcd_password: None,
            etcd_ca: None,
            etcd_cert: None,
            etcd_key: None,
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
    fn etcd_is_asked_when_no_server_is_named() {
        let globals = Globals {
            etcd: Some("e:2379".to_owned()),
            ..globals()
        };
        assert_eq!(addresses(&globals), None);
        let named = Globals {
            server_port: Some("7".to_owned()),
            ..globals
        };
        assert_eq!(addresses(&named).unwrap(), ["127.0.0.1:7"]);
    }
}
