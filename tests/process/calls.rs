//! Functions that may be called, and values that may be sent.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use onelane::offload::process::{Attachment, WorkerCounts};
use onelane::offload::{OffloadErrorKind, TaskContext};
use onelane::{ProcessError, ProcessPool};
use serde::{Deserialize, Serialize};
use support::runtimes::current_thread;
use support::waiting::until;

use crate::work::{add, echo, pid, sleep_ms, sum};

#[tokio::test]
async fn functions_closures_and_generic_functions_are_called() {
    let pool = ProcessPool::builder("calls").workers(1).build();
    assert_eq!(pool.run(add, (2, 3)).await.unwrap(), 5);
    assert_eq!(pool.run(sum::<u64>, vec![1, 2, 3]).await.unwrap(), 6);
    assert!((pool.run(sum::<f64>, vec![0.5, 0.25]).await.unwrap() - 0.75).abs() < f64::EPSILON);
    assert_eq!(pool.run(|word: String| word.to_uppercase(), "quiet".to_owned()).await.unwrap(), "QUIET");
    assert_ne!(pool.run(pid, ()).await.unwrap(), pid(()));
    let WorkerCounts { idle, busy, started, .. } = pool.stats().workers;
    assert_eq!((idle, busy, started), (1, 0, 1), "one worker runs one task after the other");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Circle { radius: f64 },
    Named(BTreeMap<String, Option<Vec<char>>>),
    Nothing,
}

#[tokio::test]
async fn values_of_many_types_survive_both_ways() {
    let pool = ProcessPool::builder("values").workers(1).build();
    let named = BTreeMap::from([("a".to_owned(), None), ("b".to_owned(), Some(vec!['é', '\0']))]);
    for shape in [Shape::Circle { radius: f64::MIN_POSITIVE }, Shape::Named(named), Shape::Nothing] {
        assert_eq!(pool.run(|shape: Shape| shape, shape.clone()).await.unwrap(), shape);
    }
    type Outcome = Result<u8, String>;
    let outcome = pool.run(|fails: bool| -> Outcome { if fails { Err("no".to_owned()) } else { Ok(1) } }, true);
    assert_eq!(outcome.await.unwrap(), Err("no".to_owned()));
}

#[tokio::test]
async fn large_values_survive_both_ways() {
    let pool = ProcessPool::builder("large").workers(1).build();
    for length in [0, 1, 4_087, 4_088, 65_536, 1 << 20, 40 << 20] {
        let bytes: Bytes = (0..length).map(|index: usize| (index % 251) as u8).collect::<Vec<_>>().into();
        assert!(pool.run(echo, bytes.clone()).await.unwrap() == bytes, "{length} bytes");
    }
    assert_eq!(pool.stats().workers.started, 1);
}

#[tokio::test]
async fn attachments_survive_both_ways_in_any_place() {
    type Files = Vec<(String, Option<Attachment>)>;
    fn reversed(files: Files) -> (usize, Files) {
        let length = files.iter().flat_map(|(_, file)| file).map(|file| file.len()).sum();
        (length, files.into_iter().rev().collect())
    }

    let pool = ProcessPool::builder("attachments").workers(1).max_reply(100 << 20).build();
    let lengths = [0, 1, 16_383, 16_384, 70_000, 1 << 20, 40 << 20];
    let attachment = |length: usize| (0..length).map(|index| (index % 251) as u8).collect::<Vec<u8>>().into();
    let mut files: Files = lengths.map(|length| (format!("{length}"), Some(attachment(length)))).into();
    files.push(("none".to_owned(), None));
    for _ in 0..3 {
        let (length, mut returned) = pool.run(reversed, files.clone()).await.unwrap();
        returned.reverse();
        assert!(length == lengths.iter().sum::<usize>() && returned == files);
    }
    assert_eq!(pool.stats().workers.started, 1);

    let grow = |length: usize| Attachment::from(vec![0; length]);
    let error = pool.run(grow, (100 << 20) + 1).await.unwrap_err();
    assert!(matches!(error, ProcessError::BadReply { .. }), "{error:?}");
    assert_eq!(pool.run(grow, 20_000).await.unwrap().len(), 20_000);
}

#[derive(Debug)]
struct Unreadable;

impl Serialize for Unreadable {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("never"))
    }
}

#[derive(Debug)]
struct Panicking;

impl Serialize for Panicking {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("serializing panics")
    }
}

impl<'de> Deserialize<'de> for Panicking {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Self)
    }
}

#[derive(Debug)]
struct PanickingInServer;

impl Serialize for PanickingInServer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for PanickingInServer {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("deserializing panics")
    }
}

#[tokio::test]
async fn values_that_cannot_be_converted_fail_their_task_and_no_other() {
    let pool = ProcessPool::builder("codec").workers(1).build();
    let text = |error: ProcessError| error.to_string();
    let error = pool.run(|_: Unreadable| 1_u8, Unreadable).await.map_err(text).unwrap_err();
    assert!(error.contains("decoding the arguments `process::calls::Unreadable` failed"), "{error}");
    let error = pool.run(|(): ()| Unreadable, ()).await.map_err(text).unwrap_err();
    assert!(error.contains("decoding the result `process::calls::Unreadable` failed"), "{error}");
    let error = pool.run(|_: Panicking| 1_u8, Panicking).await.unwrap_err();
    assert!(matches!(&error, ProcessError::Panicked(panic) if panic.message() == "serializing panics"), "{error}");
    let error = pool.run(|(): ()| Panicking, ()).await.unwrap_err();
    assert!(matches!(&error, ProcessError::Panicked(panic) if panic.message() == "serializing panics"), "{error}");
    let error = pool.run(|(): ()| PanickingInServer, ()).await.unwrap_err();
    assert!(matches!(&error, ProcessError::Panicked(panic) if panic.message() == "deserializing panics"), "{error}");
    assert_eq!(pool.run(add, (1, 1)).await.unwrap(), 2);
    let WorkerCounts { idle, busy, started, died, .. } = pool.stats().workers;
    assert_eq!((idle, busy, started, died), (1, 0, 1, 0), "the worker has survived");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u8>,
    quality: u8,
}

