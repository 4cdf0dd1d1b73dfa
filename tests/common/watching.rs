//! A watch in the background of a test, which waits for what it tells.

use std::future::pending;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zvon::{Remote, Replica, Result, SyncReport, WatchCause, WatchEvent, WatchOptions};

/// Far more than anything takes: a test that reaches it has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Options under which the remote is not looked at by itself within a test.
pub fn never_by_itself() -> WatchOptions {
    let mut options = WatchOptions::default();
    options.interval = Duration::from_secs(24 * 3600);
    options
}

/// A watch at work in the background.
pub struct Watching {
    pub events: mpsc::UnboundedReceiver<WatchEvent>,
    stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<Result<()>>,
}

impl Watching {
    pub fn start(replica: &Replica, remote: &Remote) -> Self {
        Self::with(replica, remote, WatchOptions::default())
    }

    pub fn with(replica: &Replica, remote: &Remote, options: WatchOptions) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let (replica, remote) = (replica.clone(), remote.clone());
        let task = tokio::spawn(async move {
            let stop = async {
                if stopped.await.is_err() {
                    pending().await
                }
            };
            replica.watch(&remote, &options, stop, |event| drop(sender.send(event))).await
        });
        Self { events, stop: Some(stop), task }
    }

    /// The next event, within any time that the clock (virtual or not) takes.
    pub async fn event(&mut self) -> WatchEvent {
        timeout(Duration::from_secs(120), self.events.recv()).await.expect("an event").expect("a watch that goes on")
    }

    /// The next sync, whatever is told before it.
    pub async fn synced(&mut self) -> (WatchCause, SyncReport) {
        loop {
            if let WatchEvent::Synced { cause, report } = self.event().await {
                return (cause, report);
            }
        }
    }

    /// The next sync for a cause, which is to come before any test's patience ends.
    pub async fn synced_for(&mut self, wanted: WatchCause) -> SyncReport {
        let search = async {
            loop {
                let (cause, report) = self.synced().await;
                if cause == wanted {
                    return report;
                }
            }
        };
        timeout(DEADLINE, search).await.unwrap_or_else(|_| panic!("no sync for {wanted:?}"))
    }

    /// Stops it, and returns what was told since.
    pub async fn stop(mut self) -> Vec<WatchEvent> {
        self.stop.take().unwrap().send(()).unwrap();
        timeout(DEADLINE, self.task).await.expect("the watch ends").unwrap().unwrap();
        let mut rest = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            rest.push(event);
        }
        rest
    }
}
