//! Callers that are dropped at each point where they can wait, for each way to use a guard.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::test::{TestRequest, init_service, try_call_service};
use actix_web::{App, HttpResponse, web};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use onelane::web::actix::GuardMiddleware;
use onelane::web::axum::GuardLayer;
use onelane::{EndpointGuard, KeyedGuard};
use support::http::eventually;
use support::leak;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_test::task;
use tower::ServiceExt;

use super::in_memory::{InMemory, Store};
use super::{MS, PATIENCE, domain, guard};

/// Longer than each test, so that no lock is released by the end of its lease.
const LEASE: Duration = Duration::from_secs(60);

/// The guards of a process.
#[derive(Clone, Copy)]
struct Process {
    guard: &'static Arc<EndpointGuard>,
    keyed: &'static Arc<KeyedGuard<u32>>,
}

async fn process(store: &Arc<Store>) -> Process {
    let locks = domain(|domain| domain);
    locks.connect(InMemory::new(store, LEASE)).await.unwrap();
    let keyed = KeyedGuard::<u32>::builder("user").distributed(locks).build();
    Process { guard: leak(Arc::new(guard(locks))), keyed: leak(Arc::new(keyed)) }
}

type Way = (&'static str, fn(Process) -> LocalBoxFuture<'static, ()>);

/// The ways to use a guard. Each of them ends without a permit.
const WAYS: &[Way] = &[
    ("acquire", |it| it.guard.acquire().map(drop).boxed_local()),
    ("acquire_owned", |it| Arc::clone(it.guard).acquire_owned().map(drop).boxed_local()),
    ("release", |it| {
        async {
            if let Ok(permit) = it.guard.acquire().await {
                let _ = permit.release().await;
            }
        }
        .boxed_local()
    }),
    ("run", |it| it.guard.run(work()).map(drop).boxed_local()),
    ("run_to_completion", |it| it.guard.run_to_completion(work()).map(drop).boxed_local()),
    ("key: acquire", |it| it.keyed.acquire(1).map(drop).boxed_local()),
    ("key: acquire_owned", |it| Arc::clone(it.keyed).acquire_owned(1).map(drop).boxed_local()),
    ("key: release", |it| {
        async {
            if let Ok(permit) = it.keyed.acquire(1).await {
                let _ = permit.release().await;
            }
        }
        .boxed_local()
    }),
    ("key: run", |it| it.keyed.run(1, work()).map(drop).boxed_local()),
    ("key: acquire_all", |it| it.keyed.acquire_all([3, 1, 2]).map(drop).boxed_local()),
    ("axum", |it| {
        let app = Router::new().route("/", get(work)).route_layer(GuardLayer::new(Arc::clone(it.guard)));
        app.oneshot(Request::new(Body::empty())).map(drop).boxed_local()
    }),
    ("actix-web", |it| {
        async move {
            let guard = GuardMiddleware::new(Arc::clone(it.guard));
            let route = web::get().to(|| work().map(|()| HttpResponse::Ok()));
            let app = init_service(App::new().service(web::resource("/").wrap(guard).route(route))).await;
            let _ = try_call_service(&app, TestRequest::get().uri("/").to_request()).await;
        }
        .boxed_local()
    }),
];

async fn work() {
    yield_now().await;
    yield_now().await;
}

/// What the store does while the caller exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behavior {
    Answers,
    AnswersLate,
    Hangs,
    Fails,
    LosesAnswers,
    Panics,
}

impl Behavior {
    const ALL: [Self; 6] =
        [Self::Answers, Self::AnswersLate, Self::Hangs, Self::Fails, Self::LosesAnswers, Self::Panics];

    async fn begin(self, store: &Store) {
        match self {
            Self::Answers => {}
            Self::AnswersLate => store.pending.store(2, Ordering::Relaxed),
            Self::Hangs => store.hang().await,
            Self::Fails => store.fail(true),
            Self::LosesAnswers => store.lose_answers(true),
            Self::Panics => store.panic(true),
        }
    }

    fn end(self, store: &Store) {
        match self {
            Self::Answers => {}
            Self::AnswersLate => store.pending.store(0, Ordering::Relaxed),
            Self::Hangs => store.answer_again(),
            Self::Fails => store.fail(false),
            Self::LosesAnswers => store.lose_answers(false),
            Self::Panics => store.panic(false),
        }
    }
}

