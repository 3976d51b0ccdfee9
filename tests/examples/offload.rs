//! The examples about blocking work, run like a user runs them, with requests over real sockets.

use std::io::Cursor;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use futures::future::join_all;
use image::{ImageFormat, RgbImage};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use support::client::{Disconnect, RawClient, web_client};
use support::process::Example;

const HOLD: Duration = Duration::from_millis(400);
/// For events that have to happen in the meantime, even on a busy machine.
const LONG: Duration = Duration::from_millis(1500);
const MIDDLE: Duration = Duration::from_millis(800);
/// Longer than any test waits.
const ENDLESS: Duration = Duration::from_secs(60);
/// How much longer than its waits a total may take.
const SLACK: Duration = Duration::from_millis(1500);

/// Runs the same scenarios for each framework, each against a separate server process.
macro_rules! on_axum_and_actix {
    ($($scenario:ident($hold:ident)),* $(,)?) => {
        mod axum {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(&mut super::Example::start("axum_parallel", super::$hold).await).await;
            })*
        }
        mod actix {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(&mut super::Example::start("actix_parallel", super::$hold).await).await;
            })*
        }
    };
}

on_axum_and_actix! {
    blocking_waits_on_the_runtime_run_one_after_the_other(HOLD),
    async_waits_run_together(HOLD),
    waits_in_run_blocking_run_together_and_delay_no_request(LONG),
    waits_in_blocking_handlers_run_together_and_delay_no_request(LONG),
    waits_in_a_process_run_together_and_delay_no_request(LONG),
    slow_handler_on_the_runtime_delays_later_requests(MIDDLE),
    slow_blocking_handler_delays_no_request(LONG),
    forty_blocking_handlers_run_and_further_ones_wait(ENDLESS),
    limit_changes_while_handlers_run(MIDDLE),
    queued_blocking_handler_never_runs_after_its_client_disconnected(LONG),
}

fn get(example: &Example, path: &str) -> JoinHandle<String> {
    let request = web_client().get(example.url(path));
    tokio::spawn(async move {
        let answer = request.send().await.expect("the server responds");
        assert_eq!(answer.status(), 200);
        answer.text().await.expect("the body is text")
    })
}

/// Sends two requests at once. Returns the printed lines and the total duration.
async fn two_pings(example: &Example, path: &str) -> (String, Duration) {
    let start = Instant::now();
    let both = [get(example, path), get(example, path)];
    for answer in both {
        assert_eq!(answer.await.expect("the task does not panic"), "pong\n");
    }
    let took = start.elapsed();
    example.wait_for_lines(4).await;
    (example.printed(), took)
}

fn assert_takes(took: Duration, waits: Duration) {
    assert!(took >= waits, "took {took:?}, less than the waits of {waits:?}");
    assert!(took < waits + SLACK, "took {took:?}, much longer than the waits of {waits:?}");
}

async fn blocking_waits_on_the_runtime_run_one_after_the_other(example: &mut Example) {
    let (printed, took) = two_pings(example, "/ping-blocking").await;
    assert_eq!(printed, "Hello Goodbye Hello Goodbye");
    assert_takes(took, 2 * (example.hold * 5 / 2));
}

async fn async_waits_run_together(example: &mut Example) {
    let (printed, took) = two_pings(example, "/ping-async").await;
    assert_eq!(printed, "Hello Hello Goodbye Goodbye");
    assert_takes(took, example.hold * 5 / 2);
}

async fn waits_in_run_blocking_run_together_and_delay_no_request(example: &mut Example) {
    assert_together_without_delays(example, "/ping-run-blocking").await;
    let started: Vec<_> =
        example.stats().await["pools"].as_array().expect("pools are a list").iter().map(started).collect();
    assert_eq!(started, [("handlers".into(), 0), ("default".into(), 2)]);
}

async fn waits_in_blocking_handlers_run_together_and_delay_no_request(example: &mut Example) {
    assert_together_without_delays(example, "/ping-sync").await;
    let started: Vec<_> =
        example.stats().await["pools"].as_array().expect("pools are a list").iter().map(started).collect();
    assert_eq!(started, [("handlers".into(), 2), ("default".into(), 0)]);
}

async fn waits_in_a_process_run_together_and_delay_no_request(example: &mut Example) {
    assert_together_without_delays(example, "/ping-process").await;
}

