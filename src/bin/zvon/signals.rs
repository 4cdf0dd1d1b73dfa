//! What asks a command to end: Ctrl-C and, for one that goes on until then, SIGTERM. Ends nothing itself.

use tokio::sync::watch;

/// Ends at Ctrl-C; never, where the system cannot report it.
pub async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// Counts the requests to end.
#[derive(Clone)]
pub struct Requests(watch::Receiver<usize>);

impl Requests {
    /// Counts from now on, in place of the system's own way to end a process.
    pub fn count() -> Self {
        let (sender, receiver) = watch::channel(0);
        let mut terminations = terminations();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = interrupted() => {}
                    () = terminated(&mut terminations) => {}
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Self(receiver)
    }

    /// Ends when there have been so many requests.
    pub async fn at_least(mut self, wanted: usize) {
        if self.0.wait_for(|count| *count >= wanted).await.is_err() {
            // The runtime is gone, and everything with it.
            std::future::pending().await
        }
    }
}

#[cfg(unix)]
type Terminations = Option<tokio::signal::unix::Signal>;
#[cfg(not(unix))]
type Terminations = ();

/// Where the system cannot report it, it ends the process as it does any.
#[cfg(unix)]
fn terminations() -> Terminations {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok()
}

#[cfg(not(unix))]
fn terminations() -> Terminations {}

#[cfg(unix)]
async fn terminated(terminations: &mut Terminations) {
    let received = match terminations {
        Some(terminations) => terminations.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending().await
    }
}

#[cfg(not(unix))]
async fn terminated((): &mut Terminations) {
    std::future::pending().await
}