#[tokio::test]
async fn field_that_is_left_out_is_an_error_and_no_other_value() {
    let pool = ProcessPool::builder("options").workers(1).build();
    let echo = |options: Options| options;
    let whole = Options { height: Some(1), quality: 2 };
    assert_eq!(pool.run(echo, whole.clone()).await.unwrap(), whole);
    let error = pool.run(echo, Options { height: None, quality: 2 }).await.unwrap_err().to_string();
    assert!(error.contains("arguments `process::calls::Options`") && error.contains("field `height`"), "{error}");
    let result = |quality: u8| Options { height: None, quality };
    let error = pool.run(result, 2).await.unwrap_err().to_string();
    assert!(error.contains("result `process::calls::Options`") && error.contains("field `height`"), "{error}");
}

#[tokio::test]
async fn worker_keeps_its_statics_and_knows_its_task() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static CALLS: AtomicU32 = AtomicU32::new(0);

    let pool = ProcessPool::builder("statics").workers(1).build();
    for expected in 1..4 {
        assert_eq!(pool.run(|(): ()| CALLS.fetch_add(1, Ordering::Relaxed) + 1, ()).await.unwrap(), expected);
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), 0, "this process has another static");

    let context = |(): ()| {
        let cx = TaskContext::current().unwrap();
        (cx.label().map(str::to_owned), cx.deadline().is_some(), cx.is_cancelled())
    };
    let limited = pool.task(context, ()).label("thumbnail").timeout(Duration::from_secs(60));
    assert_eq!(limited.await.unwrap(), (Some("thumbnail".to_owned()), true, false));
    assert_eq!(pool.run(context, ()).await.unwrap(), (None, false, false));
}

#[test]
fn pool_is_used_from_two_runtimes_and_outlives_one() {
    let pool = ProcessPool::builder("runtimes").workers(2).build();
    let threads = [1, 2].map(|number| {
        let pool = pool.clone();
        thread::spawn(move || {
            current_thread().block_on(async {
                for _ in 0..20 {
                    assert_eq!(pool.run(add, (number, 10)).await.unwrap(), number + 10);
                }
            });
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(current_thread().block_on(pool.run(add, (1, 2))).unwrap(), 3);
    assert!(pool.stats().workers.started <= 2);
}

#[tokio::test]
async fn worker_uses_a_pool_of_its_own() {
    fn nested(depth: u32) -> u32 {
        let pool = ProcessPool::builder("nested").workers(1).build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async move { if depth == 0 { 1 } else { pool.run(nested, depth - 1).await.unwrap() + 1 } })
    }
    let pool = ProcessPool::builder("outer").workers(1).build();
    assert_eq!(pool.run(nested, 2).await.unwrap(), 3);
}

#[tokio::test]
async fn closed_pool_is_drained_once_its_running_task_has_ended() {
    let pool = ProcessPool::builder("draining").workers(1).build();
    assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
    let running = pool.task(sleep_ms, 300).start().unwrap();
    let queued = pool.task(add, (1, 2)).start().unwrap();
    until("the task runs", || pool.stats().workers.busy == 1).await;
    pool.close();
    let error = queued.await.unwrap_err();
    assert!(matches!(&error, ProcessError::NotStarted(error) if *error == OffloadErrorKind::Closed), "{error}");
    assert!(tokio::time::timeout(Duration::from_millis(50), pool.drained()).await.is_err());
    pool.drained().await.unwrap();
    assert!(running.is_finished() && running.await.is_ok());
    until("the worker has ended", || pool.stats().workers.busy + pool.stats().workers.idle == 0).await;
}

#[tokio::test]
#[expect(unsafe_code, reason = "a function of a library gets the type of a task")]
async fn function_of_a_library_is_refused_and_not_called() {
    let foreign = libc::getpid as *const ();
    // SAFETY: Both are pointers to functions. The type is wrong, but the function is never called.
    let foreign = unsafe { std::mem::transmute::<*const (), fn(()) -> i32>(foreign) };
    let pool = ProcessPool::builder("foreign").workers(1).build();
    let error = pool.run(foreign, ()).await.unwrap_err();
    assert!(matches!(error, ProcessError::ForeignFunction), "{error:?}");
    // SAFETY: As above.
    let foreign = unsafe { std::mem::transmute::<fn(()) -> i32, fn()>(foreign) };
    let error = ProcessPool::builder("foreign").initializer(foreign).try_build().unwrap_err();
    assert_eq!(error.setting(), "initializer");
}

#[tokio::test]
async fn closed_pool_refuses_tasks_and_ends_its_workers() {
    let pool = ProcessPool::builder("closed").workers(1).build();
    assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
    assert_eq!(pool.stats().workers.idle, 1);
    pool.close();
    assert!(pool.is_closed());
    let error = pool.run(add, (1, 2)).await.unwrap_err();
    assert!(matches!(&error, ProcessError::NotStarted(error) if *error == OffloadErrorKind::Closed), "{error}");
    pool.drained().await.unwrap();
    assert_eq!(pool.stats().workers.idle, 0);
}
