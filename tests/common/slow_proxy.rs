//! A way to a server that takes its time: a TCP proxy on this machine that delays each answer by a fixed latency.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// The proxy; it ends when this is dropped.
pub struct SlowProxy {
    address: SocketAddr,
    task: AbortHandle,
}

impl SlowProxy {
    /// Listens on a free port and passes on to `server`. The first bytes of each answer come later by `latency`.
    pub async fn start(server: &str, latency: Duration) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let server = server.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = server.clone();
                // Either side may hang up; the other then notices by itself.
                tokio::spawn(async move { pass_on(client, &server, latency).await });
            }
        });
        Ok(Self { address, task: task.abort_handle() })
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for SlowProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(client: TcpStream, server: &str, latency: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upwards = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from_server.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        if buffer.starts_with(b"HTTP/1.1 ") {
            tokio::time::sleep(latency).await;
        }
        to_client.write_all(&buffer[..read]).await?;
    }
    upwards.abort();
    Ok(())
}
