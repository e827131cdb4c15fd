//! TLS to etcd: the files that `ETCD_CA`, `ETCD_CERT` and `ETCD_KEY` name. Read when the node connects; others that
//! are put in their place later count from the next start on.

use crate::coordination::CoordinationError;
use etcd_client::{Certificate, Identity, TlsOptions};
use std::path::{Path, PathBuf};

/// PEM files for connections to etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Who signed etcd's certificate.
    pub ca: PathBuf,
    /// Certificate and key of this node, when etcd asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl EtcdTls {
    /// What the client needs.
    ///
    /// # Errors
    /// [`CoordinationError::Pem`].
    pub(super) async fn options(&self) -> Result<TlsOptions, CoordinationError> {
        let ca = read("ETCD_CA", &self.ca, "CERTIFICATE").await?;
        let options = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
        let Some((certificate, key)) = &self.identity else {
            return Ok(options);
        };
        let certificate = read("ETCD_CERT", certificate, "CERTIFICATE").await?;
        let key = read("ETCD_KEY", key, "PRIVATE KEY").await?;
        Ok(options.identity(Identity::from_pem(certificate, key)))
    }
}

/// A file with at least one block of this kind: the TLS library takes a file without any as an empty list.
async fn read(variable: &'static str, path: &Path, kind: &str) -> Result<Vec<u8>, CoordinationError> {
    let unusable = |problem: String| CoordinationError::Pem {
        variable,
        path: path.to_owned(),
        problem,
    };
    let pem = tokio::fs::read(path)
        .await
        .map_err(|error| unusable(format!("cannot be read: {error}")))?;
    let text = String::from_utf8_lossy(&pem);
    let begins =
        |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{kind}-----"));
    if text.lines().any(begins) {
        Ok(pem)
    } else {
        Err(unusable(format!("has no {} in PEM", kind.to_lowercase())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_not_what_its_variable_asks_for_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pem");
        let missing = read("ETCD_CA", &path, "CERTIFICATE").await.unwrap_err();
        assert!(
            missing.to_string().contains("cannot be read: No such file"),
            "{missing}"
        );
        std::fs::write(&path, "-----BEGIN EC PRIVATE KEY-----\n").unwrap();
        let other = read("ETCD_CERT", &path, "CERTIFICATE").await.unwrap_err();
        assert!(other.to_string().starts_with("ETCD_CERT is /"), "{other}");
        assert!(
            other.to_string().ends_with("which has no certificate in PEM"),
            "{other}"
        );
        assert!(read("ETCD_KEY", &path, "PRIVATE KEY").await.is_ok());
    }
}
