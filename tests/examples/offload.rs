//! The examples about what blocks and what does not, run as a user runs them, and asked over real sockets.

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
/// Where something has to happen meanwhile, on a machine that has other things to do.
const LONG: Duration = Duration::from_millis(1500);
const MIDDLE: Duration = Duration::from_millis(800);
/// Longer than any test waits.
const ENDLESS: Duration = Duration::from_secs(60);
/// What a total may take beyond the waits in it.
const SLACK: Duration = Duration::from_millis(1500);

/// The same scenarios for each framework, each against a server process of its own.
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
    wait_that_blocks_the_runtime_is_one_after_the_other(HOLD),
    async_wait_is_together(HOLD),
    wait_in_run_blocking_is_together_and_holds_nobody_up(LONG),
    wait_in_a_blocking_handler_is_together_and_holds_nobody_up(LONG),
    slow_handler_on_the_runtime_holds_up_those_behind_it(MIDDLE),
    slow_blocking_handler_holds_up_nobody(LONG),
    forty_blocking_handlers_run_and_the_others_wait(ENDLESS),
    limit_changes_while_they_run(MIDDLE),
    queued_blocking_handler_never_runs_after_its_client_left(LONG),
}

fn get(example: &Example, path: &str) -> JoinHandle<String> {
    let request = web_client().get(example.url(path));
    tokio::spawn(async move {
        let answer = request.send().await.expect("it answers");
        assert_eq!(answer.status(), 200);
        answer.text().await.expect("it is text")
    })
}

/// Two requests at once: what is printed, and how long it takes.
async fn two_pings(example: &Example, path: &str) -> (String, Duration) {
    let start = Instant::now();
    let both = [get(example, path), get(example, path)];
    for answer in both {
        assert_eq!(answer.await.expect("no panic"), "pong\n");
    }
    let took = start.elapsed();
    example.wait_for_lines(4).await;
    (example.printed(), took)
}

fn assert_takes(took: Duration, waits: Duration) {
    assert!(took >= waits, "{took:?}, and there were {waits:?} to wait");
    assert!(took < waits + SLACK, "{took:?} rather than {waits:?}");
}

async fn wait_that_blocks_the_runtime_is_one_after_the_other(example: &mut Example) {
    let (printed, took) = two_pings(example, "/ping-blocking").await;
    assert_eq!(printed, "Hello Goodbye Hello Goodbye");
    assert_takes(took, 2 * (example.hold * 5 / 2));
}

async fn async_wait_is_together(example: &mut Example) {
    let (printed, took) = two_pings(example, "/ping-async").await;
    assert_eq!(printed, "Hello Hello Goodbye Goodbye");
    assert_takes(took, example.hold * 5 / 2);
}

async fn wait_in_run_blocking_is_together_and_holds_nobody_up(example: &mut Example) {
    together_and_holds_nobody_up(example, "/ping-run-blocking").await;
    let started: Vec<_> = example.stats().await["pools"].as_array().expect("a list").iter().map(started).collect();
    assert_eq!(started, [("handlers".into(), 0), ("default".into(), 2)]);
}

async fn wait_in_a_blocking_handler_is_together_and_holds_nobody_up(example: &mut Example) {
    together_and_holds_nobody_up(example, "/ping-sync").await;
    let started: Vec<_> = example.stats().await["pools"].as_array().expect("a list").iter().map(started).collect();
    assert_eq!(started, [("handlers".into(), 2), ("default".into(), 0)]);
}

fn started(pool: &Value) -> (String, u64) {
    let name = pool["name"].as_str().expect("it has a name").to_owned();
    (name, pool["started"].as_u64().expect("it is a number"))
}

async fn together_and_holds_nobody_up(example: &Example, path: &str) {
    let pings = two_pings(example, path);
    let other = async {
        example.wait_for_lines(2).await;
        let answer = get(example, "/").await.expect("no panic");
        (answer, example.printed())
    };
    let ((printed, took), (answer, meanwhile)) = tokio::join!(pings, other);
    assert_eq!((&*answer, &*meanwhile), ("hello\n", "Hello Hello"), "another route answers meanwhile");
    assert_eq!(printed, "Hello Hello Goodbye Goodbye");
    assert_takes(took, example.hold * 5 / 2);
}

/// Two to a slow route, and four to another one: how long the four waited since the slow ones began.
async fn four_behind_two(example: &Example, slow: &str) -> Vec<Duration> {
    let two = [get(example, slow), get(example, slow)];
    example.wait_for_lines(1).await;
    let begun = example.lines()[0].at;
    let four = (0..4).map(|_| async {
        assert_eq!(get(example, "/").await.expect("no panic"), "hello\n");
        begun.elapsed()
    });
    let waited = join_all(four).await;
    if slow == "/sync-slow" {
        assert!(!example.printed().contains("slow ends"), "the four are answered meanwhile");
    }
    for answer in two {
        assert_eq!(answer.await.expect("no panic"), "slow\n");
    }
    waited
}

