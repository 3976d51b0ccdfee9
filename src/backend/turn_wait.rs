//! [`TurnWait`], a caller's wait for the turn among all processes.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::connected::{Connected, Contained};
use super::domain::{LockDomain, WhenUnavailable};
use super::error::BackendError;
use super::lock_backend::{Attempt, LockName, Released};
use super::trace;
use super::turn::{Parked, ProcessTurn, Turn};

/// How soon a caller checks again if no release is reported. The time doubles with each check.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(250);
/// How many releases in a row may be reported within `SOON` without a pause.
const EARLY_REPORTS: u32 = 4;
const SOON: Duration = Duration::from_micros(200);

/// How long a process that has had its turn leaves a free lock to other processes that wait.
const STEP_BACK: Duration = Duration::from_millis(10);

/// A caller's wait for the turn among all processes, while it has the turn in its own process.
///
/// If this value is dropped during an attempt, the attempt is completed without its caller, and the lock is released.
pub(crate) struct TurnWait {
    connected: Arc<Connected>,
    /// The mutex is never locked. It makes the type `Sync`, as the futures of other guards are.
    future: Mutex<TurnFuture>,
}

type TurnFuture = Pin<Box<dyn Future<Output = Result<Turn, TurnError>> + Send>>;

/// Why a caller did not get the turn.
#[derive(Debug)]
pub(crate) enum TurnError {
    NotConnected,
    /// Another process has the turn, and the caller does not wait.
    Busy,
    Unavailable(BackendError),
}

impl TurnWait {
    /// Begins to wait. With `waits`, the caller waits for other processes.
    pub(crate) fn new(domain: &LockDomain, lock: LockName, waits: bool) -> Result<Self, TurnError> {
        let connected = domain.connected().ok_or(TurnError::NotConnected)?;
        let future = take_turn(Arc::clone(&connected), lock, waits);
        Ok(Self { connected, future: Mutex::new(Box::pin(future)) })
    }

    /// Returns the turn. `None` means that the caller runs without a turn, because the store does not answer.
    pub(crate) fn poll(&mut self, domain: &LockDomain, cx: &mut Context<'_>) -> Poll<Result<Option<Turn>, TurnError>> {
        let entered = self.connected.keeper.handle().enter();
        let future = self.future.get_mut().unwrap_or_else(PoisonError::into_inner);
        let poll = future.as_mut().poll(cx);
        drop(entered);
        poll.map(|result| match result {
            Err(TurnError::Unavailable(error))
                if self.connected.options.when_unavailable == WhenUnavailable::FailLocal =>
            {
                trace::ran_locally(domain.name(), &error);
                Ok(None)
            }
            result => result.map(Some),
        })
    }
}

