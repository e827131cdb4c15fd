//! The machine that server and client run on here.

use crate::random::Random;
use rdb_proto::network::{Dialled, Socket};
use rdb_proto::simulation::World;
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

/// The day on which simulated time begins.
const MORNING: Duration = Duration::from_secs(1_790_000_000);

/// See the module.
#[derive(Debug)]
pub(super) struct Ground {
    random: RefCell<Random>,
    /// What every clock on the wall shows more than it should.
    ahead: Cell<Duration>,
}

impl Ground {
    pub(super) const fn new(random: Random) -> Self {
        Self {
            random: RefCell::new(random),
            ahead: Cell::new(Duration::ZERO),
        }
    }

    /// Sets every clock on the wall, forward or back.
    pub(super) fn set_clocks(&self, ahead: Duration) {
        self.ahead.set(ahead);
    }
}

impl World for Ground {
    fn dial(&self, host: String, port: u16) -> Dialled {
        Box::pin(async move {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            let socket: Socket = Box::new(stream);
            Ok(socket)
        })
    }

    fn time_of_day(&self) -> Duration {
        MORNING + self.ahead.get() + turmoil::sim_elapsed().unwrap_or_default()
    }

    fn random(&self) -> u64 {
        self.random.borrow_mut().next()
    }
}

/// A connection that a simulated listener accepted.
#[derive(Debug)]
pub(super) struct Accepted(TcpStream);

/// Listens on this host.
pub(super) async fn listen(
    port: u16,
) -> io::Result<impl Stream<Item = io::Result<Accepted>> + Send + 'static> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(futures::stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((accepted, listener))
    }))
}

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