fn started(pool: &Value) -> (String, u64) {
    let name = pool["name"].as_str().expect("a pool has a name").to_owned();
    (name, pool["started"].as_u64().expect("the count is a number"))
}

async fn assert_together_without_delays(example: &Example, path: &str) {
    let pings = two_pings(example, path);
    let other = async {
        example.wait_for_lines(2).await;
        let answer = get(example, "/").await.expect("the task does not panic");
        (answer, example.printed())
    };
    let ((printed, took), (answer, meanwhile)) = tokio::join!(pings, other);
    assert_eq!((&*answer, &*meanwhile), ("hello\n", "Hello Hello"), "another route responds in the meantime");
    assert_eq!(printed, "Hello Hello Goodbye Goodbye");
    assert_takes(took, example.hold * 5 / 2);
}

/// Sends two requests to a slow route and four to another one. Returns when the four were answered, counted from the
/// begin of the slow handlers.
async fn four_behind_two(example: &Example, slow: &str) -> Vec<Duration> {
    let two = [get(example, slow), get(example, slow)];
    example.wait_for_lines(1).await;
    let begun = example.lines()[0].at;
    let four = (0..4).map(|_| async {
        assert_eq!(get(example, "/").await.expect("the task does not panic"), "hello\n");
        begun.elapsed()
    });
    let waited = join_all(four).await;
    if slow == "/sync-slow" {
        assert!(!example.printed().contains("slow ends"), "the four requests are answered in the meantime");
    }
    for answer in two {
        assert_eq!(answer.await.expect("the task does not panic"), "slow\n");
    }
    waited
}

async fn slow_handler_on_the_runtime_delays_later_requests(example: &mut Example) {
    let waited = four_behind_two(example, "/slow").await;
    // Each of the four waited for at least one slow handler, which takes two holds. On a busy machine, lines are read
    // late.
    assert!(waited.iter().all(|waited| *waited >= example.hold), "{waited:?}");
}

async fn slow_blocking_handler_delays_no_request(example: &mut Example) {
    let waited = four_behind_two(example, "/sync-slow").await;
    assert!(waited.iter().all(|waited| *waited < 2 * example.hold), "{waited:?}");
}

fn handlers(stats: &Value) -> (u64, u64) {
    let pool = &stats["pools"][0];
    (pool["running"].as_u64().expect("the count is a number"), pool["queued"].as_u64().expect("the count is a number"))
}

async fn forty_blocking_handlers_run_and_further_ones_wait(example: &mut Example) {
    let _held: Vec<_> = (0..50).map(|_| get(example, "/ping-sync")).collect();
    let stats = example.wait_for_stats("40 run, 10 wait", |stats| handlers(stats) == (40, 10)).await;
    let limiter = &stats["limiter"];
    assert_eq!((&limiter["total"], &limiter["borrowed"], &limiter["available"]), (&json!(40), &json!(40), &json!(0)));
    example.wait_for_lines(40).await;
    assert_eq!(example.printed(), ["Hello"; 40].join(" "));

    set_limit(example, 45).await;
    example.wait_for_stats("45 run", |stats| handlers(stats) == (45, 5)).await;
    example.wait_for_lines(45).await;

    let stats = set_limit(example, 2).await;
    let limiter = &stats["limiter"];
    assert_eq!((&limiter["total"], &limiter["borrowed"], &limiter["available"]), (&json!(2), &json!(45), &json!(-43)));
    assert_eq!(handlers(&stats), (45, 5), "no running handler is stopped");
}

async fn limit_changes_while_handlers_run(example: &mut Example) {
    set_limit(example, 3).await;
    let answers: Vec<_> = (0..6).map(|_| get(example, "/ping-sync")).collect();
    example.wait_for_stats("3 run, 3 wait", |stats| handlers(stats) == (3, 3)).await;
    set_limit(example, 1).await;
    for answer in answers {
        assert_eq!(answer.await.expect("the task does not panic"), "pong\n");
    }
    example.wait_for_lines(12).await;
    // Three at once at first, then one at a time.
    let expected = ["Hello", "Hello", "Hello", "Goodbye", "Goodbye", "Goodbye"];
    let expected = expected.into_iter().chain(["Hello", "Goodbye"].repeat(3)).collect::<Vec<_>>();
    assert_eq!(example.texts(), expected);
}

async fn set_limit(example: &Example, total: usize) -> Value {
    let answer = web_client().put(example.url(&format!("/limit/{total}"))).send().await.expect("the server responds");
    answer.json().await.expect("the body is JSON")
}