async fn take_turn(connected: Arc<Connected>, lock: LockName, waits: bool) -> Result<Turn, TurnError> {
    // The number of releases that this process leaves to other processes, because they have waited for longer.
    let mut left_to_others = match connected.unpark(&lock) {
        Some(Parked::Turn(turn)) if !turn.is_lost() => return Ok(Turn::new(turn)),
        Some(Parked::Turn(_lost)) => 0,
        Some(Parked::Release(released)) => {
            let mut waiting = ReleaseWait { connected: &connected, lock: &lock, released: Some(released) };
            waiting.result().await.map_or(0, |released| released.waiting)
        }
        Some(Parked::StepBack { waiting, .. }) => waiting,
        None => 0,
    };
    if left_to_others == 0 {
        if let Ok(turn) = attempt(&connected, &lock).await? {
            return Ok(turn);
        }
        if !waits {
            return Err(TurnError::Busy);
        }
    }
    let (mut pause, mut early_reports) = (FIRST_LOOK, 0);
    let (mut is_reported, mut last_expiry) = (true, None);
    loop {
        if connected.parked.is_closed() {
            return Err(TurnError::NotConnected);
        }
        let began = Instant::now();
        let mut released = Release::of(&connected, &lock)?;
        // Registered before the attempt, so that no release is missed in between.
        let is_released = released.is_reported()?;
        // If no release is reported by then, the other processes may have left.
        let mut look_at = began + STEP_BACK;
        if left_to_others == 0 || !is_reported {
            let expires_at = match attempt(&connected, &lock).await? {
                Ok(turn) => return Ok(turn),
                Err(_) if !waits => return Err(TurnError::Busy),
                Err(expires_at) => expires_at,
            };
            look_at = expires_at.map_or(began + pause, |expires_at| (began + pause).min(expires_at + FIRST_LOOK));
            // The lock has a different owner than at the last attempt, so the caller tries more often.
            let is_passed_on = last_expiry.is_some_and(|last| expires_at > Some(last + FIRST_LOOK));
            pause = if is_passed_on { (pause / 2).max(FIRST_LOOK) } else { (pause * 2).min(LAST_LOOK) };
            last_expiry = expires_at;
        } else {
            pause = FIRST_LOOK;
        }
        is_reported = is_released || released.is_reported_by(look_at).await?;
        if is_reported {
            left_to_others = if waits { left_to_others.saturating_sub(1) } else { 0 };
        }
        // A store that reports releases all the time must not keep a thread busy.
        early_reports = if began.elapsed() < SOON { early_reports + 1 } else { 0 };
        if early_reports > EARLY_REPORTS {
            // Other processes still see that this one waits.
            let mut waiting = Release::of(&connected, &lock)?;
            waiting.is_reported()?;
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A caller's wait for the report of a release by another process.
struct Release<'a>(Contained<'a, ()>);

impl<'a> Release<'a> {
    fn of(connected: &'a Connected, lock: &'a LockName) -> Result<Self, TurnError> {
        Contained::new(|| connected.backend.released(lock)).map(Self).map_err(TurnError::Unavailable)
    }

    /// Returns `true` if a release has already been reported.
    fn is_reported(&mut self) -> Result<bool, TurnError> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Waits for the report. Returns `false` if no release is reported by then.
    async fn is_reported_by(&mut self, at: Instant) -> Result<bool, TurnError> {
        let mut timer = pin!(sleep_until(at));
        poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| true)),
            Poll::Pending => timer.as_mut().poll(cx).map(|()| Ok(false)),
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TurnError>> {
        Pin::new(&mut self.0).poll(cx).map_err(TurnError::Unavailable)
    }
}

/// A caller's wait for the result of a release. If this caller leaves, the next caller waits in its place.
struct ReleaseWait<'a> {
    connected: &'a Arc<Connected>,
    lock: &'a LockName,
    /// `None` once the result is known.
    released: Option<oneshot::Receiver<Released>>,
}

impl ReleaseWait<'_> {
    async fn result(&mut self) -> Result<Released, oneshot::error::RecvError> {
        let result = match &mut self.released {
            Some(released) => released.await,
            None => Ok(Released::default()),
        };
        self.released = None;
        result
    }
}

impl Drop for ReleaseWait<'_> {
    fn drop(&mut self) {
        if let Some(released) = self.released.take() {
            self.connected.park_release_again(self.lock.clone(), released);
        }
    }
}

/// Tries to take the lock once. If another owner has the lock, returns when that owner's lease expires.
async fn attempt(connected: &Arc<Connected>, lock: &LockName) -> Result<Result<Turn, Option<Instant>>, TurnError> {
    match connected.try_acquire(lock.clone()).await {
        Ok((Attempt::Acquired { .. }, id, began)) => {
            let turn = ProcessTurn::new(Arc::clone(connected), id, began);
            // The answer may have come after the end of the lease.
            Ok(if turn.is_lost() { Err(None) } else { Ok(Turn::new(turn)) })
        }
        Ok((Attempt::Held { expires_in }, ..)) => Ok(Err(expires_in.and_then(|time| Instant::now().checked_add(time)))),
        Err(error) => Err(TurnError::Unavailable(error)),
    }
}
