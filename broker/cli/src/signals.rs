//! Being asked to stop: Ctrl-C, and SIGTERM where there is one.

use tokio::sync::watch;

/// Knows whether this process was asked to stop.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens from now on. A second request ends the process at once, with the exit code of an interrupted program.
    pub(crate) fn listen() -> std::io::Result<Stop> {
        let (asked, receiver) = watch::channel(false);
        let mut requests = Requests::new()?;
        tokio::spawn(async move {
            requests.next().await;
            // Nobody has to be listening: the work may have ended meanwhile.
            let _ = asked.send(true);
            requests.next().await;
            std::process::exit(130);
        });
        Ok(Stop(receiver))
    }

    /// Resolves once the process was asked to stop.
    pub(crate) async fn asked(&mut self) {
        if self.0.wait_for(|asked| *asked).await.is_err() {
            // The listening task only ends with the process.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(unix)]
struct Requests {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Requests {
    fn new() -> std::io::Result<Requests> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Requests {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Requests;

#[cfg(not(unix))]
impl Requests {
    #[expect(clippy::unnecessary_wraps, reason = "the unix side can fail")]
    fn new() -> std::io::Result<Requests> {
        Ok(Requests)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
