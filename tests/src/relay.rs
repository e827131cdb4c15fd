//! A way to a server that can be cut, or that can fall silent, while the server itself goes on.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Passes bytes on between loopback and a server, until it is told not to.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    is_hanging: Arc<AtomicBool>,
    holds_answers: Arc<AtomicBool>,
    passing: Mutex<JoinSet<()>>,
}

impl Relay {
    /// Listens, and passes on to the server at this address.
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_hanging = Arc::new(AtomicBool::new(false));
        let holds_answers = Arc::new(AtomicBool::new(false));
        let (server, hangs, holds) = (
            server.to_owned(),
            Arc::clone(&is_hanging),
            Arc::clone(&holds_answers),
        );
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            // Dropped with the task, and with it every connection.
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&server).await else {
                    continue;
                };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                connections.spawn(pass(near_in, far_out, vec![Arc::clone(&hangs)]));
                connections.spawn(pass(
                    far_in,
                    near_out,
                    vec![Arc::clone(&hangs), Arc::clone(&holds)],
                ));
            }
        });
        Self {
            address,
            is_hanging,
            holds_answers,
            passing: Mutex::new(passing),
        }
    }

    /// host:port at which it listens.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Breaks every connection, and refuses others.
    pub fn end(&self) {
        self.passing.lock().unwrap().abort_all();
    }

    /// Keeps connections open and takes more, and passes nothing on any more.
    pub fn hang(&self) {
        self.is_hanging.store(true, Ordering::Release);
    }

    /// Passes requests on, and no answers any more.
    pub fn hold_answers(&self) {
        self.holds_answers.store(true, Ordering::Release);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, holds: Vec<Arc<AtomicBool>>) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(length) = from.read(&mut bytes).await {
        if holds.iter().any(|holds| holds.load(Ordering::Acquire)) {
            return std::future::pending().await;
        }
        if length == 0 || to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
