//! Certificates for a test: an authority of its own, and what it signs for loopback. Made by `openssl`.

use std::path::PathBuf;
use tempfile::TempDir;
use tokio::process::Command;

/// Who signs certificates.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
}

/// A certificate and its key, as files in PEM.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one.
    pub async fn new() -> Self {
        let authority = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let signed = authority.signed_by("ca");
        authority
            .request("ca", &["-addext", "basicConstraints=critical,CA:TRUE"], &signed)
            .await;
        authority
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.signed_by("ca").certificate
    }

    /// Signs a certificate for loopback, for a server or a client.
    pub async fn sign(&self, name: &str) -> Signed {
        let signed = self.signed_by(name);
        let ca = self.signed_by("ca");
        let (ca_certificate, ca_key) = (ca.certificate.to_string_lossy(), ca.key.to_string_lossy());
        let extensions = [
            "-CA",
            &*ca_certificate,
            "-CAkey",
            &*ca_key,
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "extendedKeyUsage=serverAuth,clientAuth",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        self.request(name, &extensions, &signed).await;
        signed
    }

    fn signed_by(&self, name: &str) -> Signed {
        Signed {
            certificate: self.folder.path().join(format!("{name}.crt")),
            key: self.folder.path().join(format!("{name}.key")),
        }
    }

    async fn request(&self, name: &str, more: &[&str], signed: &Signed) {
        let mut command = Command::new("openssl");
        command
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-noenc", "-days", "2", "-subj", &format!("/CN={name}")])
            .args(more)
            .arg("-keyout")
            .arg(&signed.key)
            .arg("-out")
            .arg(&signed.certificate);
        let output = command
            .output()
            .await
            .expect("openssl is installed (Debian: openssl); scripts/test does it");
        assert!(output.status.success(), "{output:?}");
    }
}
