//! A server that speaks S3, run inside the test's process on a free port of this machine: real HTTP, real signatures. Fit for
//! tests with and without a runtime of their own, as it has one on a thread of its own.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder as ConnectionBuilder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The server, its data, and the keys it knows. It ends, and its data go, when this is dropped.
pub struct S3Server {
    address: SocketAddr,
    data: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
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
        let service = service(data.path().to_owned())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Bound here and now: connections wait in its queue until the thread takes them.
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("the runtime has its I/O enabled");
                tokio::select! {
                    () = serve(listener, service) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, data, stop: Some(stop), thread: Some(thread) })
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
        // A thread that has already ended has nothing left to be told, and a panic there has been printed.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn service(root: PathBuf) -> io::Result<S3Service> {
    let files = s3s_fs::FileSystem::new(root).map_err(|e| io::Error::other(format!("{e:?}")))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(S3Server::KEY_ID, S3Server::SECRET));
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