/// Drops a caller after some polls. Returns `true` if the caller had completed before.
async fn drop_caller(
    (name, start): Way,
    (here, there): (Process, Process),
    store: &Store,
    behavior: Behavior,
    is_held_elsewhere: bool,
    polls: usize,
) -> bool {
    let what = format!("{name}, {behavior:?}, held elsewhere: {is_held_elsewhere}, dropped after {polls} polls");
    let elsewhere = if is_held_elsewhere {
        Some((there.guard.acquire().await.unwrap(), there.keyed.acquire(1).await.unwrap()))
    } else {
        None
    };
    behavior.begin(store).await;
    let mut caller = task::spawn(start(here));
    let mut is_complete = false;
    for poll in 0..polls {
        is_complete = caller.poll().is_ready();
        if is_complete {
            break;
        }
        // Later polls may have to wait for a timer.
        if poll > 5 {
            sleep(MS).await;
        }
    }
    drop(caller);
    behavior.end(store);
    drop(elsewhere);
    eventually(&what, || store.held() == 0).await;
    for process in [there, here] {
        let permits =
            async { (process.guard.acquire().await.unwrap(), process.keyed.acquire_all(1..=3).await.unwrap()) };
        drop(timeout(PATIENCE, permits).await.unwrap_or_else(|_| panic!("{what}: the lock is not available")));
    }
    let stats = here.guard.stats();
    assert_eq!((stats.held, stats.waiting, here.keyed.is_empty()), (0, 0, true), "{what}");
    eventually(&what, || store.held() == 0).await;
    is_complete
}

#[actix_web::test]
async fn caller_that_is_dropped_at_any_point_leaves_nothing_behind() {
    let store = Arc::<Store>::default();
    let processes = (process(&store).await, process(&store).await);
    for way in WAYS {
        for behavior in Behavior::ALL {
            let mut is_complete = false;
            for polls in 0.. {
                is_complete = drop_caller(*way, processes, &store, behavior, false, polls).await;
                // A store that hangs delays its callers for longer than the test lasts.
                if is_complete || polls == if behavior == Behavior::Hangs { 6 } else { 40 } {
                    break;
                }
            }
            assert_eq!(is_complete, behavior != Behavior::Hangs, "{}, {behavior:?}", way.0);
            for polls in [0, 1, 2, 4, 7] {
                drop_caller(*way, processes, &store, behavior, true, polls).await;
            }
        }
    }
}

/// A holder leaves while its lease is being renewed.
#[tokio::test]
async fn lock_is_released_although_its_lease_is_being_renewed() {
    let leaving = (0..6).map(|polls| async move {
        let store = Arc::<Store>::default();
        let locks = domain(|domain| domain);
        locks.connect(InMemory::new(&store, Duration::from_secs(3))).await.unwrap();
        let guard = guard(locks);
        let permit = guard.acquire().await.unwrap();
        store.hang().await;
        eventually("the lease is being renewed", || store.renewals.load(Ordering::Relaxed) == 1).await;
        let mut release = task::spawn(permit.release());
        for _ in 0..polls {
            assert!(release.poll().is_pending());
        }
        drop(release);
        assert_eq!(store.held(), 1);
        store.answer_again();
        eventually("the lock is released", || store.held() == 0).await;
        // Neither the renewal nor a second release has an effect on the next holder.
        let permit = timeout(PATIENCE, guard.acquire()).await.unwrap().unwrap();
        sleep(MS * 50).await;
        assert!(store.held() == 1 && !permit.lease().unwrap().is_lost());
    });
    join_all(leaving).await;
}

/// The store fails when the lock is released, so it keeps the lock until the end of the lease.
#[tokio::test]
async fn lock_that_cannot_be_released_ends_with_its_lease() {
    for loses_answers in [false, true] {
        let store = Arc::<Store>::default();
        let locks = domain(|domain| domain);
        locks.connect(InMemory::new(&store, MS * 500)).await.unwrap();
        let guard = guard(locks);
        let permit = guard.acquire().await.unwrap();
        if loses_answers {
            store.lose_answers(true);
        } else {
            store.fail(true);
        }
        permit.release().await.unwrap_err();
        assert_eq!(store.held(), usize::from(!loses_answers));
        store.lose_answers(false);
        store.fail(false);
        drop(timeout(PATIENCE, guard.acquire()).await.unwrap().unwrap());
        assert_eq!(store.held(), 0);
    }
}
