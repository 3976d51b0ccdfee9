//! Background tasks that hold, or outlive, what they belong to.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures::future::join_all;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onelane::ServiceHost;
use onelane::web::axum::serve;
use onelane::web::{BackgroundTask, BackgroundTasks, BackgroundTasksConfig, Refusal, RunOn, ServeConfig};
use support::http::{self, Client, Disconnect, eventually};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use super::{ALONE, MS, PATIENCE, TestServer};

fn counting(count: &Arc<AtomicUsize>) -> impl Future<Output = ()> + Send + use<> {
    let count = Arc::clone(count);
    async move {
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// A body of one chunk, with callbacks for when the chunk is taken and when the body is dropped.
struct TestBody<T: FnOnce(), D: FnOnce()> {
    chunk: Option<Bytes>,
    taken: Option<T>,
    dropped: Option<D>,
}

impl<T: FnOnce() + Unpin, D: FnOnce() + Unpin> HttpBody for TestBody<T, D> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = self.chunk.take();
        if chunk.is_some() {
            self.taken.take().unwrap()();
        }
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.chunk.as_ref().map_or(0, |chunk| chunk.len() as u64))
    }
}

impl<T: FnOnce(), D: FnOnce()> Drop for TestBody<T, D> {
    fn drop(&mut self) {
        self.dropped.take().unwrap()();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_http2_start_although_the_end_of_the_body_is_noticed_late() {
    const ROUNDS: usize = 20;
    let (runs, number) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&runs), number);
    let handler = move |tasks: BackgroundTasks| async move {
        let (runs, number) = counts;
        tasks.add("counts", counting(&runs)).unwrap();
        // Half of the bodies take some time to drop, while the connection's task writes the others.
        let pause = if number.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { MS * 2 } else { Duration::ZERO };
        let (chunk, dropped) = (Some(Bytes::from_static(b"hello")), Some(move || thread::sleep(pause)));
        Body::new(TestBody { chunk, taken: Some(|| ()), dropped })
    };
    let server = TestServer::axum(Router::new().route("/", get(handler)), ServeConfig::new()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for round in 1..=ROUNDS {
        let request = || hyper::Request::builder().uri("http://test/").body(Empty::<Bytes>::new()).unwrap();
        let responses = (0..4).map(|_| client.send_request(request())).collect::<Vec<_>>();
        for response in join_all(responses).await {
            response.unwrap().into_body().collect().await.unwrap();
        }
        eventually("all tasks run", || runs.load(Ordering::SeqCst) == round * 4).await;
    }
    drop(client);
    assert!(server.stop().await.0.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_that_is_added_while_a_body_streams_runs_after_it() {
    for length in [5, 600_000] {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&runs);
        let handler = move |tasks: BackgroundTasks| async move {
            let taken = Some(move || tasks.add("late", counting(&count)).unwrap());
            Body::new(TestBody { chunk: Some(vec![b'x'; length].into()), taken, dropped: Some(|| ()) })
        };
        let server = TestServer::axum(Router::new().route("/", get(handler)), ServeConfig::new()).await;
        let mut client = Client::sending(server.address, http::get("/")).await;
        assert_eq!(client.response().await.text().len(), length);
        eventually("the task runs", || runs.load(Ordering::SeqCst) == 1).await;
        assert!(server.stop().await.0.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_that_holds_the_tasks_of_its_request_does_not_keep_them_from_ending() {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let waits = move |tasks: BackgroundTasks| async move {
        let own = tasks.clone();
        let task = BackgroundTask::new("outer", async move {
            let inner = BackgroundTask::new("inner", counting(&count)).run_on(RunOn::Always);
            own.add_task(inner).map_err(|error| error.to_string())
        });
        tasks.add_task(task.run_on(RunOn::Always)).unwrap();
        sleep(PATIENCE).await;
    };
    let adds = |tasks: BackgroundTasks| async move {
        tasks.add("other", async {})?;
        Ok::<_, Refusal>("added")
    };
    let app = Router::new().route("/waits", get(waits)).route("/adds", get(adds));
    let limits = BackgroundTasksConfig::new().max_queued(3);
    let server = TestServer::axum(app, ServeConfig::new().background_tasks(limits)).await;
    for number in 1..=5 {
        let mut client = Client::sending(server.address, http::get("/waits")).await;
        sleep(MS * 20).await;
        client.disconnect(Disconnect::Rst).await;
        eventually("both tasks run", || runs.load(Ordering::SeqCst) == number).await;
    }
    let mut client = Client::sending(server.address, http::get("/adds")).await;
    assert_eq!(client.response().await.text(), "added", "no place in the queue was lost");
    assert!(server.stop().await.0.is_clean());
}

/// Two destructors that panic, one while the other unwinds, would abort the process.
#[test]
fn runtime_that_ends_drops_tasks_whose_destructors_panic() {
    struct PanicOnDrop;
    impl Drop for PanicOnDrop {
        fn drop(&mut self) {
            if !thread::panicking() {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            panic!("a second panic");
        }
    }
    let _alone = ALONE.blocking_lock();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let handler = |tasks: BackgroundTasks| async move {
            tasks.add("runs", sleep(PATIENCE)).unwrap();
            for _ in 0..2 {
                let panics = PanicOnDrop;
                tasks.add("waits", async move { drop(panics) }).unwrap();
            }
        };
        let host = ServiceHost::builder().without_signals().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = BackgroundTasksConfig::new().max_running(1);
        let app = Router::new().route("/", get(handler));
        let config = ServeConfig::new().background_tasks(limits);
        tokio::spawn(async move { serve(host, listener, app).config(config).await });
        for _ in 0..2 {
            let mut client = Client::sending(address, http::get("/")).await;
            assert_eq!(client.response().await.text(), "");
        }
        sleep(MS * 50).await;
    });
    drop(runtime);
}
