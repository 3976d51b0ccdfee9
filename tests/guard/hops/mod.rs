//! Nested use of a guard from another thread or task: every way in which the crate moves work there, a [`Hop`], with
//! every call that acquires a permit or joins a run, a [`Call`].

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod after_release;
mod inside;
mod without_caller;

use std::future::Future;
use std::iter::once_with;
use std::pin::Pin;
use std::time::Duration;

use futures::future::join;
use futures::{StreamExt, stream};
use onelane::offload::{from_thread, iter_from_stream, stream_blocking};
use onelane::{BlockingPool, EndpointGuard, KeyedGuard, SingleFlight, run_blocking, run_cpu};
use support::leak;
use support::runtimes::multi_thread;
use support::waiting::until;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout;

/// The time limit of one case. The limit is short, because these tests look for hangs.
const MOMENT: Duration = Duration::from_secs(5);
const KEY: u32 = 1;

type Outcome = Result<(), String>;
type BoxedWork = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// The guards and flights of one case, and a latch that its work waits for after the hop.
#[derive(Clone, Copy)]
struct World {
    guard: &'static EndpointGuard,
    keyed: &'static KeyedGuard<u32>,
    flight: &'static SingleFlight<u32, (), String>,
    /// Moves work to a driver task.
    driven: &'static SingleFlight<u32, Outcome, String>,
    pool: &'static BlockingPool,
    latch: &'static watch::Sender<bool>,
}

/// A call that acquires a permit, or joins a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Acquire,
    AcquireBlocking,
    Run,
    RunToCompletion,
    KeyedAcquire,
    KeyedAcquireBlocking,
    KeyedAcquireAll,
    KeyedRun,
    KeyedRunToCompletion,
    Flight,
}

/// A way in which the crate moves work to another thread or task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    RunBlocking,
    RunCpu,
    StartedTask,
    TwoPools,
    /// A nested task of the same pool, which runs on the thread of the outer task.
    SamePool,
    BlockingStream,
    BlockingIterator,
    PortalCall,
    PortalTask,
    PortalOfAnotherRuntime,
    /// The work of a run of another flight, polled by the caller that leads the run.
    LedRun,
    /// The work of a run of another flight, polled by a driver task.
    DrivenRun,
    /// A task of a pool that the work of a driven run starts.
    TaskOfDrivenRun,
}

impl World {
    fn new() -> Self {
        Self {
            guard: leak(EndpointGuard::new("hop")),
            keyed: leak(KeyedGuard::new("hop by key")),
            flight: leak(SingleFlight::new("hop in flight")),
            driven: leak(SingleFlight::new("driven")),
            pool: leak(BlockingPool::new("hops")),
            latch: leak(watch::Sender::new(true)),
        }
    }

    async fn passed(self) {
        self.latch.subscribe().wait_for(|is_open| *is_open).await.expect("the latch is leaked");
    }

    fn assert_free(self) {
        assert_eq!((self.guard.stats().held, self.guard.stats().waiting), (0, 0));
        assert!(self.guard.try_acquire().is_ok());
        assert!(self.keyed.is_empty());
        assert!(self.flight.is_empty());
    }
}

impl Call {
    const ALL: [Self; 10] = [
        Self::Acquire,
        Self::AcquireBlocking,
        Self::Run,
        Self::RunToCompletion,
        Self::KeyedAcquire,
        Self::KeyedAcquireBlocking,
        Self::KeyedAcquireAll,
        Self::KeyedRun,
        Self::KeyedRunToCompletion,
        Self::Flight,
    ];

    /// Makes the call in async code.
    async fn make(self, world: World) -> Outcome {
        world.passed().await;
        let World { guard, keyed, flight, .. } = world;
        let acquired = match self {
            Self::Acquire => guard.acquire().await.map(drop),
            Self::Run => guard.run(async {}).await,
            Self::RunToCompletion => guard.run_to_completion(async {}).await,
            Self::KeyedAcquire => keyed.acquire(KEY).await.map(drop),
            Self::KeyedAcquireAll => keyed.acquire_all([0, KEY, 2]).await.map(drop),
            Self::KeyedRun => keyed.run(KEY, async {}).await,
            Self::KeyedRunToCompletion => keyed.run_to_completion(KEY, async {}).await,
            Self::Flight => return flight.run(KEY, || async { Ok(()) }).await.map_err(|error| kind(error.kind())),
            // These calls are refused in async code.
            Self::AcquireBlocking | Self::KeyedAcquireBlocking => {
                return run_blocking(move || self.make_blocking(world)).await.expect("the task runs");
            }
        };
        acquired.map_err(|error| kind(error.kind()))
    }

