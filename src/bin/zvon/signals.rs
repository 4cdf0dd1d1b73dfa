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
        let mut asked = Asked::listen();
        tokio::spawn(async move {
            loop {
                asked.next().await;
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

/// What may ask, heard from now on without a gap: of two signals that come at once both count.
#[cfg(unix)]
struct Asked {
    interrupts: Option<tokio::signal::unix::Signal>,
    terminations: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Asked {
    /// Where the system cannot report one, it ends the process as it does any.
    fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self { interrupts: signal(SignalKind::interrupt()).ok(), terminations: signal(SignalKind::terminate()).ok() }
    }

    async fn next(&mut self) {
        tokio::select! {
            () = received(&mut self.interrupts) => {}
            () = received(&mut self.terminations) => {}
        }
    }
}

#[cfg(unix)]
async fn received(signals: &mut Option<tokio::signal::unix::Signal>) {
    let received = match signals {
        Some(signals) => signals.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending().await
    }
}

#[cfg(not(unix))]
struct Asked;

#[cfg(not(unix))]
impl Asked {
    fn listen() -> Self {
        Self
    }

    async fn next(&mut self) {
        interrupted().await;
    }
}