async fn slow_handler_on_the_runtime_holds_up_those_behind_it(example: &mut Example) {
    let waited = four_behind_two(example, "/slow").await;
    // They waited for one at least, of which each takes two holds. Lines are read late, though, on a busy machine much.
    assert!(waited.iter().all(|waited| *waited >= example.hold), "{waited:?}");
}

async fn slow_blocking_handler_holds_up_nobody(example: &mut Example) {
    let waited = four_behind_two(example, "/sync-slow").await;
    assert!(waited.iter().all(|waited| *waited < 2 * example.hold), "{waited:?}");
}

fn handlers(stats: &Value) -> (u64, u64) {
    let pool = &stats["pools"][0];
    (pool["running"].as_u64().expect("a number"), pool["queued"].as_u64().expect("a number"))
}

async fn forty_blocking_handlers_run_and_the_others_wait(example: &mut Example) {
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
    assert_eq!(handlers(&stats), (45, 5), "nobody is stopped");
}

async fn limit_changes_while_they_run(example: &mut Example) {
    set_limit(example, 3).await;
    let answers: Vec<_> = (0..6).map(|_| get(example, "/ping-sync")).collect();
    example.wait_for_stats("3 run, 3 wait", |stats| handlers(stats) == (3, 3)).await;
    set_limit(example, 1).await;
    for answer in answers {
        assert_eq!(answer.await.expect("no panic"), "pong\n");
    }
    example.wait_for_lines(12).await;
    // Three at first, and then one at a time.
    let expected = ["Hello", "Hello", "Hello", "Goodbye", "Goodbye", "Goodbye"];
    let expected = expected.into_iter().chain(["Hello", "Goodbye"].repeat(3)).collect::<Vec<_>>();
    assert_eq!(example.texts(), expected);
}

async fn set_limit(example: &Example, total: usize) -> Value {
    let answer = web_client().put(example.url(&format!("/limit/{total}"))).send().await.expect("it answers");
    answer.json().await.expect("it is JSON")
}

async fn queued_blocking_handler_never_runs_after_its_client_left(example: &mut Example) {
    set_limit(example, 1).await;
    let running = get(example, "/ping-sync");
    example.wait_for_lines(1).await;
    for leave in [Disconnect::Fin, Disconnect::Rst] {
        let request = "GET /ping-sync HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let leaver = RawClient::send(example.address, request).await;
        example.wait_for_stats("it waits", |stats| handlers(stats) == (1, 1)).await;
        leaver.disconnect(leave).await;
        example.wait_for_stats("it has left", |stats| handlers(stats) == (1, 0)).await;
    }
    assert_eq!(running.await.expect("no panic"), "pong\n");
    assert_eq!(get(example, "/ping-sync").await.expect("no panic"), "pong\n");
    assert_eq!(example.printed(), "Hello Goodbye Hello Goodbye");
}

#[tokio::test]
async fn waits_together_take_half_of_waits_one_after_the_other() {
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

/// The number in `…: 4.0 s`.
fn seconds(line: &str) -> f64 {
    let number = line.split_once(':').and_then(|(_, time)| time.trim().strip_suffix(" s"));
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line:?} tells a time"))
}

mod upload {
    use super::*;