    /// Makes the call on a thread that may block.
    fn make_blocking(self, world: World) -> Outcome {
        futures::executor::block_on(world.passed());
        let acquired = match self {
            Self::AcquireBlocking => world.guard.acquire_blocking().map(drop),
            Self::KeyedAcquireBlocking => world.keyed.acquire_blocking(KEY).map(drop),
            _ => return from_thread::block_on(self.make(world)).expect("the thread may block"),
        };
        acquired.map_err(|error| kind(error.kind()))
    }
}

impl Hop {
    const ALL: [Self; 13] = [
        Self::RunBlocking,
        Self::RunCpu,
        Self::StartedTask,
        Self::TwoPools,
        Self::SamePool,
        Self::BlockingStream,
        Self::BlockingIterator,
        Self::PortalCall,
        Self::PortalTask,
        Self::PortalOfAnotherRuntime,
        Self::LedRun,
        Self::DrivenRun,
        Self::TaskOfDrivenRun,
    ];

    /// Makes the call after the hop.
    fn make(self, call: Call, world: World) -> BoxedWork {
        let blocking = move || call.make_blocking(world);
        let portal = || from_thread::Portal::current().unwrap();
        match self {
            Self::RunBlocking => Box::pin(async move { run_blocking(blocking).await.unwrap() }),
            Self::RunCpu => Box::pin(async move { run_cpu(blocking).await.unwrap() }),
            Self::StartedTask => Box::pin(async move {
                let task = world.pool.task(move |_| blocking()).start().unwrap();
                task.await.unwrap()
            }),
            Self::TwoPools => Box::pin(async move {
                let nested = move || from_thread::block_on(run_cpu(blocking)).unwrap().unwrap();
                run_blocking(nested).await.unwrap()
            }),
            Self::SamePool => Box::pin(async move {
                let nested = move || from_thread::block_on(run_blocking(blocking)).unwrap().unwrap();
                run_blocking(nested).await.unwrap()
            }),
            Self::BlockingStream => Box::pin(async move {
                let mut items = stream_blocking(once_with(blocking));
                items.next().await.unwrap().unwrap()
            }),
            Self::BlockingIterator => Box::pin(async move {
                let mut items = iter_from_stream(stream::once(call.make(world)));
                run_blocking(move || items.next()).await.unwrap().unwrap()
            }),
            Self::PortalCall => Box::pin(async move {
                let call = move || portal().call(call.make(world)).unwrap();
                run_blocking(call).await.unwrap()
            }),
            Self::PortalTask => Box::pin(async move {
                let task = portal().spawn(call.make(world)).unwrap();
                run_blocking(move || task.wait()).await.unwrap().unwrap()
            }),
            Self::PortalOfAnotherRuntime => Box::pin(async move {
                let portal = from_thread::Portal::start().unwrap();
                run_blocking(move || portal.call(call.make(world))).await.unwrap().unwrap()
            }),
            Self::LedRun => Box::pin(async move {
                let lead = world.driven.run(KEY, move || async move { Ok(call.make(world).await) });
                lead.await.unwrap()
            }),
            Self::DrivenRun => drive(world, Box::pin(call.make(world))),
            Self::TaskOfDrivenRun => drive(world, Self::RunBlocking.make(call, world)),
        }
    }
}

/// Runs `work` in a run with two callers, once the run has a driver task.
fn drive(world: World, work: BoxedWork) -> BoxedWork {
    let lead: BoxedWork = Box::pin(async move {
        let lead = world.driven.run(KEY, || async move {
            until("the run has two callers", || world.driven.stats().shared > 0).await;
            yield_now().await;
            Ok(work.await)
        });
        lead.await.unwrap()
    });
    let follow: BoxedWork = Box::pin(async move {
        let follow = world.driven.run(KEY, || async { unreachable!("the run exists") });
        follow.await.unwrap()
    });
    Box::pin(async move {
        let (led, followed) = join(lead, follow).await;
        assert_eq!(led, followed);
        led
    })
}

fn kind(kind: impl std::fmt::Debug) -> String {
    format!("{kind:?}")
}

/// Runs a case for every hop and call on a runtime of its own, and reports all cases that fail. The runtime is shut
/// down without waiting, because a hang blocks its threads.
fn for_all<F>(hops: &[Hop], case: impl Fn(World, Hop, Call) -> F)
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut failed = Vec::new();
    for hop in hops {
        for call in Call::ALL {
            let runtime = multi_thread(2);
            let world = World::new();
            let outcome = runtime.block_on(async {
                timeout(MOMENT, tokio::spawn(case(world, *hop, call))).await.map(|joined| joined.unwrap())
            });
            match outcome {
                Ok(Ok(())) => world.assert_free(),
                Ok(Err(why)) => failed.push(format!("{hop:?}, {call:?}: {why}")),
                Err(_) => failed.push(format!("{hop:?}, {call:?} hangs")),
            }
            runtime.shutdown_background();
        }
    }
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}
