//! How connections are made: by the machine, or by the simulation that the thread is in.

use crate::simulation;
use hyper_util::rt::TokioIo;
use std::fmt;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::service_fn;

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// A connection of any kind.
pub type Socket = Box<dyn Duplex>;

impl fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Duplex")
    }
}

/// A connection that is being opened.
pub type Dialled = Pin<Box<dyn Future<Output = io::Result<Socket>> + Send>>;

/// Opens a connection to what a URI names.
///
/// # Errors
/// As the network says.
pub async fn dial(uri: &Uri, default_port: u16) -> io::Result<Socket> {
    opening(uri, default_port).await
}

/// Whose connection it is, is decided now: the future may run anywhere.
fn opening(uri: &Uri, default_port: u16) -> Dialled {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(default_port);
    if let Some(world) = simulation::world() {
        return world.dial(host, port);
    }
    Box::pin(async move {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let socket: Socket = Box::new(stream);
        Ok(socket)
    })
}

/// Connects to an endpoint.
///
/// # Errors
/// As [`Endpoint::connect`].
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, Error> {
    if simulation::world().is_none() {
        return endpoint.connect().await;
    }
    let connector = service_fn(|uri: Uri| async move { dial(&uri, 80).await.map(TokioIo::new) });
    endpoint.connect_with_connector(connector).await
}

/// A channel that connects when it is first used, and anew when the connection broke.
pub fn connect_lazily(endpoint: &Endpoint) -> Channel {
    if simulation::world().is_none() {
        return endpoint.connect_lazy();
    }
    let connector = service_fn(|uri: Uri| async move { dial(&uri, 80).await.map(TokioIo::new) });
    endpoint.connect_with_connector_lazy(connector)
}
