//! The nodes of a database, found through etcd: each says there where it is reached, for as long as it lives.

use crate::clock::Deadline;
use crate::limits::ETCD_TIMEOUT;
use crate::{Client, Error};
use etcd_client::{Certificate, ConnectOptions, GetOptions, Identity, TlsOptions};
use rdb_proto::live::{self, LiveRecord};
use rdb_proto::types::FieldError;
use std::error::Error as StdError;
use std::fmt;

/// Where etcd is, and which database to look for there.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// host:port of each member of etcd, perhaps with a scheme; they are asked in this order until one answers.
    pub endpoints: Vec<String>,
    /// Name of the database.
    pub database: String,
    /// User and password, when etcd asks for them.
    pub user: Option<(String, String)>,
    /// Who signed etcd's certificate, in PEM: connections to etcd then use TLS.
    pub ca: Option<Vec<u8>>,
    /// Certificate and key in PEM, when etcd asks for them.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Without secrets.
impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Prepares connections to the nodes of a database that etcd knows as live. etcd is asked this once.
    ///
    /// # Errors
    /// `UNAVAILABLE` when no member of etcd answers, or no node is live.
    pub async fn connect_through_etcd(options: &EtcdOptions) -> Result<Self, Error> {
        Self::connect(node_addresses(options).await?)
    }
}

/// Where the live nodes of a database are reached, in the order of their names.
///
/// # Errors
/// As for [`Client::connect_through_etcd`].
pub async fn node_addresses(options: &EtcdOptions) -> Result<Vec<String>, Error> {
    let mut problems = Vec::new();
    for endpoint in &options.endpoints {
        let asked = Box::pin(ask(endpoint, options));
        let problem = match Deadline::after(Some(ETCD_TIMEOUT)).run(asked).await {
            Ok(Ok(nodes)) => return addresses_of(nodes, endpoint, options),
            Ok(Err(error)) => root_cause(&error),
            Err(_passed) => format!("no answer within {ETCD_TIMEOUT:?}"),
        };
        problems.push(format!("{endpoint}: {problem}"));
    }
    if problems.is_empty() {
        return Err(FieldError::invalid("etcd", "must name at least one endpoint").into());
    }
    Err(Error::unreachable(format!(
        "etcd does not answer: {}",
        problems.join("; ")
    )))
}

async fn ask(endpoint: &str, options: &EtcdOptions) -> Result<Vec<Vec<u8>>, etcd_client::Error> {
    let mut connect = ConnectOptions::new().with_connect_timeout(ETCD_TIMEOUT);
    if let Some((user, password)) = &options.user {
        connect = connect.with_user(user, password);
    }
    if let Some(ca) = &options.ca {
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
        if let Some((certificate, key)) = &options.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        connect = connect.with_tls(tls);
    }
    let client = etcd_client::Client::connect([endpoint], Some(connect)).await?;
    let all = GetOptions::new().with_prefix();
    let got = client
        .kv_client()
        .get(live::prefix(&options.database), Some(all))
        .await?;
    Ok(got.kvs().iter().map(|kv| kv.value().to_vec()).collect())
}

fn addresses_of(nodes: Vec<Vec<u8>>, endpoint: &str, options: &EtcdOptions) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for node in nodes {
        match serde_json::from_slice::<LiveRecord>(&node) {
            Ok(record) if !record.address.is_empty() => found.push((record.name, record.address)),
            // What another release wrote; others may be there.
            Ok(_) | Err(_) => tracing::debug!("a node's record in etcd cannot be read"),
        }
    }
    found.sort();
    if found.is_empty() {
        let database = &options.database;
        return Err(Error::unreachable(format!(
            "etcd at {endpoint} knows no live node of database `{database}`"
        )));
    }
    Ok(found.into_iter().map(|(_, address)| address).collect())
}

fn root_cause(mut error: &(dyn StdError + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    match error.downcast_ref::<etcd_client::Error>() {
        Some(etcd_client::Error::GRpcStatus(status)) => crate::error::cause_of(status),
        Some(_) | None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records are an interface between releases: golden.
    #[test]
    fn nodes_are_read_in_the_order_of_their_names_and_what_cannot_be_read_is_left_out() {
        let record = |name: &str, address: &str| {
            let rest = r#""release":"0.1.0","incarnation":"00000000-0000-0000-0000-000000000000"}"#;
            format!(r#"{{"format":1,"name":"{name}","address":"{address}",{rest}"#).into_bytes()
        };
        let options = EtcdOptions {
            database: "rdb".to_owned(),
            ..EtcdOptions::default()
        };
        let records = vec![
            record("n2", "b:2"),
            b"{}".to_vec(),
            record("n3", ""),
            record("n1", "a:1"),
        ];
        let found = addresses_of(records, "e:1", &options).unwrap();
        assert_eq!(found, ["a:1", "b:2"]);
        let error = addresses_of(Vec::new(), "e:1", &options).unwrap_err();
        assert_eq!(
            error.message(),
            "etcd at e:1 knows no live node of database `rdb`"
        );
        assert!(error.is_transient());
    }
}
