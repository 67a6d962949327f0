//! Staying connected: one task keeps a client's link, replaces it when it is lost, and takes it down at the end.

use std::sync::Arc;
use std::time::Duration;

use pointsman_protocol::session::{Hello, Notice};
use pointsman_protocol::{ErrorBody, ErrorCode};
use tokio::sync::{Notify, watch};

use crate::Error;
use crate::link::{ControlStream, Leaving, Link};
use crate::notices::NoticeBoard;
use crate::transport::Target;

/// How long streams may take to finish what is in flight before a connection is closed on purpose.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long the first attempt to connect anew may take, up to the connect timeout; doubled with every failure. A broker
/// that starts meanwhile hears the next attempt sooner than QUIC repeats the one before.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);
/// The first wait before connecting anew; doubled with every failure.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest wait before connecting anew.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Where a client's connection stands.
#[derive(Clone)]
pub(crate) enum State {
    /// There is one.
    Up(Arc<Link>),
    /// There will be one.
    Down,
    /// There will be none.
    Ended(Error),
}

/// How streams and requests come by a link.
#[derive(Clone)]
pub(crate) struct Links {
    state: watch::Receiver<State>,
}

impl Links {
    pub(crate) fn new(state: watch::Receiver<State>) -> Links {
        Links { state }
    }

    /// Waits for the current link.
    pub(crate) async fn current(&self) -> Result<Arc<Link>, Error> {
        self.after(0).await
    }

    /// Waits for a link that came after the one of that generation.
    pub(crate) async fn after(&self, generation: u64) -> Result<Arc<Link>, Error> {
        let mut state = self.state.clone();
        let found = state
            .wait_for(|state| match state {
                State::Up(link) => link.generation > generation,
                State::Down => false,
                State::Ended(_) => true,
            })
            .await;
        match found.as_deref() {
            Ok(State::Up(link)) => Ok(link.clone()),
            Ok(State::Ended(error)) => Err(error.clone()),
            Ok(State::Down) | Err(_) => Err(Error::closed("client")),
        }
    }

    /// Waits until there will be no more links.
    pub(crate) async fn ended(&self) {
        let ended = |state: &State| matches!(state, State::Ended(_));
        let _ = self.state.clone().wait_for(ended).await;
    }
}

/// The task that keeps the link.
pub(crate) struct Supervisor {
    pub(crate) target: Target,
    pub(crate) hello: Hello,
    pub(crate) reconnect: bool,
    pub(crate) state: watch::Sender<State>,
    pub(crate) closing: watch::Receiver<bool>,
    pub(crate) notices: Arc<NoticeBoard>,
}

impl Supervisor {
    pub(crate) async fn run(self, mut link: Arc<Link>, mut stream: ControlStream) {
        let end = loop {
            let error = self.attend(&link, &mut stream).await;
            if *self.closing.borrow() || self.closing.has_changed().is_err() {
                link.close().await;
                break Error::closed("client");
            }
            link.connection.close(0u32.into(), b"");
            if !self.reconnect || is_final(&error) {
                break error;
            }
            tracing::info!(%error, "connecting anew");
            self.state.send_replace(State::Down);
            let next = tokio::select! {
                next = self.connect_anew(link.generation + 1) => next,
                () = self.closing() => Err(Error::closed("client")),
            };
            match next {
                Ok((new_link, new_stream)) => (link, stream) = (Arc::new(new_link), new_stream),
                Err(error) => break error,
            }
            tracing::info!(generation = link.generation, "connected anew");
            self.state.send_replace(State::Up(link.clone()));
        };
        self.state.send_replace(State::Ended(end));
        self.notices.close();
    }

    /// Drives a link until it is lost or has been left, and returns why.
    async fn attend(&self, link: &Link, stream: &mut ControlStream) -> Error {
        let go_away = Notify::new();
        let notice = |notice: Notice| {
            if matches!(notice, Notice::GoAway { .. }) {
                go_away.notify_one();
            }
            self.notices.post(&notice);
        };
        tokio::select! {
            error = link.drive(stream, notice) => error,
            error = self.depart(link, &go_away) => error,
        }
    }

    /// Waits until there is a reason to leave the link, then until everybody has left it.
    async fn depart(&self, link: &Link, go_away: &Notify) -> Error {
        let error = tokio::select! {
            () = self.closing() => {
                link.leave(Leaving::Closed);
                Error::closed("client")
            }
            () = go_away.notified() => {
                // No new work on this link; publishers stop writing and wait for their confirms.
                self.state.send_replace(State::Down);
                link.leave(Leaving::Asked);
                Error::disconnected("the broker asked to go away")
            }
        };
        if tokio::time::timeout(DRAIN_MAX, link.deserted()).await.is_err() {
            tracing::warn!("streams did not finish within {DRAIN_MAX:?} and are cut off");
        }
        error
    }

    async fn connect_anew(&self, generation: u64) -> Result<(Link, ControlStream), Error> {
        let mut backoff = Backoff::default();
        let mut target = self.target.clone();
        target.timeout = ATTEMPT_MIN.min(self.target.timeout);
        loop {
            backoff.wait().await;
            match Link::establish(&target, &self.hello, generation).await {
                Err(error) if !is_final(&error) => tracing::debug!(%error, "still not connected"),
                established => return established,
            }
            target.timeout = (target.timeout * 2).min(self.target.timeout);
        }
    }

    async fn closing(&self) {
        let _ = self.closing.clone().wait_for(|closing| *closing).await;
    }
}

/// Whether a new connection would end as this one did: the broker knows who we are and does not want us.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Refused(ErrorBody { code, .. }) => matches!(
            code,
            ErrorCode::AuthenticationFailed
                | ErrorCode::AccessRefused
                | ErrorCode::UnsupportedVersion
                | ErrorCode::NotFound
                | ErrorCode::MalformedFrame
                | ErrorCode::OversizedFrame
                | ErrorCode::UnexpectedFrame
        ),
        Error::Protocol(_) => true,
        _ => false,
    }
}

/// Waits that double up to a cap. Each is cut by a random part of up to a half, so that many clients of a broker
/// that comes back do not come at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { next: BACKOFF_MIN }
    }
}

impl Backoff {
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.delay(getrandom::u32().unwrap_or_default())).await;
    }

    fn delay(&mut self, random: u32) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(BACKOFF_MAX);
        full - full.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_vary_by_half() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.delay(0), BACKOFF_MIN);
        assert_eq!(backoff.delay(u32::MAX), BACKOFF_MIN, "half of twice the first");
        for _ in 0..20 {
            backoff.delay(0);
        }
        assert_eq!(backoff.delay(0), BACKOFF_MAX);
        assert_eq!(backoff.delay(u32::MAX), BACKOFF_MAX / 2);
    }

    #[test]
    fn a_refused_password_is_final_and_a_lost_connection_is_not() {
        let refused = |code| Error::Refused(ErrorBody::new(code, "no"));
        assert!(is_final(&refused(ErrorCode::AuthenticationFailed)));
        assert!(!is_final(&refused(ErrorCode::ShuttingDown)));
        assert!(!is_final(&Error::disconnected("cable")));
    }
}