async fn queued_blocking_handler_never_runs_after_its_client_disconnected(example: &mut Example) {
    set_limit(example, 1).await;
    let running = get(example, "/ping-sync");
    example.wait_for_lines(1).await;
    for leave in [Disconnect::Fin, Disconnect::Rst] {
        let request = "GET /ping-sync HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let client = RawClient::send(example.address, request).await;
        example.wait_for_stats("the request waits", |stats| handlers(stats) == (1, 1)).await;
        client.disconnect(leave).await;
        example.wait_for_stats("the request has left the queue", |stats| handlers(stats) == (1, 0)).await;
    }
    assert_eq!(running.await.expect("the task does not panic"), "pong\n");
    assert_eq!(get(example, "/ping-sync").await.expect("the task does not panic"), "pong\n");
    assert_eq!(example.printed(), "Hello Goodbye Hello Goodbye");
}

#[tokio::test]
async fn concurrent_waits_take_half_as_long_as_serial_waits() {
    let mut example = Example::launch("async_vs_parallel", LONG, &[]);
    assert_eq!(example.exit_code().await, Some(0));
    let totals: Vec<f64> = example.texts().iter().map(|line| seconds(line)).collect();
    let hold = LONG.as_secs_f64();
    for (total, waits) in totals.iter().zip([2.0, 2.0, 1.0]) {
        let waits = waits * hold;
        assert!(*total > waits - 0.1 && *total < waits + SLACK.as_secs_f64() * 0.9, "{totals:?}");
    }
    assert_eq!(totals.len(), 3);
}

/// Parses the number in `…: 4.0 s`.
fn seconds(line: &str) -> f64 {
    let number = line.split_once(':').and_then(|(_, time)| time.trim().strip_suffix(" s"));
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line:?} does not contain a duration"))
}

mod upload {
    use super::*;

