//! A way to an S3 server on which requests go wrong as they are told: an HTTP proxy on this machine. A rule picks requests by number,
//! method and target; all others pass through unchanged, signatures included.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What becomes of a request. Shares are thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The connection ends after this share of the request; the server hears nothing of it.
    CutRequest(usize),
    /// The server acts, and the connection ends after this share of its answer.
    CutAnswer(usize),
    /// The server hears nothing of it, and this status is the answer.
    Refuse(u16),
    /// The server acts, and this status is the answer.
    ActAndRefuse(u16),
    /// The server acts; its answer comes a byte now and then, from its first line on.
    DripAll,
    /// The server acts; the body of its answer comes a byte now and then.
    DripBody,
    /// No answer ever comes.
    Silence,
}

/// A request as the rule sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// From 0, in the order in which they came.
    pub number: usize,
    pub method: String,
    /// Path and query.
    pub target: String,
}

type Rule = dyn Fn(&Asked) -> Option<Fault> + Send + Sync;

struct Shared {
    server: String,
    drip: Duration,
    rule: Box<Rule>,
    asked: Mutex<Vec<Asked>>,
    hits: AtomicUsize,
}

/// The proxy; it ends when this is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl FaultProxy {
    /// Listens on a free port and passes on to `server`, an `http://host:port`. Where it drips, a byte comes each `drip`.
    pub async fn start(
        server: &str,
        drip: Duration,
        rule: impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server: server.trim_start_matches("http://").to_owned(),
            drip,
            rule: Box::new(rule),
            asked: Mutex::new(Vec::new()),
            hits: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                // Either side may hang up; the other then notices by itself.
                tokio::spawn(async move { shared.serve(client).await });
            }
        });
        Ok(Self { address, shared, task: task.abort_handle() })
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many of them went wrong.
    pub fn hits(&self) -> usize {
        self.shared.hits.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Shared {
    /// Serves one request; the connection ends with it.
    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let Some(mut request) = Message::head(&mut client).await? else { return Ok(()) };
        let Some(fault) = self.judge(&request) else {
            request.complete(&mut client, usize::MAX).await?;
            return client.write_all(&self.pass_on(&request).await?).await;
        };
        self.hits.fetch_add(1, Ordering::SeqCst);
        if let Fault::CutRequest(share) = fault {
            return request.complete(&mut client, request.whole() * share / 1_000).await;
        }
        request.complete(&mut client, usize::MAX).await?;
        match fault {
            Fault::CutRequest(_) => Ok(()),
            Fault::CutAnswer(share) => {
                let answer = self.pass_on(&request).await?;
                client.write_all(&answer[..(answer.len() * share / 1_000).min(answer.len() - 1)]).await
            }
            Fault::Refuse(status) => client.write_all(&refusal(status, &request)).await,
            Fault::ActAndRefuse(status) => {
                self.pass_on(&request).await?;
                client.write_all(&refusal(status, &request)).await
            }
            Fault::DripAll => {
                let answer = self.pass_on(&request).await?;
                self.drip(&mut client, &answer).await
            }
            Fault::DripBody => {
                let answer = self.pass_on(&request).await?;
                let (head, body) = answer.split_at(head_length(&answer).unwrap_or(answer.len()));
                client.write_all(head).await?;
                self.drip(&mut client, body).await
            }
            Fault::Silence => {
                // Until the other side has had enough.
                client.read(&mut [0]).await.map(|_| ())
            }
        }
    }

    fn judge(&self, request: &Message) -> Option<Fault> {
        let line = String::from_utf8_lossy(&request.bytes);
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut all = self.asked.lock().unwrap();
        let asked = Asked { number: all.len(), method, target };
        all.push(asked.clone());
        drop(all);
        (self.rule)(&asked)
    }

    /// The server's answer, to its end.
    async fn pass_on(&self, request: &Message) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(&self.server).await?;
        server.set_nodelay(true)?;
        server.write_all(&closing(&request.bytes)).await?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        Ok(closing(&answer))
    }

    async fn drip(&self, client: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            client.write_all(&[*byte]).await?;
            tokio::time::sleep(self.drip).await;
        }
        Ok(())
    }
}

/// A request, as far as it has been read.
struct Message {
    bytes: Vec<u8>,
    head: usize,
    body: usize,
}

impl Message {
    /// Reads to the end of the head, at least; nothing where the client has nothing to ask.
    async fn head(client: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        loop {
            if let Some(head) = head_length(&bytes) {
                let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
                let length = text.split_once("content-length:").and_then(|(_, rest)| rest.lines().next());
                let body = length.map_or(0, |length| length.trim().parse().unwrap());
                return Ok(Some(Self { bytes, head, body }));
            }
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn whole(&self) -> usize {
        self.head + self.body
    }

    /// Reads on, until so many bytes of it are here.
    async fn complete(&mut self, client: &mut TcpStream, bytes: usize) -> io::Result<()> {
        while self.bytes.len() < bytes.min(self.whole()) {
            if client.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// The length of a message's head, the empty line included.
fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The same message, saying that the connection ends after it.
fn closing(message: &[u8]) -> Vec<u8> {
    let at = head_length(message).map_or(message.len(), |head| head - 2);
    [&message[..at], b"connection: close\r\n", &message[at..]].concat()
}

fn refusal(status: u16, request: &Message) -> Vec<u8> {
    let code = match status {
        403 => "AccessDenied",
        404 => "NoSuchBucket",
        409 => "OperationAborted",
        412 => "PreconditionFailed",
        429 => "TooManyRequests",
        503 => "SlowDown",
        _ => "InternalError",
    };
    let body = format!("<Error><Code>{code}</Code><Message>as the test asked for</Message></Error>");
    let later = if status == 429 { "retry-after: 1\r\n" } else { "" };
    let shown = if request.bytes.starts_with(b"HEAD") { "" } else { &body };
    format!("HTTP/1.1 {status} Fault\r\ncontent-length: {}\r\n{later}connection: close\r\n\r\n{shown}", body.len())
        .into_bytes()
}
