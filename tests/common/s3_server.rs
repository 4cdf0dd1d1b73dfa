//! A server that speaks S3, run inside the test's process on a free port of this machine: real HTTP, real signatures. Fit for
//! tests with and without a runtime of their own, as it has one on a thread of its own.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;

use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder as ConnectionBuilder;
use s3s::S3Result;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// The server, its data, and the keys it knows. It ends, and its data go, when this is dropped.
pub struct S3Server {
    address: SocketAddr,
    data: TempDir,
    gate: Gate,
    thread: Option<JoinHandle<()>>,
}

/// Where the server can be told to end.
#[derive(Clone)]
struct Gate {
    puts_left: Arc<AtomicI64>,
    stop: Arc<Notify>,
}

impl S3Server {
    /// The one key that the server knows, and its secret.
    pub const KEY_ID: &str = "AKIDZVONTEST";
    pub const SECRET: &str = "hunter2-is-the-secret-of-this-test";

    /// Starts a server that holds empty buckets of these names. It answers once this returns.
    pub fn start(buckets: &[&str]) -> io::Result<Self> {
        let data = tempfile::tempdir()?;
        for bucket in buckets {
            std::fs::create_dir(data.path().join(bucket))?;
        }
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { address: any_port, data, gate: Gate::open(), thread: None };
        server.run()?;
        Ok(server)
    }

    fn run(&mut self) -> io::Result<()> {
        let service = service(self.data.path().to_owned(), self.gate.clone())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Bound here and now: connections wait in its queue until the thread takes them.
        let listener = std::net::TcpListener::bind(self.address)?;
        listener.set_nonblocking(true)?;
        self.address = listener.local_addr()?;
        let stop = Arc::clone(&self.gate.stop);
        self.thread = Some(std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("the runtime has its I/O enabled");
                tokio::select! {
                    () = serve(listener, service) => {}
                    () = stop.notified() => {}
                }
            });
        }));
        Ok(())
    }

    /// Lets the server die, with all its connections, when the upload after so many more arrives.
    pub fn dies_after_uploads(&self, uploads: i64) {
        self.gate.puts_left.store(uploads, Ordering::SeqCst);
    }

    /// Ends the server, with all its connections; [`restart`](Self::restart) starts it again.
    pub fn stop(&mut self) {
        self.gate.stop.notify_one();
        // A panic there has been printed.
        let _ = self.thread.take().map(JoinHandle::join);
    }

    /// Waits for a server that dies and starts it again at the same address.
    pub fn restart(&mut self) -> io::Result<()> {
        let _ = self.thread.take().map(JoinHandle::join);
        self.gate = Gate::open();
        self.run()
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of a path in a bucket, in the form that names the server.
    pub fn url(&self, bucket_and_path: &str) -> String {
        format!("s3://{}/{bucket_and_path}", self.address)
    }

    /// The file that holds an object, to look at or tamper with behind the server's back.
    pub fn file(&self, bucket_and_key: &str) -> PathBuf {
        self.data.path().join(bucket_and_key)
    }

    /// The settings with which a client is let in.
    pub fn settings() -> [(String, String); 2] {
        [("AWS_ACCESS_KEY_ID", Self::KEY_ID), ("AWS_SECRET_ACCESS_KEY", Self::SECRET)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Gate {
    fn open() -> Self {
        Self { puts_left: Arc::new(AtomicI64::new(i64::MAX)), stop: Arc::new(Notify::new()) }
    }
}

#[async_trait]
impl S3Access for Gate {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let is_upload = context.s3_op().name() == "PutObject";
        if is_upload && self.puts_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.stop.notify_one();
            std::future::pending::<()>().await;
        }
        if context.credentials().is_some() {
            Ok(())
        } else {
            Err(s3s::s3_error!(AccessDenied, "Signature is required"))
        }
    }
}

fn service(root: PathBuf, gate: Gate) -> io::Result<S3Service> {
    let files = s3s_fs::FileSystem::new(root).map_err(|e| io::Error::other(format!("{e:?}")))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(S3Server::KEY_ID, S3Server::SECRET));
    builder.set_access(gate);
    Ok(builder.build())
}

async fn serve(listener: TcpListener, service: S3Service) {
    while let Ok((socket, _)) = listener.accept().await {
        // Without this every small answer waits 40 ms for an acknowledgement.
        let _ = socket.set_nodelay(true);
        let service = service.clone();
        tokio::spawn(async move {
            // A client that hangs up is no concern of the server's.
            let builder = ConnectionBuilder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
