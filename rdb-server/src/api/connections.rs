//! Which connections are taken: so many at once. One more is closed at once rather than left to wait, so that its
//! client goes on to another node, and so that files and memory are left for what is served already.

use crate::node::telemetry::Telemetry;
use futures::Stream;
use futures::stream::StreamExt as _;
use prometheus_client::metrics::gauge::Gauge;
use std::future::ready;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// A connection that was taken; it is counted until it is dropped.
#[derive(Debug)]
pub(super) struct Connection<S> {
    socket: S,
    open: Gauge,
    _place: OwnedSemaphorePermit,
}

/// Of the connections that were accepted, at most `limit` at once.
pub(super) fn incoming<S, A: Stream<Item = io::Result<S>>>(
    telemetry: &Telemetry,
    accepted: A,
    limit: usize,
) -> impl Stream<Item = io::Result<Connection<S>>> + use<S, A> {
    let places = Arc::new(Semaphore::new(limit));
    let (open, refused) = (
        telemetry.connections.clone(),
        telemetry.connections_refused.clone(),
    );
    let mut is_told = false;
    accepted.filter_map(move |socket| {
        let place = Arc::clone(&places).try_acquire_owned().ok();
        let Some(place) = place else {
            refused.inc();
            if !std::mem::replace(&mut is_told, true) {
                tracing::warn!(limit, "no more connections are taken until some are closed");
            }
            return ready(None);
        };
        is_told = false;
        ready(Some(socket.map(|socket| {
            open.inc();
            Connection {
                socket,
                open: open.clone(),
                _place: place,
            }
        })))
    })
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl<S: Connected> Connected for Connection<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.socket.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tonic::transport::server::TcpIncoming;

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_a_free_place_is_taken() {
        let telemetry = Telemetry::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Box::pin(incoming(&telemetry, TcpIncoming::from(listener), 1));
        let _first = TcpStream::connect(address).await.unwrap();
        let taken = incoming.next().await.unwrap().unwrap();

        let mut refused = TcpStream::connect(address).await.unwrap();
        let mut answer = Vec::new();
        let closed = async { refused.read_to_end(&mut answer).await };
        tokio::select! {
            _ = incoming.next() => panic!("one too many was taken"),
            closed = closed => assert_eq!(closed.unwrap(), 0),
        }
        assert_eq!(
            (telemetry.connections.get(), telemetry.connections_refused.get()),
            (1, 1)
        );

        drop(taken);
        let _third = TcpStream::connect(address).await.unwrap();
        let _taken = incoming.next().await.unwrap().unwrap();
        assert_eq!(
            (telemetry.connections.get(), telemetry.connections_refused.get()),
            (1, 1)
        );
    }
}
