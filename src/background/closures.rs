//! [`service_fn`], [`blocking_fn`] and [`lifespan`], which create services from closures.

use std::future::Future;
use std::sync::Arc;

use super::blocking::BlockingService;
use super::context::{BlockingContext, RunContext, StartContext, StopContext};
use super::service::{BackgroundService, ServiceResult};
use super::spec::Service;

/// Creates a service whose [`run`](BackgroundService::run) is an async closure, called once per generation.
///
/// # Examples
///
/// ```
/// use onelane::background::{ServiceHost, service_fn};
///
/// let beat = service_fn("beat", |cx| async move {
///     while cx.sleep(std::time::Duration::from_secs(1)).await {}
///     Ok(())
/// });
/// let host = ServiceHost::builder().service(beat).build();
/// assert!(host.is_ok());
/// ```
///
/// Each call clones the values that the closure owns:
///
/// ```
/// use onelane::background::service_fn;
/// use std::sync::Arc;
///
/// struct Pool;
///
/// let pool = Arc::new(Pool);
/// let clean = service_fn("clean", move |cx| {
///     let pool = Arc::clone(&pool);
///     async move {
///         let _use = &*pool;
///         cx.stopping().await;
///         Ok(())
///     }
/// });
/// assert_eq!(clean.name(), "clean");
/// ```
pub fn service_fn<F, W>(name: &str, run: F) -> Service
where
    F: Fn(RunContext) -> W + Send + Sync + 'static,
    W: Future<Output = ServiceResult> + Send,
{
    struct AsyncFn<F> {
        name: Arc<str>,
        run: F,
    }

    impl<F, W> BackgroundService for AsyncFn<F>
    where
        F: Fn(RunContext) -> W + Send + Sync + 'static,
        W: Future<Output = ServiceResult> + Send,
    {
        fn name(&self) -> &str {
            &self.name
        }

        fn run(&self, cx: RunContext) -> impl Future<Output = ServiceResult> + Send {
            (self.run)(cx)
        }
    }

    let name: Arc<str> = name.into();
    Service::with_name(Arc::clone(&name), AsyncFn { name, run })
}

/// Creates a [`BlockingService`] whose `run` is a closure, called on a dedicated thread.
///
/// # Examples
///
/// ```
/// use onelane::background::{ServiceHost, blocking_fn};
/// use std::time::Duration;
///
/// let poll = blocking_fn("poll", |cx| {
///     while !cx.wait_stopping(Duration::from_millis(100)) {}
///     Ok(())
/// });
/// let host = ServiceHost::builder().service(poll).build();
/// assert!(host.is_ok());
/// ```
pub fn blocking_fn<F>(name: &str, run: F) -> Service
where
    F: Fn(BlockingContext) -> ServiceResult + Send + Sync + 'static,
{
    struct BlockingFn<F> {
        name: Arc<str>,
        run: F,
    }

    impl<F: Fn(BlockingContext) -> ServiceResult + Send + Sync + 'static> BlockingService for BlockingFn<F> {
        fn name(&self) -> &str {
            &self.name
        }

        fn run(&self, cx: BlockingContext) -> ServiceResult {
            (self.run)(cx)
        }
    }

    Service::blocking(BlockingFn { name: name.into(), run })
}

/// Creates a service from two closures: `on_start` ends before the first request, and `on_stop` runs after the last.
///
/// The closures correspond to the two parts of FastAPI's lifespan, before and after its `yield`. `on_start` gets a
/// [`StartContext`], which reports if the host is stopping. `on_stop` gets a [`StopContext`], which returns how the
/// service [ended](StopContext::exit).
///
/// # Examples
///
/// ```
/// use onelane::background::{ServiceHost, lifespan};
///
/// async fn connect() {}
///
/// let pool = lifespan(
///     "pool",
///     |cx| async move {
///         tokio::select! {
///             () = cx.stopping() => Err("the host stopped before the pool was connected".into()),
///             () = connect() => Ok(()),
///         }
///     },
///     |cx| async move {
///         // close the pool
///         println!("{} {}", cx.name(), cx.exit());
///         Ok(())
///     },
/// );
/// let host = ServiceHost::builder().service(pool).build();
/// assert!(host.is_ok());
/// ```
pub fn lifespan<A, B, V, W>(name: &str, on_start: A, on_stop: B) -> Service
where
    A: Fn(StartContext) -> V + Send + Sync + 'static,
    B: Fn(StopContext) -> W + Send + Sync + 'static,
    V: Future<Output = ServiceResult> + Send,
    W: Future<Output = ServiceResult> + Send,
{
    struct Lifespan<A, B> {
        name: Arc<str>,
        on_start: A,
        on_stop: B,
    }

    impl<A, B, V, W> BackgroundService for Lifespan<A, B>
    where
        A: Fn(StartContext) -> V + Send + Sync + 'static,
        B: Fn(StopContext) -> W + Send + Sync + 'static,
        V: Future<Output = ServiceResult> + Send,
        W: Future<Output = ServiceResult> + Send,
    {
        fn name(&self) -> &str {
            &self.name
        }

        fn start(&self, cx: &StartContext) -> impl Future<Output = ServiceResult> + Send {
            (self.on_start)(cx.clone())
        }

        async fn run(&self, cx: RunContext) -> ServiceResult {
            cx.stopping().await;
            Ok(())
        }

        fn stop(&self, cx: &StopContext) -> impl Future<Output = ServiceResult> + Send {
            (self.on_stop)(cx.clone())
        }
    }

    Service::new(Lifespan { name: name.into(), on_start, on_stop })
}