    /// A picture that nothing makes smaller, so that it computes for a while.
    fn picture() -> Vec<u8> {
        let mut seed = 1_u32;
        let noise = RgbImage::from_fn(600, 600, |_, _| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, r, g, b] = seed.to_le_bytes();
            [r, g, b].into()
        });
        let mut png = Cursor::new(Vec::new());
        noise.write_to(&mut png, ImageFormat::Png).expect("it goes into memory");
        png.into_inner()
    }

    fn upload(example: &Example, path: &str, file: &[u8]) -> JoinHandle<(u16, Value)> {
        let form = Form::new().part("file", Part::bytes(file.to_vec()).file_name("picture.png"));
        let request = web_client().post(example.url(path)).multipart(form);
        tokio::spawn(async move {
            let answer = request.send().await.expect("it answers");
            let status = answer.status().as_u16();
            (status, answer.json().await.unwrap_or_default())
        })
    }

    /// Whether a request is answered while an upload is computed.
    async fn is_answered_meanwhile(example: &Example, path: &str) -> bool {
        let before = example.lines().len();
        let uploaded = upload(example, path, &picture());
        example.wait_for_lines(before + 1).await;
        assert_eq!(get(example, "/").await.expect("no panic"), "hello\n");
        let answered = Instant::now();
        let (status, sizes) = uploaded.await.expect("no panic");
        assert_eq!((status, sizes.as_array().map(Vec::len)), (200, Some(4)), "{sizes}");
        example.wait_for_lines(before + 2).await;
        let lines = &example.lines()[before..];
        let (begun, ended) = (lines[0].at, lines[1].at);
        assert!(ended - begun > Duration::from_millis(100), "it computes: {:?}", ended - begun);
        answered < begun + (ended - begun) * 3 / 4
    }

    #[tokio::test]
    async fn others_are_answered_meanwhile_unless_it_computes_on_the_runtime() {
        let example = Example::start("axum_upload_cpu", HOLD).await;
        assert!(!is_answered_meanwhile(&example, "/on-runtime").await);
        assert!(is_answered_meanwhile(&example, "/run-blocking").await);
        assert!(is_answered_meanwhile(&example, "/run-cpu").await);
    }

    #[tokio::test]
    async fn two_are_computed_at_once_unless_on_the_runtime() {
        let file = picture();
        let one_after_the_other = "Hello Goodbye Hello Goodbye";
        let together = "Hello Hello Goodbye Goodbye";
        let on_two = if available_parallelism().is_ok_and(|n| n.get() > 1) { together } else { one_after_the_other };
        for (path, expected) in
            [("/on-runtime", one_after_the_other), ("/run-blocking", together), ("/run-cpu", on_two)]
        {
            let example = Example::start("axum_upload_cpu", HOLD).await;
            let both = [upload(&example, path, &file), upload(&example, path, &file)];
            for answer in both {
                assert_eq!(answer.await.expect("no panic").0, 200);
            }
            example.wait_for_lines(4).await;
            assert_eq!(example.printed(), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn what_is_no_picture_is_answered_so() {
        let example = Example::start("axum_upload_cpu", HOLD).await;
        for path in ["/on-runtime", "/run-blocking", "/run-cpu"] {
            assert_eq!(upload(&example, path, b"no picture").await.expect("no panic").0, 422, "{path}");
        }
        let no_form = web_client().post(example.url("/run-cpu")).body("no form").send().await.expect("it answers");
        assert_eq!(no_form.status(), 400);
    }

    /// The kernel of Linux counts what a process takes of the processors.
    #[cfg(target_os = "linux")]
    mod processors {
        use std::fs;

        use super::*;

        /// How many processors there were at a time, on average, while two uploads were computed.
        #[derive(Debug)]
        struct Processors {
            /// Those that the example had.
            had: f64,
            /// With those that it was ready to use, and another process had.
            wanted: f64,
            /// Those that nobody had.
            idle: f64,
        }

        impl Processors {
            async fn during_two_uploads(example: &Example, path: &str, file: &[u8]) -> Self {
                let (start, (ran, waited), [idle, up]) = (Instant::now(), example.cpu_time(), idle_and_up());
                let both = [upload(example, path, file), upload(example, path, file)];
                for answer in both {
                    assert_eq!(answer.await.expect("no panic").0, 200);
                }
                let (took, after, [idle_after, up_after]) = (start.elapsed(), example.cpu_time(), idle_and_up());
                let (ran, waited) = (after.0.saturating_sub(ran), after.1.saturating_sub(waited));
                assert!(ran > Duration::from_millis(100), "it computes long enough to be measured: {ran:?}");
                Self {
                    had: ran.div_duration_f64(took),
                    wanted: (ran + waited).div_duration_f64(took),
                    idle: (idle_after - idle) / (up_after - up),
                }
            }

            /// A busy machine gives it less than it could use, and leaves nothing idle then.
            fn are_more_than_one(&self) -> bool {
                self.had > 1.3 || (self.wanted > 1.3 && self.idle < 0.3)
            }
        }

        /// For how long all processors together were idle since the machine has started, and for how long it runs, in ticks.
        fn idle_and_up() -> [f64; 2] {
            let stat = fs::read_to_string("/proc/stat").expect("it is Linux");
            let (all, each) = stat.split_once('\n').expect("it has lines");
            // proc(5): user, nice, system, idle, iowait, irq, softirq, steal, and guests, which are in the first two.
            let times: Vec<f64> = all.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
            let processors = each.lines().take_while(|line| line.starts_with("cpu")).count();
            [times[3] + times[4], times.iter().sum::<f64>() / processors as f64]
        }

        #[tokio::test]
        #[allow(clippy::print_stderr, reason = "it says why it has tested nothing")]
        async fn two_keep_two_processors_busy_unless_on_the_runtime() {
            const TRIES: usize = 10;
            if available_parallelism().is_ok_and(|n| n.get() == 1) {
                eprintln!("skipped: there is one processor, and this takes two");
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
            // One thread can neither have two nor want them, however busy the machine is.
            let example = Example::start("axum_upload_cpu", HOLD).await;
            let one = Processors::during_two_uploads(&example, "/on-runtime", &file).await;
            assert!(one.wanted < 1.3, "{one:.2?}");
        }
    }
}