    /// Returns a picture of noise, which does not compress, so that the computation takes a while.
    fn picture() -> Vec<u8> {
        let mut seed = 1_u32;
        let noise = RgbImage::from_fn(600, 600, |_, _| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, r, g, b] = seed.to_le_bytes();
            [r, g, b].into()
        });
        let mut png = Cursor::new(Vec::new());
        noise.write_to(&mut png, ImageFormat::Png).expect("memory is writable");
        png.into_inner()
    }

    fn upload(example: &Example, path: &str, file: &[u8]) -> JoinHandle<(u16, Value)> {
        let form = Form::new().part("file", Part::bytes(file.to_vec()).file_name("picture.png"));
        let request = web_client().post(example.url(path)).multipart(form);
        tokio::spawn(async move {
            let answer = request.send().await.expect("the server responds");
            let status = answer.status().as_u16();
            (status, answer.json().await.unwrap_or_default())
        })
    }

    /// Returns `true` if another request is answered while an upload is processed.
    async fn is_answered_during_an_upload(example: &Example, path: &str) -> bool {
        let before = example.lines().len();
        let uploaded = upload(example, path, &picture());
        example.wait_for_lines(before + 1).await;
        assert_eq!(get(example, "/").await.expect("the task does not panic"), "hello\n");
        let answered = Instant::now();
        let (status, sizes) = uploaded.await.expect("the task does not panic");
        assert_eq!((status, sizes.as_array().map(Vec::len)), (200, Some(4)), "{sizes}");
        example.wait_for_lines(before + 2).await;
        let lines = &example.lines()[before..];
        let (begun, ended) = (lines[0].at, lines[1].at);
        assert!(ended - begun > Duration::from_millis(100), "the computation takes a while: {:?}", ended - begun);
        answered < begun + (ended - begun) * 3 / 4
    }

    #[tokio::test]
    async fn other_requests_are_answered_unless_the_computation_is_on_the_runtime() {
        let example = Example::start("axum_upload_cpu", HOLD).await;
        assert!(!is_answered_during_an_upload(&example, "/on-runtime").await);
        assert!(is_answered_during_an_upload(&example, "/run-blocking").await);
        assert!(is_answered_during_an_upload(&example, "/run-cpu").await);
        assert!(is_answered_during_an_upload(&example, "/process").await);
    }

    #[tokio::test]
    async fn two_uploads_are_computed_at_once_unless_on_the_runtime() {
        let file = picture();
        let one_after_the_other = "Hello Goodbye Hello Goodbye";
        let together = "Hello Hello Goodbye Goodbye";
        let on_two = if available_parallelism().is_ok_and(|n| n.get() > 1) { together } else { one_after_the_other };
        for (path, expected) in [
            ("/on-runtime", one_after_the_other),
            ("/run-blocking", together),
            ("/run-cpu", on_two),
            ("/process", on_two),
        ] {
            let example = Example::start("axum_upload_cpu", HOLD).await;
            let both = [upload(&example, path, &file), upload(&example, path, &file)];
            for answer in both {
                assert_eq!(answer.await.expect("the task does not panic").0, 200);
            }
            example.wait_for_lines(4).await;
            assert_eq!(example.printed(), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn upload_that_is_not_a_picture_is_rejected() {
        let example = Example::start("axum_upload_cpu", HOLD).await;
        for path in ["/on-runtime", "/run-blocking", "/run-cpu", "/process"] {
            assert_eq!(upload(&example, path, b"no picture").await.expect("the task does not panic").0, 422, "{path}");
        }
        let no_form =
            web_client().post(example.url("/run-cpu")).body("no form").send().await.expect("the server responds");
        assert_eq!(no_form.status(), 400);
    }

    /// Uses the CPU accounting of the Linux kernel.
    #[cfg(target_os = "linux")]
    mod processors {
        use std::fs;

        use super::*;

        /// The average numbers of processors while two uploads were computed.
        #[derive(Debug)]
        struct Processors {
            /// Processors that ran threads of the example.
            had: f64,
            /// The same, plus processors that a runnable thread of the example waited for.
            wanted: f64,
            /// Idle processors.
            idle: f64,
        }

        impl Processors {
            async fn during_two_uploads(example: &Example, path: &str, file: &[u8]) -> Self {
                let (start, (ran, waited), [idle, up]) = (Instant::now(), example.cpu_time(), idle_and_up());
                let both = [upload(example, path, file), upload(example, path, file)];
                for answer in both {
                    assert_eq!(answer.await.expect("the task does not panic").0, 200);
                }
                let (took, after, [idle_after, up_after]) = (start.elapsed(), example.cpu_time(), idle_and_up());
                let (ran, waited) = (after.0.saturating_sub(ran), after.1.saturating_sub(waited));
                assert!(ran > Duration::from_millis(100), "the computation is long enough to be measured: {ran:?}");
                Self {
                    had: ran.div_duration_f64(took),
                    wanted: (ran + waited).div_duration_f64(took),
                    idle: (idle_after - idle) / (up_after - up),
                }
            }

            /// A busy machine may give the example less than it could use, but then no processor is idle.
            fn are_more_than_one(&self) -> bool {
                self.had > 1.3 || (self.wanted > 1.3 && self.idle < 0.3)
            }
        }

        /// Returns the idle time of all processors together since boot, and the uptime, in ticks.
        fn idle_and_up() -> [f64; 2] {
            let stat = fs::read_to_string("/proc/stat").expect("the file exists on Linux");
            let (all, each) = stat.split_once('\n').expect("the file has several lines");
            // proc(5): user, nice, system, idle, iowait, irq, softirq, steal, and guests, which are included in the
            // first two.
            let times: Vec<f64> = all.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
            let processors = each.lines().take_while(|line| line.starts_with("cpu")).count();
            [times[3] + times[4], times.iter().sum::<f64>() / processors as f64]
        }

        #[tokio::test]
        #[allow(clippy::print_stderr, reason = "the test prints why it was skipped")]
        async fn two_uploads_keep_two_processors_busy_unless_on_the_runtime() {
            const TRIES: usize = 10;
            if available_parallelism().is_ok_and(|n| n.get() == 1) {
                eprintln!("skipped: the test needs two processors, and the machine has one");
                return;
            }
            let file = picture();
            for path in ["/run-blocking", "/run-cpu"] {
                let example = Example::start("axum_upload_cpu", HOLD).await;
                let mut tries = Vec::new();
                while !tries.last().is_some_and(Processors::are_more_than_one) {
                    assert!(tries.len() < TRIES, "{path}: {tries:.2?}");
                    tries.push(Processors::during_two_uploads(&example, path, &file).await);
                }
            }
            // One thread can neither use nor wait for two processors, however busy the machine is.
            let example = Example::start("axum_upload_cpu", HOLD).await;
            let one = Processors::during_two_uploads(&example, "/on-runtime", &file).await;
            assert!(one.wanted < 1.3, "{one:.2?}");
        }
    }
}
